"""Every tutorial is run from its first to its last command, on made data."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deepfake.demo.people import portrait_geometry
from deepfake.demo.portraits import blend_fake, draw_portrait, write_dataset
from deepfake.learning.checkpoint import load_checkpoint
from deepfake.media.recording import record_video
from tests.conftest import Trained

PAGES = Path(__file__).resolve().parents[2] / "docs" / "tutorials"


def run_page(name: str, folder: Path, *settings: str) -> str:
    """What a tutorial prints; fails with it where a command fails."""
    words = [sys.executable, str(PAGES / "run.py"), str(PAGES / name), *settings]
    environment = {k: v for k, v in os.environ.items() if k != "DEEPFAKE_RUN_FOLDER"}
    done = subprocess.run(
        words,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


def test_the_index_names_every_page_and_a_test_runs_it() -> None:
    pages = {path.name for path in PAGES.glob("*.md")} - {"index.md"}
    index = (PAGES / "index.md").read_text()
    assert set(re.findall(r"\((\w+\.md)\)", index)) == pages
    assert set(re.findall(r'run_page\("(\w+\.md)"', Path(__file__).read_text())) == pages


def test_settings_take_the_place_of_lines_and_blocks_fail_aloud(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\nNAME=default   # why\necho $NAME\n```\n```text\nexit 9\n```\n"
        '```python\nNAME = "default"\nprint(NAME + "!")\n```\n```sh\nfalse\necho no\n```\n'
    )
    words = [sys.executable, str(PAGES / "run.py"), str(page)]
    done = subprocess.run([*words, "NAME=a b"], capture_output=True, text=True)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert [line for line in lines if line in ("a b", "a b!", "no")] == ["a b", "a b!"]
    replace = runpy.run_path(str(PAGES / "run.py"))["replace_settings"]
    with pytest.raises(SystemExit, match="OTHER=1: the page has no line OTHER="):
        replace(page.read_text(), ["OTHER=1"])


@pytest.mark.slow
def test_score_a_video(trained: Trained, tmp_path: Path) -> None:
    printed = run_page("score_video.md", tmp_path, f"MODEL={trained.checkpoint}")
    assert len(re.findall(r"^person \d: 0\.\d\d, 0\.0 to 1\.\d s$", printed, re.MULTILINE)) == 2
    assert re.search(r"^highest: 0\.\d\d at \d\.\d s$", printed, re.MULTILINE)
    (copy,) = (tmp_path / "annotated").rglob("*.mp4")
    assert copy.stat().st_size
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 2
    assert len((tmp_path / "faces.csv").read_text().splitlines()) == 17  # 8 frames of two people
    for page in ("scores.html", "result.html", "why.html"):
        assert "clip.mp4" in (tmp_path / page).read_text()
    assert "tutorial 1" in (tmp_path / "why.html").read_text()


@pytest.mark.slow
def test_train_on_own_data(tmp_path: Path) -> None:
    printed = run_page("train.md", tmp_path)
    head = (tmp_path / "photos" / "labels.csv").read_text().splitlines()[:2]
    shown = (PAGES / "train.md").read_text()
    assert "\n".join(head) in shown
    assert len(re.findall(r"\.png: (real|unclear|fake), p_fake 0\.", printed)) == 16
    assert "trained on: 16 real and 16 fake faces" in printed
    assert (tmp_path / "report" / "report.html").is_file()


@pytest.mark.slow
def test_fine_tune(trained: Trained, tmp_path: Path) -> None:
    forgery = tmp_path / "forgery"
    forgery.mkdir()
    write_dataset(forgery, identities=12, shots=1, seed=3)
    for path in sorted((forgery / "real").rglob("*.png")):
        photo = cv2.imread(str(path))
        assert photo is not None
        mouth = photo[150:220, 90:170]
        photo[150:220, 90:170] = cv2.GaussianBlur(mouth, (0, 0), 5)
        cv2.imwrite(str(forgery / "fake" / path.relative_to(forgery / "real")), photo)
    settings = [f"FORGERY={forgery / 'labels.csv'}", f"KNOWN={trained.photos / 'labels.csv'}"]
    settings += [f"MODEL={trained.checkpoint}", "BACKBONE=test_efficientnet", "SIZE=64"]
    printed = run_page("fine_tune.md", tmp_path, *settings, "EPOCHS=2")
    table = printed.splitlines()[-3:]
    for line, name in zip(table, ("before", "all weights", "normalisation, pro"), strict=True):
        assert line.startswith(name)
        assert len(re.findall(r"[01]\.\d{3} \(", line)) == 2  # an AUC of each set
    measured = [
        json.loads((tmp_path / folder / "metrics.json").read_text())["datasets"]
        for folder in ("before", "after-all", "after-norm")
    ]
    for sets in measured:  # all three on the same files
        assert [one["data_sha256"] for one in sets] == [one["data_sha256"] for one in measured[0]]
    start, everything, norm = (
        load_checkpoint(path).embedder.state_dict()
        for path in (
            trained.checkpoint,
            *(tmp_path / "runs" / name / "model.ckpt" for name in ("all", "norm")),
        )
    )
    filters = [name for name, value in start.items() if value.ndim == 4]
    assert all(torch.equal(start[name], norm[name]) for name in filters)
    assert not all(torch.equal(start[name], everything[name]) for name in filters)
    assert not torch.equal(start["projection.weight"], norm["projection.weight"])


def draw_clip(path: Path, identity: int, donor: int | None = None) -> None:
    """Two frames of a person, or of the person with a donor's face."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames: list[tuple[float, NDArray[np.uint8]]] = []
    for shot in range(2):
        picture = draw_portrait(identity, shot, size=128)
        if donor is not None:
            target, source = (portrait_geometry(one, shot, size=128) for one in (identity, donor))
            picture = blend_fake(picture, draw_portrait(donor, shot, size=128), target, source)
        frames.append((shot / 4, picture))
    record_video(path, frames, "made")


