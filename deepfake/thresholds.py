"""Scores of labelled rows in, the threshold that suits them out.

Labels are 1 = fake and 0 = real; a score at the threshold or above it is a fake. Knows no head.
"""

from __future__ import annotations

import numpy as np

from deepfake.metrics import Labels, Scores, check_scores, has_both_classes


def choose_threshold(y_true: Labels, y_score: Scores) -> float:
    """Threshold with the best balanced accuracy, in the middle of its plateau.

    Raises:
        ValueError: If a class is missing, a score is not finite or the lengths differ.
    """
    check_scores(y_true, y_score)
    if not has_both_classes(y_true):
        raise ValueError("a threshold cannot be chosen from one class only")
    values = np.unique(y_score)
    # The middle of two neighbouring floats rounds to one of them; it must stay above the lower.
    middles = np.maximum((values[1:] + values[:-1]) / 2, np.nextafter(values[:-1], np.inf))
    candidates = np.concatenate([[values[0]], middles, [np.nextafter(values[-1], np.inf)]])
    fakes, reals = np.sort(y_score[y_true == 1]), np.sort(y_score[y_true == 0])
    true_positive_rate = 1 - np.searchsorted(fakes, candidates, side="left") / len(fakes)
    true_negative_rate = np.searchsorted(reals, candidates, side="left") / len(reals)
    balanced = true_positive_rate + true_negative_rate
    best = np.flatnonzero(balanced >= balanced.max() - 1e-12)
    return float(candidates[best[len(best) // 2]])


def choose_threshold_for_rate(y_true: Labels, y_score: Scores, max_fpr: float) -> float:
    """Lowest threshold at which at most this share of the reals is called fake.

    It lies in the middle between the highest real that must stay below and the next score above.

    Raises:
        ValueError: If the rate is out of range, there are too few reals to measure it, a score is
            not finite or the lengths differ.
    """
    check_scores(y_true, y_score)
    if not 0 < max_fpr < 1:
        raise ValueError(f"a false positive rate of {max_fpr:g}; expected one between 0 and 1")
    reals = np.sort(y_score[y_true == 0])[::-1]
    allowed = int(max_fpr * len(reals) + 1e-9)
    if not allowed:
        raise ValueError(
            f"a false positive rate of {max_fpr:g} cannot be measured on {len(reals)} reals; "
            f"it takes {int(np.ceil(1 / max_fpr - 1e-9))}"
        )
    below = reals[allowed]
    above = y_score[y_score > below]
    lowest = np.nextafter(below, np.inf)
    return float(max((below + above.min()) / 2, lowest) if len(above) else lowest)
