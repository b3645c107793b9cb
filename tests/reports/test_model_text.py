"""The sentences beside a verdict."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from deepfake.error_rates import ErrorRates
from deepfake.metrics import Estimate
from deepfake.reports.model_text import describe_model
from tests.made_limits import make_error_rates

LEARNT = "Trained on 1,234 real and 56 fake faces."
RATES = make_error_rates(fpr=Estimate(float("nan")))
MEASURED = (
    "Measured on 300 real and 200 fake files (made up): n/a of the real ones are called fake, "
    "4.0% (2.0 to 7.0) of the fakes are found, 30.0% of all stay unclear (in brackets: 95 % "
    "intervals)."
)


@pytest.mark.parametrize(("rates", "rest"), [(RATES, MEASURED), (None, "Nothing was measured.")])
def test_it_says_what_was_learnt_and_how_often_it_errs(rates: ErrorRates | None, rest: str) -> None:
    info = {"counts": {"train": {"real": 1234, "fake": 56}}}
    checkpoint: Any = SimpleNamespace(info=info, error_rates=rates)
    assert describe_model(checkpoint) == f"{LEARNT} {rest}"
