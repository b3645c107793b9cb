"""Shards stand whole or count for nothing; what is not ours is never touched."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from deepfake.errors import UsageError
from deepfake.jobs.folder import (
    JobFolder,
    find_difference,
    find_wrong_results,
    hash_file,
    read_job,
    read_seal,
    read_shard,
)
from tests.fakes import tree_hashes


def begun(root: Path, **settings: object) -> JobFolder:
    root.mkdir(exist_ok=True)
    folder = JobFolder(root, "crop")
    folder.begin(["path\n", "a\n"], {"size": 64, **settings})
    return folder


def sealed(folder: JobFolder, block: int = 0) -> Path:
    aside = folder.open_block(block)
    (aside / "crops").mkdir()
    (aside / "rows.txt").write_text("one\ntwo\n")
    (aside / "crops.csv").write_text("a\n")
    (aside / "crops" / "a.bin").write_bytes(bytes(range(256)))
    folder.seal(block, aside, {"a": "0" * 64, "b": ""})
    return folder.folder_of(block)


def test_a_sealed_shard_comes_back(tmp_path: Path) -> None:
    shard = read_shard(sealed(begun(tmp_path / "job")))
    assert shard is not None
    assert shard.inputs == {"a": "0" * 64, "b": ""}
    # By folder: a seal has the same bytes whoever lists the files.
    assert list(shard.files) == ["crops/a.bin", "crops.csv", "rows.txt"]
    assert not list((tmp_path / "job").glob(".tmp-*"))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def swap_for_a_link(path: Path) -> None:
    twin = path.parents[3] / "twin"
    path.rename(twin)
    path.symlink_to(twin)


@pytest.mark.parametrize("name", ["rows.txt", "crops/a.bin", "shard.json"])
@pytest.mark.parametrize("damage", [empty, cut, flip, Path.unlink, swap_for_a_link])
def test_damage_of_any_kind_is_found(name: str, damage: object, tmp_path: Path) -> None:
    shard = sealed(begun(tmp_path / "job"))
    assert callable(damage)
    damage(shard / name)
    assert read_shard(shard) is None


def test_a_file_that_nobody_sealed_is_damage(tmp_path: Path) -> None:
    shard = sealed(begun(tmp_path / "job"))
    (shard / "more.txt").write_text("x")
    assert read_shard(shard) is None


def test_a_seal_that_leads_out_of_its_folder_is_damage(tmp_path: Path) -> None:
    shard = sealed(begun(tmp_path / "job"))
    (tmp_path / "secret").write_text("s")
    content = json.dumps(
        {"inputs": {}, "files": {"../../../secret": hash_file(tmp_path / "secret")}}
    )

    digest = hashlib.sha256(content.encode()).hexdigest()
    (shard / "shard.json").write_text(json.dumps({"content": content, "sha256": digest}))
    assert read_shard(shard) is None


@pytest.mark.parametrize("text", ["[" * 100_000, "{}", "[]", '{"content": 3, "sha256": 3}'])
def test_a_hostile_seal_is_damage(text: str, tmp_path: Path) -> None:
    shard = sealed(begun(tmp_path / "job"))
    (shard / "shard.json").write_text(text)
    assert read_shard(shard) is None


def test_foreign_files_stay_and_are_named(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match=r"holds no crop job \('letter.txt' is in it\)"):
        begun(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_another_jobs_folder_is_refused_by_the_setting(tmp_path: Path) -> None:
    begun(tmp_path)
    with pytest.raises(UsageError, match="begun with size=64, now it is 80"):
        begun(tmp_path, size=80)
    assert read_job(tmp_path)["size"] == 64


def test_leftovers_of_a_kill_are_removed(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    (folder.open_block(3) / "half").write_text("x")
    begun(tmp_path)
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize(
    "text",
    ["", "[1]", "{", "[" * 100_000, '{"inputs": NaN}', '{"inputs": ' + "9" * 5000],
    ids=["no", "list", "cut", "deep", "nan", "huge"],
)
def test_unreadable_settings_are_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(text)
    with pytest.raises(UsageError, match=r"job\.json (cannot be read|holds no settings)"):
        read_job(tmp_path)


def test_pipes_and_devices_have_no_content(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert hash_file(tmp_path / "pipe") == hash_file(Path("/dev/zero")) == ""
    assert hash_file(tmp_path / "absent") == hash_file(tmp_path) == ""


def test_differences_are_found_at_any_depth() -> None:
    assert find_difference({"a": {"b": 1}}, {"a": {"b": 1}}) is None
    assert find_difference({"a": {"b": 1}, "c": 2}, {"a": {"b": 1}}) == ("c", 2, None)


def test_a_finished_job_knows_its_results_and_one_that_goes_on_does_not(tmp_path: Path) -> None:
    folder = begun(tmp_path / "job")
    (folder.root / "table.csv").write_text("a\n")
    folder.conclude(["table.csv"])
    assert find_wrong_results(folder.root, read_job(folder.root)) == []
    (folder.root / "table.csv").write_text("b\n")
    assert find_wrong_results(folder.root, read_job(folder.root)) == ["table.csv"]
    begun(tmp_path / "job")
    assert "results" not in read_job(folder.root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": "many"}, "inputs and block_size must be 1 or more; was it edited"),
        ({"block_size": 0}, "inputs and block_size must be 1 or more; was it edited"),
        ({"results": ["a"]}, "results must be checksums by name; was it edited"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    folder = begun(tmp_path / "job")
    path = folder.root / "job.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UsageError, match=message):
        read_job(folder.root)


@pytest.mark.parametrize("anew", [None, False])
def test_to_begin_anew_is_only_advised_where_it_can_be_asked_for(
    anew: bool | None, tmp_path: Path
) -> None:
    folder = begun(tmp_path / "job")
    with pytest.raises(UsageError, match="size=64, now it is 80; name a new output") as error:
        folder.begin([], {"size": 80}, anew)
    assert ("--overwrite" in str(error.value)) == (anew is not None)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("trick", ["link", "device", "pipe"])
@pytest.mark.parametrize(
    "place", ["job.json", "plan.csv", "shards", "shards/00000", "old", "old/0123", "outputs.json"]
)
def test_a_strangers_job_is_gone_on_with_only_inside_of_its_folder(
    place: str, trick: str, tmp_path: Path
) -> None:
    folder = begun(tmp_path / "job")
    outside = sealed(begun(tmp_path / "outside"))
    before = tree_hashes(tmp_path / "outside")
    path = folder.root / place
    if path.is_dir():
        path.rmdir()
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if trick == "pipe":
        os.mkfifo(path)
    else:
        target = outside / "rows.txt" if path.suffix else outside
        path.symlink_to("/dev/zero" if trick == "device" else target)
    with pytest.raises(UsageError, match=rf"names '{place}', which (leads out|is no regular)"):
        begun(tmp_path / "job")
    assert tree_hashes(tmp_path / "outside") == before


def test_results_lie_in_the_folder(tmp_path: Path) -> None:
    folder = begun(tmp_path / "job")
    for name in ("../plan.csv", "/etc/hostname", "/dev/zero"):
        with pytest.raises(UsageError, match=f"names '{name}', which leads out of the folder"):
            find_wrong_results(folder.root, {"results": {name: "0"}})


def test_a_seal_that_is_a_link_is_damage(tmp_path: Path) -> None:
    shard = sealed(begun(tmp_path / "job"))
    (shard / "shard.json").rename(shard / "seal")
    (shard / "shard.json").symlink_to("seal")
    assert read_seal(shard) is None
