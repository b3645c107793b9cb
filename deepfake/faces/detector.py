"""Finds faces: our own MTCNN cascade over facenet-pytorch's three networks.

Same boxes as ``facenet_pytorch.MTCNN.detect`` to rounding (0.01 px, 1e-4 in score), but the image
pyramid and the crops for the second and third network come from one integer summed-area table
instead of a full-frame resize per pyramid level and a Python loop per box, and unequal, tiny or
faceless images are ordinary input. One code serves a frame on a CPU and a batch of frames on a GPU;
they differ in how much goes through a network at once. Knows nothing of files, crops or labels.

References:
    Zhang et al., "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional
    Networks", IEEE Signal Processing Letters 2016.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from deepfake.faces.boxes import Boxes, join_boxes, suppress_contained
from deepfake.faces.networks import (
    BoxNetwork,
    Hits,
    ONet,
    PNet,
    RectangleMemory,
    RNet,
    TileNetwork,
    widen,
)
from deepfake.faces.pyramid import Tables, sum_areas
from deepfake.faces.tiles import CELL, SMALL_TILE, STRIDE, Tile, cut_tiles, place_window
from deepfake.records import Face

_CERTAIN = 0.95  # least probability of a face that ends the search for the main one
# It must exceed the windows of pyramid levels that nobody looked at by this factor.
_SIZE_GUARD = 1.3
# Windows down to the face's size by this factor may still move its box. With 2.5 it was exact
# mode's on all shared photos with a face; with 1.6 it moved on 14 % of them, to an overlap of 0.82
# at least, for 1.5 times the speed. Training and prediction search alike, so crops do not suffer.
_REFINE_GUARD = 1.6
_NEARLY = 1.5  # so many times smaller a box after RNet may still end as the larger face
_CONTAINED = 0.7  # share of the smaller box: of those that overlap by more, one is reported
_SAME_FACE = 0.3  # share of the smaller box: those that overlap by more are of one face
_LEVELS_A_STEP = 2  # how many finer pyramid levels are added before the later networks look again


@dataclass(frozen=True, slots=True)
class _Portions:
    """How much is worked on at once.

    Args:
        frame_px: Pixels in all frames of one size; never less than one frame.
        tile_px: Longest side of a tile of a pyramid level.
        rnet: Crops for RNet.
        onet: Crops for ONet.
    """

    frame_px: int
    tile_px: int
    rnet: int
    onet: int


# On a CPU each call costs, so that tiles small enough for its cache are slower; but their largest
# tensor must fit into ``_KEPT_BYTES``. One frame, in tiles of few different sizes: oneDNN prepares
# anew (1 ms, and memory that it keeps) for each shape that it has not seen.
_CPU = _Portions(frame_px=1, tile_px=640, rnet=48, onet=16)
# Blocks of memory that the networks free and want again: glibc gives larger ones back.
_KEPT_BYTES = 31 << 20
# On a GPU each launch costs, whatever it does: 16 frames of 1080p and whole pyramid levels at once.
_GPU = _Portions(frame_px=1 << 25, tile_px=1 << 16, rnet=1 << 13, onet=1 << 11)


SearchMode = Literal["exact", "main", "main-first"]


class FaceDetector(Protocol):
    """Anything that finds faces in frames."""

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Face]]:
        """Find the faces of every image, largest first; ``[]`` where there is none."""
        ...


class WholePicture:
    """Looks for nothing: every image is one face, to its border, without landmarks."""

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Face]]:
        """As of ``FaceDetector``."""
        boxes = [np.array([0, 0, *image.shape[1::-1]], np.float32) for image in images]
        return [[Face(box, 1.0, np.empty((0, 2), np.float32))] for box in boxes]


class MTCNN:
    """Multi-task cascaded detector: PNet proposes, RNet refines, ONet decides.

    Args:
        min_face: Smallest face to look for, in pixels (12 or more).
        factor: Ratio of one pyramid level to the one before.
        thresholds: Least probability to pass PNet, RNet and ONet.
        mode: ``exact`` finds every face; ``main`` only the largest. It searches a frame from
            coarse to fine and stops once a certain face is larger than anything finer levels can
            hold, on every device: its box is of the same face, but may differ from exact mode's by
            some percent of its side, and training and prediction must not differ in that.
            ``main-first`` finds every face, the largest with the box that ``main`` gives it: for
            who has trained on that one alone, and scores whoever else is in the image.
        device: Where frames are shrunk and the networks run.
        min_face_ratio: Smallest face as a share of the shorter side of the image; the larger of the
            two limits counts.

    Raises:
        ValueError: If a setting is out of range.
    """

    def __init__(
        self,
        min_face: int = 20,
        factor: float = 0.709,
        thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7),
        mode: SearchMode = "exact",
        device: str | torch.device = "cpu",
        min_face_ratio: float = 0.0,
    ) -> None:
        if min_face < CELL:
            raise ValueError(f"min_face={min_face}; expected {CELL} pixels or more")
        if not 0 < factor < 1:
            raise ValueError(f"factor={factor}; expected a ratio between 0 and 1")
        if mode not in get_args(SearchMode):
            raise ValueError(f"mode={mode!r}; expected one of {', '.join(get_args(SearchMode))}")
        self.min_face = min_face
        self.min_face_ratio = min_face_ratio
        self.factor = factor
        self.thresholds = thresholds
        self.mode = mode
        self.device = torch.device(device)
        self._portions = _CPU if self.device.type == "cpu" else _GPU
        self._pnet = TileNetwork(PNet())
        self._rnet, self._onet = BoxNetwork(widen(RNet(), 32), 24), BoxNetwork(ONet(), 48)
        for net in (self._pnet, self._rnet.net, self._onet.net):
            # channels_last halves the time of these thin convolutions on a CPU.
            net.to(self.device).to(memory_format=torch.channels_last).eval()
        if self.device.type == "cpu":
            # The system zeroes a block of megabytes page by page each time that it hands it out;
            # but glibc keeps those that are not larger than one that was freed (``mallopt(3)``,
            # M_MMAP_THRESHOLD). This one is never written to, and takes no memory.
            torch.empty(_KEPT_BYTES, dtype=torch.uint8)

    def smallest_face_px(self, height: int, width: int) -> float:
        """The smallest face that is looked for in an image of this size, in pixels."""
        return max(self.min_face, self.min_face_ratio * min(height, width))

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Face]]:
        """Find the faces of every image.

        Args:
            images: Each ``(H, W, 3)`` uint8 RGB, which may be a view of another; sizes may
                differ. In mode ``exact`` on a GPU frames of one size are worth handing over
                together.

        Returns:
            One list per image, largest box first (in mode ``main`` that one alone, in mode
            ``main-first`` the box of mode ``main``); empty where there is no face, or where the
            image is smaller than the smallest face.

        Raises:
            ValueError: If an image is not ``(H, W, 3)`` uint8.
        """
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise ValueError(
                    f"image has shape {image.shape} and type {image.dtype}; "
                    "expected (H, W, 3) uint8 RGB"
                )
            by_size.setdefault(image.shape[:2], []).append(index)
        faces: list[list[Face]] = [[] for _ in images]
        with torch.inference_mode(), _one_thread():
            for size, members in by_size.items():
                scales = self._pyramid_scales(*size)
                at_once = max(1, self._portions.frame_px // max(1, size[0] * size[1]))
                if self.mode != "exact":  # where it stops is each frame's own, on every device
                    at_once = 1
                for start in range(0, len(members) if scales else 0, at_once):
                    chosen = members[start : start + at_once]
                    tables = sum_areas([images[index] for index in chosen], self.device)
                    for index, found in zip(chosen, self._search(tables, scales), strict=True):
                        faces[index] = found
        return faces

    def _pyramid_scales(self, height: int, width: int) -> list[float]:
        scale = CELL / self.smallest_face_px(height, width)
        shorter = min(height, width) * scale
        scales = []
        while shorter >= CELL:
            scales.append(scale)
            scale *= self.factor
            shorter *= self.factor
        return scales

    def _search(self, tables: Tables, scales: list[float]) -> list[list[Face]]:
        levels, memory, rest = list[Boxes](), RectangleMemory(), scales
        main: list[Face] = []
        if self.mode != "exact":
            main, rest = self._find_main(tables, scales[::-1], levels, memory)
            if self.mode == "main" or not rest:
                return [main[:1] if self.mode == "main" else main]
        levels.append(self._run_pnet(tables, rest))
        faces = self._run_onet(tables, self._run_rnet(tables, levels, memory if main else None))
        return [put_first(main, found) for found in faces] if main else faces

    def _find_main(
        self, table: Tables, scales: list[float], levels: list[Boxes], memory: RectangleMemory
    ) -> tuple[list[Face], list[float]]:
        """The largest face of one frame, or none, from the coarsest scale to the finest.

        Once what is as good as a face is larger than anything that finer pyramid levels can hold,
        those of them that may still move its box are searched around it alone (and around others
        of nearly its size), and ONet looks there alone. Where the search does not stop early it has
        seen what mode ``exact`` sees.

        Args:
            table: Of the frame.
            scales: Of its pyramid levels.
            levels: Gets what PNet says of each level that is searched as a whole.
            memory: Gets what RNet says.

        Returns:
            That face and the scales of the levels that are not in ``levels``; without any of those,
            all faces.
        """
        half = -(-len(scales) // 2)
        batch, finer = scales[:half], scales[half:]
        while True:
            levels.append(self._run_pnet(table, batch))
            candidates = self._run_rnet(table, levels, memory)
            if not finer:
                return self._run_onet(table, candidates)[0], []
            batch = finer[:_LEVELS_A_STEP]
            likely = _likely_faces(candidates)
            if len(likely):
                side = float(likely[0, 2] - likely[0, 0])
                rivals = [scale for scale in finer if _SIZE_GUARD * CELL / scale >= side]
                if not rivals:
                    close = [scale for scale in finer if _REFINE_GUARD * CELL / scale >= side]
                    if close:
                        around = [self._run_pnet(table, close, box) for box in likely]
                        seen = [part.inside(likely) for part in (*levels, *around)]
                        candidates = self._run_rnet(table, seen, memory)
                    faces = self._run_onet(table, candidates.inside(likely))[0][:1]
                    if faces and faces[0].confidence > _CERTAIN:
                        return faces, finer
                batch = rivals or batch
            finer = finer[len(batch) :]

    def _run_pnet(
        self, tables: Tables, scales: list[float], near: NDArray[np.float32] | None = None
    ) -> Boxes:
        """PNet at some pyramid levels, or near a box in them: each hit with its regression."""
        extents = tables.shape[1] - 1, tables.shape[2] - 1
        small: list[Tile] = []
        hits: list[Hits] = []
        for level, scale in enumerate(scales):
            cells = [int(extent * scale + 1) for extent in extents]
            windows = [(0, count) for count in cells]
            if near is not None:
                windows = [place_window(near[1 - i :: 2] * scale, cells[i]) for i in (0, 1)]
            shape, places = cut_tiles(windows, self._portions.tile_px)
            tiles = [Tile(level, cells[0], cells[1], *place) for place in places]
            if shape == SMALL_TILE:
                small += tiles
            else:
                hits += self._pnet.run_on_level(tables, tiles, shape, self.thresholds[0])
        if small:
            hits.append(self._pnet.run_on_tiles(tables, small, self.thresholds[0]))
        levels, owners, cells_yx, scores, features = (
            torch.cat(parts) for parts in zip(*hits, strict=True)
        )
        pixels_xy = cells_yx.flip(1) * STRIDE
        # Divided by a tensor: by a number, a GPU would multiply with its rounded inverse instead.
        divisor = torch.tensor(scales, device=tables.device)[levels, None]
        corners = torch.cat([(pixels_xy + 1) / divisor, (pixels_xy + CELL) / divisor], dim=1)
        boxes = Boxes(corners.floor_(), scores, self._pnet.regress(features), owners)
        return boxes.suppressed(0.5, groups=owners * len(scales) + levels)

    def _run_rnet(
        self, tables: Tables, levels: list[Boxes], memory: RectangleMemory | None = None
    ) -> Boxes:
        """RNet on what PNet proposed: fewer and better boxes, each a square."""
        # Here, unlike after RNet and ONet, the regression is relative to the side itself and not
        # to the side plus one: the reference implementation has it so.
        boxes = join_boxes(levels).suppressed(0.7).moved(0).squared()
        boxes, (regression, probability) = self._rnet.run_on_boxes(
            tables, boxes, self._portions.rnet, memory
        )
        score = probability[:, 1]
        passed = score > self.thresholds[1]
        boxes = Boxes(boxes.corners, score, regression, boxes.owners)[passed]
        return boxes.suppressed(0.7).moved(1).squared()

    def _run_onet(self, tables: Tables, boxes: Boxes) -> list[list[Face]]:
        """ONet on each box that is left: the faces of each frame, largest first."""
        boxes, (regression, points, probability) = self._onet.run_on_boxes(
            tables, boxes, self._portions.onet
        )
        score = probability[:, 1]
        passed = score > self.thresholds[2]
        boxes = Boxes(boxes.corners, score, regression, boxes.owners)[passed]
        # ONet's landmarks are shares of what it was shown, which ends where the frame does. The
        # reference implementation takes them for shares of the whole box, and so misplaces those
        # of a face that leaves the frame; only of one inside it are ours the same.
        limits = boxes.corners.new_tensor([tables.shape[2] - 1, tables.shape[1] - 1])
        start = boxes.corners[:, 0:2].clamp(min=1)
        sides = torch.minimum(boxes.corners[:, 2:4], limits) - start + 1
        xy = points[passed].reshape(-1, 2, 5).transpose(1, 2)
        marks = (xy * sides[:, None] + start[:, None] - 1).cpu().numpy()
        final = torch.cat([boxes.moved(1).corners, boxes.scores[:, None]], dim=1).cpu().numpy()
        owners = boxes.owners.cpu().numpy()
        faces = []
        for owner in range(len(tables)):
            own = np.flatnonzero(owners == owner)
            kept = own[suppress_contained(final[own], _CONTAINED)]
            faces.append(
                [
                    Face(final[i, :4].copy(), float(final[i, 4]), marks[i].copy())
                    for i in sorted(kept, key=lambda i: -_area(final[i]))
                ]
            )
        return faces


def put_first(main: Sequence[Face], every: Sequence[Face]) -> list[Face]:
    """The main faces with their own boxes, then those of all that are none of them."""
    faces = [*main, *every]
    # The main ones stand their ground, whatever their probability.
    strength = [2.0] * len(main) + [face.confidence for face in every]
    rows = [[*face.box_xyxy, score] for face, score in zip(faces, strength, strict=True)]
    kept = suppress_contained(np.array(rows, np.float32).reshape(-1, 5), _CONTAINED)
    return [*main, *(faces[i] for i in sorted(kept) if i >= len(main))]


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread: the networks are too small to share, and boxes must not depend on the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _likely_faces(boxes: Boxes) -> NDArray[np.float32]:
    """The largest of RNet's certain boxes first, then any of nearly its size elsewhere, ``(N, 4)``.

    Empty where no box is certain.
    """
    found: NDArray[np.float32] = (
        torch.cat([boxes.corners, boxes.scores[:, None]], dim=1).cpu().numpy()
    )
    sides = found[:, 2] - found[:, 0]
    largest = sides[found[:, 4] > _CERTAIN].max(initial=0)
    if not largest:
        return found[:0, :4]
    found = found[sides * _NEARLY >= largest]
    apart = found[suppress_contained(found, _SAME_FACE)]
    certain_first = np.lexsort((apart[:, 0] - apart[:, 2], apart[:, 4] <= _CERTAIN))
    return apart[certain_first, :4]


def _area(box: NDArray[np.float32]) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))
