"""A painted person: light in range, a head where its geometry says, hair or no hair by lot."""

from __future__ import annotations

import numpy as np

from deepfake.demo.painting import paint_person, soft_step
from deepfake.demo.people import make_head, make_rng, make_shot, portrait_geometry


def test_a_mask_steps_from_one_to_zero() -> None:
    steps = soft_step(np.array([-1.0, -0.1, 0.0, 0.1, 1.0]), 0.4)
    assert steps.tolist() == sorted(steps.tolist(), reverse=True)
    assert (steps[0], steps[2], steps[4]) == (1.0, 0.5, 0.0)


def test_skin_is_where_the_geometry_says() -> None:
    head, shot = make_head(2, 0), make_shot(2, 1, 0)
    canvas = paint_person(head, shot, 128, make_rng(0, 0))
    assert canvas.shape == (128, 128, 3)
    assert np.isfinite(canvas).all()
    assert canvas.min() > -0.05
    assert canvas.max() < 2
    x, y = portrait_geometry(2, 1, size=128).points[2].round().astype(int)
    nose, corner = canvas[y, x], canvas[0, 0]
    tone = head.skin / head.skin.sum()
    assert np.abs(nose / nose.sum() - tone).sum() < np.abs(corner / corner.sum() - tone).sum()
