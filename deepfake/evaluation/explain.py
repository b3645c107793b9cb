"""One file in, what its score rests on out: peaks, where in the face, the nearest training faces.

Where: parts of a crop are smeared, and what that takes off the score is noted. Nothing is assumed
of the network, and what is found is checked: smearing the hot region must take more off the score
than smearing as large a region elsewhere. Scores are compared as log-odds, because a sure score
hardly moves. Knows no page.

References:
    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014
    (occlusion).
    Fong and Vedaldi, "Interpretable Explanations of Black Boxes by Meaningful Perturbation", ICCV
    2017 (blur instead of grey, so that the occluder is no feature of its own).
    Petsiuk, Das and Saenko, "RISE", BMVC 2018 (deletion as a check).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import cv2
import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.manifest import CropRow, read_manifest
from deepfake.errors import MediaError
from deepfake.evaluation.predictions import EvaluationSet, embed_once, read_material, was_trained_on
from deepfake.faces.extraction import decode_crop
from deepfake.faces.pipeline import iter_extractions
from deepfake.inference.predictor import Predictor
from deepfake.inference.scoring import TorchScorer
from deepfake.learning.checkpoint import Checkpoint
from deepfake.media.decoding import open_media
from deepfake.records import Extraction, FaceCrop, FaceScore, MediaScore, Source, Workers

Crop = NDArray[np.uint8]
Score = Callable[[Crop], NDArray[np.float64]]
"""``(N, S, S, 3)`` crops to ``(N,)`` probabilities of fake."""

HOT_SHARE = 0.15
"""Share of a crop that counts as its hot region."""
DRAWS = 8
"""Places that the hot region is compared with."""
_GRID, _WINDOW = 7, 0.25  # windows along a side; their side, of the crop's
_BATCH = 32


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
class Peak:
    """One of the highest scored faces of a file.

    Args:
        face: Its place and score.
        crop: What the network saw, ``(S, S, 3)`` RGB.
        frame: The whole frame as it was searched; ``None`` if the file has changed since.
        boxes: All faces in that frame, this one first.
        heat: ``(S, S)``, what smearing around a pixel takes off the log-odds.
        hot: ``(S, S)``, the hottest ``HOT_SHARE``.
        hot_drop: What smearing the hot region takes off the log-odds.
        random_drop: What smearing it elsewhere takes off, mean of ``DRAWS`` places.
        p_without: Score with the hot region smeared.
        neighbours: Nearest first; empty without training crops.
    """

    face: FaceScore
    crop: Crop
    frame: Crop | None
    boxes: tuple[FaceScore, ...]
    heat: NDArray[np.float64]
    hot: NDArray[np.bool_]
    hot_drop: float
    random_drop: float
    p_without: float
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the score of a file rests on.

    Args:
        score: The answer.
        peaks: By time; empty without an answer.
        reference: Where neighbours come from.
        foreign: Whether the neighbours are not what the checkpoint was trained on.
    """

    score: MediaScore
    peaks: tuple[Peak, ...]
    reference: EvaluationSet | None = None
    foreign: bool = False

    @property
    def hot_drop(self) -> float:
        """Mean over the peaks of what smearing the hot region takes off the log-odds."""
        return fmean(peak.hot_drop for peak in self.peaks)

    @property
    def random_drop(self) -> float:
        """The same for as large a region elsewhere."""
        return fmean(peak.random_drop for peak in self.peaks)

    @property
    def holds(self) -> bool:
        """Whether the maps pass their check."""
        return self.hot_drop > self.random_drop


