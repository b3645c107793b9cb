"""Boxes of a batch of frames on any device: moved, squared, and rid of what overlaps.

Knows no network, no pixel and no face.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import batched_nms


@dataclass(frozen=True, slots=True)
class Boxes:
    """N boxes of a batch of frames.

    Args:
        corners: Left, top, right, bottom, ``(N, 4)`` float32.
        scores: Probability of a face, ``(N,)``.
        regression: How far a network would move each corner, in sides of the box, ``(N, 4)``.
        owners: The frame of each, ``(N,)`` int64.
    """

    corners: Tensor
    scores: Tensor
    regression: Tensor
    owners: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: Tensor) -> Boxes:
        return Boxes(
            self.corners[chosen], self.scores[chosen], self.regression[chosen], self.owners[chosen]
        )

    def suppressed(self, limit: float, groups: Tensor | None = None) -> Boxes:
        """Leave out those that overlap a stronger one by more than ``limit``.

        Args:
            limit: Intersection over union.
            groups: Boxes of different groups do not compete, ``(N,)`` int64; by default the
                frames that own them.
        """
        if len(self) < 2:
            return self
        groups = self.owners if groups is None else groups
        # Torchvision lays the groups side by side. From 0 on, since negative corners would reach
        # into another group; in double precision, since a far offset would round the boxes.
        corners = self.corners.double()
        kept: Tensor = batched_nms(corners - corners.min(), self.scores.double(), groups, limit)
        return self[kept]

    def inside(self, areas: NDArray[np.float32]) -> Boxes:
        """Those with their centre in at least one of some rectangles, ``(M, 4)``."""
        centres = (self.corners[:, None, :2] + self.corners[:, None, 2:]) / 2
        edges = self.corners.new_tensor(areas)
        within = (centres >= edges[:, :2]) & (centres <= edges[:, 2:])
        return self[within.all(dim=2).any(dim=1)]

    def moved(self, extra: int) -> Boxes:
        """Corners moved by the regression, in units of the side plus ``extra``."""
        sides = (self.corners[:, 2:4] - self.corners[:, 0:2] + extra).repeat(1, 2)
        corners = self.corners + self.regression * sides
        return Boxes(corners, self.scores, self.regression, self.owners)

    def squared(self) -> Boxes:
        """Each grown to a square of its longer side around its centre."""
        sides = self.corners[:, 2:4] - self.corners[:, 0:2]
        longer = sides.amax(dim=1, keepdim=True)
        top_left = self.corners[:, 0:2] + sides * 0.5 - longer * 0.5
        corners = torch.cat([top_left, top_left + longer], dim=1)
        return Boxes(corners, self.scores, self.regression, self.owners)


def join_boxes(parts: Sequence[Boxes]) -> Boxes:
    """All boxes of some sets, in their order."""
    if len(parts) == 1:
        return parts[0]
    return Boxes(
        torch.cat([part.corners for part in parts]),
        torch.cat([part.scores for part in parts]),
        torch.cat([part.regression for part in parts]),
        torch.cat([part.owners for part in parts]),
    )


def suppress_contained(boxes: NDArray[np.float32], limit: float) -> list[int]:
    """Greedy suppression by intersection over the *smaller* box, pixels counted inclusively.

    Drops a face that sits inside a stronger one, which plain intersection over union would keep.

    Args:
        boxes: Corners and score, ``(N, 5)``.
        limit: Largest share of the smaller box that may overlap.

    Returns:
        Which are kept, the strongest first.
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
