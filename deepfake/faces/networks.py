"""The three networks of MTCNN, each run on what it takes: PNet on tiles, RNet and ONet on boxes.

Pixels come from summed-area tables. Knows neither thresholds nor the order in which the networks
follow each other.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from tqdm import TqdmWarning

from deepfake.faces.boxes import Boxes
from deepfake.faces.pyramid import Tables, average_cells, average_level, cell_edges
from deepfake.faces.tiles import OVERLAP, SMALL_TILE, STRIDE, Tile, count_cells

with warnings.catch_warnings():
    # In a notebook it asks for ipywidgets, for a bar that nobody here sees.
    warnings.simplefilter("ignore", TqdmWarning)
    from facenet_pytorch.models.mtcnn import ONet as ONet
    from facenet_pytorch.models.mtcnn import PNet as PNet
    from facenet_pytorch.models.mtcnn import RNet as RNet


class Hits(NamedTuple):
    """Windows in which PNet sees a face."""

    level: Tensor  # number of the pyramid level of each, (K,)
    owner: Tensor  # number of the frame, (K,)
    cell: Tensor  # in the pyramid level: down, across, (K, 2)
    score: Tensor  # (K,)
    features: Tensor  # (K, 32)


class TileNetwork(nn.Module):
    """PNet on tiles of even sides: the probability of a face, and what regression starts from."""

    def __init__(self, net: PNet) -> None:
        super().__init__()
        self.twins = _add_twins(net)
        self.conv1, self.prelu1 = net.conv1, net.prelu1
        self.then = nn.Sequential(net.conv2, net.prelu2, net.conv3, net.prelu3)
        # Of two classes, the softmax is the sigmoid of the difference.
        weight, bias = net.conv4_1.weight[:, :, 0, 0].data, net.conv4_1.bias.data
        self.judge = nn.Linear(32, 1)
        self.judge.weight.data, self.judge.bias.data = weight[1:] - weight[:1], bias[1:] - bias[:1]
        self.regress = nn.Linear(32, 4)
        self.regress.weight.data = net.conv4_2.weight[:, :, 0, 0].data
        self.regress.bias.data = net.conv4_2.bias.data

    def forward(self, pixels: Tensor, tiles: Sequence[Tile]) -> tuple[Tensor, Tensor]:
        """Look at tiles.

        Args:
            pixels: ``(N, 3, h, w)``.
            tiles: What each of them is, or the one thing that all of them are.

        Returns:
            Probability, ``(N, cells, cells)``, and features, ``(N, cells, cells, 32)``.
        """
        seen = self.conv1(pixels)
        # The reference pools the last row or column of an odd pyramid level alone. Here it is
        # paired with one that saw filling; made a copy of its neighbour, that one changes no
        # maximum.
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
        bent, twins = seen[:, : self.twins], seen[:, -self.twins :]
        torch.maximum(bent, twins, out=bent)
        features = self.then(self.prelu1(seen)).permute(0, 2, 3, 1)
        return self.judge(features)[..., 0].sigmoid_(), features

    def run_on_level(
        self, tables: Tables, tiles: list[Tile], shape: tuple[int, int], threshold: float
    ) -> Iterator[Hits]:
        """Hits in a window of one pyramid level of every frame, tile by tile."""
        (level, *cells, top, left, _, _), last = tiles[0], tiles[-1]
        edges = (
            cell_edges(
                0,
                tables.shape[1 + axis] - 1,
                cells[axis],
                # What lies beyond the pyramid level repeats its last row or column.
                torch.arange(start, end, device=tables.device).clamp_(max=cells[axis] - 1),
            )
            for axis, start, end in ((0, top, last.top + shape[0]), (1, left, last.left + shape[1]))
        )
        pixels = _normalised(average_level(tables, *edges))
        for tile in tiles:
            y, x = tile.top - top, tile.left - left
            part = pixels[:, :, y : y + shape[0], x : x + shape[1]]
            score, features = self(part, [tile])
            # What came of the filling is no hit.
            score = score[:, : count_cells(tile.rows), : count_cells(tile.columns)]
            found = (score >= threshold).nonzero()
            where = tuple(found.unbind(1))
            corner = found.new_tensor([tile.top // STRIDE, tile.left // STRIDE])
            yield Hits(
                found.new_full((len(found),), level),
                where[0],
                found[:, 1:] + corner,
                score[where],
                features[where],
            )

    def run_on_tiles(self, tables: Tables, tiles: list[Tile], threshold: float) -> Hits:
        """Hits in small tiles of any pyramid levels of every frame, all together."""
        n_tables, device = len(tables), tables.device
        owners = torch.arange(n_tables, device=device).repeat_interleave(len(tiles))
        numbers = torch.tensor(tiles * n_tables).to(device)
        edges = []
        for axis in (0, 1):
            cells, start = numbers[:, 1 + axis, None], numbers[:, 3 + axis, None]
            steps = start + torch.arange(SMALL_TILE[axis], device=device)
            steps = torch.minimum(steps, cells - 1)
            edges.append(cell_edges(0, tables.shape[1 + axis] - 1, cells, steps))
        pixels = _normalised(average_cells(tables, owners, *edges))
        score, features = self(pixels, tiles * n_tables)
        found = (score >= threshold).nonzero()
        inside = STRIDE * found[:, 1:] + OVERLAP < numbers[found[:, 0], 5:7]
        found = found[inside.all(dim=1)]
        where = tuple(found.unbind(1))
        return Hits(
            numbers[where[0], 0],
            owners[where[0]],
            found[:, 1:] + numbers[where[0], 3:5] // STRIDE,
            score[where],
            features[where],
        )


class RectangleMemory:
    """What a network said of the rectangles of one frame that it has seen already."""

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


class BoxNetwork:
    """RNet or ONet, run on boxes of frames: each is shrunk to the square that the network takes.

    Args:
        net: The network.
        side_px: Side of that square.
    """

    def __init__(self, net: nn.Module, side_px: int) -> None:
        self.net, self.side_px = net, side_px

    def run_on_boxes(
        self,
        tables: Tables,
        boxes: Boxes,
        at_once: int,
        memory: RectangleMemory | None = None,
    ) -> tuple[Boxes, list[Tensor]]:
        """Run the network on the boxes that touch their frame.

        Args:
            tables: Summed-area tables of the frames.
            boxes: Those to look at.
            at_once: How many pass the network together.
            memory: What it has said already of the one frame, and is not asked again.

        Returns:
            The boxes that touch their frame, and the outputs for them.
        """
        height, width = tables.shape[1] - 1, tables.shape[2] - 1
        corners = boxes.corners.to(torch.int64)
        start = corners[:, :2].clamp_(min=1) - 1
        end = torch.minimum(corners[:, 2:], corners.new_tensor([width, height]))
        touching = (end > start).all(dim=1)
        boxes, rectangles = boxes[touching], torch.cat([start, end], dim=1)[touching]
        if not len(boxes):
            # facenet-pytorch's networks cannot take an empty batch: one black crop, cut off again.
            black = torch.zeros((1, 3, self.side_px, self.side_px), device=tables.device)
            return boxes, [output[:0] for output in self.net(black)]
        if memory is None:
            return boxes, self._run(tables, boxes.owners, rectangles, at_once)
        new, rows = memory.sort_out(rectangles.tolist())
        if new:
            memory.add(self._run(tables, boxes.owners[new], rectangles[new], at_once))
        return boxes, [output[rows] for output in memory.outputs]

    def _run(
        self, tables: Tables, owners: Tensor, rectangles: Tensor, at_once: int
    ) -> list[Tensor]:
        """The outputs for some rectangles of whole pixels, ``(N, 4)`` int64."""
        start, extent = rectangles[:, :2], rectangles[:, 2:] - rectangles[:, :2]
        steps = torch.arange(self.side_px, device=tables.device)
        columns, rows = (
            cell_edges(start[:, axis, None], extent[:, axis, None], self.side_px, steps)
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
            parts.append([out[:count] for out in self.net(_normalised(pad(pixels, filling)))])
        return [torch.cat(outputs) for outputs in zip(*parts, strict=True)]


def _round_up(count: int) -> int:
    """A little more than a number of things: few shapes for a network to meet."""
    step = 1 << max(0, (count - 1).bit_length() - 3)
    return -(-count // step) * step


def _add_twins(net: PNet) -> int:
    """Let a PNet pool before its first PReLU, on a quarter of the numbers: the same function.

    Of an activation that only rises, the maximum is that of the largest input. With a negative
    slope it falls below zero: the maximum is that of the largest or of the smallest input,
    whichever is more. Those channels come first, without their slope, and once more as the last,
    times their slope. They are six of ten, and fill up the 16 that torch's kernels for
    channels_last take at a time.

    Returns:
        How many channels have a twin; the larger of both, rid of what is negative, is the output.
    """
    slopes = net.prelu1.weight.data
    order = slopes.argsort()
    count = int((slopes < 0).sum())
    bent = order[:count]
    for parameter in (net.conv1.weight, net.conv1.bias):
        own, factor = parameter.data, slopes[bent].view(-1, *[1] * (parameter.dim() - 1))
        parameter.data = torch.cat([own[order], own[bent] * factor])
    net.prelu1.weight.data = pad(slopes[order].clamp_(min=0), (0, count))
    net.conv2.weight.data = pad(net.conv2.weight.data[:, order], (0, 0, 0, 0, 0, count))
    return count


def widen(net: RNet, channels: int) -> RNet:
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
