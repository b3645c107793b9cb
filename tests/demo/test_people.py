"""Where the face of a drawn portrait lies."""

from __future__ import annotations

import numpy as np

from deepfake.demo.people import portrait_geometry


def test_geometry_grows_with_the_portrait_and_lies_inside() -> None:
    small, large = portrait_geometry(4, 2, size=128), portrait_geometry(4, 2, size=256)
    np.testing.assert_allclose(large.points, 2 * small.points)
    np.testing.assert_allclose(large.box, 2 * np.array(small.box))
    x0, y0, x1, y1 = large.box
    assert 0 < x0 < x1 < 256
    assert 0 < y0 < y1 < 256
    assert ((large.points > (x0, y0)) & (large.points < (x1, y1))).all()
