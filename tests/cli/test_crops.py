from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from deepfake import cli
from deepfake.dataset.layouts.labelling import LAYOUTS
from deepfake.dataset.manifest import read_manifest
from deepfake.dataset.splits import assign_splits
from tests.conftest import Trained
from tests.fakes import tree_hashes
from tests.made_crops import write_crop_folder
from tests.stores.made_stores import empty_memory

ROOT = Path(__file__).parents[2]


def test_crop_ends_with_counts_that_add_up(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, path in enumerate(sorted(trained.photos.rglob("*.png"))[:2]):
        (photos / f"{number}.png").write_bytes(path.read_bytes())
    (photos / "bad.jpg").write_bytes(b"")
    (photos / "notes.txt").write_text("not a photo")
    options = ["--size", "64", "--workers", "1", "--quiet"]
    words = [str(photos), str(tmp_path / "crops"), *options]
    assert cli.crop(words) == 0
    line = capsys.readouterr().out
    assert "finished already" not in line
    assert "3 inputs = 2 ok + 0 no_face + 0 too_small + 1 unreadable -> 2 crops" in line
    assert "1 files of other kinds skipped (1 .txt)" in line
    assert cli.crop([*words, "--strict"]) == 3
    capsys.readouterr()
    named = ["--input", str(photos), "--output", str(tmp_path / "crops"), *options]
    assert cli.crop(named) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{tmp_path / 'crops'} was finished already; nothing was left to do\n")
    assert told.endswith(line)


def test_crops_in_a_store_are_those_of_the_job(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job, options = tmp_path / "job", ["--size", "64", "--workers", "0", "--quiet"]
    with empty_memory() as memory:
        words = ["memory://in", "memory://out/crops", *options, "--job", str(job)]
        for number, path in enumerate(sorted(trained.photos.rglob("*.png"))[:2]):
            memory.pipe_file(f"/in/{number}.png", path.read_bytes())
            for is_again in (False, True):
                assert cli.crop(words) == 0
                told = capsys.readouterr().err
                assert ("uploaded: memory://out/crops (0 files sent, " in told) is is_again
        copy = tmp_path / "copy"
        for path in memory.find("/out/crops"):
            target = copy / path.removeprefix("/out/crops/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(memory.cat_file(path))
        assert tree_hashes(copy) == tree_hashes(job / "crops")
        assert cli.crop(["memory://in", str(copy), *options]) == 0
    assert "was finished already; nothing was left to do" in capsys.readouterr().out
    assert read_manifest(copy).rows


def test_with_strict_a_medium_that_was_passed_over_is_no_success(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    photo = next(trained.photos.rglob("*.png")).read_bytes()
    (photos / "a.png").write_bytes(photo)
    words = [str(photos), str(tmp_path / "crops"), "--size", "64", "--workers", "0", "--quiet"]
    assert cli.crop([*words, "--strict"]) == 0
    (photos / "b.download").write_bytes(photo)
    assert cli.crop([*words, "--strict"]) == 3
    assert "(1 .download (media))" in capsys.readouterr().out
    assert cli.crop(words) == 0


def test_a_linked_class_folder_is_cropped_with_all_links_and_missed_aloud_without(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for label in ("real", "fake"):
        (data / label).symlink_to(trained.photos / label)
    words = ["--size", "64", "--workers", "0", "--quiet", "--strict"]
    for number, links in enumerate(([], ["--follow-links"])):
        assert cli.crop([str(data), str(tmp_path / str(number)), *words, *links]) == 4
        assert "2 inputs = 0 ok" in capsys.readouterr().out
    root = tmp_path / "all"
    assert cli.crop([str(data), str(root), *words, "--follow-all-links"]) == 0
    assert {row.label for row in read_manifest(root).rows} == {0, 1}


def test_crop_takes_its_preset_from_a_configuration(trained: Trained, tmp_path: Path) -> None:
    photo = str(next(trained.photos.rglob("*.png")))
    words = ["--workers", "0", "--quiet"]
    config = ["--config", str(ROOT / "configs/dacon.yaml")]
    assert cli.crop([photo, str(tmp_path / "a"), *config, *words]) == 0
    spec = json.loads((tmp_path / "a" / "job.json").read_text())["crop_spec"]
    assert (spec["preset"], spec["margins"], spec["size"]) == ("dacon", [0.135, 0.1], 380)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "dakon"], "no crop preset 'dakon'; there are square, aligned, whole"),
        (
            ["--preset", "dacon", "--margin", "0.3"],
            "--margin is for square and aligned crops; preset 'dacon'",
        ),
        (["--preset", "whole", "--margin", "0.3"], "crops; preset 'whole' has its own"),
        (["--preset", "whole", "--min-face", "80"], "--min-face is for a search, and preset"),
        (["--preset", "whole", "--exhaustive"], "--exhaustive is for a search, and preset 'whole'"),
        (["--preset", "dacon", "--config", "configs/dacon.yaml"], "both name a recipe"),
        (["--config", "configs/default.yaml"], "has no data.crop_preset"),
        (["--config", "configs/none.yaml"], "there is no such file"),
        (["--size", "3"], "size=3; expected 16 to 2048"),
        (["--jpeg-quality", "101"], "jpeg_quality=101"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_crop_refuses(
    words: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    assert cli.crop([str(tmp_path / "a.png"), str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_crop_without_a_single_face_says_so_by_its_code(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    words = [str(tmp_path / "a.png"), str(tmp_path / "out"), "--workers", "0", "--quiet"]
    assert cli.crop(words) == 4


def test_crop_says_how_the_folder_was_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("Celeb-real/id0_0000", "Celeb-synthesis/id0_id1_0000"):
        (tmp_path / "cdf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cdf" / f"{name}.mp4").touch()
    words = [str(tmp_path / "cdf"), str(tmp_path / "out"), "--workers", "0"]
    with caplog.at_level("INFO", "deepfake"):
        assert cli.crop(words) == 4  # empty files
    assert (
        "layout celeb-df: 2 inputs in 1 groups\n"
        "label  method           no split  all\n"
        "real   -                       1    1\n"
        "fake   Celeb-synthesis         1    1\n"
    ) in caplog.text
    assert "no official split: there is no List_of_testing_videos.txt" in caplog.text


def test_crop_says_that_there_are_no_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{name}.png").touch()
    words = [str(tmp_path / "in"), str(tmp_path / "out"), "--workers", "0"]
    with caplog.at_level("INFO", "deepfake"):
        assert cli.crop(words) == 4  # empty files
    assert "layout none: no labels for 2 inputs" in caplog.text


def test_every_layout_is_in_the_help_and_in_the_docs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.crop(["--help"])
    told = " ".join(capsys.readouterr().out.split()).replace("- ", "-")
    for text in (told, (ROOT / "docs/datasets.md").read_text()):
        assert [name for name in LAYOUTS if name not in text] == []


def test_crop_refuses_a_layout_that_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    for layout, message in (
        ("dfdc", "none of 1 files fits the layout dfdc"),
        ("x", "no layout 'x'; there"),
    ):
        words = [str(tmp_path), str(tmp_path.parent / "out"), "--layout", layout]
        assert cli.crop(words) == 2
        assert message in capsys.readouterr().err


def test_doctor_examines_real_crops(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.doctor([str(trained.crops), "--quiet"]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[-1].startswith("verdict: fit for training")
    assert cli.doctor([str(trained.crops), "--quiet", "--json", "--workers", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["leak"] is False


def test_doctor_exits_with_one_on_a_leak(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crops = tmp_path / "crops"
    shutil.copytree(trained.crops, crops)
    # As it was before checksums were noted: a crop can be changed without being damaged.
    job = json.loads((crops / "job.json").read_text())
    (crops / "job.json").write_text(
        json.dumps({name: job[name] for name in ("crop_spec", "sampling", "versions")})
    )
    rows = read_manifest(crops).rows
    splits = assign_splits(rows)
    one, other = (rows[splits.index(split)].crop for split in ("train", "test"))
    (crops / other).write_bytes((crops / one).read_bytes())
    assert cli.doctor([str(crops), "--quiet"]) == 1
    assert "verdict: LEAK" in capsys.readouterr().out
    assert cli.doctor([str(crops), "--quiet", "--allow-leak"]) == 0
    assert "warning: a leak was let pass by --allow-leak" in capsys.readouterr().err
    (crops / one).unlink()
    assert cli.doctor([str(crops), "--quiet", "--allow-leak"]) == 1
    assert "verdict: damaged" in capsys.readouterr().out


def test_doctor_exits_with_one_on_what_training_would_refuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {"train": (4, 4), "validation": (2, 2), "test": (0, 3)}
    crops = write_crop_folder(tmp_path / "crops", counts, size=32)
    for options in ([], ["--allow-leak"]):
        assert cli.doctor([str(crops), "--quiet", *options]) == 1
        assert "verdict: no leak, but training would refuse it" in capsys.readouterr().out
    assert cli.doctor([str(crops), "--quiet", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["unfit"] is True


def test_doctor_needs_a_crop_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.doctor([str(tmp_path)]) == 2
    assert "is not a crop folder" in capsys.readouterr().err
