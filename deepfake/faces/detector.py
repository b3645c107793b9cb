"""Finds faces: our own MTCNN cascade over facenet-pytorch's three networks.

Same boxes as ``facenet_pytorch.MTCNN.detect`` to rounding (0.01 px, 1e-4 in score), but the image
pyramid and the crops for the second and third network come from one integer summed-area table
instead of a full-frame resize per level and a Python loop per box, and unequal, tiny or faceless
images are ordinary input. Knows nothing of files, crops or labels.

References:
    Zhang et al., "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional
    Networks", IEEE Signal Processing Letters 2016.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol

import cv2
import numpy as np
import torch
from facenet_pytorch.models.mtcnn import ONet, PNet, RNet
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import nms

from deepfake.records import Face

_CELL = 12  # side of PNet's window in pixels
_STRIDE = 2  # PNet's step in pixels
_CERTAIN = 0.95  # least probability of a face that ends the search for the main one
_SIZE_GUARD = 2.5  # it must exceed the window of the levels not looked at by this factor
_LEVELS_A_STEP = 2  # how many finer levels are added before the later networks look again
_NET_BATCH = 512  # crops per call of RNet and ONet: bounds memory on crowded frames


class FaceDetector(Protocol):
    """Anything that finds faces in frames."""

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Face]]:
        """Find the faces of every image, largest first; ``[]`` where there is none."""
        ...


class MTCNN:
    """Multi-task cascaded detector: PNet proposes, RNet refines, ONet decides.

    Args:
        min_face: Smallest face to look for, in pixels (12 or more).
        factor: Ratio of one pyramid level to the one before.
        thresholds: Least probability to pass PNet, RNet and ONet.
        mode: ``exact`` finds every face; ``main`` only the largest, searching from coarse to fine
            and stopping once a certain face is larger than anything finer levels can hold.
        device: Where the networks run.
        min_face_ratio: Smallest face as a share of the picture's shorter side; the larger of the
            two limits counts.

    Raises:
        ValueError: If a setting is out of range.
    """

    def __init__(
        self,
        min_face: int = 20,
        factor: float = 0.709,
        thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7),
        mode: Literal["exact", "main"] = "exact",
        device: str | torch.device = "cpu",
        min_face_ratio: float = 0.0,
    ) -> None:
        if min_face < _CELL:
            raise ValueError(f"min_face={min_face}; expected {_CELL} pixels or more")
        if not 0 < factor < 1:
            raise ValueError(f"factor={factor}; expected a ratio between 0 and 1")
        if mode not in ("exact", "main"):
            raise ValueError(f"mode={mode!r}; expected 'exact' or 'main'")
        self.min_face = min_face
        self.min_face_ratio = min_face_ratio
        self.factor = factor
        self.thresholds = thresholds
        self.mode = mode
        self.device = torch.device(device)
        self._pnet, self._rnet, self._onet = (self._prepare(net()) for net in (PNet, RNet, ONet))

    def smallest_face_px(self, height: int, width: int) -> float:
        """The smallest face that is looked for in a picture of this size, in pixels."""
        return max(self.min_face, self.min_face_ratio * min(height, width))

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Face]]:
        """Find the faces of every image.

        Args:
            images: Each ``(H, W, 3)`` uint8 RGB; sizes may differ.

        Returns:
            One list per image, largest box first (in mode ``main`` that one alone); empty where
            there is no face, or where the image is smaller than the smallest face.

        Raises:
            ValueError: If an image is not ``(H, W, 3)`` uint8.
        """
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise ValueError(
                    f"image has shape {image.shape} and type {image.dtype}; "
                    "expected (H, W, 3) uint8 RGB"
                )
        with torch.inference_mode(), _one_thread():
            return [self._detect_one(image) for image in images]

    def _prepare(self, net: nn.Module) -> nn.Module:
        # channels_last halves the time of these thin convolutions on a CPU.
        net = net.to(self.device).to(memory_format=torch.channels_last)
        return net.eval()

    def _detect_one(self, image: NDArray[np.uint8]) -> list[Face]:
        height, width = image.shape[:2]
        scales = self._pyramid_scales(height, width)
        if not scales:
            return []
        # int32 may wrap beyond 8.4 megapixels; differences of wrapped sums are still right as
        # long as a single cell sums to less than 2**31.
        table = np.asarray(cv2.integral(image, sdepth=cv2.CV_32S), dtype=np.int32)
        if self.mode == "main":
            return self._find_main(table, scales[::-1])
        return self._judge(table, [self._propose_at(table, scale) for scale in scales])

    def _find_main(self, table: NDArray[np.int32], scales: list[float]) -> list[Face]:
        """The largest face, or none, from the coarsest scale to the finest.

        Where the search does not stop early it has seen what mode ``exact`` sees.
        """
        half = -(-len(scales) // 2)
        batch, finer, levels = scales[:half], scales[half:], list[Tensor]()
        while True:
            levels += [self._propose_at(table, scale) for scale in batch]
            faces = self._judge(table, levels)[:1]
            if not finer:
                return faces
            if faces and faces[0].confidence > _CERTAIN:
                box = faces[0].box_xyxy
                side = float(max(box[2] - box[0], box[3] - box[1]))
                batch = [scale for scale in finer if _SIZE_GUARD * _CELL / scale >= side]
                if not batch:
                    return faces
            else:
                batch = finer[:_LEVELS_A_STEP]
            finer = finer[len(batch) :]

    def _judge(self, table: NDArray[np.int32], levels: list[Tensor]) -> list[Face]:
        """RNet and ONet on what PNet proposed at some levels, largest face first."""
        return self._decide(table, self._refine(table, _merge(levels)))

    def _pyramid_scales(self, height: int, width: int) -> list[float]:
        scale = _CELL / self.smallest_face_px(height, width)
        shorter = min(height, width) * scale
        scales = []
        while shorter >= _CELL:
            scales.append(scale)
            scale *= self.factor
            shorter *= self.factor
        return scales

    def _propose_at(self, table: NDArray[np.int32], scale: float) -> Tensor:
        """PNet at one level: corners, score and regression of each hit, ``(N, 9)``."""
        height, width = table.shape[0] - 1, table.shape[1] - 1
        level = _shrink(table, int(height * scale + 1), int(width * scale + 1))
        regression, probability = self._pnet(self._to_input(level[None]))
        score = probability[0, 1].cpu()
        hit = score >= self.thresholds[0]
        cells = hit.nonzero().to(score.dtype).flip(1)
        top_left = ((_STRIDE * cells + 1) / scale).floor()
        bottom_right = ((_STRIDE * cells + _CELL) / scale).floor()
        offsets = regression[0].cpu()[:, hit].T
        found = torch.cat([top_left, bottom_right, score[hit][:, None], offsets], dim=1)
        return found[nms(found[:, :4], found[:, 4], 0.5)]

    def _refine(self, table: NDArray[np.int32], boxes: Tensor) -> Tensor:
        """RNet on each proposal: fewer and better boxes, ``(N, 5)``."""
        boxes, (regression, probability) = self._look(self._rnet, table, boxes, 24)
        score = probability[:, 1]
        passed = score > self.thresholds[1]
        boxes = torch.cat([boxes[passed, :4], score[passed, None]], dim=1)
        regression = regression[passed]
        keep = nms(boxes[:, :4], boxes[:, 4], 0.7)
        return _squared(_regressed(boxes[keep], regression[keep]))

    def _decide(self, table: NDArray[np.int32], boxes: Tensor) -> list[Face]:
        """ONet on each box that is left: the faces with landmarks, largest first."""
        boxes, (regression, points, probability) = self._look(self._onet, table, boxes, 48)
        score = probability[:, 1]
        passed = score > self.thresholds[2]
        boxes = torch.cat([boxes[passed, :4], score[passed, None]], dim=1)
        sides = boxes[:, 2:4] - boxes[:, 0:2] + 1
        xy = points[passed].reshape(-1, 2, 5).transpose(1, 2)
        landmarks = (xy * sides[:, None] + boxes[:, None, 0:2] - 1).numpy()
        final = _regressed(boxes, regression[passed]).numpy()
        kept = _suppress_contained(final, 0.7)
        kept.sort(key=lambda i: -_area(final[i]))
        return [Face(final[i, :4].copy(), float(final[i, 4]), landmarks[i].copy()) for i in kept]

    def _look(
        self, net: nn.Module, table: NDArray[np.int32], boxes: Tensor, size: int
    ) -> tuple[Tensor, list[Tensor]]:
        """Run a network on the boxes that touch the picture; their boxes and its outputs."""
        height, width = table.shape[0] - 1, table.shape[1] - 1
        corners = boxes[:, :4].trunc().to(torch.int64).numpy()
        x0 = np.maximum(corners[:, 0], 1) - 1
        y0 = np.maximum(corners[:, 1], 1) - 1
        x1 = np.minimum(corners[:, 2], width)
        y1 = np.minimum(corners[:, 3], height)
        touching = np.flatnonzero((x1 > x0) & (y1 > y0))
        windows = [edge[touching] for edge in (x0, y0, x1, y1)]
        chunks = [
            net(self._to_input(_cells(table, tuple(edge[part] for edge in windows), size)))
            for part in _slices(len(touching))
        ]
        outputs = [torch.cat(parts)[: len(touching)].cpu() for parts in zip(*chunks, strict=True)]
        return boxes[torch.from_numpy(touching)], outputs

    def _to_input(self, pixels: NDArray[np.float32]) -> Tensor:
        """``(N, h, w, 3)`` in 0..255 -> ``(N, 3, h, w)`` in about -1..1, channels last."""
        batch = torch.from_numpy(pixels).to(self.device)
        return ((batch - 127.5) * 0.0078125).permute(0, 3, 1, 2)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread: the networks are too small to share, and boxes must not depend on the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _merge(levels: list[Tensor]) -> Tensor:
    """PNet's proposals of all levels together: square boxes with scores, ``(N, 5)``."""
    found = torch.cat(levels)
    found = found[nms(found[:, :4], found[:, 4], 0.7)]
    # Here, unlike after RNet and ONet, the regression is relative to the side itself and not to
    # the side plus one: the reference implementation has it so.
    sides = (found[:, 2:4] - found[:, 0:2]).repeat(1, 2)
    corners = found[:, :4] + found[:, 5:9] * sides
    return _squared(torch.cat([corners, found[:, 4:5]], dim=1))