@pytest.mark.slow
def test_a_data_set_of_the_field(tmp_path: Path) -> None:
    forensics, celeb = tmp_path / "FaceForensics", tmp_path / "Celeb-DF-v2"
    pairs = [(first, first + 1) for first in range(0, 16, 2)]
    for pair in pairs:
        for target, source in (pair, pair[::-1]):
            real = forensics / "original_sequences" / "youtube" / "c23" / "videos"
            draw_clip(real / f"{target:03d}.mp4", target)
            fake = forensics / "manipulated_sequences" / "Deepfakes" / "c23" / "videos"
            draw_clip(fake / f"{target:03d}_{source:03d}.mp4", target, source)
    for split, part in (("train", pairs[:4]), ("val", pairs[4:6]), ("test", pairs[6:])):
        names = [[f"{one:03d}" for one in pair] for pair in part]
        (forensics / f"{split}.json").write_text(json.dumps(names))
    listed: list[str] = []
    for identity in range(4):
        real_name = f"Celeb-real/id{identity}_0000.mp4"
        fake_name = f"Celeb-synthesis/id{identity}_id{identity ^ 1}_0000.mp4"
        draw_clip(celeb / real_name, 20 + identity)
        draw_clip(celeb / fake_name, 20 + identity, 20 + (identity ^ 1))
        listed += [f"1 {real_name}", f"0 {fake_name}"]
    (celeb / "List_of_testing_videos.txt").write_text("\n".join(listed) + "\n")
    run_page("cross_dataset.md", tmp_path, "SIZE=64", "FRAMES=2", "CONFIG=smoke")
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    files = metrics["levels"]["file"]
    assert {name: (one["n_real"], one["n_fake"]) for name, one in files["datasets"].items()} == {
        "ffpp": (4, 4),
        "celeb-df": (4, 4),
    }
    assert "Deepfakes" in files["methods"]


@pytest.mark.slow
def test_many_gpus(tmp_path: Path) -> None:
    run_page("many_gpus.md", tmp_path)
    one, two = (
        load_checkpoint(tmp_path / "runs" / name / "model.ckpt").embedder.state_dict()
        for name in ("one-machine", "two-machines")
    )
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-5, msg=name)
