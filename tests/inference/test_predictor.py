from __future__ import annotations

import inspect
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from deepfake import Predictor
from deepfake.errors import CheckpointError, JobError, UsageError
from deepfake.faces.extraction import decode_crop, encode_crop
from deepfake.inference.graphs import record_graph
from deepfake.inference.scoring import TorchScorer
from deepfake.jobs.folder import hash_file
from deepfake.learning.checkpoint import load_checkpoint
from deepfake.media.discovery import list_sources
from deepfake.records import (
    Aggregation,
    Extraction,
    FaceCrop,
    Limits,
    Result,
    Source,
    Status,
    Verdict,
    Workers,
)
from deepfake.tables import read_csv
from tests.conftest import Trained
from tests.fakes import make_face
from tests.made_quality import without_remarks


@pytest.fixture(scope="module")
def mixed(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Portraits, and every way not to get an answer."""
    folder = tmp_path_factory.mktemp("mixed")
    portraits = sorted(trained.photos.rglob("*.png"))[:5]
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no photo")
    Image.new("RGB", (300, 200), (90, 120, 90)).save(folder / "wall.png")
    Image.new("RGB", (16, 16)).save(folder / "tiny.png")
    os.mkfifo(folder / "pipe.jpg")
    return [
        portraits[0],
        folder / "broken.jpg",
        portraits[1],
        folder / "wall.png",
        folder / "tiny.png",
        folder / "missing.jpg",
        portraits[2],
        folder / "pipe.jpg",
        portraits[3],
        portraits[4],
    ]


def summary(scores: list[Result]) -> list[tuple[str, str, str, float | None]]:
    return [
        (s.path, s.status, s.reason, None if s.p_fake is None else round(s.p_fake, 5))
        for s in scores
    ]


def test_one_row_per_path_in_order_with_honest_statuses(
    trained: Trained, mixed: list[Path]
) -> None:
    predictor = Predictor.from_checkpoint(trained.checkpoint, device="cpu", batch_size=2)
    scores = list(predictor.predict(mixed))

    assert [score.path for score in scores] == [str(path) for path in mixed]
    expected = [
        *(Status.OK, Status.UNREADABLE, Status.OK, Status.NO_FACE, Status.TOO_SMALL),
        *(Status.UNREADABLE, Status.OK, Status.UNREADABLE, Status.OK, Status.OK),
    ]
    assert [score.status for score in scores] == expected
    for score in scores:
        answered = score.status is Status.OK
        assert (score.p_fake is not None) == answered == (score.verdict is not None)
        assert (score.n_faces > 0) == answered == (score.box_xyxy is not None)
        assert answered or score.reason
        if score.p_fake is not None:
            assert 0 <= score.p_fake <= 1
            assert score.limits is not None
            limits = Limits(score.limits[0], score.limits[1:])
            assert score.verdict == limits.judge(score.p_fake, min(score.n_people, 1))


@pytest.mark.parametrize("batch_size", [1, 3, 64], ids="batch{}".format)
def test_batch_size_changes_nothing(trained: Trained, mixed: list[Path], batch_size: int) -> None:
    whole = Predictor.from_checkpoint(trained.checkpoint, device="cpu")
    part = Predictor.from_checkpoint(trained.checkpoint, device="cpu", batch_size=batch_size)
    assert summary(list(part.predict(mixed))) == summary(list(whole.predict(mixed)))


@pytest.mark.slow
def test_worker_processes_change_nothing(trained: Trained, mixed: list[Path]) -> None:
    alone = Predictor.from_checkpoint(trained.checkpoint, device="cpu")
    helped = Predictor.from_checkpoint(trained.checkpoint, device="cpu", workers=Workers(2))
    assert summary(list(helped.predict(mixed))) == summary(list(alone.predict(mixed)))


def test_training_and_prediction_see_the_same_pixels(trained: Trained) -> None:
    """The score of a photo equals that of the crop that training stored for it."""
    checkpoint = load_checkpoint(trained.checkpoint)
    rows = read_csv(trained.crops / "manifest.csv", ["crop", "source"])
    names = {
        row["id"]: row["path"] for row in read_csv(trained.crops / "sources.csv", ["id", "path"])
    }
    for row in rows[:6]:
        stored = decode_crop((trained.crops / row["crop"]).read_bytes())
        batch = torch.from_numpy(stored.transpose(2, 0, 1)[None].copy())
        with torch.inference_mode():
            expected = checkpoint.head(checkpoint.embedder(batch))
        predictor = Predictor(checkpoint, device="cpu")
        (score,) = predictor.predict([trained.photos / names[row["source"]]])
        assert score.p_fake == pytest.approx(float(expected[0]), abs=1e-6)


def test_is_lazy(trained: Trained, mixed: list[Path]) -> None:
    asked = []

    def paths() -> object:
        for number in range(10_000):
            asked.append(number)
            yield mixed[1]

    predictor = Predictor.from_checkpoint(trained.checkpoint, device="cpu", batch_size=2)
    first = next(predictor.predict(paths()))  # type: ignore[arg-type]
    assert first.status is Status.UNREADABLE
    assert len(asked) <= 8


def test_nothing_in_nothing_out(trained: Trained) -> None:
    assert list(Predictor.from_checkpoint(trained.checkpoint).predict([])) == []


def test_no_input_is_modified(trained: Trained, mixed: list[Path]) -> None:
    files = [path for path in mixed if path.is_file()]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in files]
    list(Predictor.from_checkpoint(trained.checkpoint, device="cpu").predict(files))
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in files] == before


def write_group(path: Path, photos: Path) -> Path:
    portraits = [np.asarray(Image.open(p)) for p in sorted(photos.rglob("*.png"))[:2]]
    Image.fromarray(np.concatenate(portraits, axis=1)).save(path)
    return path


def test_every_face_of_a_group_photo_counts(trained: Trained, tmp_path: Path) -> None:
    photo = write_group(tmp_path / "two.png", trained.photos)
    checkpoint = load_checkpoint(trained.checkpoint)
    (score,) = Predictor(checkpoint, device="cpu").predict([photo])
    assert (score.n_found, score.n_faces, score.n_too_small, score.n_people) == (2, 2, 0, 2)
    assert score.p_fake == max(face.p_fake for face in score.faces)
    assert [face.person for face in score.faces] == [person.person for person in score.people]
    top = max(score.faces, key=lambda face: face.p_fake)
    assert score.box_xyxy == top.box_xyxy
    (alone,) = Predictor(checkpoint, device="cpu", faces_per_frame="largest").predict([photo])
    assert (alone.n_faces, alone.n_people) == (1, 1)
    # Cut as in training, whoever else is there.
    assert alone.faces[0] == replace(score.faces[0], p_fake=alone.faces[0].p_fake)
    assert alone.p_fake == pytest.approx(score.faces[0].p_fake, abs=1e-6)


def make_extraction(*faces: tuple[float, float]) -> Extraction:
    """A photo with faces of these sizes and confidences, all with a crop of their own."""
    rng = np.random.default_rng(0)
    crops = tuple(
        FaceCrop(0, 0.0, n, make_face((0, 0, size, size), confidence), 0, encoded)
        for n, (size, confidence) in enumerate(faces)
        for encoded in [encode_crop(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8), 95)]
    )
    return Extraction(Status.OK, "", crops, len(crops))


@pytest.fixture(scope="module")
def answer(trained: Trained) -> Callable[[Extraction], Result]:
    predictor = Predictor(without_remarks(load_checkpoint(trained.checkpoint)), device="cpu")
    return partial(predictor.answer, Source("a", Path("a.jpg"), "a.jpg"))


def test_small_faces_are_counted_and_not_scored(answer: Callable[[Extraction], Result]) -> None:
    score = answer(make_extraction((90, 0.99), (60, 0.5), (47, 0.99), (30, 0.99)))
    assert (score.n_found, score.n_faces, score.n_too_small, score.n_people) == (4, 2, 2, 1)
    assert [one.remark for one in score.people] == [
        "",
        "the detector is unsure of the face (0.50 of 0.9)",
    ]
    assert score.p_fake == score.faces[0].p_fake


@pytest.mark.parametrize(
    ("faces", "why"),
    [
        ([(47, 0.99), (30, 0.99)], "face of 47 px, 48 px are needed"),
        ([(90, 0.7), (30, 0.99)], r"the detector is unsure of the face (0.70 of 0.9)"),
    ],
    ids=["small", "unsure"],
)
def test_where_nobody_counts_the_verdict_is_unclear(
    answer: Callable[[Extraction], Result], faces: list[tuple[float, float]], why: str
) -> None:
    score = answer(make_extraction(*faces))
    assert (score.status, score.verdict, score.n_people) == (Status.OK, Verdict.UNCLEAR, 0)
    assert score.remarks == (f"nobody in it can be judged with confidence: {why}",)
    assert (score.n_faces, score.p_fake) == (2, score.faces[0].p_fake)


def test_a_suspicious_person_who_does_not_count_is_named(
    trained: Trained, answer: Callable[[Extraction], Result]
) -> None:
    extraction = make_extraction((90, 0.99), (60, 0.5))
    low, high = sorted(face.p_fake for face in answer(extraction).faces)
    if answer(extraction).faces[0].p_fake == high:
        swapped = [
            replace(crop, face=other.face, face_index=other.face_index)
            for crop, other in zip(extraction.crops, extraction.crops[::-1], strict=True)
        ]
        extraction = replace(extraction, crops=tuple(swapped[::-1]))
    predictor = Predictor(without_remarks(load_checkpoint(trained.checkpoint)), device="cpu")
    predictor.judge.limits = Limits(low, (high,))
    score = predictor.answer(Source("a", Path("a.jpg"), "a.jpg"), extraction)
    assert (score.p_fake, score.verdict) == (low, Verdict.REAL)
    assert score.remarks == (
        f"a person who does not count scores {high:.2f}: the detector is unsure of the face "
        "(0.50 of 0.9)",
    )


def test_an_answer_on_a_face_unlike_the_training_faces_is_unclear(trained: Trained) -> None:
    """Whatever the score; the same detector is sure of a face that is like them."""
    predictor = Predictor.from_checkpoint(trained.checkpoint, device="cpu")
    predictor.judge.limits = Limits(1.0, (1.0,))  # everything is real
    noise = predictor.answer(Source("a", Path("a.jpg"), "a.jpg"), make_extraction((90, 0.99)))
    assert noise.verdict is Verdict.UNCLEAR
    assert noise.quality == noise.faces[0].quality
    assert noise.quality is not None
    assert noise.quality.size_px == 90
    assert noise.remarks[0].startswith("unlike the training faces (distance ")
    assert "sharpness" in " ".join(noise.remarks)
    known = list(predictor.predict(sorted(trained.photos.rglob("*.png"))[:12]))
    assert {score.verdict for score in known} == {Verdict.REAL}
    assert sum(bool(score.remarks) for score in known) <= 2


@pytest.mark.data
def test_a_detector_of_drawings_is_unclear_about_photographs(
    trained: Trained, shared_media: Path
) -> None:
    predictor = Predictor.from_checkpoint(trained.checkpoint, device="cpu")
    predictor.judge.limits = Limits(0.0, (0.0,))  # everything is fake
    photos = sorted((shared_media / "labelled/lfw_reals/real").iterdir())[::250]
    scores = [score for score in predictor.predict(photos) if score.p_fake is not None]
    unclear = [score for score in scores if score.verdict is Verdict.UNCLEAR]
    assert len(unclear) >= 0.8 * len(scores) > 6
    assert all("unlike the training faces" in score.remarks[0] for score in unclear)


def test_limits_are_those_for_the_people_who_count(trained: Trained) -> None:
    predictor = Predictor.from_checkpoint(trained.checkpoint, device="cpu")
    source, photo = Source("a", Path("a.jpg"), "a.jpg"), make_extraction(*[(90, 0.99)] * 3)
    p_fake = predictor.answer(source, photo).p_fake
    assert p_fake is not None
    predictor.judge.limits = Limits(0.0, (p_fake / 2, p_fake * 0.9, p_fake * 1.1))
    score = predictor.answer(source, photo)
    assert (score.verdict, score.limits) == (Verdict.UNCLEAR, (0.0, p_fake * 1.1))
    score = predictor.answer(source, replace(photo, crops=photo.crops[:2]))
    assert score.limits == (0.0, p_fake * 0.9)


def test_errors(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such file"):
        Predictor.from_checkpoint(tmp_path / "no.ckpt")
    with pytest.raises(CheckpointError, match=r"mid-training; use the model\.ckpt"):
        Predictor.from_checkpoint(trained.run / "checkpoints" / "last.ckpt")
    with pytest.raises(UsageError, match="batch_size=0"):
        Predictor.from_checkpoint(trained.checkpoint, batch_size=0)
    with pytest.raises(UsageError, match="no aggregation 'mode'"):
        Predictor.from_checkpoint(trained.checkpoint, aggregation="mode")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="detect device 'gpu'; expected cpu, cuda or cuda:N"):
        Predictor.from_checkpoint(trained.checkpoint, workers=Workers(detect_device="gpu"))
    with pytest.raises(UsageError, match="device 'gpu' is not usable here"):
        Predictor.from_checkpoint(trained.checkpoint, device="gpu")


def test_the_numbers_of_the_checkpoint_count_with_any_policy(trained: Trained) -> None:
    numbers = Aggregation("median", top_share=0.5)
    checkpoint = load_checkpoint(trained.checkpoint)
    checkpoint = replace(checkpoint, recipe=replace(checkpoint.recipe, aggregation=numbers))
    assert Predictor(checkpoint).aggregation == numbers
    assert Predictor(checkpoint, aggregation="top").aggregation == replace(numbers, policy="top")


# Several devices


@pytest.mark.parametrize("devices", [["cpu", "cpu"], ["cpu"] * 3], ids=len)
def test_several_devices_change_nothing(
    trained: Trained, mixed: list[Path], devices: list[str]
) -> None:
    photos = mixed + mixed[::-1]
    checkpoint = load_checkpoint(trained.checkpoint)
    sources = [list_sources([str(path)], Path())[0] for path in photos]
    alone = Predictor(checkpoint, device="cpu", batch_size=1)
    together = Predictor(checkpoint, device=devices, batch_size=1)
    blocks = [sources[:1], [], *([source] for source in sources[1:])]
    expected = list(alone.score_blocks(blocks))
    assert [len(block) for block in expected] == [len(block) for block in blocks]
    assert list(together.score_blocks(blocks)) == expected
    assert len(expected) > 2 * len(devices) + 1


class _Device:
    """Scores in its own time, and notes what it does."""

    backend, name, batch_size = "torch", "slow", 2

    def __init__(self, seconds: float, fail_at: int | None = None) -> None:
        self.seconds, self.fail_at, self.calls = seconds, fail_at, 0
        self.threads: set[str] = set()

    def score(self, images: NDArray[np.uint8]) -> list[float]:
        self.calls += 1
        self.threads.add(threading.current_thread().name)
        if self.calls == self.fail_at:
            raise RuntimeError("the device fell off the bus")
        time.sleep(self.seconds)
        return [float(image.mean()) / 255 for image in images]


def with_devices(trained: Trained, *scorers: _Device) -> Predictor:
    predictor = Predictor.from_checkpoint(
        trained.checkpoint, device=["cpu"] * len(scorers), batch_size=2
    )
    predictor._scorers = list(scorers)  # type: ignore[arg-type]
    return predictor


def test_devices_take_turns_and_a_slow_one_does_not_mix_up_the_order(trained: Trained) -> None:
    photos = sorted(trained.photos.rglob("*.png"))[:16]
    slow, fast = _Device(0.05), _Device(0)
    scores = list(with_devices(trained, slow, fast).predict(photos))
    assert [score.path for score in scores] == [str(path) for path in photos]
    again = list(with_devices(trained, _Device(0)).predict(photos))
    assert scores == again
    assert abs(slow.calls - fast.calls) <= 1
    assert slow.threads.isdisjoint(fast.threads)
    assert threading.current_thread().name not in slow.threads | fast.threads


def test_few_groups_are_ahead_of_what_was_yielded(trained: Trained, mixed: list[Path]) -> None:
    asked = 0

    def paths() -> Iterator[Path]:
        nonlocal asked
        for _ in range(10_000):
            asked += 1
            yield mixed[0]

    first, second = _Device(0), _Device(0)
    answers = with_devices(trained, first, second).predict(paths())
    next(answers)
    assert asked <= 2 * (2 * 2 + 1)
    answers.close()
    assert first.calls + second.calls <= 5
    assert not [thread for thread in threading.enumerate() if "deepfake-score" in thread.name]


def test_what_fails_on_a_device_fails_the_job(trained: Trained) -> None:
    photos = sorted(trained.photos.rglob("*.png"))[:16]
    predictor = with_devices(trained, _Device(0), _Device(0, fail_at=2))
    answers = predictor.predict(photos)
    # The groups before it are answered: 3 of 2 faces each.
    got = [next(answers).path for _ in range(6)]
    assert got == [str(path) for path in photos[:6]]
    with pytest.raises(RuntimeError, match="the device fell off the bus"):
        next(answers)
    assert not [thread for thread in threading.enumerate() if "deepfake-score" in thread.name]


def test_a_batch_that_shrinks_loses_no_crop(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out in the middle of a group of several batches."""
    photos = sorted(trained.photos.rglob("*.png"))[:12]
    expected = summary(list(Predictor.from_checkpoint(trained.checkpoint).predict(photos)))
    predictor = Predictor.from_checkpoint(trained.checkpoint, device="cpu", batch_size=12)
    (scorer,) = predictor._scorers
    assert isinstance(scorer, TorchScorer)
    real, sizes = scorer.run, list[int]()

    def small(images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        sizes.append(len(images))
        if len(images) > 3 and len(sizes) > 1:
            raise torch.OutOfMemoryError("too much")
        return real(images)

    monkeypatch.setattr(scorer, "run", small)
    assert summary(list(predictor.predict(photos))) == expected
    assert sizes == [4, 4, 2, 2, 2, 2]


def test_onnx_runtime_gives_the_same_answers(
    trained: Trained, mixed: list[Path], graph: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(trained.checkpoint.read_bytes())
    path.with_suffix(".onnx").write_bytes(graph)
    record_graph(graph, hash_file(path))
    torch_side = Predictor.from_checkpoint(path, device="cpu", backend="torch")
    onnx_side = Predictor.from_checkpoint(path, device="cpu")
    assert (torch_side.backend, onnx_side.backend) == ("torch", "onnx")
    expected, found = (list(side.predict(mixed)) for side in (torch_side, onnx_side))
    for one, other in zip(expected, found, strict=True):
        assert (one.path, one.status, one.verdict) == (other.path, other.status, other.verdict)
        if one.p_fake is not None:
            assert other.p_fake == pytest.approx(one.p_fake, abs=1e-5)
    shared = Predictor.from_checkpoint(path, device=["cpu", "cpu"], batch_size=2, backend="onnx")
    assert list(shared.predict(mixed)) == found


@pytest.mark.gpu
def test_a_gpu_gives_the_same_scores(trained: Trained, mixed: list[Path]) -> None:
    cpu = list(Predictor.from_checkpoint(trained.checkpoint, device="cpu").predict(mixed))
    gpu = list(Predictor.from_checkpoint(trained.checkpoint, device="cuda").predict(mixed))
    assert [s.status for s in cpu] == [s.status for s in gpu]
    pairs = [(a.p_fake, b.p_fake) for a, b in zip(cpu, gpu, strict=True) if a.p_fake is not None]
    assert all(a == pytest.approx(b, abs=1e-3) for a, b in pairs)


def test_both_ways_to_a_predictor_take_the_same_settings() -> None:
    made = dict(inspect.signature(Predictor).parameters)
    del made["checkpoint"], made["expected_faces"], made["stored"]  # they need the checkpoint
    loaded = dict(inspect.signature(Predictor.from_checkpoint).parameters)
    del loaded["path"], loaded["tta"]  # they make the checkpoint
    assert list(loaded.items()) == list(made.items())


@pytest.mark.parametrize("weight", ["projection.weight", "backbone.conv_stem.weight"])
def test_weights_that_overflow_give_an_error_that_names_the_face(
    trained: Trained, weight: str
) -> None:
    checkpoint = load_checkpoint(trained.checkpoint)
    with torch.no_grad():
        checkpoint.embedder.get_parameter(weight).fill_(3e38)
    photo = next(trained.photos.rglob("*.png"))
    with pytest.raises(JobError, match=rf"{photo.name}: frame 0, face 0 has score nan"):
        list(Predictor(checkpoint, "cpu", backend="torch").predict([photo]))