def explain_file(
    predictor: Predictor,
    source: Source,
    n_faces: int = 6,
    train_crops: Path | None = None,
    kept: Path | None = None,
    n_neighbours: int = 5,
    quiet: bool = True,
) -> Explanation:
    """Score a file and look into its most suspicious faces.

    Args:
        predictor: Has the checkpoint, the sampling and the workers.
        source: The file.
        n_faces: Most faces to look into.
        train_crops: Crop folder that neighbours are looked for in.
        kept: Folder of kept embeddings, as ``evaluate`` writes it; ``None`` keeps nothing.
        n_neighbours: Neighbours of each face.
        quiet: Show no progress.

    Raises:
        UsageError: If the training crops cannot serve.
        JobError: If one of them is missing.
    """
    checkpoint = predictor.checkpoint
    reference = None if train_crops is None else read_reference(train_crops, checkpoint)
    extraction = _extract(predictor, source)
    answer = predictor.answer(source, extraction)
    crops = {(crop.frame_index, crop.face_index): crop for crop in extraction.crops}
    chosen = choose_peaks(answer.faces, n_faces)
    if not chosen:
        return Explanation(answer, (), reference)
    scorer = TorchScorer(checkpoint, predictor.devices[0], _BATCH)

    def score(images: Crop) -> NDArray[np.float64]:
        step = scorer.batch_size
        parts = [scorer.run(images[at : at + step])[0] for at in range(0, len(images), step)]
        return np.concatenate(parts)

    images = [decode_crop(crops[face.frame_index, face.face_index].encoded) for face in chosen]
    embeddings = np.concatenate([scorer.run(image[None])[1] for image in images])
    near: list[tuple[Neighbour, ...]] = [()] * len(chosen)
    foreign = False
    if reference is not None:
        foreign = not was_trained_on(checkpoint, read_manifest(reference.root))
        device = str(predictor.devices[0])
        known = embed_once(reference, checkpoint, kept, device=device, quiet=quiet)
        near = [find_neighbours(row, reference, known.vectors, n_neighbours) for row in embeddings]
    frames = _read_frames(predictor, source, {face.frame_index for face in chosen})
    peaks = []
    for number, (face, image, neighbours) in enumerate(zip(chosen, images, near, strict=True)):
        heat = find_heat(image, score)
        hot = hot_region(heat)
        hot_drop, random_drop, p_without = check_deletion(image, hot, score, seed=number)
        crop = crops[face.frame_index, face.face_index]
        others = [
            other
            for other in answer.faces
            if other.frame_index == face.frame_index and other is not face
        ]
        peaks.append(
            Peak(
                face=face,
                crop=image,
                frame=_turned(frames.get(face.frame_index), crop),
                boxes=(face, *others),
                heat=heat,
                hot=hot,
                hot_drop=hot_drop,
                random_drop=random_drop,
                p_without=p_without,
                neighbours=neighbours,
            )
        )
    return Explanation(answer, tuple(peaks), reference, foreign)


def choose_peaks(faces: Sequence[FaceScore], n: int) -> tuple[FaceScore, ...]:
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


def find_heat(crop: Crop, score: Score) -> NDArray[np.float64]:
    """Where the score of a crop comes from.

    Windows of a quarter of the side are smeared one after the other, half a window apart.

    Args:
        crop: ``(S, S, 3)`` RGB.
        score: Scores crops.

    Returns:
        ``(S, S)``, the mean drop of the log-odds over the windows around each pixel, without the
        edges of the windows; negative where smearing makes the crop more of a fake.
    """
    side = crop.shape[0]
    window = max(1, round(side * _WINDOW))
    starts = np.linspace(0, side - window, _GRID).round().astype(int)
    masks = np.zeros((_GRID * _GRID, side, side), dtype=bool)
    for number, (top, left) in enumerate((a, b) for a in starts for b in starts):
        masks[number, top : top + window, left : left + window] = True
    drops = _drops(crop, masks, score)[0]
    heat = np.tensordot(drops, masks.astype(np.float64), 1) / masks.sum(axis=0)
    return np.asarray(cv2.GaussianBlur(heat, (0, 0), window / 5), dtype=np.float64)


def hot_region(heat: NDArray[np.float64], share: float = HOT_SHARE) -> NDArray[np.bool_]:
    """The hottest pixels: exactly the share of all, rounded."""
    hot = np.zeros(heat.size, dtype=bool)
    hot[np.argsort(-heat, axis=None, kind="stable")[: round(share * heat.size)]] = True
    return hot.reshape(heat.shape)


