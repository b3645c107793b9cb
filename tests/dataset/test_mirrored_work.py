"""Work on crops in a store, on a machine that has seen nothing of them: the crops of the folder."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deepfake.dataset import crop_mirror
from deepfake.dataset.crop_mirror import find_crops, find_mirror, open_crops
from deepfake.dataset.crop_store import CropStore, StoreKind
from deepfake.dataset.manifest import read_manifest
from deepfake.dataset.mirrored_work import MirroredWork, WithMirrors
from deepfake.errors import JobError
from deepfake.jobs.engine import Block, Work
from tests.made_crops import write_crop_folder
from tests.stores.made_stores import copy_tree, empty_memory

URL, OTHER = "memory://b/crops", "memory://other/crops"
COUNTS = {"train": (2, 2), "validation": (1, 1), "test": (1, 1)}


@dataclass(frozen=True)
class ReadAll:
    """Work that writes all crops of a folder twice: as it was handed them, and as it finds them."""

    root: Path
    store: CropStore

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Block]:
        names = [row.crop for row in read_manifest(self.root).rows]
        for block in blocks:
            for store in (self.store, CropStore(self.root, names)):
                data = b"".join(store.read(name) for name in names)
                with (block.folder / "read").open("ab") as file:
                    file.write(data)
            yield block


@pytest.mark.parametrize("kind", ["tar", "folder"])
def test_another_machine_has_a_cache_of_its_own(
    kind: StoreKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_crop_folder(tmp_path / "crops", COUNTS, size=32, store=kind, n_shards=2)
    names = [row.crop for row in read_manifest(root).rows]
    here = CropStore(root, names)
    expected = b"".join(here.read(name) for name in names)
    monkeypatch.setattr(crop_mirror, "_MIRRORS", {})
    block = Block(0, 0, [], tmp_path)

    def elsewhere(work: Work, blocks: Iterator[Block]) -> Iterator[Block]:
        told = pickle.dumps(work)
        shutil.rmtree(tmp_path / "cache")
        monkeypatch.setattr(crop_mirror, "_MIRRORS", {})
        loaded: Work = pickle.loads(told)
        return loaded(blocks)

    with empty_memory() as memory:
        copy_tree(root, memory, "b/crops")
        copy_tree(root, memory, "other/crops")
        mirror = open_crops(URL, tmp_path / "cache", 0.001, in_order=True)
        work = ReadAll(mirror, CropStore(mirror, names))
        open_crops(OTHER, tmp_path / "cache")  # which is nothing to this work
        assert list(WithMirrors(elsewhere, [mirror])(work, iter([block]))) == [block]
        assert (tmp_path / "read").read_bytes() == expected * 2
        opened = find_mirror(mirror)
        assert opened is not None
        assert opened.opening == (URL, tmp_path / "cache", 0.001, True)
        assert find_crops(OTHER) is None

        told = pickle.dumps(MirroredWork(work, [mirror]))
        write_crop_folder(tmp_path / "new", COUNTS, size=32, seed=1, store=kind, n_shards=2)
        copy_tree(tmp_path / "new", memory, "b/crops")
        with pytest.raises(JobError, match=f"the crops in {URL} are not what they were when"):
            pickle.loads(told)
