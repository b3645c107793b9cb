"""A prediction job in, the crops that its page shows out: the most suspicious one of each person.

They are what the job kept. Where it was run for no page, the shown files are cut once more, in the
same killable workers and with the same result. Knows no page.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from deepfake.inference.aggregation import choose_crops
from deepfake.inference.job import PredictionJob
from deepfake.inference.predictor import Predictor
from deepfake.records import Result


def find_thumbnails(
    job: PredictionJob, predictor: Predictor, shown: Sequence[tuple[int, Result]]
) -> dict[int, dict[int, bytes]]:
    """The crops of some files of a job.

    Args:
        job: Has the crops, as far as they were kept.
        predictor: Cuts the others.
        shown: Places among the inputs, with their answers.

    Returns:
        Encoded crops by place and person; what is gone or has changed since is not in it.
    """
    answers = {place: score for place, score in shown if score.people}
    found = job.read_crops(answers)
    missing = [place for place in answers if place not in found]
    sources = [job.job.sources[place] for place in missing]
    with closing(predictor.extract(sources)) as extractions:
        for place, (_, extraction) in zip(missing, extractions, strict=True):
            places = {(crop.frame_index, crop.face_index) for crop in extraction.crops}
            people = answers[place].people
            if all((one.frame_index, one.face_index) in places for one in people):
                found[place] = choose_crops(answers[place], extraction.crops)
    return found
