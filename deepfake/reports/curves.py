"""What a training logged in, its learning curves as one SVG figure out.

The figure stands alone, follows light and dark, and is the same for the same numbers. Knows no
network and no Trainer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from types import MappingProxyType

from deepfake.reports.charts import HEIGHT, WIDTH, Series, draw_lines, fit_axes

_PANELS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "loss": {"train_loss": "training", "val_loss": "validation"},
        "validation": {"val_auc": "AUC", "val_eer": "equal error rate", "val_accuracy": "accuracy"},
        "squared distance": {
            "train_ap_distance": "anchor to positive",
            "train_an_distance": "anchor to negative",
        },
        "share of active triplets": {"train_active_share": "training"},
        "norm of the projection": {"projection_norm": "projection"},
        "learning rate": {"lr": "in the last step of the epoch"},
    }
)
_COLUMNS, _HEAD_PX = 3, 40  # of the panels; of the title and the legend above a panel


def draw_curves(history: Sequence[Mapping[str, float]]) -> str:
    """Draw what a training logged.

    Args:
        history: Values of each epoch by name, with ``epoch``; names that are absent are left out.

    Returns:
        An SVG document.
    """
    rows = math.ceil(len(_PANELS) / _COLUMNS)
    width, height = _COLUMNS * WIDTH, rows * (HEIGHT + _HEAD_PX)
    style = files("deepfake.reports").joinpath("templates/style.css").read_text(encoding="utf-8")
    panels = [
        f'<g transform="translate({place % _COLUMNS * WIDTH} '
        f'{place // _COLUMNS * (HEIGHT + _HEAD_PX)})">{_draw_panel(title, lines, history)}</g>'
        for place, (title, lines) in enumerate(_PANELS.items())
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'style="background:var(--card);font-family:system-ui,sans-serif">'
        f"<style>{escape(style, quote=False)}</style>" + "".join(panels) + "</svg>\n"
    )


def _draw_panel(
    title: str, lines: Mapping[str, str], history: Sequence[Mapping[str, float]]
) -> str:
    series = []
    for name, label in lines.items():
        points = [(row["epoch"] + 1, row[name]) for row in history if name in row]
        points = [(epoch, value) for epoch, value in points if math.isfinite(value)]
        series.append(Series(label, [x for x, _ in points], [y for _, y in points]))
    axes = fit_axes("epoch", "", series)
    last = [f"{line.name} {line.y[-1]:.4g}" for line in series if len(line.y)]
    chart = draw_lines(axes, series, title, f"Last: {', '.join(last) or 'nothing'}.", dots=True)
    parts = [f'<text class="tag" x="50" y="16">{title}</text>']
    for number, line in enumerate(series if len(series) > 1 else ()):
        x = 50 + 310 // len(series) * number
        parts.append(f'<path class="line s{number}" d="M{x} 30h20"/>')
        parts.append(f'<text class="tick" x="{x + 24}" y="34">{line.name}</text>')
    place = f'y="{_HEAD_PX}" width="{WIDTH}" height="{HEIGHT}"'
    return "".join(parts) + chart.svg.replace("<svg ", f"<svg {place} ", 1)
