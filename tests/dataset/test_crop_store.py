"""Crops in tars: the crops, tables and habits of a folder of files, and what WebDataset reads."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from deepfake.cli import main
from deepfake.dataset import crop_store, cropping
from deepfake.dataset.crop_folder import find_damaged_shards
from deepfake.dataset.crop_store import CropStore, StoreKind, read_if_whole, write_crops
from deepfake.dataset.cropping import crop_media
from deepfake.dataset.doctor import examine
from deepfake.dataset.manifest import MANIFEST_FILE, SOURCES_FILE, read_manifest
from deepfake.dataset.merging import merge_crops
from deepfake.dataset.rows import describe_crop
from deepfake.errors import JobError, UsageError
from deepfake.faces.extraction import encode_crop
from deepfake.jobs.parts import Division, JobPart
from deepfake.learning.crops import CropDataset
from deepfake.learning.data import CropDataModule, SplitSettings
from deepfake.records import CropSpec, Extraction, FaceCrop, Source, Status, Workers
from tests.fakes import make_face, run_and_die, tree_hashes
from tests.made_crops import draw_crop, write_crop_folder

SPEC = CropSpec(size=16)
N_PHOTOS, SHARD = 9, 2


def extract(source: Source) -> Extraction:
    """What a photo holds is drawn by its bytes: none, one or two faces."""
    seed = int(sha256(Path(source.path).read_bytes()).hexdigest()[:8], 16)
    rng = np.random.default_rng(seed)
    crops = tuple(
        FaceCrop(
            frame_index=frame,
            time_s=frame / 3,
            face_index=0,
            face=make_face(sorted(rng.uniform(0, 99, 4)), rng.uniform()),
            rotation=0,
            encoded=encode_crop(draw_crop(rng, SPEC.size, fake=False), SPEC.jpeg_quality),
            window=(1, 2, 17, 18),
            mesh=rng.uniform(0, SPEC.size, (468, 2)).astype(np.float32),
        )
        for frame in range(seed % 3)
    )
    return Extraction(Status.OK if crops else Status.NO_FACE, "", crops, len(crops))


@pytest.fixture(autouse=True)
def _made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Extraction is not what is tried here."""

    def look(sources: Iterable[Source], *rest: Any) -> Iterator[tuple[Source, Extraction]]:
        return ((source, extract(source)) for source in sources)

    monkeypatch.setattr(cropping, "iter_extractions", look)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(N_PHOTOS):
        write(tmp_path / "photos" / ("real", "fake")[number % 2] / f"{number}.png", f"{number}")
    return tmp_path / "photos"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def crop(photos: Path, output: Path, store: StoreKind = "tar", part: JobPart | None = None) -> Path:
    crop_media(
        str(photos),
        output,
        SPEC,
        division=Division(part, SHARD),
        workers=Workers(0),
        landmarks="mesh",
        store=store,
        quiet=True,
    )
    return output


def names_of(root: Path) -> list[str]:
    return [row.crop for row in read_manifest(root).rows]


def read_all(root: Path) -> dict[str, bytes]:
    names = names_of(root)
    store = CropStore(root, names)
    return {name: store.read(name) for name in names}


def list_tars(root: Path) -> list[Path]:
    return sorted(root.glob("shards/*/crops.tar"))


# The same as files, and what others read


def test_tables_and_crops_are_those_of_files(photos: Path, tmp_path: Path) -> None:
    tar, folder = crop(photos, tmp_path / "tar"), crop(photos, tmp_path / "folder", "folder")
    for name in (MANIFEST_FILE, SOURCES_FILE, "plan.csv"):
        assert (tar / name).read_bytes() == (folder / name).read_bytes()
    crops = read_all(tar)
    assert crops == read_all(folder)
    assert crops == {name: (folder / name).read_bytes() for name in names_of(folder)}
    assert len(crops) > N_PHOTOS / 2
    assert not [*tar.rglob("*.jpg")]
    assert len([*tar.rglob("*")]) == 4 + 1 + 7 * len(list_tars(tar))
    stores = [CropStore(root, crops) for root in (tar, folder)]
    assert [[store.digest(name) for name in crops] for store in stores] == [
        [sha256(data).hexdigest() for data in crops.values()]
    ] * 2
    rows = read_manifest(tar).rows
    of_files, of_tar = (
        np.array([CropDataset(root, rows, SPEC.size).points(row) for row in rows], np.float32)
        for root in (folder, tar)
    )
    assert of_tar.shape == (len(crops), 468, 2)
    assert np.array_equal(of_tar, of_files)


