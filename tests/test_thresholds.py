"""Limits and thresholds against their definitions."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfake.error_rates import MAX_PEOPLE, ErrorRates, count_needed, describe_chance, is_chance
from deepfake.errors import UsageError
from deepfake.metrics import Estimate
from deepfake.records import Limits, Verdict
from deepfake.thresholds import choose_limits, choose_threshold, rate_of_one
from tests import oracles
from tests.made_limits import make_error_rates

_SCORES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1))
_ROWS = st.lists(st.tuples(st.integers(0, 1), _SCORES), min_size=2, max_size=30).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)


@settings(max_examples=150, deadline=None)
@given(_ROWS)
def test_no_threshold_has_a_better_balanced_accuracy(rows: list[tuple[int, float]]) -> None:
    y_true, y_score = [y for y, _ in rows], [s for _, s in rows]
    threshold = choose_threshold(np.array(y_true), np.array(y_score, dtype=np.float64))
    assert oracles.balanced_accuracy(y_true, y_score, threshold) == pytest.approx(
        oracles.best_balanced_accuracy(y_true, y_score)
    )


@pytest.mark.parametrize("label", [0, 1], ids=["real", "fake"])
def test_one_class_has_no_threshold(label: int) -> None:
    with pytest.raises(ValueError, match="one class only"):
        choose_threshold(np.full(3, label), np.array([0.1, 0.5, 0.9]))


def test_threshold_lies_in_the_middle_of_the_gap() -> None:
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.9])
    assert choose_threshold(labels, scores) == pytest.approx(0.4)


def test_the_threshold_between_two_scores() -> None:
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.9])
    assert choose_threshold(labels, scores, low=0.5) == pytest.approx(0.5)
    assert choose_threshold(labels, scores, high=0.3) == pytest.approx(0.3)
    assert 0.7 <= choose_threshold(labels, scores, 0.7, 0.75) <= 0.75


def sigmoid(log_odds: Any) -> Any:
    return 1 / (1 + np.exp(-log_odds))


def draw(n_real: int, n_fake: int, gap: float, seed: int = 0) -> tuple[Any, Any]:
    """Labels, and scores whose log-odds are normal, ``gap`` apart."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [n_real, n_fake])
    return labels, sigmoid(rng.normal(size=n_real + n_fake) + gap * labels)


def test_limits_are_split_conformal() -> None:
    # Of 99 reals and a rate of 5 %, a further one is in the top 5 of 100 with 5 %: 4 may be there.
    reals, fakes = np.arange(99) / 100, 0.2 + np.arange(59) / 100
    labels, scores = np.repeat([0, 1], [99, 59]), np.concatenate([reals, fakes])
    chosen = choose_limits(reals, labels, scores, 0.05, 0.1)
    # Of 59 fakes and 10 %, 5: the sixth, at 0.25, must stay above the limit.
    assert (reals >= chosen.limits.of_fake()).sum() == 4
    assert 0.94 < chosen.limits.of_fake() < 0.95
    assert (fakes <= chosen.limits.real).sum() == 5
    assert 0.24 < chosen.limits.real < 0.25
    assert (chosen.n_supported, chosen.fnr_supported) == (5, True)
    # Of two people each may reach its limit with 2.53 %: 1 of 100 scores above the other 98.
    assert (reals >= chosen.limits.of_fake(2)).sum() == 1
    assert rate_of_one(0.05, 2) == pytest.approx(1 - 0.95**0.5)


@pytest.mark.parametrize("n_real", [12, 19, 120], ids="{}-reals".format)
def test_new_files_meet_the_rate_whatever_their_number_of_people(n_real: int) -> None:
    """Measured on new draws, over many validation sets; 12 reals take extrapolation."""
    rng = np.random.default_rng(1)
    rates = []
    for seed in range(200):
        labels, scores = draw(n_real, 40, 1.0, seed)
        limits = choose_limits(scores[labels == 0], labels, scores).limits
        new = np.sort(sigmoid(rng.normal(size=2000)))
        passed = [np.searchsorted(new, limits.of_fake(n)) / 2000 for n in (1, 2, 6)]
        rates.append([1 - p**n for p, n in zip(passed, (1, 2, 6), strict=True)])
    assert (np.mean(rates, axis=0) < 0.055).all()
    assert np.mean(rates, axis=0)[0] > 0.03  # and are not bought by calling nothing fake


@settings(max_examples=100, deadline=None)
@given(_ROWS, st.sampled_from([0.01, 0.05, 0.3]), st.sampled_from([0.01, 0.05, 0.3]))
def test_limits_of_any_scores(
    rows: list[tuple[int, float]], max_fpr: float, max_fnr: float
) -> None:
    labels = np.array([label for label, _ in rows])
    scores = np.array([score for _, score in rows], dtype=np.float64)
    limits = choose_limits(scores[labels == 0], labels, scores, max_fpr, max_fnr).limits
    assert limits.real <= limits.fake[0]
    assert list(limits.fake) == sorted(limits.fake)
    assert len(limits.fake) == MAX_PEOPLE
    verdicts = np.array([limits.judge(score) for score in scores])
    assert (verdicts[labels == 0] == Verdict.FAKE).mean() <= max_fpr
    assert (verdicts[labels == 1] == Verdict.REAL).mean() <= max_fnr


