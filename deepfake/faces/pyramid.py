"""Area averages of pictures from their summed-area tables, on any device and for many at once.

One pass over a picture gives a table from which the mean colour of any rectangle takes four
numbers. Pieces of pyramid levels and the small crops for a network come from the same table, equal
to torch's adaptive area interpolation to rounding. Knows no network and no face.

References:
    Crow, "Summed-area tables for texture mapping", SIGGRAPH 1984.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def sum_areas(images: Sequence[NDArray[np.uint8]], device: torch.device) -> Tensor:
    """Summed-area tables of pictures of one size, ``(B, H + 1, W + 1, 3)`` int32.

    A table may wrap beyond 8.4 megapixels; differences of wrapped sums are still right as long as
    the rectangle itself sums to less than ``2 ** 31``.

    Args:
        images: Each ``(H, W, 3)`` uint8.
        device: Where the tables are made and stay; what travels there is uint8.
    """
    if device.type == "cpu":
        tables = [
            np.asarray(cv2.integral(image, sdepth=cv2.CV_32S), dtype=np.int32) for image in images
        ]
        return torch.from_numpy(tables[0][None] if len(tables) == 1 else np.stack(tables))
    return accumulate(torch.from_numpy(np.stack(images)).to(device))


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
    tables: Tensor, owners: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor]
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
    tables: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor]
) -> Tensor:
    """Means of one and the same grid of cells in every picture, or of a part of it.

    Args:
        tables: As ``sum_areas`` makes them.
        rows: Top and bottom edges of the cells, each ``(h,)`` int64, as of ``cell_edges``.
        columns: Left and right edges, each ``(w,)`` int64.

    Returns:
        Means in 0..255, ``(B, h, w, 3)`` float32.
    """
    (top, bottom), (left, right) = rows, columns
    # Whole rows first: they are copied in one go.
    strips = tables.index_select(1, bottom).sub_(tables.index_select(1, top))
    sums = strips.index_select(2, right).sub_(strips.index_select(2, left))
    return _divided(sums, (bottom - top)[None], (right - left)[None])


def _divided(sums: Tensor, heights: Tensor, widths: Tensor) -> Tensor:
    """Sums ``(N, h, w, C)`` over cells of these heights ``(N, h)`` and widths ``(N, w)``."""
    # One after the other and with channels as part of the rows: no inner loop is three long.
    means = sums.to(torch.float32).flatten(2)
    means *= heights.to(torch.float32).reciprocal_()[:, :, None]
    means *= widths.to(torch.float32).reciprocal_().repeat_interleave(sums.shape[3], 1)[:, None]
    return means.view(sums.shape)
