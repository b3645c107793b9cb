"""The classifier: this package beside scikit-learn, from two thousand embeddings to a million.

The baseline up to 6,000 rows is ``SVC(kernel="linear", probability=True)``, whose time grows faster
than the square of the rows; AUC on fresh rows must agree within 0.002 at 6,000. Up to 20,000 rows
``CalibratedClassifierCV(LinearSVC)`` runs too, converged and on the same folds; its probabilities
must equal ours, or the run fails. Rows are unit vectors of 512 numbers, in groups of ten, of two
classes that overlap or that a plane can part. All ways run in one process on one thread, in turn.

    python benchmarks/svm.py [--rounds 3] [--large]
"""

from __future__ import annotations

import argparse
import gc
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC, LinearSVC
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from deepfake.heads import LinearSVM
from deepfake.heads.calibration import deal_folds

EMBEDDING_DIM = 512
C = 2.0
SIZES = (2_000, 6_000, 20_000, 100_000)
SLOWEST_SVC, SLOWEST_LINEAR = 6_000, 20_000
GOAL_SIZE, GOAL = 6_000, 60.0
GROUP_SIZE = 10

Rows = NDArray[np.float32]
Truth = NDArray[np.int64]


def draw(n_rows: int, separable: bool, seed: int) -> tuple[Rows, Truth]:
    """Two clouds on the sphere; drawn in parts, so that a million rows are held once."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n_rows) // GROUP_SIZE % 2
    rows = np.empty((n_rows, EMBEDDING_DIM), dtype=np.float32)
    shift = 8.0 if separable else 1.2  # overlapping: AUC about 0.94
    for start in range(0, n_rows, 10_000):
        part = slice(start, min(start + 10_000, n_rows))
        rows[part] = rng.standard_normal((part.stop - start, EMBEDDING_DIM), dtype=np.float32)
        rows[part, 0] += shift * (2 * truth[part] - 1)
        rows[part] /= np.linalg.norm(rows[part], axis=1, keepdims=True)
    return rows, truth


def name_groups(n_rows: int) -> list[str]:
    """Ten frames of each person."""
    return [f"person{i // GROUP_SIZE}" for i in range(n_rows)]


def fit_ours(rows: Rows, truth: Truth) -> Callable[[Rows], NDArray[np.float64]]:
    """This package: folds by group, one machine, sigmoid."""
    machine = LinearSVM(EMBEDDING_DIM, C).fit(rows, truth, name_groups(len(rows)))
    return lambda queries: machine(torch.from_numpy(queries)).numpy()


def fit_svc(rows: Rows, truth: Truth) -> Callable[[Rows], NDArray[np.float64]]:
    """What most people write; folds by row, because it offers no other."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*`probability` parameter.*")
        machine = SVC(kernel="linear", C=C, probability=True, random_state=0).fit(rows, truth)
    return lambda queries: machine.predict_proba(queries)[:, 1]


def fit_linear(
    rows: Rows, truth: Truth, tol: float = 1e-4
) -> Callable[[Rows], NDArray[np.float64]]:
    """scikit-learn's linear machine on the same folds as ours."""
    # Our folds: their cost is counted on both sides, their choice would show in the figures.
    folds = deal_folds(truth, name_groups(len(rows)))
    machine = CalibratedClassifierCV(
        LinearSVC(C=C, dual=False, tol=tol, max_iter=10_000), ensemble=False, cv=list(folds)
    ).fit(rows.astype(np.float64), truth)
    return lambda queries: machine.predict_proba(queries.astype(np.float64))[:, 1]


WAYS = {"ours": fit_ours, "SVC(probability=True)": fit_svc, "LinearSVC + calibration": fit_linear}
Scores = dict[str, NDArray[np.float64]]


def compare(n_rows: int, separable: bool, rounds: int) -> tuple[float, bool]:
    """Print one line per way; returns our time, and whether all gates hold."""
    rows, truth = draw(n_rows, separable, seed=n_rows)
    queries, answers = draw(5_000, separable, seed=1)
    names = ["ours"]
    names += ["SVC(probability=True)"] if n_rows <= SLOWEST_SVC else []
    names += ["LinearSVC + calibration"] if n_rows <= SLOWEST_LINEAR else []
    times: dict[str, list[float]] = {name: [] for name in names}
    scores: Scores = {}
    for _ in range(rounds):
        for name in names:
            begin = time.perf_counter()
            predict = WAYS[name](rows, truth)
            times[name].append(time.perf_counter() - begin)
            scores[name] = predict(queries)
    auc = {name: float(roc_auc_score(answers, found)) for name, found in scores.items()}
    ours = statistics.median(times["ours"])
    kind = "separable" if separable else "overlapping"
    for name in names:
        ratios = [spent / own for spent, own in zip(times[name], times["ours"], strict=True)]
        goal = "  goal x60" if name.startswith("SVC") and n_rows == GOAL_SIZE else ""
        print(
            f"{n_rows:>8} {kind:<12}{name:<24}{statistics.median(times[name]):9.2f} s  "
            f"x{statistics.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f})  "
            f"AUC {auc[name]:.4f}{goal}"
        )
    # SVC minimises another loss (hinge, not its square): on few rows the two may lie further apart.
    right = all(
        abs(value - auc["ours"]) <= 0.002
        for name, value in auc.items()
        if n_rows >= GOAL_SIZE or not name.startswith("SVC")
    )
    if n_rows <= SLOWEST_SVC:
        exact = fit_linear(rows, truth, tol=1e-9)(queries)
        apart = float(np.abs(exact - scores["ours"]).max())
        print(f"{n_rows:>8} {kind:<12}off the converged LinearSVC + calibration by {apart:.0e}")
        right &= apart <= 1e-6
    return ours, right


def main() -> int:
    """Compare at each size and print the growth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", action="store_true", help="a million rows too; needs 5 GB")
    options = parser.parse_args()
    torch.set_num_threads(1)
    right, before = True, 0.0
    with threadpool_limits(1):
        for separable in (False, True):
            for n_rows in (*SIZES, *([1_000_000] if options.large else [])):
                # The baselines of the goal take half a minute, the largest sizes are ours alone.
                rounds = 1 if n_rows > SLOWEST_LINEAR else options.rounds
                ours, holds = compare(n_rows, separable, rounds)
                right &= holds
                if n_rows > SIZES[0]:
                    print(
                        f"{n_rows:>8} ours: {ours / n_rows * 1e6:.1f} us a row, {before:.1f} before"
                    )
                before = ours / n_rows * 1e6
                gc.collect()
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
                data = n_rows * EMBEDDING_DIM * 4 / 2**30
                print(f"{n_rows:>8} peak memory {peak:.2f} GiB, of which the rows {data:.2f}")
    if not right:
        print("FAILED: another answer than scikit-learn's")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