def test_a_detector_that_is_good_enough_leaves_nothing_unclear() -> None:
    labels, scores = draw(500, 500, 6.0)
    limits = choose_limits(scores[labels == 0], labels, scores).limits
    assert limits.real == limits.of_fake() == limits.of_fake(2)
    verdicts = [limits.judge(score) for score in scores]
    assert Verdict.UNCLEAR not in verdicts
    predicted = np.array([verdict is Verdict.FAKE for verdict in verdicts])
    assert np.mean(predicted == labels) > 0.99


def test_a_detector_at_chance_leaves_nearly_all_unclear() -> None:
    labels, scores = draw(500, 500, 0.0)
    limits = choose_limits(scores[labels == 0], labels, scores).limits
    assert np.mean([limits.judge(score) is Verdict.UNCLEAR for score in scores]) > 0.85
    # The same where it says the same of all.
    limits = choose_limits(np.full(50, 0.5), labels, np.full(1000, 0.5)).limits
    assert limits.judge(0.5) is Verdict.UNCLEAR


def test_too_few_files_are_said() -> None:
    labels, scores = draw(18, 12, 2.0)
    chosen = choose_limits(scores[labels == 0], labels, scores)
    assert (chosen.n_supported, chosen.fnr_supported) == (0, False)
    # People of one file are no files.
    crowd = choose_limits(np.linspace(0, 0.5, 25), np.r_[0, labels[18:]], np.r_[0.5, scores[18:]])
    assert crowd.n_supported == 0
    assert count_needed(0.05) == 19
    assert choose_limits(scores[labels == 0], labels, scores, max_fpr=0.1).n_supported == 1
    for rate in (0.0, 0.6, float("nan")):
        with pytest.raises(ValueError, match=r"max_fnr=.*; expected a rate above 0 and up to 0.5"):
            choose_limits(scores, labels, scores, max_fnr=rate)
    with pytest.raises(ValueError, match="from one class only"):
        choose_limits(scores, np.zeros(30, dtype=int), scores)
    with pytest.raises(ValueError, match="1 of 30 scores are not finite"):
        choose_limits(scores, labels, np.where(np.arange(30) == 3, np.nan, scores))


def test_error_rates_survive_a_file() -> None:
    rates = make_error_rates()
    values = json.loads(json.dumps(rates.to_dict(), allow_nan=False))
    assert ErrorRates.from_dict(values).to_dict() == rates.to_dict()


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        pytest.param({"n_real": -1}, "number of files below 0", id="negative"),
        pytest.param({"n_real": 1.5}, "n_real=1.5; expected int", id="no-count"),
        pytest.param({"max_fpr": 0.0}, "max_fpr=0; expected a rate", id="rate"),
        pytest.param({"max_fnr": float("nan")}, "max_fnr=nan; expected a rate", id="nan"),
        pytest.param({"fpr": 3}, "fpr=3; expected an estimate", id="estimate"),
        pytest.param({"fpr": {"value": 1.0}}, "expected an estimate", id="half"),
        pytest.param({"origin": None}, "origin=None; expected str", id="text"),
        pytest.param({"more": 1}, "do not fit this version", id="unknown"),
    ],
)
def test_error_rates_of_a_stranger(change: dict[str, Any], seen: str) -> None:
    with pytest.raises(UsageError, match=seen):
        ErrorRates.from_dict(make_error_rates().to_dict() | change)
    with pytest.raises(UsageError, match="low='x'"):
        ErrorRates.from_dict(
            make_error_rates().to_dict() | {"fpr": asdict(Estimate(0.1)) | {"low": "x"}}
        )
    with pytest.raises(UsageError, match="do not fit"):
        ErrorRates.from_dict(None)


def test_what_people_read_of_limits() -> None:
    limits = Limits(0.2, (0.8, 0.85, 0.9))
    text = "\n".join(make_error_rates().describe(limits))
    assert "real up to 0.2000, fake from 0.8000 (from 0.8500 for two people" in text
    assert "4.0% (2.0 to 7.0) of 300 real files" in text
    assert "for more than 15 people in a file the limit for fakes is extrapolated" in text
    assert "NOT measured" not in text
    text = "\n".join(
        make_error_rates(n_real=12, n_supported=0, fnr_supported=False).describe(limits)
    )
    assert "a false positive rate of 5.0% takes 19 real files with a face" in text
    assert "of 12 there are fewer" in text
    assert "a false negative rate of 5.0% takes 19 fake files with a face" in text
    assert "better than chance" not in text
    chance = Estimate(0.55, low=0.47, high=0.63)
    text = "\n".join(make_error_rates(auc=chance).describe(limits))
    assert "not better than chance: AUC 0.550, whose 95 % interval, 0.470 to 0.630, holds" in text


def test_chance() -> None:
    assert is_chance(Estimate(0.55, low=0.45, high=0.65))
    assert is_chance(Estimate(0.3, low=0.2, high=0.4))
    assert "lies below 0.5" in describe_chance(Estimate(0.3, low=0.2, high=0.4))
    assert not is_chance(Estimate(0.55, low=0.51, high=0.6))
    assert is_chance(Estimate(0.5))
    assert not is_chance(Estimate(0.51))
    assert not is_chance(Estimate(float("nan"), "one class only"))
