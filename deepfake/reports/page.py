"""Values in, one self-contained HTML page out: the frame that all pages share.

The page asks nothing of any network, follows light and dark, and can be printed. Whatever comes
from files (names, reasons, groups) is hostile and escaped. Computes no metric and no score.
"""

from __future__ import annotations

import base64
import math
from typing import Any

import cv2
import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from deepfake import __version__
from deepfake.errors import MediaError
from deepfake.faces.extraction import decode_crop, encode_crop
from deepfake.media.discovery import display_name
from deepfake.metrics import Estimate, format_metric

_THUMBNAIL_PX, _THUMBNAIL_QUALITY = 128, 80


def render(template: str, room: str = "deepfake.reports", **values: Any) -> str:
    """Fill in a template; whatever is not marked as safe is escaped.

    Args:
        template: Name of its file.
        room: Package that it belongs to; it may include and extend those of the reports.
        **values: What it shows.

    Its filters are what shows values here, and ``count`` (thousands are separated), ``name``
    (as ``display_name``), ``plural``, ``rounded`` and ``signed``.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(room), PackageLoader("deepfake.reports")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": "{:,}".format,
        "interval": show_interval,
        "metric": show,
        "name": display_name,
        "percent": show_percent,
        "plural": lambda number, word: f"{number:,} {word}{'' if number == 1 else 's'}",
        "rounded": lambda value: f"{value:,.0f}" if value >= 10 else f"{value:.2g}",
        "signed": lambda value: f"{value:+.2f}".replace("-", "\N{MINUS SIGN}"),
    }
    return environment.get_template(template).render(version=__version__, **values)


def embed_thumbnail(encoded: bytes) -> str | None:
    """A stored crop as a small image inside the page, or ``None`` if it cannot be decoded."""
    try:
        crop = decode_crop(encoded)
    except MediaError:
        return None
    return embed_image(crop, _THUMBNAIL_PX)


def embed_image(image: NDArray[np.uint8], longest_px: int) -> str:
    """An image inside the page, no larger than this."""
    factor = longest_px / max(image.shape[:2])
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    sized = np.asarray(cv2.resize(image, (width, height), interpolation=way), dtype=np.uint8)
    data = base64.b64encode(encode_crop(sized, _THUMBNAIL_QUALITY)).decode("ascii")
    return f"data:image/jpeg;base64,{data}"


def show(value: float) -> str:
    """Three decimals, or that there is no value."""
    return format_metric(value, digits=3)


def show_percent(value: float) -> str:
    """A share in percent, or that there is none."""
    return f"{value:.1%}" if math.isfinite(value) else "n/a"


def show_interval(estimate: Estimate) -> str:
    """Both ends, or nothing without an interval."""
    ends = f"{show(estimate.low)}\N{EN DASH}{show(estimate.high)}"
    return ends if math.isfinite(estimate.low) else ""


def show_with_interval(estimate: Estimate) -> str:
    """A metric within a sentence."""
    interval = show_interval(estimate)
    return f"{show(estimate.value)} (95 %: {interval})" if interval else show(estimate.value)
