from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepfake import cli
from deepfake.cli.options import default_workers
from deepfake.tables import read_csv
from tests.cli.conftest import predict
from tests.conftest import Trained
from tests.fakes import portrait


def test_default_workers_are_the_cores_we_may_use() -> None:
    assert default_workers() >= 1


def test_frames_of_a_video_are_chosen_by_options_and_kept_with_the_crops(
    trained: Trained, tmp_path: Path
) -> None:
    pictures = [Image.open(path) for path in sorted(trained.photos.rglob("*.png"))[:4]]
    clip = tmp_path / "clip.gif"
    pictures[0].save(clip, save_all=True, append_images=pictures[1:], duration=100)
    words = [str(clip), str(tmp_path / "crops"), "--size", "64", "--workers", "0", "--quiet"]
    assert cli.crop([*words, "--every", "2", "--max-frames", "9", "--keyframes"]) == 0
    sampling = json.loads((tmp_path / "crops" / "job.json").read_text())["sampling"]
    expected = {"frames": None, "fps": None, "every": 2, "mode": "keyframes", "max_frames": 9}
    assert sampling == expected | {"detect_every": 1}
    faces = tmp_path / "faces.csv"
    outputs = ["--output", tmp_path / "s.csv", "--faces", faces]
    assert predict(clip, trained, *outputs, "--frames", "3", "--aggregate", "max") == 0
    frames = read_csv(faces, ["frame", "p_fake"])
    assert len(frames) == 3
    (row,) = read_csv(tmp_path / "s.csv", ["p_fake", "reason"])
    assert row["p_fake"] == max(frame["p_fake"] for frame in frames)


def test_boxes_between_are_part_of_the_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, crops = tmp_path / "clip.gif", tmp_path / "crops"
    pictures = [Image.fromarray(np.roll(portrait(1, 0), shift, axis=1)) for shift in range(6)]
    pictures[0].save(clip, save_all=True, append_images=pictures[1:], duration=100)
    words = [str(clip), str(crops), "--size", "64", "--workers", "0", "--quiet", "--every", "1"]
    assert cli.crop([*words, "--detect-every", "5"]) == 0
    assert json.loads((crops / "job.json").read_text())["sampling"]["detect_every"] == 5
    (row,) = read_csv(crops / "sources.csv", ["reason"])
    assert row["reason"] == "faces in 6 of 6 frames; boxes of 4 of 6 frames interpolated"
    capsys.readouterr()
    assert cli.crop(words) == 2
    assert "was begun with detect_every=5, now it is 1" in capsys.readouterr().err
    assert cli.crop([*words, "--detect-every", "31"]) == 2
    assert "detect_every=31; expected 1 (every frame) to 30" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cuda:99", "mps", "cpu:0"])
def test_an_absent_detect_device_is_refused_before_any_work(
    device: str, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, crops, scores = trained.photos, tmp_path / "crops", tmp_path / "s.csv"
    assert cli.crop([str(photos), str(crops), "--detect-device", device]) == 2
    assert predict(photos, trained, "--output", scores, "--detect-device", device) == 2
    errors = capsys.readouterr().err
    assert errors.count(f"error: detect device '{device}'") == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words", [["--frames", "3", "--fps", "2"], ["--every", "0"], ["--frames", "-1"]], ids=" ".join
)
def test_frames_are_chosen_in_one_way(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    try:
        code = cli.crop([str(tmp_path / "a.png"), str(tmp_path / "out"), *words])
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    assert re.search("not allowed with|expected a whole number above 0", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--engine spark", "--engine 'spark'; expected local, ray or ray:ADDRESS"),
        ("--engine ray:", "--engine 'ray:'; expected local, ray or ray:ADDRESS"),
        ("--engine ray:ray://a:1", "Ray's client is not supported; give HOST:PORT"),
        ("--engine ray --workers 0", "with --engine ray give 1 or more"),
        ("--engine ray --detect-device cuda", "--detect-device cuda: with --engine ray it is cpu"),
        ("--engine ray --device cuda", "--device cuda: with --engine ray it is cpu, or with"),
        ("--engine ray --gpus-per-worker 1 --device mps", "--device mps: with --engine ray it is"),
        ("--engine ray --devices 2", "--devices is for --engine local"),
        ("--gpus-per-worker 1", "--gpus-per-worker is for --engine ray"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_before_any_work(
    words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = tmp_path / "s.csv"
    assert cli.predict(["photos", "--output", str(scores), *words.split()]) == 2
    assert message in capsys.readouterr().err
    if "--device" not in words:
        assert cli.crop(["photos", str(tmp_path / "crops"), *words.split()]) == 2
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_ray_its_engine_is_refused_with_the_way_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "deepfake.jobs.ray_engine", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    assert cli.crop([str(tmp_path), str(tmp_path / "crops"), "--engine", "ray"]) == 2
    assert "pip install 'deepfake[ray]'" in capsys.readouterr().err
    words = ["--checkpoint", "m", "--data", "d", "--engine", "ray"]
    assert cli.main(["evaluate", *words]) == 2
    assert "pip install 'deepfake[ray]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