def test_a_tar_is_read_by_python_and_tells_where_its_crops_lie(
    photos: Path, tmp_path: Path
) -> None:
    rows = {row.crop: row for row in read_manifest(crop(photos, tmp_path / "crops")).rows}
    seen = []
    for path in list_tars(tmp_path / "crops"):
        with tarfile.open(path) as tar, path.with_name("crops.csv").open(newline="") as table:
            members = tar.getmembers()
            index = [*csv.DictReader(table)]
            for crop_member, text_member, entry in zip(
                members[::2], members[1::2], index, strict=True
            ):
                name = f"shards/{path.parent.name}/crops/{crop_member.name}"
                data = tar.extractfile(crop_member).read()  # type: ignore[union-attr]
                text = tar.extractfile(text_member).read()  # type: ignore[union-attr]
                assert text_member.name == f"{Path(crop_member.name).stem}.json"
                assert json.loads(text) == describe_crop(rows[name])
                assert entry == {
                    "crop": crop_member.name,
                    "offset": str(crop_member.offset_data),
                    "bytes": str(crop_member.size),
                    "sha256": sha256(data).hexdigest(),
                }
                seen.append(name)
            for member in members:
                facts = (member.mtime, member.uid, member.gid, member.mode, member.type)
                assert facts == (0, 0, 0, 0o644, tarfile.REGTYPE)
                assert (member.uname, member.gname, member.pax_headers) == ("", "", {})
    assert seen == [*rows]


def test_gnu_tar_unpacks_it(photos: Path, tmp_path: Path) -> None:
    crops = read_all(crop(photos, tmp_path / "crops"))
    for path in list_tars(tmp_path / "crops"):
        out = tmp_path / path.parent.name
        out.mkdir()
        command = ["tar", "--extract", "--file", str(path), "--directory", str(out)]
        done = subprocess.run(command, capture_output=True, check=True)
        assert done.stderr == b""
        for file in out.glob("*.jpg"):
            assert crops.pop(f"shards/{out.name}/crops/{file.name}") == file.read_bytes()
    assert crops == {}


def test_webdataset_reads_it(photos: Path, tmp_path: Path) -> None:
    root = crop(photos, tmp_path / "crops")
    paths = [str(path) for path in list_tars(root)]
    samples = [*webdataset.WebDataset(paths, shardshuffle=False).decode().to_tuple("jpg", "json")]
    rows = read_manifest(root).rows
    crops = read_all(root)
    assert [(image, facts["crop"], facts["label"]) for image, facts in samples] == [
        (crops[row.crop], row.crop, row.label) for row in rows
    ]


def test_a_sample_has_the_digits_of_the_manifest(photos: Path, tmp_path: Path) -> None:
    rows = read_manifest(crop(photos, tmp_path / "crops")).rows
    with (tmp_path / "crops" / MANIFEST_FILE).open(newline="") as table:
        for row, cells in zip(rows, csv.DictReader(table), strict=True):
            told = describe_crop(row)
            assert list(told) == list(cells)
            assert f"{told['x0']:.2f}" == cells["x0"]
            assert f"{told['time_s']:.6f}" == cells["time_s"]
            assert " ".join(f"{value:.2f}" for value in told["landmarks"]) == cells["landmarks"]
            assert told["window"] == [1, 2, 17, 18]
            assert cells["label"] == ("real", "fake")[told["label"]]


# A job like any other


@pytest.mark.slow
def test_killed_before_any_change_and_resumed_is_the_same(photos: Path, tmp_path: Path) -> None:
    tree = tree_hashes(crop(photos, tmp_path / "clean"))
    event = 0
    while run_and_die(partial(crop, photos, tmp_path / f"{event}"), event):
        crop(photos, tmp_path / f"{event}")
        assert tree_hashes(tmp_path / f"{event}") == tree, f"killed before {event}"
        event += 1
    assert event > 40
    assert tree_hashes(tmp_path / f"{event}") == tree


@pytest.mark.parametrize("event", [14, 17, 33])
def test_killed_in_mid_shard_and_resumed_is_the_same(
    photos: Path, tmp_path: Path, event: int
) -> None:
    tree = tree_hashes(crop(photos, tmp_path / "clean"))
    assert run_and_die(partial(crop, photos, tmp_path / "crops"), event)
    assert not (tmp_path / "crops" / MANIFEST_FILE).exists()
    crop(photos, tmp_path / "crops")
    assert tree_hashes(tmp_path / "crops") == tree


