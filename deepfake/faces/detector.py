"""Finds faces: our own MTCNN cascade over facenet-pytorch's three networks.

Same boxes as ``facenet_pytorch.MTCNN.detect`` to rounding (0.01 px, 1e-4 in score), but the image
pyramid and the crops for the second and third network come from one integer summed-area table
instead of a full-frame resize per level and a Python loop per box, and unequal, tiny or faceless
images are ordinary input. One code serves a picture on a CPU and a batch of frames on a GPU; they
differ in how much goes through a network at once. Knows nothing of files, crops or labels.

References:
    Zhang et al., "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional
    Networks", IEEE Signal Processing Letters 2016.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from facenet_pytorch.models.mtcnn import ONet, PNet, RNet
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad

from deepfake.faces.boxes import Boxes, join_boxes, suppress_contained
from deepfake.faces.pyramid import Tables, average_cells, average_level, cell_edges, sum_areas
from deepfake.records import Face

_CELL = 12  # side of PNet's window in pixels
_STRIDE = 2  # PNet's step in pixels
_OVERLAP = _CELL - _STRIDE  # what neighbouring tiles of a level share
_SMALL_TILE = (40, 40)  # what small levels are cut into: all their tiles pass PNet together
_FEW_TILES = 6  # a level that would need more of them is cut to measure instead
_CERTAIN = 0.95  # least probability of a face that ends the search for the main one
_SIZE_GUARD = 1.3  # it must exceed the windows of levels that nobody looked at by this factor
# Windows down to the face's size by this factor may still move its box. With 2.5 it was exact
# mode's on all shared photos with a face; with 1.6 it moved on 14 % of them, to an overlap of 0.82
# at least, for 1.5 times the speed. Training and prediction search alike, so crops do not suffer.
_REFINE_GUARD = 1.6
_REFINE_MARGIN = 0.3  # of the face's side: how far around it these windows are looked for
_NEARLY = 1.5  # so many times smaller a box after RNet may still end as the larger face
_SAME_FACE = 0.3  # share of the smaller box: those that overlap by more are of one face
_LEVELS_A_STEP = 2  # how many finer levels are added before the later networks look again


@dataclass(frozen=True, slots=True)
class _Portions:
    """How much is worked on at once.

    Args:
        frame_px: Pixels in all pictures of one size; never less than one picture.
        tile_px: Longest side of a tile of a pyramid level.
        rnet: Crops for RNet.
        onet: Crops for ONet.
    """

    frame_px: int
    tile_px: int
    rnet: int
    onet: int


# A CPU is fastest while everything stays in its cache, and oneDNN prepares anew (1 ms, and memory
# that it keeps) for each shape that it has not seen: one picture, in tiles of few different sizes.
_CPU = _Portions(frame_px=1, tile_px=208, rnet=32, onet=16)
# On a GPU each launch costs, whatever it does: 16 frames of 1080p at once, and whole levels.
_GPU = _Portions(frame_px=1 << 25, tile_px=1 << 16, rnet=1 << 13, onet=1 << 11)


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
        mode: ``exact`` finds every face; ``main`` only the largest. On a CPU it searches from
            coarse to fine and stops once a certain face is larger than anything finer levels can
            hold; on a GPU the levels that this saves cost less than the stops. Where it stops, the
            box is of the same face, but may differ from exact mode's by some percent of its side.
        device: Where pictures are shrunk and the networks run.
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
        self._portions = _CPU if self.device.type == "cpu" else _GPU
        self._pnet, self._rnet, self._onet = _Proposer(PNet()), _widen(RNet(), 32), ONet()
        for net in (self._pnet, self._rnet, self._onet):
            # channels_last halves the time of these thin convolutions on a CPU.
            net.to(self.device).to(memory_format=torch.channels_last).eval()

    def smallest_face_px(self, height: int, width: int) -> float:
        """The smallest face that is looked for in a picture of this size, in pixels."""
        return max(self.min_face, self.min_face_ratio * min(height, width))

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Face]]:
        """Find the faces of every image.

        Args:
            images: Each ``(H, W, 3)`` uint8 RGB, which may be a view of another picture; sizes may
                differ. On a GPU, frames of one size are worth handing over together.

        Returns:
            One list per image, largest box first (in mode ``main`` that one alone); empty where
            there is no face, or where the image is smaller than the smallest face.

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
                for start in range(0, len(members) if scales else 0, at_once):
                    chosen = members[start : start + at_once]
                    tables = sum_areas([images[index] for index in chosen], self.device)
                    for index, found in zip(chosen, self._search(tables, scales), strict=True):
                        faces[index] = found
        return faces

    def _pyramid_scales(self, height: int, width: int) -> list[float]:
        scale = _CELL / self.smallest_face_px(height, width)
        shorter = min(height, width) * scale
        scales = []
        while shorter >= _CELL:
            scales.append(scale)
            scale *= self.factor
            shorter *= self.factor
        return scales

    def _search(self, tables: Tables, scales: list[float]) -> list[list[Face]]:
        if self.mode == "main" and len(tables) == 1:
            return [self._find_main(tables, scales[::-1])]
        faces = self._decide(tables, self._refine(tables, [self._propose(tables, scales)]))
        return [found[:1] for found in faces] if self.mode == "main" else faces

    def _find_main(self, table: Tables, scales: list[float]) -> list[Face]:
        """The largest face of one picture, or none, from the coarsest scale to the finest.

        Once what is as good as a face is larger than anything that finer levels can hold, those of
        them that may still move its box are searched around it alone (and around others of nearly
        its size), and ONet looks there alone. Where the search does not stop early it has seen
        what mode ``exact`` sees.
        """
        half = -(-len(scales) // 2)
        batch, finer, levels = scales[:half], scales[half:], list[Boxes]()
        seen_before = _Memory()
        while True:
            levels.append(self._propose(table, batch))
            candidates = self._refine(table, levels, seen_before)
            if not finer:
                return self._decide(table, candidates)[0][:1]
            batch = finer[:_LEVELS_A_STEP]
            likely = _likely_faces(candidates)
            if len(likely):
                side = float(likely[0, 2] - likely[0, 0])
                rivals = [scale for scale in finer if _SIZE_GUARD * _CELL / scale >= side]
                if not rivals:
                    close = [scale for scale in finer if _REFINE_GUARD * _CELL / scale >= side]
                    if close:
                        around = [self._propose(table, close, box) for box in likely]
                        seen = [part.inside(likely) for part in (*levels, *around)]
                        candidates = self._refine(table, seen, seen_before)
                    faces = self._decide(table, candidates.inside(likely))[0][:1]
                    if faces and faces[0].confidence > _CERTAIN:
                        return faces
                batch = rivals or batch
            finer = finer[len(batch) :]

    def _propose(
        self, tables: Tables, scales: list[float], near: NDArray[np.float32] | None = None
    ) -> Boxes:
        """PNet at some levels, or at their parts near a box: each hit with its regression."""
        extents = tables.shape[1] - 1, tables.shape[2] - 1
        small: list[_Tile] = []
        hits: list[_Hits] = []
        for level, scale in enumerate(scales):
            cells = [int(extent * scale + 1) for extent in extents]
            windows = [(0, count) for count in cells]
            if near is not None:
                windows = [_near(near[1 - i :: 2] * scale, cells[i]) for i in (0, 1)]
            shape, places = _cut(windows, self._portions.tile_px)
            tiles = [_Tile(level, cells[0], cells[1], *place) for place in places]
            if shape == _SMALL_TILE:
                small += tiles
            else:
                hits += self._look_at_level(tables, tiles, shape)
        if small:
            hits.append(self._look_at_tiles(tables, small))
        levels, owners, cells_yx, scores, features = (
            torch.cat(parts) for parts in zip(*hits, strict=True)
        )
        pixels_xy = cells_yx.flip(1) * _STRIDE
        # Divided by a tensor: by a number, a GPU would multiply with its rounded inverse instead.
        divisor = torch.tensor(scales, device=tables.device)[levels, None]
        corners = torch.cat([(pixels_xy + 1) / divisor, (pixels_xy + _CELL) / divisor], dim=1)
        boxes = Boxes(corners.floor_(), scores, self._pnet.regress(features), owners)
        return boxes.suppressed(0.5, groups=owners * len(scales) + levels)

    def _look_at_level(
        self, tables: Tables, tiles: list[_Tile], shape: tuple[int, int]
    ) -> Iterator[_Hits]:
        """PNet on a window of one level in every picture, tile by tile."""
        (level, *cells, top, left, _, _), last = tiles[0], tiles[-1]
        edges = (
            cell_edges(
                0,
                tables.shape[1 + axis] - 1,
                cells[axis],
                # What lies beyond the level repeats its last row or column.
                torch.arange(start, end, device=tables.device).clamp_(max=cells[axis] - 1),
            )
            for axis, start, end in ((0, top, last.top + shape[0]), (1, left, last.left + shape[1]))
        )
        pixels = _normalised(average_level(tables, *edges))
        for tile in tiles:
            y, x = tile.top - top, tile.left - left
            part = pixels[:, :, y : y + shape[0], x : x + shape[1]]
            score, features = self._pnet(part, [tile])
            # What came of the filling is no hit.
            score = score[:, : _n_cells(tile.rows), : _n_cells(tile.columns)]
            found = (score >= self.thresholds[0]).nonzero()
            where = tuple(found.unbind(1))
            corner = found.new_tensor([tile.top // _STRIDE, tile.left // _STRIDE])
            yield _Hits(
                found.new_full((len(found),), level),
                where[0],
                found[:, 1:] + corner,
                score[where],
                features[where],
            )

    def _look_at_tiles(self, tables: Tables, tiles: list[_Tile]) -> _Hits:
        """PNet on small tiles of any levels in every picture, all together."""
        n_tables, device = len(tables), tables.device
        owners = torch.arange(n_tables, device=device).repeat_interleave(len(tiles))
        numbers = torch.tensor(tiles * n_tables).to(device)
        edges = []
        for axis in (0, 1):
            cells, start = numbers[:, 1 + axis, None], numbers[:, 3 + axis, None]
            steps = start + torch.arange(_SMALL_TILE[axis], device=device)
            steps = torch.minimum(steps, cells - 1)
            edges.append(cell_edges(0, tables.shape[1 + axis] - 1, cells, steps))
        pixels = _normalised(average_cells(tables, owners, *edges))
        score, features = self._pnet(pixels, tiles * n_tables)
        found = (score >= self.thresholds[0]).nonzero()
        inside = _STRIDE * found[:, 1:] + _OVERLAP < numbers[found[:, 0], 5:7]
        found = found[inside.all(dim=1)]
        where = tuple(found.unbind(1))
        return _Hits(
            numbers[where[0], 0],
            owners[where[0]],
            found[:, 1:] + numbers[where[0], 3:5] // _STRIDE,
            score[where],
            features[where],
        )

    def _refine(
        self, tables: Tables, levels: list[Boxes], seen_before: _Memory | None = None
    ) -> Boxes:
        """RNet on what PNet proposed at some levels: fewer and better boxes, each a square."""
        # Here, unlike after RNet and ONet, the regression is relative to the side itself and not
        # to the side plus one: the reference implementation has it so.
        boxes = join_boxes(levels).suppressed(0.7).moved(0).squared()
        boxes, (regression, probability) = self._look(
            self._rnet, tables, boxes, 24, self._portions.rnet, seen_before
        )
        score = probability[:, 1]
        passed = score > self.thresholds[1]
        boxes = Boxes(boxes.corners, score, regression, boxes.owners)[passed]
        return boxes.suppressed(0.7).moved(1).squared()

    def _decide(self, tables: Tables, boxes: Boxes) -> list[list[Face]]:
        """ONet on each box that is left: the faces of each picture, largest first."""
        boxes, (regression, points, probability) = self._look(
            self._onet, tables, boxes, 48, self._portions.onet
        )
        score = probability[:, 1]
        passed = score > self.thresholds[2]
        boxes = Boxes(boxes.corners, score, regression, boxes.owners)[passed]
        # ONet's landmarks are shares of what it was shown, which ends where the picture does. The
        # reference implementation takes them for shares of the whole box, and so misplaces those
        # of a face that leaves the picture; only of one inside it are ours the same.
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
            kept = own[suppress_contained(final[own], 0.7)]
            faces.append(
                [
                    Face(final[i, :4].copy(), float(final[i, 4]), marks[i].copy())
                    for i in sorted(kept, key=lambda i: -_area(final[i]))
                ]
            )
        return faces

    def _look(
        self,
        net: nn.Module,
        tables: Tables,
        boxes: Boxes,
        side: int,
        at_once: int,
        seen_before: _Memory | None = None,
    ) -> tuple[Boxes, list[Tensor]]:
        """Run a network on the boxes that touch their picture; these boxes and its outputs."""
        height, width = tables.shape[1] - 1, tables.shape[2] - 1
        corners = boxes.corners.to(torch.int64)
        start = corners[:, :2].clamp_(min=1) - 1
        end = torch.minimum(corners[:, 2:], corners.new_tensor([width, height]))
        touching = (end > start).all(dim=1)
        boxes, start, end = boxes[touching], start[touching], end[touching]
        if not len(boxes):
            # facenet-pytorch's networks cannot take an empty batch: one black crop, cut off again.
            outputs = net(torch.zeros((1, 3, side, side), device=tables.device))
            return boxes, [output[:0] for output in outputs]
        if seen_before is None:
            return boxes, self._run(net, tables, boxes.owners, start, end, side, at_once)
        new, rows = seen_before.sort_out(torch.cat([start, end], dim=1).tolist())
        if new:
            seen_before.add(
                self._run(net, tables, boxes.owners[new], start[new], end[new], side, at_once)
            )
        return boxes, [output[rows] for output in seen_before.outputs]

    def _run(
        self,
        net: nn.Module,
        tables: Tables,
        owners: Tensor,
        start: Tensor,
        end: Tensor,
        side: int,
        at_once: int,
    ) -> list[Tensor]:
        """The outputs of a network for some rectangles, which start and end at whole pixels."""
        steps = torch.arange(side, device=tables.device)
        columns, rows = (
            cell_edges(start[:, axis, None], (end - start)[:, axis, None], side, steps)
            for axis in (0, 1)
        )
        parts = []
        for first in range(0, len(owners), at_once):
            part = slice(first, first + at_once)
            pixels = average_cells(
                tables,
                owners[part],
                (rows[0][part], rows[1][part]),
                (columns[0][part], columns[1][part]),
            )
            count = len(pixels)
            filling = (0, 0, 0, 0, 0, 0, 0, _round_up(count) - count)
            parts.append([out[:count] for out in net(_normalised(pad(pixels, filling)))])
        return [torch.cat(outputs) for outputs in zip(*parts, strict=True)]


class _Memory:
    """What a network said of the rectangles of one picture that it has seen already."""

    def __init__(self) -> None:
        self.outputs: list[Tensor] = []
        self._rows: dict[tuple[int, ...], int] = {}

    def sort_out(self, corners: list[list[int]]) -> tuple[list[int], list[int]]:
        """Which of some rectangles are new, and the row that each has in the outputs.

        The outputs of the new ones are to be added, in their order.
        """
        new, rows = [], []
        for index, corner in enumerate(map(tuple, corners)):
            if corner not in self._rows:
                self._rows[corner] = len(self._rows)
                new.append(index)
            rows.append(self._rows[corner])
        return new, rows

    def add(self, outputs: list[Tensor]) -> None:
        """Outputs of the rectangles that were new."""
        if self.outputs:
            outputs = [torch.cat(pair) for pair in zip(self.outputs, outputs, strict=True)]
        self.outputs = outputs


class _Proposer(nn.Module):
    """PNet on tiles of even sides: the probability of a face, and what regression starts from."""

    def __init__(self, net: PNet) -> None:
        super().__init__()
        net = _widen(net, 16)
        self.first = nn.Sequential(net.conv1, net.prelu1)
        self.then = nn.Sequential(net.conv2, net.prelu2, net.conv3, net.prelu3)
        # Of two classes, the softmax is the sigmoid of the difference.
        weight, bias = net.conv4_1.weight[:, :, 0, 0].data, net.conv4_1.bias.data
        self.judge = nn.Linear(32, 1)
        self.judge.weight.data, self.judge.bias.data = weight[1:] - weight[:1], bias[1:] - bias[:1]
        self.regress = nn.Linear(32, 4)
        self.regress.weight.data = net.conv4_2.weight[:, :, 0, 0].data
        self.regress.bias.data = net.conv4_2.bias.data

    def forward(self, pixels: Tensor, tiles: Sequence[_Tile]) -> tuple[Tensor, Tensor]:
        """Look at tiles.

        Args:
            pixels: ``(N, 3, h, w)``.
            tiles: What each of them is, or the one thing that all of them are.

        Returns:
            Probability, ``(N, cells, cells)``, and features, ``(N, cells, cells, 32)``.
        """
        seen = self.first(pixels)
        # The reference pools the last row or column of an odd level alone. Here it is paired with
        # one that saw filling; made a copy of its neighbour, that one changes no maximum.
        for axis, side in enumerate(pixels.shape[2:]):
            sizes = np.array([tile[5 + axis] for tile in tiles])
            which = np.flatnonzero((sizes % 2 == 1) & (sizes < side))
            if not which.size:
                continue
            lines = seen.movedim(2 + axis, 1)
            if len(tiles) == 1:
                line = int(sizes[0]) - 2  # the first convolution takes two off
                lines[:, line] = lines[:, line - 1]
            else:
                members = torch.from_numpy(which).to(pixels.device)
                last = torch.from_numpy(sizes[which] - 2).to(pixels.device)
                lines[members, last] = lines[members, last - 1]
        # torch's own pooling takes four times as long on channels_last.
        seen = torch.maximum(seen[:, :, 0::2], seen[:, :, 1::2])
        seen = torch.maximum(seen[:, :, :, 0::2], seen[:, :, :, 1::2])
        features = self.then(seen).permute(0, 2, 3, 1)
        return self.judge(features)[..., 0].sigmoid_(), features


class _Tile(NamedTuple):
    """A piece of a pyramid level."""

    level: int  # its number
    cells_down: int  # of the whole level
    cells_across: int
    top: int  # of the tile in the level
    left: int
    rows: int  # without filling
    columns: int


class _Hits(NamedTuple):
    """Windows in which PNet sees a face."""

    level: Tensor  # number of each, (K,)
    owner: Tensor  # number of the picture, (K,)
    cell: Tensor  # in the level: down, across, (K, 2)
    score: Tensor  # (K,)
    features: Tensor  # (K, 32)


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
    found: NDArray[np.float32] = torch.cat([boxes.corners, boxes.scores[:, None]], dim=1).numpy()
    sides = found[:, 2] - found[:, 0]
    largest = sides[found[:, 4] > _CERTAIN].max(initial=0)
    if not largest:
        return found[:0, :4]
    found = found[sides * _NEARLY >= largest]
    apart = found[suppress_contained(found, _SAME_FACE)]
    certain_first = np.lexsort((apart[:, 0] - apart[:, 2], apart[:, 4] <= _CERTAIN))
    return apart[certain_first, :4]


def _cut(
    windows: Sequence[tuple[int, int]], limit: int
) -> tuple[tuple[int, int], list[tuple[int, int, int, int]]]:
    """Cover a window of a level with overlapping tiles of one shape.

    Returns:
        Height and width of the tiles, and top, left, rows and columns of each. Rows and columns
        that a tile has beyond the window are to be filled, and do not count.
    """
    extents = [end - start - _OVERLAP for start, end in windows]
    counts = [-(-extent // (_SMALL_TILE[0] - _OVERLAP)) for extent in extents]
    sides = [*_SMALL_TILE]
    if counts[0] * counts[1] > _FEW_TILES:
        counts = [-(-extent // (limit - _OVERLAP)) for extent in extents]
        sides = [
            -(-(-(-extent // count) + _OVERLAP) // 8) * 8
            for extent, count in zip(extents, counts, strict=True)
        ]
    spans = [
        [(first, min(side, end - first)) for first in range(start, end - _OVERLAP, side - _OVERLAP)]
        for (start, end), side in zip(windows, sides, strict=True)
    ]
    places = [(top, left, down, across) for top, down in spans[0] for left, across in spans[1]]
    return (sides[0], sides[1]), places


def _near(edges: NDArray[np.float32], cells: int) -> tuple[int, int]:
    """The part of a level within a margin around a box: on PNet's grid, one window or longer."""
    margin = _REFINE_MARGIN * float(edges[1] - edges[0])
    first = min(max(0, int(edges[0] - margin)), cells - _CELL) // _STRIDE * _STRIDE
    length = -(-max(int(edges[1] + margin) + 1 - first, _CELL) // _STRIDE) * _STRIDE
    return first, min(first + length, cells)


def _n_cells(size: int) -> int:
    """PNet's cells along a tile; the window of the last may lack its last line."""
    return (size - _OVERLAP + 1) // _STRIDE


def _round_up(count: int) -> int:
    """A little more than a number of things: few shapes for a network to meet."""
    step = 1 << max(0, (count - 1).bit_length() - 3)
    return -(-count // step) * step


def _widen(net: PNet | RNet, channels: int) -> PNet | RNet:
    """Give a network's first convolution more channels, all zero: the same function.

    Torch's kernels for channels_last take 16 channels at a time, and the rest one by one.
    """
    extra = channels - net.conv1.out_channels
    for parameter, padding in (
        (net.conv1.weight, (0, 0, 0, 0, 0, 0, 0, extra)),
        (net.conv1.bias, (0, extra)),
        (net.prelu1.weight, (0, extra)),
        (net.conv2.weight, (0, 0, 0, 0, 0, extra)),
    ):
        parameter.data = pad(parameter.data, padding)
    return net


def _normalised(pixels: Tensor) -> Tensor:
    """``(N, h, w, 3)`` in 0..255 -> ``(N, 3, h, w)`` in about -1..1, channels last; in place."""
    return pixels.sub_(127.5).mul_(0.0078125).permute(0, 3, 1, 2)


def _area(box: NDArray[np.float32]) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))
