"""Answers that no network made, and a predictor that gives them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from deepfake.inference.job import PredictionJob
from deepfake.jobs.parts import JobPart
from deepfake.media.discovery import list_sources
from deepfake.records import FaceQuality, FaceScore, PersonScore, Result, Source
from tests.made_results import make_answer, make_no_answer

NAMES = [f"{number}.jpg" for number in range(30)]
SETTINGS = {"checkpoint_sha256": "c", "prior": 0.25, "batch_size": 4}


def answer(source: Source) -> Result:
    number = int(Path(source.name).stem)
    if number % 5 == 4:
        return make_no_answer(source.name)
    box, p_fake = (0.0, 0.0, 9.5, 9.5), number / 40
    quality = FaceQuality(9.5, sharpness=0.3)
    faces = tuple(
        FaceScore(frame, frame / 7, 0, box, 0.99, p_fake, quality=quality)
        for frame in range(number % 3)
    )
    people = (PersonScore(0, p_fake, len(faces), 0.0, 0.1, 9.5, counts=True),)
    return make_answer(source.name, p_fake, faces=faces, people=people, remarks=("made",))


class MadePredictor:
    """Gives ``answer`` for every source, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def score_blocks(
        self, blocks: Iterable[Sequence[Source]], keep: object = None
    ) -> Iterator[list[Result]]:
        for block in blocks:
            self.asked += [source.name for source in block]
            yield [answer(source) for source in block]


def run_job(
    root: Path,
    folder: Path,
    names: Sequence[str] = NAMES,
    part: JobPart | None = None,
    **settings: Any,
) -> tuple[PredictionJob, list[str]]:
    """Begin a job or go on with it; the job, and the names of what was scored."""
    root.mkdir(parents=True, exist_ok=True)
    sources = list_sources(list(names), folder)
    job = PredictionJob(root, sources, SETTINGS | settings, part)
    predictor = MadePredictor()
    for _ in job.run(predictor, lambda _: None):
        pass
    return job, predictor.asked
