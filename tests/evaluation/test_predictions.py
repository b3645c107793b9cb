"""The scores of an evaluation are those of a prediction."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deepfake.dataset.rows import CropRow, SourceRow, pack_crops, pack_sources
from deepfake.dataset.texts import Texts, number_texts
from deepfake.evaluation import predictions as room
from deepfake.evaluation.embeddings import Embeddings, embed_crops
from deepfake.evaluation.evaluate import evaluate_predictions
from deepfake.evaluation.predictions import FileScores, ScoredFile, choose_drawn, predict_set
from deepfake.evaluation.sets import EvaluationSet, open_crops, read_evaluation_set
from deepfake.evaluation.tables import format_predictions, format_scored_faces
from deepfake.heads import LinearSVM
from deepfake.inference.predictor import Predictor
from deepfake.records import Aggregation, Sampling
from tests.evaluation.conftest import CPU, Made
from tests.fakes import portrait
from tests.made_limits import ONE_CUT


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
    scored = predict_set(data, [embeddings], made.checkpoint.head, Aggregation())
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
    scored = predict_set(data, [embeddings], made.checkpoint.head, Aggregation())
    assert scored.people.tolist() == [0, 1, 1, 0]
    p = scored.p_fake
    assert scored.files["clip"].p_fake == pytest.approx(max(p[0] + p[3], p[1] + p[2]) / 2)
    largest = Aggregation(faces_per_frame="largest")
    first = predict_set(data, [embeddings], made.checkpoint.head, largest)
    assert first.people.tolist() == [0, -1, 0, -1]
    assert first.files["clip"].p_fake == pytest.approx((p[0] + p[2]) / 2)


def make_photos(n: int) -> EvaluationSet:
    """Photos of one face each, ten to a group."""
    box, points = (10.0, 20.0, 90.0, 120.0), (31.25, 52.5, 66.75, 51.0, 48.25, 75.5, 35.0, 96.0)
    files = [
        SourceRow(f"photos/{i:08d}.jpg", "ok", "", 1, i % 2, "", f"g{i // 10}", "", f"{i:016x}", "")
        for i in range(n)
    ]
    faces = [
        CropRow(f"{file.id}_0_0.jpg", file.id, 0, 0.0, 0, file.label, "", file.group, "", box, 0.99,
                (*points, 66.0, 95.0), 0)
        for file in files
    ]  # fmt: skip
    return EvaluationSet(
        "photos", "", Path(), "all", pack_crops(faces), pack_sources(files), Sampling(), "", "", ()
    )


def make_parts(n: int, size: int, width: int) -> Iterator[Embeddings]:
    for start in range(0, n, size):
        rows = np.random.default_rng(start).normal(size=(min(size, n - start), width))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        yield Embeddings(rows.astype(np.float32), np.full(len(rows), start, np.float32))


def test_embeddings_come_in_whatever_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    data, head = make_photos(30), LinearSVM(8).fit(torch.randn(20, 8), [0, 1] * 10)
    whole = Embeddings.join(make_parts(30, 7, 8), 30, 8)
    expected = head(torch.from_numpy(whole.vectors)).numpy()
    monkeypatch.setattr(room, "_CHUNK", 8)
    monkeypatch.setattr(room, "N_DRAWN", 9)
    for parts in (
        [whole],
        [*make_parts(30, 7, 8)],
        [whole.where(slice(i, i + 1)) for i in range(30)],
    ):
        scored = predict_set(data, iter(parts), head, Aggregation())
        np.testing.assert_allclose(scored.p_fake, expected, atol=1e-12)
        assert np.array_equal(scored.sharpness, whole.sharpness)
        drawn = choose_drawn(30)
        assert len(set(drawn.tolist())) == 9
        assert np.array_equal(scored.drawn, whole.vectors[drawn])
    for parts in ([whole.where(slice(29))], [whole, whole.where(slice(1))]):
        with pytest.raises(ValueError, match=r"(29|31) embeddings of 30 crops"):
            predict_set(data, parts, head, Aggregation())


def test_scores_are_found_in_any_order() -> None:
    scores = {id: ScoredFile(float(place), place, ()) for place, id in enumerate("cadbe")}
    kept = FileScores(scores.items())
    assert dict(kept) == scores
    for ids in ("cadbe", "abcde", "xcxaxdx", "eecc", "zb", ""):
        assert kept.find(Texts.of(ids)).tolist() == ["cadbe".find(id) for id in ids]
    with pytest.raises(KeyError):
        kept["x"]


def test_all_ids_are_sorted_once_and_not_for_each_file(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = FileScores((id, ScoredFile(0.5, 1, ())) for id in "cadbe")
    sorts: list[int] = []

    def count(*texts: Texts) -> list[NDArray[np.int32]]:
        sorts.append(len(texts[0]))
        return number_texts(*texts)

    monkeypatch.setattr("deepfake.dataset.texts.number_texts", count)
    monkeypatch.setattr(room, "number_texts", count)
    assert len([*kept.values(), *kept.values()]) == 10
    assert sorts == [5]


def test_an_evaluation_takes_few_hundred_bytes_a_face(monkeypatch: pytest.MonkeyPatch) -> None:
    head = LinearSVM(512).fit(torch.randn(8, 512), [0, 1] * 4)
    monkeypatch.setattr("deepfake.dataset.columns.CHUNK", 128)
    monkeypatch.setattr(room, "_CHUNK", 128)
    monkeypatch.setattr(room, "N_DRAWN", 128)

    def evaluate(n: int) -> list[int]:
        """The most bytes while faces are scored, and while their metrics are computed."""
        data, peaks = make_photos(n), list[int]()
        tracemalloc.start()
        scored = predict_set(data, make_parts(n, 128, 512), head, Aggregation())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.reset_peak()
        evaluation = evaluate_predictions([scored], ONE_CUT, Aggregation(), n_resamples=2)
        for table in (format_predictions, format_scored_faces):
            assert sum(1 for _ in table(evaluation)) == n + 1
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        return peaks

    evaluate(10)  # imports
    for few, many in zip(evaluate(640), evaluate(1664), strict=True):
        # Beside its manifest; an embedding would be 2,048.
        assert (many - few) / 1024 < 400
