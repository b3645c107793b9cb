"""One file in, what its score rests on out: top frames, saliency maps, nearest training faces.

A saliency map is made by occlusion: parts of a crop are blurred, and what that takes off the score
is noted. Nothing is assumed of the network, and the maps of a file are checked by deletion:
occluding the salient region must speak against the verdict, by an amount that matters, more than
occluding as large a region anywhere else, on so many crops that it is no chance. Scores are
compared as log-odds, because a sure score hardly moves. Knows no page.

References:
    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014
    (occlusion).
    Fong and Vedaldi, "Interpretable Explanations of Black Boxes by Meaningful Perturbation", ICCV
    2017 (blur instead of grey, so that the occluder is no feature of its own).
    Petsiuk, Das and Saenko, "RISE", BMVC 2018 (deletion as a check).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import cv2
import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.crop_store import read_if_whole
from deepfake.dataset.manifest import read_manifest
from deepfake.dataset.rows import CropRow
from deepfake.evaluation.embeddings import EmbedOptions, embed_once
from deepfake.evaluation.origins import was_trained_on
from deepfake.evaluation.sets import EvaluationSet, read_evaluation_set
from deepfake.faces.extraction import decode_crop
from deepfake.inference.people import is_usable
from deepfake.inference.predictor import Predictor
from deepfake.inference.scoring import TorchScorer
from deepfake.records import (
    Aggregation,
    Extraction,
    FaceScore,
    FrameView,
    Result,
    Source,
    Verdict,
)

Crop = NDArray[np.uint8]
Score = Callable[[Crop], NDArray[np.float64]]
"""``(N, S, S, 3)`` crops, a few at a time, to ``(N,)`` probabilities of fake."""

VIEW_PX = 720
"""Longer side of the frames that are shown."""
SALIENT_SHARE = 0.15
"""Share of a crop that counts as its salient region."""
N_RANDOM_REGIONS = 8
"""Least number of places that the salient region is compared with."""
LEAST_EFFECT = math.log(2)
"""Least change of the log-odds that matters: it halves, or doubles, the odds of fake."""
MOST_CHANCE = 0.01
"""Highest probability, of maps that point at nothing, to do as well."""
_GRID, _WINDOW = 7, 0.25  # windows along a side; their side, of the crop's
_BATCH = 32
_TRIES, _MOST_SHARED = 8, 0.2  # draws for each place; share of a place that may be salient, too


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A training face that the network sees as similar.

    Args:
        row: What is known of it.
        similarity: Cosine of the embeddings, -1 to 1.
        encoded: Its crop, or ``None`` if the file is gone.
    """

    row: CropRow
    similarity: float
    encoded: bytes | None


