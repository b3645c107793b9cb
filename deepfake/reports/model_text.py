"""What a model was trained on and what was measured, in two sentences for people.

Knows no page.
"""

from __future__ import annotations

from deepfake.error_rates import show_rate
from deepfake.learning.checkpoint import Checkpoint


def describe_model(checkpoint: Checkpoint) -> str:
    """What stands beside a verdict: what the model learnt from, and how often it errs."""
    trained, rates = checkpoint.info["counts"]["train"], checkpoint.error_rates
    text = f"Trained on {trained['real']:,} real and {trained['fake']:,} fake faces."
    if rates is None:
        return f"{text} Nothing was measured."
    return (
        f"{text} Measured on {rates.n_real:,} real and {rates.n_fake:,} fake files "
        f"({rates.origin}): {show_rate(rates.fpr)} of the real ones are called fake, "
        f"{show_rate(rates.tpr)} of the fakes are found, {show_rate(rates.unclear)} of all stay "
        "unclear (in brackets: 95 % intervals)."
    )