def check_deletion(
    crop: Crop, hot: NDArray[np.bool_], score: Score, seed: int = 0, draws: int = DRAWS
) -> tuple[float, float, float]:
    """Smear the hot region, and the same shape elsewhere.

    Args:
        crop: ``(S, S, 3)`` RGB.
        hot: ``(S, S)``.
        score: Scores crops.
        seed: Decides where elsewhere is.
        draws: How many places that is; what leaves the crop on one side comes in on the other.

    Returns:
        What the hot region takes off the log-odds, what the others take off on average, and the
        score without the hot region.
    """
    rng = np.random.default_rng(seed)
    shifts = rng.integers(0, hot.shape[0], (draws, 2))
    masks = np.stack([hot, *(np.roll(hot, tuple(shift), (0, 1)) for shift in shifts)])
    drops, p_fake = _drops(crop, masks, score)
    return float(drops[0]), float(drops[1:].mean()), float(p_fake[0])


def _drops(
    crop: Crop, masks: NDArray[np.bool_], score: Score
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What smearing each mask takes off the log-odds, and the scores after it."""
    smeared = smear(crop)
    p_fake = np.concatenate(
        [score(crop[None])]
        + [
            score(np.stack([cover(crop, smeared, mask) for mask in masks[at : at + _BATCH]]))
            for at in range(0, len(masks), _BATCH)
        ]
    )
    odds = log_odds(p_fake)
    return odds[0] - odds[1:], p_fake[1:]


def smear(crop: Crop) -> Crop:
    """A crop without anything fine in it."""
    sigma = max(1.0, crop.shape[0] / 12)
    return np.asarray(cv2.GaussianBlur(crop, (0, 0), sigma), dtype=np.uint8)


def cover(crop: Crop, smeared: Crop, mask: NDArray[np.bool_]) -> Crop:
    """Put the smeared crop over a region; its rim is soft, because a hard one is a feature."""
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), max(0.5, crop.shape[0] / 60))
    mixed = crop + soft[..., None] * (smeared.astype(np.float32) - crop)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def log_odds(p_fake: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-odds of probabilities; those of 0 and 1 are large, not infinite."""
    kept = np.clip(p_fake, 1e-12, 1 - 1e-12)
    odds: NDArray[np.float64] = np.log(kept / (1 - kept))
    return odds


def read_reference(root: Path, checkpoint: Checkpoint) -> EvaluationSet:
    """The training faces of a crop folder: its train split, or all where it has no splits.

    Raises:
        UsageError: If it was cut by another recipe, or has no labels.
    """
    return read_material(root, checkpoint, preferred_split="train")


def find_neighbours(
    embedding: NDArray[np.float32], reference: EvaluationSet, known: NDArray[np.float32], n: int
) -> tuple[Neighbour, ...]:
    """The faces whose embeddings point the same way, nearest first.

    Args:
        embedding: ``(D,)``, unit length.
        reference: The faces.
        known: ``(N, D)``, their embeddings, unit length.
        n: Most of them.
    """
    similarity = known @ embedding
    nearest = np.argsort(-similarity, kind="stable")[:n]
    found = []
    for place in nearest:
        row = reference.faces[place]
        path = reference.root / row.crop
        encoded = path.read_bytes() if path.is_file() else None
        found.append(Neighbour(row, float(similarity[place]), encoded))
    return tuple(found)


def _extract(predictor: Predictor, source: Source) -> Extraction:
    extractions = iter_extractions(
        [source],
        predictor.checkpoint.crop_spec,
        Workers(
            min(predictor.workers, 1),
            predictor.timeout_s,
            predictor.max_pixels,
            predictor.detect_device,
        ),
        predictor.sampling,
    )
    with closing(extractions):
        ((_, extraction),) = extractions
    return extraction


def _read_frames(predictor: Predictor, source: Source, wanted: set[int]) -> dict[int, Crop]:
    """The frames of these numbers, as far as they can be decoded again."""
    frames: dict[int, Crop] = {}
    # It was decoded once before; what does not come again has no picture.
    with (
        suppress(MediaError),
        open_media(source.path, source.name, predictor.sampling, predictor.max_pixels) as clip,
    ):
        for frame in clip:
            if frame.index in wanted:
                frames[frame.index] = frame.image
    return frames


def _turned(frame: Crop | None, crop: FaceCrop) -> Crop | None:
    """The frame as the detector saw it: upside down if the face was only found so."""
    return frame if frame is None or crop.rotation == 0 else frame[::-1, ::-1].copy()