def rewrite(photos: Path) -> None:
    write(photos / "fake" / "3.png", "another face")


def add_in_front(photos: Path) -> None:
    write(photos / "fake" / "0.png", "before all others")


def remove(photos: Path) -> None:
    (photos / "fake" / "5.png").unlink()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the inputs that are cropped."""
    names: list[str] = []

    def note(sources: Iterable[Source], *rest: Any) -> Iterator[tuple[Source, Extraction]]:
        for source in sources:
            names.append(source.name)
            yield source, extract(source)

    monkeypatch.setattr(cropping, "iter_extractions", note)
    return names


@pytest.mark.parametrize(
    ("change", "names"),
    [(rewrite, ["fake/3.png"]), (add_in_front, ["fake/0.png"]), (remove, [])],
)
def test_changed_inputs_redo_what_they_concern(
    change: Callable[[Path], None],
    names: list[str],
    photos: Path,
    tmp_path: Path,
    asked: list[str],
) -> None:
    crop(photos, tmp_path / "crops")
    change(photos)
    anew = tree_hashes(crop(photos, tmp_path / "anew"))
    asked.clear()
    crop(photos, tmp_path / "crops")
    assert tree_hashes(tmp_path / "crops") == anew
    assert asked == names


def test_other_labels_are_told_to_the_tar_and_nothing_is_cropped_again(
    photos: Path, tmp_path: Path, asked: list[str]
) -> None:
    def label(word: str) -> Path:
        names = [path.relative_to(photos) for path in sorted(photos.rglob("*.png"))]
        lines = ["path,label", *(f"{name},{word}" for name in names)]
        (photos / "labels.csv").write_text("\n".join(lines))
        return photos / "labels.csv"

    before = read_all(crop(label("real"), tmp_path / "crops"))
    anew = tree_hashes(crop(label("fake"), tmp_path / "anew"))
    asked.clear()
    crop(label("fake"), tmp_path / "crops")
    assert asked == []
    assert tree_hashes(tmp_path / "crops") == anew
    assert read_all(tmp_path / "crops") == before


def test_parts_become_the_whole(photos: Path, tmp_path: Path) -> None:
    whole = tree_hashes(crop(photos, tmp_path / "whole"))
    parts = [crop(photos, tmp_path / f"{i}", part=JobPart(i, 3)) for i in (1, 2, 3)]
    merge_crops(tmp_path / "merged", parts)
    assert tree_hashes(tmp_path / "merged") == whole
    assert {path.stat().st_nlink for path in list_tars(tmp_path / "merged")} == {2}
    other = crop(photos, tmp_path / "other", "folder", JobPart(3, 3))
    with pytest.raises(UsageError, match="are of different jobs: store='tar' and None"):
        merge_crops(tmp_path / "mixed", [*parts[:2], other])


def test_a_folder_of_the_other_kind_is_refused(photos: Path, tmp_path: Path) -> None:
    crop(photos, tmp_path / "crops", "folder")
    with pytest.raises(UsageError, match="was begun with store=its default, now it is 'tar'"):
        crop(photos, tmp_path / "crops")


def test_the_command_asks_for_it(photos: Path, tmp_path: Path) -> None:
    words = ["crop", str(photos), str(tmp_path / "crops"), "--size", "16", "--shard-size", "2"]
    words += ["--landmarks", "mesh", "--store", "tar", "--workers", "0", "--quiet"]
    assert main(words) == 0
    assert tree_hashes(tmp_path / "crops") == tree_hashes(crop(photos, tmp_path / "same"))


# Damage


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def garble(path: Path) -> None:
    """Turn a bit of the first crop, or of its row."""
    data = bytearray(path.read_bytes())
    data[min(len(data) - 5, 900)] ^= 1
    path.write_bytes(data)


def unlink(path: Path) -> None:
    path.unlink()


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    return write_crop_folder(tmp_path / "made", {"train": (4, 4)}, size=32, store="tar")


@pytest.mark.parametrize("damage", [empty, cut, garble, unlink])
def test_a_damaged_tar_is_found_and_mended(
    damage: Callable[[Path], None], photos: Path, tmp_path: Path
) -> None:
    root = crop(photos, tmp_path / "crops")
    tree, names = tree_hashes(root), names_of(root)
    store = CropStore(root, names)
    path = next(path for path in list_tars(root) if path.stat().st_size > 4096)
    damage(path)
    first = next(name for name in names if name.startswith(f"shards/{path.parent.name}/"))
    assert find_damaged_shards(root) == [path.parent.name]
    message = "(cannot be read|its checksum is another).*again to mend"
    for read in (store.read, CropStore(root, names).read):
        with pytest.raises(JobError, match=message):
            read(first)
    assert read_if_whole(root, first) is None
    report = examine(root, quiet=True)
    assert report.damaged
    assert "1 shards are not as they were written" in str(report)
    crop(photos, root)
    assert tree_hashes(root) == tree


@pytest.mark.parametrize("damage", [garble, unlink])
def test_a_damaged_index_is_found_and_mended(
    damage: Callable[[Path], None], photos: Path, tmp_path: Path
) -> None:
    root = crop(photos, tmp_path / "crops")
    tree, names = tree_hashes(root), names_of(root)
    path = root / names[0].split("/crops/")[0] / "crops.csv"
    damage(path)
    with pytest.raises(UsageError, match=r"crops\.csv is damaged; run the crop command again"):
        CropStore(root, names)
    report = examine(root, quiet=True)
    assert "1 shards are not as they were written" in str(report)
    assert f"{names[0]}: shards/{path.parent.name}/crops.csv does not list it" in str(report)
    crop(photos, root)
    assert tree_hashes(root) == tree


def test_a_damaged_part_is_not_merged(photos: Path, tmp_path: Path) -> None:
    part = crop(photos, tmp_path / "part", part=JobPart(1, 1))
    garble(list_tars(part)[0])
    with pytest.raises(UsageError, match=r"part 1/1 in .* is damaged \(00000\); mend it"):
        merge_crops(tmp_path / "merged", [part])


def reseal(root: Path, lines: list[str]) -> None:
    """Write an index as a stranger might: nonsense, with the right checksum."""
    shard = root / "shards" / "00000"
    (shard / "crops.csv").write_text("\n".join(["crop,offset,bytes,sha256", *lines]))
    content = json.loads(json.loads((shard / "shard.json").read_text())["content"])
    content["files"]["crops.csv"] = sha256((shard / "crops.csv").read_bytes()).hexdigest()
    text = json.dumps(content)
    sealed = {"content": text, "sha256": sha256(text.encode()).hexdigest()}
    (shard / "shard.json").write_text(json.dumps(sealed))


ZEROS = "0" * 64


@pytest.mark.parametrize(
    "place", [f"-1,5,{ZEROS}", f"1,-5,{ZEROS}", f"x,5,{ZEROS}", f"1,,{ZEROS}", "1,5,0"]
)
def test_an_index_of_nonsense_is_refused(place: str, crops: Path) -> None:
    reseal(crops, [f"{Path(names_of(crops)[0]).name},{place}"])
    with pytest.raises(UsageError, match=r"crops\.csv:2: .*; was the table edited\?"):
        CropStore(crops, names_of(crops))


def test_a_place_beyond_the_end_takes_no_memory(crops: Path) -> None:
    name = names_of(crops)[0]
    reseal(crops, [f"{Path(name).name},512,{2**50},{ZEROS}"])
    with pytest.raises(JobError, match=r"crops\.tar ends at \d+, before"):
        CropStore(crops, [name]).read(name)
    other = names_of(crops)[1]
    with pytest.raises(JobError, match=r"crops\.csv does not list it"):
        CropStore(crops, [other]).read(other)


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("{name},512,1125899906842624", OSError, r"crops\.tar ends at \d+, before"),
        ("other,512,5", UsageError, r"crops\.csv does not list \w+\.jpg; was the table edited"),
    ],
    ids=["beyond the end", "not listed"],
)
def test_crops_are_not_kept_by_an_index_of_nonsense(
    line: str, error: type[Exception], message: str, crops: Path, tmp_path: Path
) -> None:
    row = read_manifest(crops).rows[0]
    reseal(crops, [f"{line.format(name=Path(row.crop).name)},{ZEROS}"])
    with pytest.raises(error, match=message), write_crops(tmp_path, "tar") as writer:
        writer.keep(row, crops / "shards" / "00000")


def test_a_system_that_cannot_read_them_is_told_so(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pread")
    message = "pread, which this system does not have; crop into a folder of files: --store folder"
    with pytest.raises(UsageError, match=message):
        CropStore(crops, [])
    with pytest.raises(UsageError, match=message), write_crops(tmp_path, "tar"):
        pass


def test_a_store_of_another_kind_is_refused(crops: Path) -> None:
    job = json.loads((crops / "job.json").read_text())
    (crops / "job.json").write_text(json.dumps({**job, "store": "zip"}))
    with pytest.raises(UsageError, match="store='zip'; this version reads folder and tar"):
        CropStore(crops, [])


@pytest.mark.parametrize("file", ["crops.tar", "crops.csv"])
@pytest.mark.parametrize("trick", ["a link", "a pipe", "a linked folder"])
def test_a_tar_that_is_somewhere_else_is_refused(
    file: str, trick: str, crops: Path, tmp_path: Path
) -> None:
    names = names_of(crops)
    path = crops / "shards" / "00000" / file
    if trick == "a linked folder":
        path.parent.symlink_to(path.parent.rename(tmp_path / "outside"))
    elif trick == "a link":
        path.symlink_to(path.rename(tmp_path / "outside"))
    else:
        path.unlink()
        os.mkfifo(path)
    with pytest.raises(UsageError, match=r"which (leads out of the folder|is no regular file)"):
        CropStore(crops, names).read(names[0])


# Files that are open


def count_open() -> int:
    return len([path for path in Path("/proc/self/fd").iterdir() if "crops.tar" in _target(path)])


def _target(path: Path) -> str:
    try:
        return str(path.readlink())
    except FileNotFoundError:  # the listing itself
        return ""


@pytest.fixture
def many(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five tars, of which two may be open."""
    monkeypatch.setattr(crop_store, "_MOST_OPEN", 2)
    return crop(photos, tmp_path / "many")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts where Linux lists them")
