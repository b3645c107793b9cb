"""What a model was trained on and what was measured, in one sentence for people.

Knows no page.
"""

from __future__ import annotations

import math
from typing import Any


def describe_model(info: dict[str, Any]) -> str:
    """One sentence on a checkpoint.

    Args:
        info: As ``read_info`` gave it.
    """
    trained = info["counts"]["train"]
    text = f"Trained on {trained['real']:,} real and {trained['fake']:,} fake faces"
    measured = [
        f"AUC {metrics['auc']:.2f} on {split}"
        for split, metrics in info["metrics"].items()
        if math.isfinite(metrics["auc"])
    ]
    return f"{text}; {'measured: ' + ', '.join(measured) if measured else 'nothing was measured'}."
