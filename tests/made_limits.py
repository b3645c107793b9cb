"""What a checkpoint remembers of its limits, made up."""

from __future__ import annotations

from typing import Any

from deepfake.error_rates import ErrorRates
from deepfake.evaluation.calibration import Calibration
from deepfake.metrics import Estimate
from deepfake.records import Limits, Recipe

ONE_CUT = Limits(0.5, (0.5,))
"""Nothing is unclear."""


def make_error_rates(**changes: Any) -> ErrorRates:
    """Rates with intervals, as if measured on 300 reals and 200 fakes."""
    one = Estimate(0.04, low=0.02, high=0.07)
    known: dict[str, Any] = dict.fromkeys(("fpr", "tpr", "fnr"), one)
    known |= {"max_fpr": 0.05, "max_fnr": 0.05, "n_real": 300, "n_fake": 200, "n_groups": 9}
    known |= {"n_supported": 15, "fnr_supported": True, "auc": Estimate(0.8)}
    known |= {"unclear": Estimate(0.3, note="alike"), "origin": "made up"}
    return ErrorRates(**known | changes)


def make_verdict_info(limits: Limits = ONE_CUT, recipe: Recipe | None = None) -> dict[str, Any]:
    """The part of a checkpoint that verdicts come from."""
    return Calibration(limits, make_error_rates(), recipe or Recipe()).to_info()