@dataclass(frozen=True, slots=True)
class TopFrame:
    """One of the highest scored faces of a file, in its frame.

    Args:
        face: Its place and score.
        crop: What the network saw, ``(S, S, 3)`` RGB.
        frame: The whole frame as it was searched, shrunk; ``None`` where there is no view of it.
        scale: Its pixels per pixel of the frame.
        boxes: All faces in that frame, this one first.
        saliency: ``(S, S)``, by how much occlusion around a pixel speaks against the verdict, in
            log-odds.
        salient: ``(S, S)``, the ``SALIENT_SHARE`` with the highest saliency.
        salient_drop: What occluding the salient region takes off the log-odds of fake.
        random_drops: What occluding it elsewhere takes off, at ``count_places`` places.
        p_without: Score with the salient region occluded.
        neighbours: Nearest first; empty without training crops.
    """

    face: FaceScore
    crop: Crop
    frame: Crop | None
    scale: float
    boxes: tuple[FaceScore, ...]
    saliency: NDArray[np.float64]
    salient: NDArray[np.bool_]
    salient_drop: float
    random_drops: tuple[float, ...]
    p_without: float
    neighbours: tuple[Neighbour, ...]

    @property
    def random_drop(self) -> float:
        """Mean of ``random_drops``."""
        return fmean(self.random_drops)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the score of a file rests on.

    Args:
        score: Of the file.
        top_frames: By time; empty without a score.
        reference: Where neighbours come from.
        foreign: Whether the neighbours are not what the checkpoint was trained on.
    """

    score: Result
    top_frames: tuple[TopFrame, ...]
    reference: EvaluationSet | None = None
    foreign: bool = False

    @property
    def salient_drop(self) -> float:
        """Mean over the top frames of what occluding the salient region takes off the log-odds."""
        return fmean(top.salient_drop for top in self.top_frames)

    @property
    def random_drop(self) -> float:
        """The same for as large a region elsewhere."""
        return fmean(top.random_drop for top in self.top_frames)

    @property
    def direction(self) -> int:
        """-1 where the verdict is real: what speaks for it raises the log-odds when occluded."""
        return direction_of(self.score)

    @property
    def n_wins(self) -> int:
        """Crops whose salient region speaks more for the verdict than every other place."""
        return sum(
            self.direction * top.salient_drop > max(self.direction * d for d in top.random_drops)
            for top in self.top_frames
        )

    @property
    def failure(self) -> str:
        """Why the maps point at nothing; empty if they pass their check."""
        effect = self.direction * self.salient_drop
        beyond = effect - self.direction * self.random_drop
        if not min(effect, beyond) >= LEAST_EFFECT:
            return (
                f"it speaks for the verdict by {effect:.2f}, {beyond:.2f} more than elsewhere; "
                f"only {LEAST_EFFECT:.2f} or more matters"
            )
        places = [len(top.random_drops) for top in self.top_frames]
        chance = _chance_of_wins(self.n_wins, len(places), 1 / (1 + min(places)))
        if chance > MOST_CHANCE:
            return (
                f"it speaks more for the verdict than every other place in {self.n_wins} of "
                f"{len(places)} crops; by chance alone that would happen with probability "
                f"{chance:.2g}, and only {MOST_CHANCE:g} or less counts"
            )
        return ""


def direction_of(score: Result) -> int:
    """Sign of the log-odds of fake that speak for the verdict of a file; without one, for fake."""
    return -1 if score.verdict is Verdict.REAL else 1


def count_places(n_crops: int) -> int:
    """Places that each of so many crops is compared with: on all of them, a win is no chance.

    A single crop needs 99 of them, three or more need eight.
    """
    n_places = N_RANDOM_REGIONS
    while _chance_of_wins(n_crops, n_crops, 1 / (1 + n_places)) > MOST_CHANCE:
        n_places += 1
    return n_places


def _chance_of_wins(n_wins: int, n: int, chance: float) -> float:
    """Probability of as many wins in n crops, or more, if each is won with this chance."""
    return sum(math.comb(n, k) * chance**k * (1 - chance) ** (n - k) for k in range(n_wins, n + 1))


def explain_file(
    predictor: Predictor,
    source: Source,
    n_top: int = 6,
    train_crops: Path | None = None,
    cache: Path | None = None,
    n_neighbours: int = 5,
    quiet: bool = True,
) -> Explanation:
    """Score a file and look into its most suspicious faces.

    Args:
        predictor: Has the checkpoint, the sampling and the workers.
        source: The file.
        n_top: Most faces to look into.
        train_crops: Crop folder that neighbours are looked for in.
        cache: Folder of kept embeddings, as ``evaluate`` writes it; ``None`` keeps nothing.
        n_neighbours: Neighbours of each face.
        quiet: Show no progress.

    Raises:
        UsageError: If the training crops cannot serve.
        JobError: If one of them is missing.
    """
    checkpoint, reference = predictor.checkpoint, None
    if train_crops is not None:
        reference = read_evaluation_set(train_crops, checkpoint, preferred_split="train")
    with closing(predictor.extract([source], VIEW_PX)) as extractions:
        ((_, extraction),) = extractions
    explanation = explain_extraction(predictor, source, extraction, n_top)
    if reference is None or not explanation.top_frames:
        return replace(explanation, reference=reference)
    options = EmbedOptions(device=str(predictor.devices[0]), quiet=quiet)
    scorer = TorchScorer(checkpoint, predictor.devices[0], _BATCH)
    embeddings = scorer.run(np.stack([top.crop for top in explanation.top_frames]))[1]
    known = embed_once(reference, checkpoint, cache, options)
    similarities = np.concatenate([part.vectors @ embeddings.T for part in known])
    top_frames = tuple(
        replace(top, neighbours=find_neighbours(similarity, reference, n_neighbours))
        for top, similarity in zip(explanation.top_frames, similarities.T, strict=True)
    )
    foreign = not was_trained_on(checkpoint, read_manifest(reference.root))
    return Explanation(explanation.score, top_frames, reference, foreign)


def explain_extraction(
    predictor: Predictor,
    source: Source,
    extraction: Extraction,
    n_top: int = 6,
) -> Explanation:
    """Score a file whose faces are cut out already, and look into the most suspicious ones.

    Args:
        predictor: Has the checkpoint.
        source: The file.
        extraction: Its faces, by the recipe and the sampling of the predictor, and views of its
            frames, as far as there are any.
        n_top: Most faces to look into.
    """
    media_score = predictor.answer(source, extraction)
    faces = choose_top_faces(_faces_that_count(media_score, predictor.aggregation), n_top)
    if not faces:
        return Explanation(media_score, ())
    scorer = TorchScorer(predictor.checkpoint, predictor.devices[0], _BATCH)
    top_frames = []
    for seed, face in enumerate(faces):
        (crop,) = (
            crop
            for crop in extraction.crops
            if (crop.frame_index, crop.face_index) == (face.frame_index, face.face_index)
        )
        same_frame = [one for one in media_score.faces if one.frame_index == face.frame_index]
        boxes = (face, *(other for other in same_frame if other is not face))
        view = extraction.views.get(face.frame_index)
        direction = direction_of(media_score)
        seen = decode_crop(crop.encoded)
        top = _make_top_frame(scorer, seen, view, boxes, (seed, len(faces)), direction)
        top_frames.append(top)
    return Explanation(media_score, tuple(top_frames))


def _faces_that_count(score: Result, how: Aggregation) -> list[FaceScore]:
    """The faces that made the scores of the people who count; where nobody does, all."""
    counting = {one.person for one in score.people if one.counts}
    if not counting:
        return [*score.faces]
    return [face for face in score.faces if face.person in counting and is_usable(face, how)]


def _make_top_frame(
    scorer: TorchScorer,
    crop: Crop,
    view: FrameView | None,
    boxes: tuple[FaceScore, ...],
    turn: tuple[int, int],
    direction: int,
) -> TopFrame:
    """Make the map of a crop, the first of ``turn`` of so many, and check it."""

    def score(crops: Crop) -> NDArray[np.float64]:
        return scorer.run(crops)[0]

    saliency = direction * compute_saliency(crop, score)
    salient = salient_region(saliency)
    salient_drop, random_drops, p_without = check_deletion(
        crop, salient, score, turn[0], count_places(turn[1])
    )
    return TopFrame(
        face=boxes[0],
        crop=crop,
        frame=None if view is None else decode_crop(view.encoded),
        scale=1.0 if view is None else view.scale,
        boxes=boxes,
        saliency=saliency,
        salient=salient,
        salient_drop=salient_drop,
        random_drops=random_drops,
        p_without=p_without,
        neighbours=(),
    )


def choose_top_faces(faces: Sequence[FaceScore], n: int) -> tuple[FaceScore, ...]:
    """The highest scored faces, by time; of a video none too close to a higher one.

    Args:
        faces: Of one file.
        n: Most of them.
    """
    times = [face.time_s for face in faces]
    gap = (max(times) - min(times)) / (2 * n) if times else 0.0
    chosen: list[FaceScore] = []
    for face in sorted(faces, key=lambda f: (-f.p_fake, f.frame_index, f.face_index)):
        # Faces of one frame are different people.
        apart = all(
            other.frame_index == face.frame_index or abs(other.time_s - face.time_s) >= gap
            for other in chosen
        )
        if apart and len(chosen) < n:
            chosen.append(face)
    return tuple(sorted(chosen, key=lambda f: (f.frame_index, f.face_index)))


def compute_saliency(crop: Crop, score: Score) -> NDArray[np.float64]:
    """Where the score of a crop comes from.

    Windows of a quarter of the side are occluded one after the other, half a window apart.

    Args:
        crop: ``(S, S, 3)`` RGB.
        score: Scores crops.

    Returns:
        ``(S, S)``, the mean drop of the log-odds over the windows around each pixel, without the
        edges of the windows; negative where occlusion makes the crop more of a fake.
    """
    side = crop.shape[0]
    window = max(1, round(side * _WINDOW))
    starts = np.linspace(0, side - window, _GRID).round().astype(int)
    masks = np.zeros((_GRID * _GRID, side, side), dtype=bool)
    for number, (top, left) in enumerate((a, b) for a in starts for b in starts):
        masks[number, top : top + window, left : left + window] = True
    drops = _drops(crop, masks, score)[0]
    saliency = np.tensordot(drops, masks.astype(np.float64), 1) / masks.sum(axis=0)
    return np.asarray(cv2.GaussianBlur(saliency, (0, 0), window / 5), dtype=np.float64)


def salient_region(
    saliency: NDArray[np.float64], share: float = SALIENT_SHARE
) -> NDArray[np.bool_]:
    """The most salient pixels: exactly the share of all, rounded."""
    salient = np.zeros(saliency.size, dtype=bool)
    salient[np.argsort(-saliency, axis=None, kind="stable")[: round(share * saliency.size)]] = True
    return salient.reshape(saliency.shape)


def check_deletion(
    crop: Crop,
    salient: NDArray[np.bool_],
    score: Score,
    seed: int = 0,
    n_regions: int = N_RANDOM_REGIONS,
) -> tuple[float, tuple[float, ...], float]:
    """Occlude the salient region, and the same shape elsewhere.

    Args:
        crop: ``(S, S, 3)`` RGB.
        salient: ``(S, S)``.
        score: Scores crops.
        seed: Decides where elsewhere is.
        n_regions: How many places that is; what leaves the crop on one side comes in on the other.
            They share little with the salient region, where there are such places.

    Returns:
        What the salient region takes off the log-odds, what each of the others takes off, and the
        score without the salient region.
    """
    rng = np.random.default_rng(seed)
    shifts = rng.integers(0, salient.shape[0], (_TRIES * n_regions, 2))
    places = [np.roll(salient, tuple(shift), (0, 1)) for shift in shifts]
    # A place that covers what the salient region covers would say nothing about elsewhere.
    places.sort(key=lambda place: max(_MOST_SHARED, (place & salient).sum() / salient.sum()))
    masks = np.stack([salient, *places[:n_regions]])
    drops, p_fake = _drops(crop, masks, score)
    return float(drops[0]), tuple(drops[1:].tolist()), float(p_fake[0])


def _drops(
    crop: Crop, masks: NDArray[np.bool_], score: Score
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What occluding each mask takes off the log-odds, and the scores after it."""
    blurred = blur_crop(crop)
    p_fake = np.concatenate(
        [score(crop[None])]
        + [
            score(np.stack([occlude(crop, blurred, mask) for mask in masks[at : at + _BATCH]]))
            for at in range(0, len(masks), _BATCH)
        ]
    )
    odds = log_odds(p_fake)
    return odds[0] - odds[1:], p_fake[1:]


