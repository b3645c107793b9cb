"""Tiles cover a window of a pyramid level on PNet's grid, whatever its size."""

from __future__ import annotations

import numpy as np
import pytest

from deepfake.faces.tiles import (
    CELL,
    OVERLAP,
    SMALL_TILE,
    STRIDE,
    count_cells,
    cut_tiles,
    place_window,
)


@pytest.mark.parametrize("limit", [56, 208])
@pytest.mark.parametrize("window", [(0, 12), (0, 13), (4, 40), (2, 41), (0, 100), (6, 777)])
def test_every_cell_of_a_window_lies_in_exactly_one_tile(
    window: tuple[int, int], limit: int
) -> None:
    start, end = window
    shape, places = cut_tiles([window, window], limit)
    assert shape == SMALL_TILE or max(shape) <= limit
    seen = np.zeros((count_cells(end - start), count_cells(end - start)), int)
    for top, left, rows, columns in places:
        assert (top - start) % STRIDE == (left - start) % STRIDE == 0
        assert rows <= shape[0]
        assert columns <= shape[1]
        y, x = (top - start) // STRIDE, (left - start) // STRIDE
        seen[y : y + count_cells(rows), x : x + count_cells(columns)] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("edges", [(0, 20), (30, 50), (80, 99), (-10, 5), (95, 130)])
def test_a_window_around_a_box_lies_on_the_grid_and_in_the_level(edges: tuple[int, int]) -> None:
    start, end = place_window(np.array(edges, np.float32), 100)
    assert start % STRIDE == 0
    assert 0 <= start < end <= 100
    assert end - start >= CELL - 1
    assert start <= max(edges[0], 0)
    assert end >= min(edges[1], 100)
    assert OVERLAP == CELL - STRIDE
