"""What a crop job refuses to go on with, and leaves alone."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deepfake.dataset import cropping
from deepfake.dataset.layouts.labelling import InputOptions
from deepfake.errors import UsageError
from deepfake.records import CropSpec
from deepfake.storage import LOCK_NAMES
from tests.dataset.made_jobs import REPO, SPEC, Done, begin, command, run
from tests.fakes import portrait, tree_hashes, write_photo, write_portraits


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"spec": replace(SPEC, size=80)}, "begun with size=64, now it is 80", id="size"
        ),
        pytest.param(
            {"spec": CropSpec.from_preset("dacon", size=64)},
            "begun with preset='square', now it is 'dacon'; name a new output, or run",
            id="preset",
        ),
    ],
)
def test_refuses_to_go_on_with_other_settings(
    few: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    output = begin(few, tmp_path / "crops")
    before = tree_hashes(output)
    with pytest.raises(UsageError, match=message):
        run(few, output, **options)
    assert tree_hashes(output) == before


def test_refuses_to_go_on_with_other_packages(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = begin(few, tmp_path / "crops")
    monkeypatch.setattr(cropping, "version", lambda name: "99")
    with pytest.raises(UsageError, match=r"begun with facenet-pytorch='2.*', now it is '99'"):
        run(few, output)


@pytest.mark.parametrize("name", ["holiday.jpg", ".tmp-mine/photo.jpg", "shards/x"])
def test_refuses_a_foreign_folder_and_leaves_it_alone(few: Path, tmp_path: Path, name: str) -> None:
    output = tmp_path / "mine"
    (output / name).parent.mkdir(parents=True)
    (output / name).write_bytes(b"mine")
    before = tree_hashes(output)
    with pytest.raises(UsageError, match=r"is not empty and holds no crop job .*; name"):
        run(few, output)
    assert tree_hashes(output) == before


def test_refuses_a_file_as_output(few: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "crops"):
        with pytest.raises(UsageError, match="/file is a file; name a folder for the crops"):
            run(few, output)


def test_refuses_nesting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = write_portraits(tmp_path / "photos", 1)
    monkeypatch.chdir(photos)
    (tmp_path / "link").symlink_to(photos)
    for source, output in (
        (photos, photos / "real" / "crops"),
        (photos, photos),
        (Path(), Path("crops")),
        (tmp_path / "link", photos / "crops"),
        (photos, tmp_path / "link" / "crops"),
    ):
        with pytest.raises(UsageError, match=r"lies inside the input .*; crops must not become"):
            run(source, output)
    assert not (photos / "crops").exists()
    crops = begin(photos, tmp_path / "crops")
    with pytest.raises(UsageError, match=r"the input .* lies inside the crop folder"):
        run(crops / "shards", crops)


def test_refuses_no_shard_size_and_no_labels(tmp_path: Path) -> None:
    write_photo(tmp_path / "photos" / "a.png", portrait())
    with pytest.raises(UsageError, match="shard_size=0; expected 1 or more"):
        run(tmp_path / "photos", tmp_path / "crops", shard_size=0)
    with pytest.raises(UsageError, match="1 of 1 files have no label"):
        run(tmp_path / "photos", tmp_path / "other", inputs=InputOptions(require_labels=True))
    assert not (tmp_path / "other").exists()


def test_a_folder_that_is_in_use_names_the_process(few: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from deepfake.storage import exclusive\n"
        "with exclusive(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    (tmp_path / "crops").mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "crops")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPO,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match=f"is in use by process {holder.pid} on "):
            run(few, tmp_path / "crops")
        result = subprocess.run(
            command(few, tmp_path / "crops", 0), cwd=REPO, capture_output=True, text=True
        )
        assert result.returncode == 2
        assert f"is in use by process {holder.pid} on " in result.stderr
    finally:
        holder.kill()
        holder.communicate()
    # A dead owner's lock is void.
    assert begin(few, tmp_path / "crops").exists()
    assert not any((tmp_path / "crops" / name).exists() for name in LOCK_NAMES)


@pytest.mark.slow
def test_a_second_crop_while_one_runs_is_refused_and_names_the_first(
    many_done: Done, tmp_path: Path
) -> None:
    output = tmp_path / "crops"
    first = subprocess.Popen(command(many_done.photos, output, 1), cwd=REPO)
    deadline = time.monotonic() + 120
    while not [*output.glob("shards/0*")]:
        assert first.poll() is None, "it ended before it could be met"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    with pytest.raises(
        UsageError, match=f"in use by process {first.pid} on {socket.gethostname()}"
    ):
        run(many_done.photos, output)
    assert first.wait() == 0
    assert tree_hashes(output) == many_done.tree


@pytest.mark.parametrize("name", LOCK_NAMES)
def test_a_lock_that_is_a_link_is_not_followed(few: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / name).symlink_to(tmp_path / "mine")
    with pytest.raises(UsageError, match="holds a link as its lock"):
        run(few, tmp_path / "crops")
    assert (tmp_path / "mine").read_text() == "mine"