def blur_crop(crop: Crop) -> Crop:
    """A crop without anything fine in it."""
    sigma = max(1.0, crop.shape[0] / 12)
    return np.asarray(cv2.GaussianBlur(crop, (0, 0), sigma), dtype=np.uint8)


def occlude(crop: Crop, blurred: Crop, mask: NDArray[np.bool_]) -> Crop:
    """Put the blurred crop over a region; its rim is soft, because a hard one is a feature."""
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), max(0.5, crop.shape[0] / 60))
    mixed = crop + soft[..., None] * (blurred.astype(np.float32) - crop)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def log_odds(p_fake: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-odds of probabilities; those of 0 and 1 are large, not infinite."""
    kept = np.clip(p_fake, 1e-12, 1 - 1e-12)
    odds: NDArray[np.float64] = np.log(kept / (1 - kept))
    return odds


def find_neighbours(
    similarity: NDArray[np.float32], reference: EvaluationSet, n: int
) -> tuple[Neighbour, ...]:
    """The faces whose embeddings point the same way, nearest first.

    Args:
        similarity: ``(N,)``, cosine of the angle between a face's embedding and each of theirs.
        reference: The faces.
        n: Most of them.
    """
    nearest = np.argsort(-similarity, kind="stable")[:n]
    found = []
    for place in nearest:
        row = reference.faces[place]
        encoded = read_if_whole(reference.root, row.crop)
        found.append(Neighbour(row, float(similarity[place]), encoded))
    return tuple(found)
