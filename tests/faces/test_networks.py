"""A network on boxes: portions and memory change nothing, and what lies outside is left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from facenet_pytorch.models.mtcnn import ONet, PNet, RNet

from deepfake.faces.boxes import Boxes
from deepfake.faces.networks import BoxNetwork, RectangleMemory, TileNetwork, widen
from deepfake.faces.pyramid import Tables, sum_areas
from deepfake.faces.tiles import Tile
from tests.fakes import montage


@pytest.fixture(scope="module")
def tables() -> Tables:
    return sum_areas([montage()], torch.device("cpu"))


def make_boxes(*corners: tuple[int, int, int, int]) -> Boxes:
    n = len(corners)
    return Boxes(
        torch.tensor(corners, dtype=torch.float32).reshape(n, 4),
        torch.ones(n),
        torch.zeros(n, 4),
        torch.zeros(n, dtype=torch.int64),
    )


@pytest.mark.parametrize(("net", "side_px"), [(RNet, 24), (ONet, 48)])
def test_portions_and_memory_change_nothing(tables: Tables, net: type, side_px: int) -> None:
    network = BoxNetwork(net().eval(), side_px)
    boxes = make_boxes((5, 5, 80, 80), (30, 10, 60, 40), (5, 5, 80, 80), (-9, 3, 50, 62))
    memory = RectangleMemory()
    with torch.inference_mode():
        _, whole = network.run_on_boxes(tables, boxes, at_once=8)
        _, parts = network.run_on_boxes(tables, boxes, at_once=1)
        for _ in range(2):
            _, remembered = network.run_on_boxes(tables, boxes, 8, memory)
            for one, other, again in zip(whole, parts, remembered, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-5)
                np.testing.assert_allclose(one, again, atol=1e-5)
    assert len(memory.outputs[0]) == 3


def test_boxes_outside_the_frame_are_left_out(tables: Tables) -> None:
    network = BoxNetwork(RNet().eval(), 24)
    height, width = tables.shape[1] - 1, tables.shape[2] - 1
    outside = (width + 2, height + 2, width + 40, height + 40)
    with torch.inference_mode():
        kept, outputs = network.run_on_boxes(tables, make_boxes((5, 5, 80, 80), outside), 8)
        assert kept.corners.tolist() == [[5, 5, 80, 80]]
        assert [len(output) for output in outputs] == [1, 1]
        kept, outputs = network.run_on_boxes(tables, make_boxes(outside), 8)
    assert [len(kept), *(len(output) for output in outputs)] == [0, 0, 0]


def test_widening_changes_no_output() -> None:
    net = RNet().eval()
    pixels = torch.rand(3, 3, 24, 24)
    with torch.inference_mode():
        before = net(pixels)
        after = widen(net, 32)(pixels)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_pooling_before_the_activation_changes_no_output() -> None:
    pixels = 2 * torch.rand(2, 3, 26, 32) - 1
    network = TileNetwork(PNet().eval())
    with torch.inference_mode():
        regression, probability = PNet().eval()(pixels)
        scores, features = network(pixels, [Tile(0, 26, 32, 0, 0, 26, 32)])
        np.testing.assert_allclose(scores, probability[:, 1], atol=1e-5)
        found = network.regress(features).permute(0, 3, 1, 2)
        np.testing.assert_allclose(found, regression, atol=1e-5)
