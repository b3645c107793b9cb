"""Learning curves as a picture: the only file of the training that knows matplotlib.

Knows no network, no Trainer and no screen.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

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


def draw_curves(history: Sequence[Mapping[str, float]]) -> bytes:
    """Draw what a training logged.

    Args:
        history: Figures of each epoch by name, with ``epoch``; names that are absent are left out.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(12, 6.5))
    # Places by hand: a layout that measures its labels draws everything twice.
    places = {"left": 0.05, "right": 0.98, "bottom": 0.08, "top": 0.94, "hspace": 0.4}
    panels = figure.subplots(2, 3, gridspec_kw=places).flat
    for axes, (title, lines) in zip(panels, _PANELS.items(), strict=True):
        for name, label in lines.items():
            points = [(row["epoch"] + 1, row[name]) for row in history if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=label)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(lines) > 1 and axes.lines:
            axes.legend()
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return stream.getvalue()
