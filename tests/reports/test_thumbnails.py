"""The page of a prediction: its thumbnails are the very crops that were scored."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from deepfake import cli
from deepfake.faces import extraction
from deepfake.faces.extraction import FaceExtractor
from deepfake.inference.aggregation import rank_people
from deepfake.inference.job import PredictionJob
from deepfake.inference.predictor import Predictor
from deepfake.media.discovery import list_sources
from deepfake.records import Result
from deepfake.reports.thumbnails import find_thumbnails
from tests.evaluation.conftest import Made
from tests.fakes import portrait


@pytest.fixture(scope="module")
def inbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inbox")
    for number in range(2):
        picture = cv2.cvtColor(portrait(number), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / f"{number}.png"), picture)
    pair = np.concatenate([portrait(0), portrait(1)], axis=1)
    cv2.imwrite(str(folder / "two.png"), cv2.cvtColor(pair, cv2.COLOR_RGB2BGR))
    cv2.imwrite(str(folder / "wall.png"), np.full((100, 100, 3), 90, np.uint8))
    return folder


def run_job(
    root: Path, predictor: Predictor, folder: Path, keep_crops: bool
) -> tuple[PredictionJob, list[tuple[int, Result]]]:
    root.mkdir(exist_ok=True)
    sources = list_sources(["wall.png", "0.png", "two.png"], folder)
    job = PredictionJob(root, sources, {})
    for _ in job.run(predictor, lambda _: None, keep_crops):
        pass
    return job, list(enumerate(job.answers()))


@pytest.mark.parametrize("keep_crops", [True, False], ids=["kept", "cut-again"])
def test_thumbnails_are_the_scored_crops(
    made: Made,
    inbox: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    keep_crops: bool,
) -> None:
    predictor = Predictor(made.checkpoint, device="cpu")
    job, answers = run_job(tmp_path / "job", predictor, inbox, keep_crops)
    if keep_crops:
        monkeypatch.setattr(extraction, "open_media", lambda *_: pytest.fail("decoded again"))
    thumbnails = find_thumbnails(job, predictor, [answers[0], answers[2]])
    assert list(thumbnails) == [2]  # a wall has no face, and 0.png was not asked for
    monkeypatch.undo()
    crops = FaceExtractor(predictor.crop).extract(job.job.sources[2]).crops
    assert list(thumbnails[2].values()) == [
        crops[person.face_index].encoded for person in rank_people(answers[2][1])
    ]
    assert len(crops) == 2
    assert find_thumbnails(job, predictor, []) == {}


def test_kept_crops_of_unchanged_inputs_are_used_again(
    made: Made, inbox: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "inbox"
    shutil.copytree(inbox, folder)
    predictor = Predictor(made.checkpoint, device="cpu")
    job, _ = run_job(tmp_path / "job", predictor, folder, True)
    before = job.read_crops([1, 2])
    (folder / "wall.png").write_bytes((folder / "1.png").read_bytes())
    job, answers = run_job(tmp_path / "job", predictor, folder, True)
    assert answers[0][1].n_people == 1
    assert job.read_crops([0, 1, 2]) == before | job.read_crops([0])
    assert list(job.read_crops([0])) == [0]


def test_what_has_changed_since_is_not_shown(made: Made, inbox: Path, tmp_path: Path) -> None:
    folder = tmp_path / "inbox"
    shutil.copytree(inbox, folder)
    predictor = Predictor(made.checkpoint, device="cpu")
    job, answers = run_job(tmp_path / "job", predictor, folder, False)
    (folder / "two.png").write_bytes((folder / "wall.png").read_bytes())
    (folder / "0.png").unlink()
    assert find_thumbnails(job, predictor, answers) == {}


def test_predict_writes_a_page(made: Made, inbox: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    options = ["--checkpoint", str(made.path), "--output", str(tmp_path / "s.csv"), "--quiet"]
    options += ["--report", str(page), "--workers", "0", "--device", "cpu"]
    assert cli.main(["predict", str(inbox), *options]) == 0
    text = page.read_text(encoding="utf-8")
    assert "4 inputs = 3 ok + 1 no_face" in text
    assert text.count("data:image/jpeg;base64,") == 5  # both of two.png, the first of them twice
    assert f"deepfake predict {inbox}" in text
    # Asked for again, there is nothing left to do, and the page stays as it is.
    assert cli.main(["predict", str(inbox), *options]) == 0
    assert page.read_text(encoding="utf-8") == text


def test_a_part_has_no_page(
    made: Made, inbox: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--checkpoint", str(made.path), "--output", str(tmp_path / "s.csv"), "--quiet"]
    options += ["--report", str(tmp_path / "page.html"), "--shard", "1/2"]
    assert cli.main(["predict", str(inbox), *options]) == 2
    assert "give it to a predict without --shard" in capsys.readouterr().err
