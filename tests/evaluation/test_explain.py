"""Where a score comes from: a network that knows one kind of seam must be caught looking at it."""

from __future__ import annotations

import math
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deepfake import cli
from deepfake.evaluation import embeddings, explain
from deepfake.evaluation.explain import (
    N_RANDOM_REGIONS,
    Explanation,
    blur_crop,
    check_deletion,
    choose_top_faces,
    compute_saliency,
    find_neighbours,
    log_odds,
    occlude,
    salient_region,
)
from deepfake.evaluation.sets import read_evaluation_set
from deepfake.faces import extraction
from deepfake.inference.predictor import Predictor
from deepfake.learning.embedder import EmbeddingModel
from deepfake.media.decoding import open_media
from deepfake.records import Aggregation, FaceScore, FrameView, Result, Status, Verdict
from tests.evaluation.browser import BROWSER, probe
from tests.evaluation.conftest import Files, Made, explain_made
from tests.evaluation.made_checkpoint import BACKBONE, DIM
from tests.fakes import portrait
from tests.made_crops import draw_crop, write_crop_folder

SIDE = 64


def draw_patch(rng: np.random.Generator, fake: bool) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A real crop; in a fake there is a small round patch with a rim and another grain."""
    crop, (y, x) = draw_crop(rng, SIDE, fake=False), rng.integers(12, SIDE - 12, 2)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    distance = np.hypot(rows - y, columns - x)
    seam = distance < 9 if fake else np.zeros((SIDE, SIDE), bool)
    checks = np.where((rows + columns) % 2, 18, -18) + 40 * (np.abs(distance - 8) < 1.2)
    return np.clip(crop + np.where(seam, checks, 0)[..., None], 0, 255).astype(np.uint8), seam


class Network:
    """Scores crops; trained on ``draw_patch``."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.embedder = EmbeddingModel(BACKBONE, SIDE, DIM, dropout=0.0)
        self.head = torch.nn.Linear(DIM, 1)

    def train(self, steps: int) -> Network:
        rng = np.random.default_rng(0)
        parameters = [*self.embedder.parameters(), *self.head.parameters()]
        optimiser = torch.optim.AdamW(parameters, lr=3e-3)
        labels = torch.arange(24) % 2
        for _ in range(steps):
            crops = np.stack([draw_patch(rng, bool(label))[0] for label in labels])
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                self._logits(crops), labels.float()
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        self.embedder.eval()
        return self

    def _logits(self, crops: NDArray[np.uint8]) -> torch.Tensor:
        images = torch.from_numpy(crops).permute(0, 3, 1, 2)
        logits: torch.Tensor = 8 * self.head(self.embedder(images))[:, 0]
        return logits

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float64]:
        with torch.inference_mode():
            return np.asarray(torch.sigmoid(self._logits(crops).double()))


@pytest.fixture(scope="module")
def network() -> Network:
    return Network().train(60)


def test_the_salient_region_is_where_the_seam_is(network: Network) -> None:
    rng = np.random.default_rng(9)
    inside, chance, hot_drops, random_drops = [], [], [], []
    for number in range(12):
        crop, seam = draw_patch(rng, fake=True)
        assert network(crop[None])[0] > 0.5
        salient = salient_region(compute_saliency(crop, network))
        hot_drop, others, p_without = check_deletion(crop, salient, network, number)
        without = network(occlude(crop, blur_crop(crop), salient)[None])[0]
        assert p_without == pytest.approx(without, abs=1e-5)
        inside.append(seam[salient].mean())
        chance.append(seam.mean())
        hot_drops.append(hot_drop)
        random_drops.append(np.mean(others))
    assert np.mean(inside) > 3 * np.mean(chance)
    assert np.mean(hot_drops) > 2 * np.mean(random_drops)
    assert np.mean(np.array(hot_drops) > random_drops) > 0.8