def _slices(count: int) -> list[slice]:
    """Slices of ``_NET_BATCH``; one empty slice for nothing, so that outputs keep their shape."""
    return [slice(start, start + _NET_BATCH) for start in range(0, max(count, 1), _NET_BATCH)]


def _edges(extent: int, cells: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last-plus-one pixel of each cell of an area average, as torch defines them."""
    steps = np.arange(cells, dtype=np.int64)
    return steps * extent // cells, -((steps + 1) * -extent // cells)


def _shrink(table: NDArray[np.int32], height: int, width: int) -> NDArray[np.float32]:
    """Area average of the whole picture, ``(height, width, 3)``, from its summed-area table."""
    top, bottom = _edges(table.shape[0] - 1, height)
    left, right = _edges(table.shape[1] - 1, width)
    rows = table.take(bottom, axis=0) - table.take(top, axis=0)
    sums = rows.take(right, axis=1) - rows.take(left, axis=1)
    areas = (bottom - top)[:, None] * (right - left)[None, :]
    return _divide(sums, areas)


def _cells(
    table: NDArray[np.int32], windows: tuple[NDArray[np.int64], ...], size: int
) -> NDArray[np.float32]:
    """Area averages of N boxes at once, ``(N, size, size, 3)``, from the summed-area table.

    ``windows`` are the left, top, right and bottom edges, each ``(N,)``. No box at all gives one
    black crop: facenet-pytorch's networks cannot take an empty batch.
    """
    x0, y0, x1, y1 = windows
    if not len(x0):
        return np.zeros((1, size, size, 3), dtype=np.float32)
    steps = np.arange(size, dtype=np.int64)
    extent_x, extent_y = (x1 - x0)[:, None], (y1 - y0)[:, None]
    left, right = (
        x0[:, None] + steps * extent_x // size,
        x0[:, None] - ((steps + 1) * -extent_x // size),
    )
    top, bottom = (
        y0[:, None] + steps * extent_y // size,
        y0[:, None] - ((steps + 1) * -extent_y // size),
    )
    width = table.shape[1]
    flat = table.reshape(-1, 3)

    def corner(rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int32]:
        taken: NDArray[np.int32] = flat.take(rows[:, :, None] * width + columns[:, None, :], axis=0)
        return taken

    sums = corner(bottom, right) - corner(top, right) - corner(bottom, left) + corner(top, left)
    areas = (bottom - top)[:, :, None] * (right - left)[:, None, :]
    return _divide(sums, areas)


def _divide(sums: NDArray[np.int32], areas: NDArray[np.int64]) -> NDArray[np.float32]:
    means = sums.astype(np.float32)
    means *= (1 / areas)[..., None].astype(np.float32)
    return means


def _regressed(boxes: Tensor, regression: Tensor) -> Tensor:
    """Move the corners by the network's regression, in units of the side plus one."""
    sides = (boxes[:, 2:4] - boxes[:, 0:2] + 1).repeat(1, 2)
    return torch.cat([boxes[:, :4] + regression * sides, boxes[:, 4:5]], dim=1)


def _squared(boxes: Tensor) -> Tensor:
    """Grow each box to a square of its longer side around its centre."""
    sides = boxes[:, 2:4] - boxes[:, 0:2]
    longer = sides.max(dim=1, keepdim=True).values
    top_left = boxes[:, 0:2] + sides * 0.5 - longer * 0.5
    return torch.cat([top_left, top_left + longer, boxes[:, 4:5]], dim=1)


def _area(box: NDArray[np.float32]) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _suppress_contained(boxes: NDArray[np.float32], limit: float) -> list[int]:
    """Greedy suppression by intersection over the *smaller* box, pixels counted inclusively.

    Drops a face that sits inside a stronger one, which plain intersection over union would keep.
    """
    x0, y0, x1, y1 = boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3]
    areas = (x1 - x0 + 1) * (y1 - y0 + 1)
    order = np.argsort(boxes[:, 4])[::-1]
    kept = []
    while order.size:
        best, rest = int(order[0]), order[1:]
        kept.append(best)
        overlap_w = np.minimum(x1[best], x1[rest]) - np.maximum(x0[best], x0[rest]) + 1
        overlap_h = np.minimum(y1[best], y1[rest]) - np.maximum(y0[best], y0[rest]) + 1
        overlap = np.maximum(overlap_w, 0) * np.maximum(overlap_h, 0)
        order = rest[overlap / np.minimum(areas[best], areas[rest]) <= limit]
    return kept
