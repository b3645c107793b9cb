"""The scores of a file's faces in, its answer out: verdict, remarks, and whom it rests on.

Knows no network, no device and no order of files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deepfake.errors import JobError, UsageError
from deepfake.inference.aggregation import FileScore, aggregate
from deepfake.inference.groups import ItemToScore, ScoredFace
from deepfake.inference.people import choose_faces, is_too_small, score_faces
from deepfake.learning.checkpoint import Checkpoint
from deepfake.records import (
    Aggregation,
    Extraction,
    Result,
    Sampling,
    Source,
    Verdict,
    list_differences,
)

_NOT_SEARCHED = "taken for one face as it is: nobody looked for one"
_OF_ONE_FRAME = ("faces_per_frame", "min_face_px", "min_confidence")  # settings of an aggregation


def compare_with_limits(
    checkpoint: Checkpoint, sampling: Sampling, aggregation: Aggregation, is_clip: bool
) -> str:
    """What a reader must know where files are scored unlike those that chose the limits.

    Args:
        checkpoint: Remembers those.
        sampling: Which frames of clips are scored.
        aggregation: How the faces of a file make its score.
        is_clip: Whether there are clips; a photo is one frame, however clips are sampled and
            frames aggregated.
    """
    chosen = checkpoint.chosen_for
    others = list_differences(sampling, chosen.sampling)
    others += list_differences(aggregation, chosen.aggregation)
    if not is_clip:
        others = [text for text in others if text.startswith(_OF_ONE_FRAME)]
    others = checkpoint.differences + others
    if not others:
        return ""
    return (
        f"limits were chosen on files scored otherwise ({', '.join(others)}): their error "
        "rates are not known here"
    )


class Judge:
    """Makes answers of scores, as a checkpoint wants it.

    Args:
        checkpoint: Has the limits and the training's faces.
        sampling: Which frames of videos are scored.
        aggregation: How the faces of a file make its score.

    Attributes:
        limits: Of its verdicts.
        faces: The training's faces: what is unlike them is not judged.

    Raises:
        UsageError: If the checkpoint has no head.
    """

    def __init__(
        self, checkpoint: Checkpoint, sampling: Sampling, aggregation: Aggregation
    ) -> None:
        if checkpoint.training_faces is None:
            raise UsageError(f"{checkpoint.path} holds no head; give it one with deepfake fit-head")
        self.limits, self.faces = checkpoint.limits, checkpoint.training_faces
        self._checkpoint, self._sampling = checkpoint, sampling
        self._aggregation = aggregation

    def compare_with_limits(self, is_clip: bool) -> str:
        """As of the function, for what this makes answers of."""
        return compare_with_limits(self._checkpoint, self._sampling, self._aggregation, is_clip)

    def choose(self, source: Source, extraction: Extraction) -> ItemToScore:
        """A file with those of its faces that are worth scoring."""
        return ItemToScore(source, extraction, choose_faces(extraction.crops, self._aggregation))

    def answer(self, item: ItemToScore, scored: Sequence[ScoredFace]) -> Result:
        """The answer for a file.

        Args:
            item: The file, as ``choose`` gave it.
            scored: Of each of its faces that are scored.

        Raises:
            JobError: If a score is no probability; it names file and face.
        """
        source, extraction, crops = item
        p_fake, qualities = [one.p_fake for one in scored], [one.quality for one in scored]
        try:
            faces = score_faces(crops, p_fake, self._aggregation, qualities)
        except JobError as error:
            raise JobError(f"{source.name}: {error}") from error
        score = aggregate(faces, self._aggregation)
        if score is None:
            return Result(
                source.name, extraction.status, extraction.reason, n_found=extraction.n_found
            )
        n_frames = len({face.frame_index for face in faces})
        quality = score.face.quality
        verdict = self.limits.judge(score.p_fake, score.n_people)
        if quality is not None and self.faces.is_far(quality):
            verdict = Verdict.UNCLEAR
        fake_limit = self.limits.of_fake(score.n_people)
        too_small = (is_too_small(crop.face, self._aggregation) for crop in extraction.crops)
        return Result(
            path=source.name,
            status=extraction.status,
            remarks=(
                *([extraction.reason] if extraction.reason else []),
                *(self.faces.remarks_on(quality) if quality is not None else ()),
                *([_NOT_SEARCHED] if self._checkpoint.recipe.crop.search == "none" else []),
                *_remark_on_people(score, fake_limit),
                *filter(None, [self.compare_with_limits(extraction.is_clip or n_frames > 1)]),
            ),
            p_fake=score.p_fake,
            verdict=verdict,
            limits=(self.limits.real, fake_limit),
            n_found=extraction.n_found,
            n_faces=len(faces),
            n_too_small=sum(too_small),
            n_people=score.n_people,
            box_xyxy=score.face.box_xyxy,
            quality=quality,
            faces=faces,
            people=score.people,
        )


def _remark_on_people(score: FileScore, fake_limit: float) -> Iterator[str]:
    """What a reader must know of people who did not count."""
    if not score.n_people:
        (why,) = {one.remark for one in score.people if one.person == score.face.person}
        yield f"nobody in it can be judged with confidence: {why}"
        return
    for one in score.people:
        if not one.counts and one.p_fake >= max(fake_limit, score.p_fake):
            yield f"a person who does not count scores {one.p_fake:.2f}: {one.remark}"
