"""One crop folder and one checkpoint for the whole room, and what it makes of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from deepfake.dataset.manifest import read_sources
from deepfake.dataset.rows import SourceRow, format_sources
from deepfake.evaluation.embeddings import EmbedOptions, embed_crops
from deepfake.evaluation.evaluate import Evaluation, evaluate_predictions
from deepfake.evaluation.explain import Explanation, explain_file
from deepfake.evaluation.job import describe_origin
from deepfake.evaluation.predictions import predict_set
from deepfake.evaluation.sets import read_evaluation_set
from deepfake.faces.extraction import encode_crop
from deepfake.inference.aggregation import aggregate
from deepfake.inference.predictor import Predictor
from deepfake.learning.checkpoint import Checkpoint, load_checkpoint
from deepfake.media.discovery import display_name, list_sources
from deepfake.records import Aggregation, FaceScore, Limits, PersonScore, Result, Status
from deepfake.reports.evaluation_page import format_report
from deepfake.reports.prediction_page import digest_scores, format_prediction_report
from tests.evaluation.made_checkpoint import write_checkpoint
from tests.fakes import portrait
from tests.made_crops import write_crop_folder
from tests.made_results import make_answer

HOSTILE = '<script>alert("1")</script>&\u202etxt.jpg'
REASON = 'decode_error: <img src=x onerror="alert(2)">'
CPU = EmbedOptions(device="cpu")
COMMAND = "deepfake evaluate --data '</code><script>alert(3)</script>'"


@dataclass(frozen=True)
class Made:
    """A folder with 2 unscored files in its test split, and a checkpoint trained on another."""

    crops: Path
    path: Path
    checkpoint: Checkpoint


def add_unscored(root: Path) -> None:
    """Add a fake that cannot be read and a real without a face to the test split."""
    rows = [
        SourceRow(
            display_name(HOSTILE), "unreadable", REASON, 0, 1, "<b>", "x", "test", "f" * 16, "a"
        ),
        SourceRow("wall.jpg", "no_face", "no_face: none", 0, 0, "", "y", "test", "e" * 16, "b"),
    ]
    (root / "sources.csv").write_text("".join(format_sources([*read_sources(root), *rows])))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("evaluation")
    crops = write_crop_folder(
        folder / "crops",
        {"train": (8, 8), "validation": (12, 12), "test": (10, 10)},
        size=32,
        edit=lambda row: replace(row, method="<i>swap</i>" if row.label else ""),
    )
    add_unscored(crops)
    path = write_checkpoint(folder / "model.ckpt", crops, manifest_sha256="0" * 64)
    return Made(crops, path, load_checkpoint(path))


def words(made: Made, *more: object) -> list[str]:
    """What a command is told of the checkpoint, and more."""
    start = ["--checkpoint", str(made.path), "--quiet", "--device", "cpu"]
    return [*start, *map(str, more)]


@pytest.fixture(scope="session")
def evaluation(made: Made) -> Evaluation:
    sets = []
    for name, split in (("first", "test"), ("second <set>", "validation")):
        data = read_evaluation_set(made.crops, made.checkpoint, name, "crops/", split)
        embeddings = embed_crops(made.crops, data.faces, made.checkpoint, CPU)
        sets.append(predict_set(data, [embeddings], made.checkpoint.head, Aggregation()))
    return evaluate_predictions(sets, made.checkpoint.limits, Aggregation(), n_resamples=50)


@pytest.fixture(scope="session")
def page(evaluation: Evaluation, made: Made) -> str:
    return format_report(evaluation, describe_origin(made.checkpoint, COMMAND))


def score_people(faces: tuple[FaceScore, ...]) -> tuple[PersonScore, ...]:
    score = aggregate(faces, Aggregation(min_face_px=0, min_confidence=0.0))
    assert score is not None
    return score.people


def make_scores() -> tuple[list[Result], dict[int, dict[int, bytes]]]:
    box = (0.0, 0.0, 40.0, 40.0)
    faces = tuple(
        FaceScore(index, index / 2, face, box, 0.9, p, person=face)
        for index, face, p in ((0, 0, 0.2), (0, 1, 0.6), (5, 0, 0.9), (9, 0, 0.3))
    )
    scores = [
        make_answer("a.jpg", 0.3, faces=faces[:1], people=score_people(faces[:1])),
        Result(HOSTILE, Status.UNREADABLE, "io_error: <b>"),
        make_answer(
            "clip.mp4",
            0.6,
            faces=faces,
            people=score_people(faces),
            remarks=("faces in 3 of 3 frames",),
            n_people=2,
        ),
        make_answer("b\x1b.jpg", 0.6, faces=faces[:1], people=score_people(faces[:1])),
    ]
    crop = encode_crop(np.full((32, 32, 3), 90, dtype=np.uint8), 90)
    return scores, {0: {0: crop}, 2: {0: crop, 1: crop}}


@pytest.fixture(scope="session")
def prediction_page(made: Made) -> str:
    scores, thumbnails = make_scores()
    origin = describe_origin(made.checkpoint, COMMAND)
    return format_prediction_report(digest_scores(scores), thumbnails, origin, Limits(0.49, (0.5,)))


@dataclass
class Files:
    clip: Path
    photo: Path
    hostile: Path
    wall: Path


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("files")
    made = Files(*(folder / name for name in ("c.gif", "p.png", "<b onload=x>&.png", "w.png")))
    picture = cv2.cvtColor(portrait(1), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(made.photo), picture)
    made.hostile.write_bytes(made.photo.read_bytes())
    cv2.imwrite(str(made.wall), np.full((90, 90, 3), 90, np.uint8))
    frames = [Image.fromarray(portrait(number)) for number in range(3)]
    frames[0].save(made.clip, save_all=True, append_images=frames[1:], duration=400)
    return made


def explain_made(made: Made, path: Path, **options: object) -> Explanation:
    predictor = Predictor(made.checkpoint, device="cpu")
    (source,) = list_sources([path.name], path.parent)
    return explain_file(predictor, source, **options)  # type: ignore[arg-type]
