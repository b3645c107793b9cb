"""The scores of an evaluation are those of a prediction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import pytest

from deepfake.dataset.manifest import pack_crops
from deepfake.evaluation.embeddings import (
    embed_crops,
)
from deepfake.evaluation.predictions import predict_set
from deepfake.evaluation.sets import open_crops, read_evaluation_set
from deepfake.inference.predictor import Predictor
from deepfake.records import Aggregation
from tests.evaluation.conftest import CPU, Made
from tests.fakes import portrait


def test_media_scores_as_a_prediction_does(made: Made, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for number, word in enumerate(["real", "fake", "fake"]):
        (photos / word).mkdir(parents=True, exist_ok=True)
        picture = cv2.cvtColor(portrait(number), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(photos / word / f"{number}.png"), picture)
    (photos / "real" / "broken.jpg").write_bytes(b"\xff\xd8 no")
    root = open_crops(str(photos), made.checkpoint, tmp_path / "crops")
    data = read_evaluation_set(root, made.checkpoint)
    embeddings = embed_crops(root, data.faces, made.checkpoint, CPU)
    scored = predict_set(data, embeddings, made.checkpoint.head, Aggregation())
    answers = {
        file.path: scored.files[file.id].p_fake if file.id in scored.files else None
        for file in data.files
    }

    predictor = Predictor(made.checkpoint, device="cpu")
    expected = {name: next(predictor.predict([photos / name])).p_fake for name in answers}
    assert len(answers) == 4
    assert answers["real/broken.jpg"] is expected["real/broken.jpg"] is None
    for name, p_fake in expected.items():
        assert answers[name] == pytest.approx(p_fake, abs=1e-6), name
    assert data.split == "all"
    # A crop folder is taken as it is.
    assert open_crops(str(root), made.checkpoint, tmp_path / "unused") == root
    assert not (tmp_path / "unused").exists()


def test_frames_of_a_file_make_people_and_one_score(made: Made) -> None:
    data = read_evaluation_set(made.crops, made.checkpoint, split="all")
    left, right = (0.0, 0.0, 60.0, 60.0), (100.0, 0.0, 160.0, 60.0)
    shape: list[tuple[int, int, tuple[float, float, float, float]]] = [
        *((0, 0, left), (0, 1, right), (5, 0, right), (5, 1, left)),
    ]
    faces = pack_crops(
        # Landmarks move with their box.
        replace(row, source="clip", frame=frame, face=face, box_xyxy=box, landmarks=box[:2] * 5)
        for row, (frame, face, box) in zip(data.faces, shape, strict=False)
    )
    data = replace(data, faces=faces)
    embeddings = embed_crops(made.crops, faces, made.checkpoint, CPU)
    scored = predict_set(data, embeddings, made.checkpoint.head, Aggregation())
    assert scored.people == (0, 1, 1, 0)
    p = scored.p_fake
    assert scored.files["clip"].p_fake == pytest.approx(max(p[0] + p[3], p[1] + p[2]) / 2)
    largest = Aggregation(faces_per_frame="largest")
    first = predict_set(data, embeddings, made.checkpoint.head, largest)
    assert first.people == (0, None, 0, None)
    assert first.files["clip"].p_fake == pytest.approx((p[0] + p[2]) / 2)
