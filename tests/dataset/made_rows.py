"""A crop, its input, and a row that has everything."""

from __future__ import annotations

from pathlib import Path

from deepfake.dataset.rows import CropRow
from deepfake.records import FaceCrop, Source
from tests.fakes import make_face

ROW = CropRow(
    crop="shards/00000/crops/0123456789abcdef_0_0.jpg",
    source="0123456789abcdef",
    frame=3,
    time_s=1.25,
    face=1,
    label=1,
    method="face swap",
    group="id1",
    split="train",
    box_xyxy=(1.5, -2.25, 30.0, 40.75),
    confidence=0.987654,
    landmarks=(1.0, 2.0, 3.5, 4.0, 5.0, 6.0, 7.25, 8.0, 9.0, 10.0),
    rotation=180,
    original="fedcba9876543210",
    window=(-3, 0, 40, 43),
)
SOURCE = Source(id="0123456789abcdef", path=Path("/x/a.jpg"), name="a.jpg", label=0)
CROP = FaceCrop(2, 0.5, 1, make_face((10, 20, 50, 80), 0.75), 180, b"jpeg", (0, 1, 64, 65))