def test_few_tars_are_open_and_none_for_ever(many: Path) -> None:
    crops = read_all(many)
    assert count_open() == 0
    store = CropStore(many, crops)
    for name in [*crops, *reversed(crops), *crops]:
        assert store.read(name) == crops[name]
        assert count_open() <= 2
    assert count_open() == 2
    del store
    assert count_open() == 0


def test_threads_read_while_tars_are_closed(many: Path) -> None:
    crops = read_all(many)
    store = CropStore(many, crops)
    names = list(crops) * 40
    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(store.read, names)] == [crops[name] for name in names]


def test_other_processes_read_on(many: Path) -> None:
    crops = read_all(many)
    store = CropStore(many, crops)
    first, *rest = crops
    store.read(first)
    # Started anew, with nothing open.
    assert {name: pickle.loads(pickle.dumps(store)).read(name) for name in crops} == crops
    # Forked, with what is open: parent and child read at once, from other places.
    child = os.fork()
    if child == 0:
        right = False
        try:
            right = all(store.read(name) == crops[name] for name in [*rest, first] * 5)
        finally:
            os._exit(0 if right else 1)
    assert all(store.read(name) == crops[name] for name in [first, *reversed(rest)] * 5)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# Readers


def test_the_doctor_says_the_same(tmp_path: Path) -> None:
    counts = {"train": (6, 6), "validation": (3, 3)}
    folder = write_crop_folder(tmp_path / "folder", counts, size=64)
    tar = write_crop_folder(tmp_path / "tar", counts, size=64, store="tar")
    # The last crop is the first one, here and there.
    names = names_of(folder)
    shutil.copy(folder / names[0], folder / names[-1])
    lines = (tar / "shards/00000/crops.csv").read_text().splitlines()[1:]
    last, place = lines[-1].partition(",")[0], lines[0].partition(",")[2]
    reseal(tar, [*lines[:-1], f"{last},{place}"])
    files, tars = (examine(root, quiet=True) for root in (folder, tar))
    assert "1 sets of identical crops stand in two splits" in str(files)
    assert str(tars).replace(str(tar), str(folder)) == str(files)
    assert files.leaks
    assert tars.leaks


def test_training_says_which_crop_is_damaged(crops: Path) -> None:
    data = CropDataModule(str(crops), split=SplitSettings(find_look_alikes=False))
    data.setup("predict")
    dataset = data.datasets["predict"]
    garble(list_tars(crops)[0])
    with pytest.raises(JobError, match=rf"{dataset.rows[0].crop} is not as it was written"):
        dataset[0]
    assert dataset[1]["image"].shape == (3, 32, 32)
