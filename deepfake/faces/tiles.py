"""Cuts the levels of an image pyramid into the tiles that PNet is run on.

Small pyramid levels are covered with tiles of one small shape, so that tiles of many levels pass
the network together; large ones with tiles made to measure. Numbers only: knows no pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CELL = 12
"""Side of PNet's window in pixels."""

STRIDE = 2
"""PNet's step in pixels."""

OVERLAP = CELL - STRIDE
"""What neighbouring tiles of a pyramid level share."""

SMALL_TILE = (40, 40)
"""What small pyramid levels are cut into: all their tiles pass PNet together."""

_FEW_TILES = 6  # a pyramid level that would need more of them is cut to measure instead
_REFINE_MARGIN = 0.3  # of the face's side: how far around it windows are looked for


class Tile(NamedTuple):
    """A piece of a pyramid level."""

    level: int  # number of the pyramid level
    cells_down: int  # of the whole pyramid level
    cells_across: int
    top: int  # of the tile in the pyramid level
    left: int
    rows: int  # without filling
    columns: int


def cut_tiles(
    windows: Sequence[tuple[int, int]], limit: int
) -> tuple[tuple[int, int], list[tuple[int, int, int, int]]]:
    """Cover a window of a pyramid level with overlapping tiles of one shape.

    Returns:
        Height and width of the tiles, and top, left, rows and columns of each. Rows and columns
        that a tile has beyond the window are to be filled, and do not count.
    """
    extents = [end - start - OVERLAP for start, end in windows]
    counts = [-(-extent // (SMALL_TILE[0] - OVERLAP)) for extent in extents]
    sides = [*SMALL_TILE]
    if counts[0] * counts[1] > _FEW_TILES:
        counts = [-(-extent // (limit - OVERLAP)) for extent in extents]
        sides = [
            -(-(-(-extent // count) + OVERLAP) // 8) * 8
            for extent, count in zip(extents, counts, strict=True)
        ]
    spans = [
        [(first, min(side, end - first)) for first in range(start, end - OVERLAP, side - OVERLAP)]
        for (start, end), side in zip(windows, sides, strict=True)
    ]
    places = [(top, left, down, across) for top, down in spans[0] for left, across in spans[1]]
    return (sides[0], sides[1]), places


def place_window(edges: NDArray[np.float32], cells: int) -> tuple[int, int]:
    """The part of a pyramid level around a box: on PNet's grid, one window or longer."""
    margin = _REFINE_MARGIN * float(edges[1] - edges[0])
    first = min(max(0, int(edges[0] - margin)), cells - CELL) // STRIDE * STRIDE
    length = -(-max(int(edges[1] + margin) + 1 - first, CELL) // STRIDE) * STRIDE
    return first, min(first + length, cells)


def count_cells(size: int) -> int:
    """PNet's cells along a tile; the window of the last may lack its last line."""
    return (size - OVERLAP + 1) // STRIDE