def test_heat_is_what_a_known_score_depends_on() -> None:
    """Of a score that sees the grain of one corner only, the saliency is in that corner."""

    def score(crops: NDArray[np.uint8]) -> NDArray[np.float64]:
        corner = crops[:, :16, 48:].astype(np.float64).std(axis=(1, 2, 3))
        return np.asarray(1 / (1 + np.exp(-corner / 10)))

    crop = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    saliency = compute_saliency(crop, score)
    assert saliency.shape == (SIDE, SIDE)
    top, left = np.unravel_index(saliency.argmax(), saliency.shape)
    assert top < 16
    assert left >= 48
    assert saliency[48:, :16].max() == pytest.approx(0, abs=1e-9)
    salient = salient_region(saliency)
    assert salient.sum() == round(0.15 * SIDE * SIDE)
    hot_drop, random_drops, _ = check_deletion(crop, salient, score)
    assert len(random_drops) == N_RANDOM_REGIONS
    assert hot_drop > 4 * max(random_drops)
    assert salient_region(np.zeros((10, 10)), 0.25).sum() == 25


def of_one_spot(crops: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Log-odds that rest on the grain of one corner alone."""
    return np.asarray(crops[:, :16, 48:].astype(np.float64).std(axis=(1, 2, 3)) / 10 - 4)


def of_everything(crops: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Log-odds that every part of the crop adds as much to."""
    rows = np.diff(crops.astype(np.float64), axis=1)
    return np.asarray(np.abs(rows).mean(axis=(1, 2, 3)) / 5)


def of_noise(crops: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Log-odds that nothing in a crop explains: another crop, other odds."""
    return np.array([np.random.default_rng(zlib.crc32(crop.tobytes())).normal() for crop in crops])


def of_nothing(crops: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.zeros(len(crops))


def faintly(crops: NDArray[np.uint8]) -> NDArray[np.float64]:
    return of_one_spot(crops) / 20


def explain_with(
    odds: Callable[[NDArray[np.uint8]], NDArray[np.float64]], verdict: Verdict, n_crops: int = 6
) -> Explanation:
    """Crops of noise, explained with a scorer that is known."""

    class Known:
        def run(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float64], None]:
            return 1 / (1 + np.exp(-odds(crops))), None

    score = Result("a.png", Status.OK, p_fake=0.9, verdict=verdict)
    view = FrameView(extraction.encode_crop(np.zeros((8, 8, 3), np.uint8), 90), 1.0)
    tops = []
    for seed in range(n_crops):
        crop = np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
        direction = explain.direction_of(score)
        boxes = (face_at(seed, 0.9),)
        tops.append(explain._make_top_frame(Known(), crop, view, boxes, (seed, n_crops), direction))  # type: ignore[arg-type]
    return Explanation(score, tuple(tops))


def test_maps_of_a_score_that_looks_at_one_spot_pass_their_check() -> None:
    fake = explain_with(of_one_spot, Verdict.FAKE)
    assert fake.failure == ""
    assert fake.n_wins == 6
    assert all(top.salient[:16, 48:].mean() > 0.8 for top in fake.top_frames)
    # What speaks for real is what raises the odds of fake when it is gone.
    real = explain_with(lambda crops: -of_one_spot(crops), Verdict.REAL)
    assert real.failure == ""
    assert all(top.salient[:16, 48:].mean() > 0.8 for top in real.top_frames)
    assert real.salient_drop == pytest.approx(-fake.salient_drop)


@pytest.mark.parametrize(
    ("odds", "verdict", "n_crops", "why"),
    [
        pytest.param(of_noise, Verdict.FAKE, 6, "by chance alone|matters", id="noise"),
        pytest.param(of_nothing, Verdict.FAKE, 6, "by 0.00, 0.00 more", id="constant"),
        pytest.param(of_nothing, Verdict.REAL, 6, "only 0.69 or more", id="constant real"),
        pytest.param(of_everything, Verdict.FAKE, 6, "only 0.69 or more", id="all alike"),
        pytest.param(faintly, Verdict.FAKE, 6, "only 0.69 or more", id="faint"),
        pytest.param(of_one_spot, Verdict.REAL, 6, "only 0.69 or more", id="other direction"),
        pytest.param(of_noise, Verdict.FAKE, 1, "by chance alone|matters", id="noise, one crop"),
    ],
)
def test_other_maps_fail_their_check(
    odds: Callable[[NDArray[np.uint8]], NDArray[np.float64]],
    verdict: Verdict,
    n_crops: int,
    why: str,
) -> None:
    found = explain_with(odds, verdict, n_crops)
    assert re.search(why, found.failure)


@pytest.mark.parametrize(("n_crops", "n_places"), [(1, 99), (2, 10), (3, 8), (6, 8)])
def test_any_number_of_crops_can_pass(n_crops: int, n_places: int) -> None:
    found = explain_with(of_one_spot, Verdict.FAKE, n_crops)
    assert {len(top.random_drops) for top in found.top_frames} == {n_places}
    assert (found.n_wins, found.failure) == (n_crops, "")


@pytest.mark.parametrize("n_crops", [1, 2, 6])
def test_maps_of_noise_hardly_ever_pass(n_crops: int) -> None:
    """Each crop is won by chance once in nine, or less; the tail of that is what counts."""
    rng = np.random.default_rng(0)
    top = explain_with(of_nothing, Verdict.FAKE, 1).top_frames[0]
    passed = 0
    for _ in range(2000):
        drops = 5 * rng.normal(size=(n_crops, 1 + explain.count_places(n_crops)))
        tops = tuple(
            replace(top, salient_drop=row[0], random_drops=tuple(row[1:])) for row in drops
        )
        passed += not Explanation(Result("a", Status.OK), tops).failure
    # Of 2,000, three deviations above what one crop passes by chance alone.
    assert passed < 2000 * explain.MOST_CHANCE + 3 * math.sqrt(2000 * explain.MOST_CHANCE)


def test_log_odds_of_sure_scores_are_finite() -> None:
    odds = log_odds(np.array([0.0, 0.5, 1.0]))
    assert np.isfinite(odds).all()
    assert odds[1] == 0
    assert odds[0] == pytest.approx(-odds[2], rel=1e-4)


def face_at(frame: int, p_fake: float, index: int = 0) -> FaceScore:
    return FaceScore(frame, frame / 10, index, (0.0, 0.0, 9.0, 9.0), 0.9, p_fake)


def test_top_faces_are_apart_and_in_order() -> None:
    scores = [0.1, 0.95, 0.9, 0.2, 0.3, 0.8, 0.1, 0.1, 0.1, 0.2]
    faces = [face_at(frame, p_fake) for frame, p_fake in enumerate(scores)]
    assert [face.frame_index for face in choose_top_faces(faces, 2)] == [1, 5]
    together = [face_at(0, 0.2), face_at(0, 0.7, 1), face_at(0, 0.5, 2)]
    assert [face.face_index for face in choose_top_faces(together, 2)] == [1, 2]
    assert choose_top_faces([], 3) == ()


def test_neighbours_are_the_nearest_by_cosine(made: Made, tmp_path: Path) -> None:
    reference = read_evaluation_set(made.crops, made.checkpoint, preferred_split="train")
    assert reference.split == "train"
    known = np.random.default_rng(0).normal(size=(len(reference.faces), 5)).astype(np.float32)
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    similarity = known @ known[3]
    near = find_neighbours(similarity, reference, 4)
    order = np.argsort(-similarity)[:4]
    assert [item.row for item in near] == [reference.faces[place] for place in order]
    assert near[0].similarity == pytest.approx(1)
    assert near[0].encoded == (made.crops / reference.faces[3].crop).read_bytes()
    tar = write_crop_folder(tmp_path / "tar", {"train": (8, 8)}, size=32, store="tar")
    assert find_neighbours(similarity, replace(reference, root=tar), 4) == near
    gone = find_neighbours(similarity, replace(reference, root=tmp_path), 1)
    assert gone[0].encoded is None


def test_a_clip_is_explained_frame_by_frame(
    made: Made, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = explain_made(made, files.clip, train_crops=made.crops, cache=tmp_path, n_neighbours=3)
    answer = next(Predictor(made.checkpoint, device="cpu").predict([files.clip]))
    assert found.score.p_fake == pytest.approx(answer.p_fake, abs=1e-6)
    assert [top.face.frame_index for top in found.top_frames] == [0, 1, 2]
    assert found.foreign  # the checkpoint says that it was trained on others
    for top in found.top_frames:
        assert top.scale == 1
        assert top.frame is not None
        assert top.frame.shape == portrait(0).shape
        assert len(top.neighbours) == 3
        values = [near.similarity for near in top.neighbours]
        assert values == sorted(values, reverse=True)
    assert len(list(tmp_path.glob("*/job.json"))) == 1
    # What was kept is used again, and is what evaluate keeps.
    monkeypatch.setattr(
        embeddings, "_iter_embeddings", lambda *_, **__: pytest.fail("embedded again")
    )
    again = explain_made(made, files.clip, train_crops=made.crops, cache=tmp_path, n_neighbours=3)
    assert [p.neighbours for p in again.top_frames] == [p.neighbours for p in found.top_frames]


@pytest.mark.parametrize("way", ["counted", "gone"])
def test_a_file_is_decoded_once(
    made: Made, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Everything that the page shows comes from the one extraction."""
    clip = Path(shutil.copy(files.clip, tmp_path / files.clip.name))
    decodings = []

    @contextmanager
    def count(*arguments: Any) -> Iterator[Any]:
        decodings.append(arguments)
        with open_media(*arguments) as frames:
            yield frames
        if way == "gone":
            clip.unlink()

    monkeypatch.setattr(extraction, "open_media", count)
    found = explain_made(made, clip)
    assert len(decodings) == 1
    assert len(found.top_frames) == 3
    assert all(top.frame is not None for top in found.top_frames)


def test_the_faces_of_people_who_do_not_count_are_no_evidence(made: Made, files: Files) -> None:
    score = explain_made(made, files.clip).score
    flash = replace(score.faces[0], person=7, p_fake=1.0)
    passing = replace(score.people[0], person=7, counts=False)
    score = replace(score, faces=(*score.faces, flash), people=(*score.people, passing))
    how = Aggregation()
    assert flash not in explain._faces_that_count(score, how)
    nobody = tuple(replace(one, counts=False) for one in score.people)
    assert flash in explain._faces_that_count(replace(score, people=nobody), how)
    # One of somebody who counts, which the detector is not sure of, made no score either.
    unsure = replace(score.faces[0], frame_index=900, confidence=0.5, p_fake=1.0)
    score = replace(score, faces=(*score.faces, unsure))
    assert set(explain._faces_that_count(score, how)) == set(score.faces) - {flash, unsure}


def test_explain_command(
    made: Made, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "why.html"
    options = ["--checkpoint", str(made.path), "--output", str(page), "--quiet", "--workers", "0"]
    options += ["--device", "cpu"]
    command = ["explain", str(files.hostile), *options]
    assert cli.main([*command, "--data", str(made.crops), "--top-frames", "2"]) == 0
    shown = capsys.readouterr().out
    assert "deletion check" in shown
    text = page.read_text(encoding="utf-8")
    assert "<b onload" not in text
    assert "&lt;b onload=x&gt;&amp;.png" in text
    assert "<i>swap" not in text
    assert "&lt;i&gt;swap" in text
    if BROWSER is not None:
        for seen, width in zip(
            probe(tmp_path, [(text, 390), (text, 1440)]), (390, 1440), strict=True
        ):
            assert (seen["scroll"] <= width, seen["wide"], seen["loads"]) == (True, [], [])
            assert all(seen["pictures"])
    assert cli.main(command) == 2
    assert "exists; name another file" in capsys.readouterr().err
    assert cli.main([*command, "--overwrite", "--embeddings", "x"]) == 2
    assert "--embeddings needs --data" in capsys.readouterr().err
    assert cli.main([*command, "--overwrite", "--top-frames", "0"]) == 2
    assert "--top-frames 0; expected 1 or more" in capsys.readouterr().err
    assert cli.main(["explain", str(files.wall.parent), *options, "--overwrite"]) == 2
    assert "is 4 files; explain looks into one" in capsys.readouterr().err
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / "job.json").write_text("{}")
    assert cli.main(["explain", str(tmp_path / "crops"), *options, "--overwrite"]) == 2
    assert "is a crop folder; explain looks into one photo or video" in capsys.readouterr().err
    assert cli.main(["explain", str(files.wall), *options, "--overwrite"]) == 4
    assert "w.png: no_face" in capsys.readouterr().out
    assert "There is no score: no_face" in page.read_text(encoding="utf-8")
    assert cli.main([*command[:-2], "--output", str(tmp_path / "no" / "x.html")]) == 2
    assert "there is no folder" in capsys.readouterr().err
