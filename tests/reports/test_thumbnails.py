"""The page of a prediction: its thumbnails are the very crops that were scored."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from deepfake import cli
from deepfake.faces.extraction import FaceExtractor
from deepfake.inference.predictor import Predictor
from deepfake.media.discovery import list_sources
from deepfake.reports.thumbnails import cut_thumbnails
from tests.evaluation.conftest import Made
from tests.fakes import portrait


@pytest.fixture(scope="module")
def inbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inbox")
    for number in range(2):
        picture = cv2.cvtColor(portrait(number), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / f"{number}.png"), picture)
    cv2.imwrite(str(folder / "wall.png"), np.full((100, 100, 3), 90, np.uint8))
    return folder


def test_thumbnails_are_the_scored_crops(made: Made, inbox: Path) -> None:
    predictor = Predictor(made.checkpoint, device="cpu")
    sources = list_sources(["wall.png", "0.png", "1.png"], inbox)
    scores = list(predictor.score(sources))
    thumbnails = cut_thumbnails(predictor, sources, [(0, scores[0]), (2, scores[2])])
    assert list(thumbnails) == [2]  # a wall has no face, and 0.png was not asked for
    (crop,) = FaceExtractor(made.checkpoint.recipe.crop).extract(sources[2]).crops
    assert thumbnails[2] == crop.encoded
    assert cut_thumbnails(predictor, sources, []) == {}


def test_predict_writes_a_page(made: Made, inbox: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    options = ["--checkpoint", str(made.path), "--output", str(tmp_path / "s.csv"), "--quiet"]
    options += ["--report", str(page), "--workers", "0", "--device", "cpu"]
    assert cli.main(["predict", str(inbox), *options]) == 0
    text = page.read_text(encoding="utf-8")
    assert "3 inputs = 2 ok + 1 no_face" in text
    assert text.count("data:image/jpeg;base64,") == 2
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
