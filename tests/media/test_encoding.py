"""A picture as H.264 leaves it."""

from __future__ import annotations

import av
import numpy as np
import pytest

from deepfake.errors import JobError
from deepfake.media import encoding
from deepfake.media.encoding import recompress_h264
from tests.made_crops import draw_crop

CROP = draw_crop(np.random.default_rng(0), 97, fake=True)


def test_a_higher_rate_factor_costs_more() -> None:
    costs: list[float] = []
    for crf in (0, 23, 40, 51):
        after = recompress_h264(CROP, crf)
        assert after.shape == CROP.shape  # an odd side is kept
        assert np.array_equal(after, recompress_h264(CROP, crf))
        costs.append(float(np.abs(after.astype(float) - CROP).mean()))
    assert 0 < costs[0] < costs[1] < costs[2] < costs[3]
    flat = np.full((32, 48, 3), (200, 60, 90), np.uint8)
    assert np.abs(recompress_h264(flat, 10).astype(int) - flat).max() <= 4


def test_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="crf=52; expected 0 to 51"):
        recompress_h264(CROP, 52)

    class Missing:
        @staticmethod
        def create(*_: object) -> None:
            raise av.codec.codec.UnknownCodecError("libx264")

    monkeypatch.setattr(encoding, "VideoCodecContext", Missing)
    with pytest.raises(JobError, match=r"cannot encode H\.264: libx264"):
        recompress_h264(CROP, 23)
