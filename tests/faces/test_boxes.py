"""Box arithmetic against slow and obvious loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from deepfake.faces.boxes import Boxes, join_boxes, suppress_contained


def random_boxes(count: int, n_owners: int = 3) -> Boxes:
    rng = torch.Generator().manual_seed(count)
    start = torch.randint(-20, 300, (count, 2), generator=rng).float()
    sides = torch.randint(20, 80, (count, 2), generator=rng).float()
    return Boxes(
        torch.cat([start, start + sides], dim=1),
        torch.rand(count, generator=rng),
        torch.rand((count, 4), generator=rng) - 0.5,
        torch.randint(0, n_owners, (count,), generator=rng),
    )


def greedy(boxes: Boxes, limit: float) -> set[int]:
    """Strongest first, each picture for itself."""
    overlaps = box_iou(boxes.corners, boxes.corners).tolist()
    owners = boxes.owners.tolist()
    kept: list[int] = []
    for i in boxes.scores.argsort(descending=True).tolist():
        rivals = [j for j in kept if owners[j] == owners[i]]
        if all(overlaps[i][j] <= limit for j in rivals):
            kept.append(i)
    return set(kept)


@pytest.mark.parametrize("n_owners", [1, 3], ids=["one-picture", "three-pictures"])
@pytest.mark.parametrize("count", [1, 2, 80, 1200], ids=str)
def test_suppression_is_greedy_and_by_picture(count: int, n_owners: int) -> None:
    boxes = random_boxes(count, n_owners)
    kept = boxes.suppressed(0.5)
    expected = boxes[torch.tensor(sorted(greedy(boxes, 0.5)))]
    assert sorted(kept.scores.tolist()) == sorted(expected.scores.tolist())
    assert count < 80 or len(kept) < count


def test_no_boxes_stay_no_boxes() -> None:
    empty = random_boxes(3)[torch.tensor([], dtype=torch.int64)]
    assert len(empty.suppressed(0.5).moved(1).squared()) == 0
    assert suppress_contained(np.zeros((0, 5), np.float32), 0.7) == []


def test_pictures_far_along_in_a_batch_are_not_rounded() -> None:
    boxes = random_boxes(40, n_owners=1)
    corners = boxes.corners / 1000 + 7000  # fractions that an offset in float32 would lose
    near = Boxes(corners, boxes.scores, boxes.regression, boxes.owners)
    far = Boxes(corners, boxes.scores, boxes.regression, boxes.owners + 5000)
    both = join_boxes([near, far]).suppressed(0.5)
    alone = near.suppressed(0.5)
    assert 1 < len(alone) < 40
    assert len(both) == 2 * len(alone)


def test_a_box_beyond_the_edge_reaches_into_no_other_picture() -> None:
    # Laid side by side from the largest corner on, the second would lie on the first.
    boxes = random_boxes(2)
    corners = torch.tensor([[80.0, 80.0, 100.0, 100.0], [-21.0, -21.0, -1.0, -1.0]])
    boxes = Boxes(corners, boxes.scores, boxes.regression, torch.tensor([0, 1]))
    assert len(boxes.suppressed(0.5)) == 2


def test_boxes_move_by_their_sides() -> None:
    box = Boxes(
        torch.tensor([[10.0, 20.0, 30.0, 60.0]]),
        torch.tensor([0.9]),
        torch.tensor([[0.5, -0.25, 0.0, 1.0]]),
        torch.tensor([0]),
    )
    assert box.moved(0).corners.tolist() == [[20, 10, 30, 100]]
    assert box.moved(1).corners.tolist() == [[20.5, 9.75, 30, 101]]
    assert box.squared().corners.tolist() == [[0, 20, 40, 60]]


def test_inside_goes_by_the_centre() -> None:
    boxes = random_boxes(2)
    corners = torch.tensor([[0.0, 0.0, 10.0, 10.0], [90.0, 90.0, 130.0, 130.0]])
    boxes = Boxes(corners, boxes.scores, boxes.regression, boxes.owners)
    areas = np.array([[4, 4, 6, 6], [200, 200, 300, 300]], np.float32)
    assert boxes.inside(areas).corners.tolist() == [[0, 0, 10, 10]]
    assert len(boxes.inside(areas[1:])) == 0


def test_a_box_inside_a_stronger_one_is_suppressed() -> None:
    boxes = np.array(
        [[0, 0, 99, 99, 0.8], [20, 20, 59, 59, 0.7], [90, 90, 199, 199, 0.6]], np.float32
    )
    assert suppress_contained(boxes, 0.7) == [0, 2]
