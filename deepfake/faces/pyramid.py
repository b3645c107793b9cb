"""Area averages of images from their summed-area tables, on any device and for many at once.

One pass over an image gives a table from which the mean colour of any rectangle takes four
numbers. Pieces of pyramid levels and the small crops for a network come from the same table, equal
to torch's adaptive area interpolation to rounding. Knows no network and no face.

References:
    Crow, "Summed-area tables for texture mapping", SIGGRAPH 1984.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TABLE_PX = 16_000_000
"""Largest image whose table is held as a whole on a CPU, at 12 bytes a pixel."""

# At most so many have a table at a time where it is not: tables that stay in the cache take a tenth
# of the time.
_STRIP_PX = 1_000_000


@dataclass(frozen=True, slots=True)
class Strips:
    """The table of one image that is too large for it: made anew for each part that is asked for.

    Args:
        image: ``(H, W, 3)`` uint8.
    """

    image: NDArray[np.uint8]

    def __len__(self) -> int:
        return 1

    @property
    def shape(self) -> torch.Size:
        """Of the table, if it were there."""
        return torch.Size((1, self.image.shape[0] + 1, self.image.shape[1] + 1, 3))

    @property
    def device(self) -> torch.device:
        """Images lie in the memory of the CPU."""
        return torch.device("cpu")

    def average(
        self, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor]
    ) -> Iterator[Tensor]:
        """``average_level``, some rows of cells at a time."""
        (top, bottom), left = rows, int(columns[0].min())
        width = int(columns[1].max()) - left
        # Edges only grow, but where they repeat the last.
        tops, bottoms = top.tolist(), bottom.tolist()
        first = 0
        while first < len(tops):
            end = first + 1
            while end < len(tops) and (bottoms[end] - tops[first]) * width <= _STRIP_PX:
                end += 1
            start = tops[first]
            part = self.image[start : bottoms[end - 1], left : left + width]
            table = _sum_on_cpu(part)[None]
            yield average_level(
                table,
                (top[first:end] - start, bottom[first:end] - start),
                (columns[0] - left, columns[1] - left),
            )
            first = end


Tables = Tensor | Strips
"""Summed-area tables of images of one size, ``(B, H + 1, W + 1, 3)`` int32."""


def sum_areas(images: Sequence[NDArray[np.uint8]], device: torch.device) -> Tables:
    """Summed-area tables of images of one size.

    A table may wrap beyond 8.4 megapixels; differences of wrapped sums are still right as long as
    the rectangle itself sums to less than ``2 ** 31``.

    Args:
        images: Each ``(H, W, 3)`` uint8, and possibly a view of another.
        device: Where the tables are made and stay; what travels there is uint8.

    Returns:
        ``(B, H + 1, W + 1, 3)`` int32, or ``Strips`` for one image that is too large for it.
    """
    if device.type == "cpu":
        if len(images) == 1:
            image = images[0]
            is_large = image.shape[0] * image.shape[1] > TABLE_PX
            return Strips(image) if is_large else _sum_on_cpu(image)[None]
        return torch.stack([_sum_on_cpu(image) for image in images])
    return accumulate(torch.from_numpy(np.stack(images)).to(device))


def _sum_on_cpu(image: NDArray[np.uint8]) -> Tensor:
    if image.strides[0] < 0 and image.strides[1] < 0:
        # A view that is turned by 180 degrees: copying it pixel by pixel takes ten times as long.
        image = np.asarray(cv2.flip(image[::-1, ::-1], -1), dtype=np.uint8)
    table = cv2.integral(np.ascontiguousarray(image), sdepth=cv2.CV_32S)
    return torch.from_numpy(np.asarray(table, dtype=np.int32))


def accumulate(pixels: Tensor) -> Tensor:
    """Summed-area tables, as ``sum_areas``, of ``(B, H, W, 3)`` uint8 on their own device."""
    batch, height, width, channels = pixels.shape
    table = pixels.new_zeros((batch, height + 1, width + 1, channels), dtype=torch.int32)
    table[:, 1:, 1:] = pixels.cumsum(1, dtype=torch.int32).cumsum_(2)
    return table


def cell_edges(
    origin: Tensor | int, extent: Tensor | int, cells: Tensor | int, steps: Tensor
) -> tuple[Tensor, Tensor]:
    """First and last-plus-one pixel of cells of an area average, as torch defines them.

    Args:
        origin: Where each rectangle begins, ``(N, 1)`` int64 or one number.
        extent: Its length in pixels, the same.
        cells: How many cells divide it, the same.
        steps: Which of these cells, ``(N, n)`` or ``(n,)``.

    Returns:
        Both edges of each cell, ``(N, n)`` int64.
    """
    return origin + steps * extent // cells, origin - (steps + 1) * -extent // cells


def average_cells(
    tables: Tables, owners: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor]
) -> Tensor:
    """Means of a grid of cells in each of N rectangles.

    Args:
        tables: As ``sum_areas`` makes them.
        owners: Which table each rectangle lies in, ``(N,)`` int64.
        rows: Top and bottom edges of the cells, each ``(N, h)`` int64, as of ``cell_edges``.
        columns: Left and right edges, each ``(N, w)`` int64.

    Returns:
        Means in 0..255, ``(N, h, w, 3)`` float32.
    """
    if isinstance(tables, Strips):
        edges = zip(*rows, *columns, strict=True)
        return torch.cat(
            [average_level(tables, (one[0], one[1]), (one[2], one[3])) for one in edges]
        )
    _, height, width, channels = tables.shape
    flat = tables.reshape(-1, channels)
    (top, bottom), (left, right) = rows, columns
    base = (owners * (height * width))[:, None]
    above, below = (base + top * width)[:, :, None], (base + bottom * width)[:, :, None]
    before, behind = left[:, None, :], right[:, None, :]
    sums = flat.index_select(0, (below + behind).view(-1))
    sums -= flat.index_select(0, (above + behind).view(-1))
    sums -= flat.index_select(0, (below + before).view(-1))
    sums += flat.index_select(0, (above + before).view(-1))
    sums = sums.view(*top.shape, left.shape[1], channels)
    return _divided(sums, bottom - top, right - left)


def average_level(
    tables: Tables, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor]
) -> Tensor:
    """Means of one and the same grid of cells in every image, or of a part of it.

    Args:
        tables: As ``sum_areas`` makes them.
        rows: Top and bottom edges of the cells, each ``(h,)`` int64, as of ``cell_edges``.
        columns: Left and right edges, each ``(w,)`` int64.

    Returns:
        Means in 0..255, ``(B, h, w, 3)`` float32.
    """
    if isinstance(tables, Strips):
        return torch.cat(list(tables.average(rows, columns)), dim=1)
    (top, bottom), (left, right) = rows, columns
    # Whole rows first: they are copied in one go.
    strips = _take(tables, 1, bottom).sub_(_take(tables, 1, top))
    sums = _take(strips, 2, right).sub_(_take(strips, 2, left))
    return _divided(sums, (bottom - top)[None], (right - left)[None])


def _take(table: Tensor, axis: int, index: Tensor) -> Tensor:
    """``index_select``; torch's own takes twice as long for columns on a CPU."""
    if table.device.type != "cpu":
        return table.index_select(axis, index)
    return torch.from_numpy(table.numpy().take(index.numpy(), axis))


def _divided(sums: Tensor, heights: Tensor, widths: Tensor) -> Tensor:
    """Sums ``(N, h, w, C)`` over cells of these heights ``(N, h)`` and widths ``(N, w)``."""
    # One after the other and with channels as part of the rows: no inner loop is three long.
    means = sums.to(torch.float32).flatten(2)
    means *= heights.to(torch.float32).reciprocal_()[:, :, None]
    means *= widths.to(torch.float32).reciprocal_().repeat_interleave(sums.shape[3], 1)[:, None]
    return means.view(sums.shape)
