"""Area averages against torch's own area interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from deepfake.faces import pyramid
from deepfake.faces.pyramid import (
    Strips,
    Tables,
    accumulate,
    average_cells,
    average_level,
    cell_edges,
    sum_areas,
)
from tests.fakes import Picture

CPU = torch.device("cpu")


def noise(*shape: int, low: int = 0) -> Picture:
    return np.random.default_rng(1).integers(low, 256, (*shape, 3), dtype=np.uint8)


def area_resize(image: Picture, height: int, width: int) -> np.ndarray:
    planes = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].double()
    return interpolate(planes, (height, width), mode="area")[0].permute(1, 2, 0).numpy()


def shrink(tables: Tables, height: int, width: int) -> np.ndarray:
    rows = cell_edges(0, tables.shape[1] - 1, height, torch.arange(height))
    columns = cell_edges(0, tables.shape[2] - 1, width, torch.arange(width))
    return average_level(tables, rows, columns).numpy()


def crop(tables: Tables, owners: Tensor, windows: Tensor, side: int) -> np.ndarray:
    steps = torch.arange(side)
    columns, rows = (
        cell_edges(windows[:, i, None], (windows[:, i + 2] - windows[:, i])[:, None], side, steps)
        for i in (0, 1)
    )
    return average_cells(tables, owners, rows, columns).numpy()


@pytest.mark.parametrize(
    ("height", "width"), [(97, 131), (41, 60), (13, 12), (1, 1), (120, 150)], ids=str
)
def test_a_level_equals_adaptive_area(height: int, width: int) -> None:
    images = [noise(97, 131), noise(97, 131)[::-1]]
    shrunk = shrink(sum_areas(images, CPU), height, width)
    assert shrunk.dtype == np.float32
    for image, level in zip(images, shrunk, strict=True):
        np.testing.assert_allclose(level, area_resize(image, height, width), atol=1e-4)


def test_a_part_of_a_level_equals_that_part_of_the_whole() -> None:
    tables = sum_areas([noise(97, 131)], CPU)
    rows = cell_edges(0, 97, 41, torch.arange(10, 30))
    columns = cell_edges(0, 131, 60, torch.arange(6, 50))
    part = average_level(tables, rows, columns).numpy()
    np.testing.assert_array_equal(part, shrink(tables, 41, 60)[:, 10:30, 6:50])


@pytest.mark.parametrize("side", [24, 48])
def test_crops_equal_adaptive_area(side: int) -> None:
    rng = np.random.default_rng(side)
    images = [noise(97, 131), noise(97, 131)[:, ::-1]]
    start = rng.integers(0, (100, 70), (40, 2))
    end = np.minimum(start + rng.integers(1, 90, (40, 2)), (131, 97))
    windows, owners = np.hstack([start, end]), rng.integers(0, 2, 40)
    tables = sum_areas(images, CPU)
    crops = crop(tables, torch.from_numpy(owners), torch.from_numpy(windows), side)
    for (x0, y0, x1, y1), owner, cells in zip(windows, owners, crops, strict=True):
        window = images[owner][y0:y1, x0:x1]
        np.testing.assert_allclose(cells, area_resize(window, side, side), atol=1e-4)


@pytest.mark.parametrize("strip_px", [1, 700, 4000, 10**6])
def test_strips_give_what_a_whole_table_gives(
    strip_px: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyramid, "_STRIP_PX", strip_px)
    image = noise(97, 131)[::-1, ::-1]
    whole, strips = sum_areas([image], CPU), Strips(image)
    assert (strips.shape, len(strips), strips.device) == (whole.shape, 1, CPU)
    for height, width in ((97, 131), (41, 60), (13, 12), (1, 1)):
        np.testing.assert_array_equal(shrink(strips, height, width), shrink(whole, height, width))
    windows = torch.tensor([[0, 0, 131, 97], [5, 90, 6, 97], [100, 3, 131, 80]])
    owners = torch.zeros(3, dtype=torch.int64)
    np.testing.assert_array_equal(
        crop(strips, owners, windows, 24), crop(whole, owners, windows, 24)
    )


def test_a_large_picture_has_no_whole_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyramid, "TABLE_PX", 97 * 131 - 1)
    assert isinstance(sum_areas([noise(97, 131)], CPU), Strips)
    assert isinstance(sum_areas([noise(97, 130)], CPU), Tensor)


def test_sums_that_wrap_are_still_right() -> None:
    image = noise(2900, 3000, low=240)  # 8.7 megapixels
    tables = sum_areas([image], CPU)
    assert isinstance(tables, Tensor)
    assert tables[0, -1, -1].min() < 0  # it did wrap
    expected = image.reshape(58, 50, 60, 50, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(shrink(tables, 58, 60)[0], expected, atol=1e-3)
    window = torch.tensor([[2600, 2500, 2984, 2884]])
    expected = area_resize(image[2500:2884, 2600:2984], 48, 48)
    np.testing.assert_allclose(crop(tables, torch.tensor([0]), window, 48)[0], expected, atol=1e-3)


def test_tables_made_on_a_device_are_the_same() -> None:
    images = [noise(97, 131), np.ascontiguousarray(noise(97, 131)[:, ::-1])]
    tables = accumulate(torch.from_numpy(np.stack(images)))
    np.testing.assert_array_equal(tables, sum_areas(images, CPU))


def test_a_table_made_on_a_device_wraps_alike() -> None:
    image = noise(2900, 3000, low=240)
    table = accumulate(torch.from_numpy(image)[None])
    np.testing.assert_array_equal(table, sum_areas([image], CPU))
