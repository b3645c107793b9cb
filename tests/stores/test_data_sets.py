"""``hf://datasets/``: a data set of a hub that this machine imitates, read as any store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deepfake.dataset import crop_mirror
from deepfake.dataset.crop_mirror import open_crops
from deepfake.dataset.crop_store import CropStore, StoreKind
from deepfake.dataset.manifest import read_manifest
from deepfake.media.objects import discover_objects
from deepfake.stores import objects
from deepfake.stores.address import Address
from tests.made_crops import write_crop_folder
from tests.made_hub import Hub, Repository, running_hub, use_hub

DATA = "datasets/me/faces"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(crop_mirror, "_MIRRORS", {})
    monkeypatch.setattr(objects, "PAUSE_S", 0.0)
    objects.open_store.cache_clear()
    with running_hub() as server:
        use_hub(monkeypatch, server.url, tmp_path / "home")
        server.repositories[DATA] = Repository()
        yield server
    objects.open_store.cache_clear()


def test_its_files_are_listed_and_read_and_a_commit_changes_them(hub: Hub) -> None:
    data_set = hub.repositories[DATA]
    content = bytes(range(70))
    data_set.commit({"in/real/a b.jpg": content, "in/fake/c.png": b"c", "README.md": b"x"})
    found = discover_objects(f"hf://{DATA}/in")
    assert [one.name for one in found.sources] == ["fake/c.png", "real/a b.jpg"]
    hub.asked.clear()
    address = Address.parse(f"hf://{DATA}/in/real/a b.jpg")
    assert objects.read_object(address) == content
    assert objects.read_part(address, 60, 5) == content[60:65]
    before = objects.look(address)
    assert before is not None
    told = found.sources[1].stored
    assert told is not None
    assert (before.size, before.stamp) == (told.size, told.stamp)
    assert before.size == 70
    assert not any("/tree/" in line for line in hub.asked)  # no folder is listed for one object
    data_set.commit({"in/real/a b.jpg": content[::-1]})
    after = objects.look(address)
    assert after is not None
    assert after.stamp != before.stamp
    assert objects.look(Address.parse(f"hf://{DATA}/in/none.jpg")) is None
    assert list(objects.list_folder(Address.parse(f"hf://{DATA}/none"))) == []


@pytest.mark.parametrize("kind", ["tar", "folder"])
def test_a_crop_folder_in_it_is_read_as_one_of_a_disk(
    kind: StoreKind, hub: Hub, tmp_path: Path
) -> None:
    counts = {"train": (2, 2), "validation": (1, 1), "test": (1, 1)}
    root = write_crop_folder(tmp_path / "crops", counts, size=32, store=kind, n_shards=2)
    files = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    hub.repositories[DATA].commit({f"crops/{name}": data for name, data in files.items()})
    mirror = open_crops(f"hf://{DATA}/crops", tmp_path / "cache")
    names = [row.crop for row in read_manifest(root).rows]
    here, there = CropStore(root, names), CropStore(mirror, names)
    assert {name: there.read(name) for name in names} == {name: here.read(name) for name in names}
