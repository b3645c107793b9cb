"""The picture of a training."""

from __future__ import annotations

import cv2
import numpy as np

from deepfake.reports.curves import draw_curves


def test_draws_what_is_there() -> None:
    history = [
        {"epoch": e, "lr": 0.1 / (e + 1), "train_loss": 1 - e / 10, "val_loss": 1.0}
        for e in range(4)
    ]
    png = draw_curves(history)
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    height, width = picture.shape[:2]
    upper, lower = picture[: height // 2], picture[height // 2 :]

    def colours(part: np.ndarray) -> int:
        saturated = part.max(axis=2).astype(int) - part.min(axis=2) > 60
        return int(saturated.sum())

    # Loss and learning rate have lines, the panels without figures have none.
    assert colours(upper[:, : width // 3]) > 100
    assert colours(lower[:, 2 * width // 3 :]) > 100
    assert colours(upper[:, width // 3 :]) == 0
    assert colours(lower[:, : 2 * width // 3]) == 0


def test_is_the_same_twice_and_needs_no_epoch() -> None:
    row = {"epoch": 0, "lr": 0.1, "val_auc": 0.7}
    assert draw_curves([row]) == draw_curves([row])
    assert draw_curves([])[:4] == b"\x89PNG"
