"""The heads: processor seconds to fit and calibrate, and to score, by number of rows.

Rows are unit vectors of 512 numbers, in groups of ten, of two classes that overlap or that a plane
can part. Up to 6,000 rows ``SVC(kernel="linear")``, the contest entry's estimator, is fitted beside
our SVMs on the same folds; AUC on fresh rows must agree within 0.002 at 6,000, or the run fails.
One process, one thread; its own time is taken, so that a busy machine moves the figures little.

    python benchmarks/svm.py [--sizes 2000 6000 20000]
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from deepfake.heads import HeadName, make_head
from deepfake.heads.calibration import make_folds

EMBEDDING_DIM, C = 512, 2.0
GROUP_SIZE = 10
GATE_SIZE = 6_000
HEADS: tuple[HeadName, ...] = ("svm", "svm-hinge", "logistic")

Rows = NDArray[np.float32]
Labels = NDArray[np.int64]


def draw(n_rows: int, separable: bool, seed: int) -> tuple[Rows, Labels]:
    """Two clouds on the sphere."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n_rows) // GROUP_SIZE % 2
    rows = rng.standard_normal((n_rows, EMBEDDING_DIM), dtype=np.float32)
    shift = 8.0 if separable else 1.2  # overlapping: AUC about 0.94
    rows[:, 0] += shift * (2 * labels - 1)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows, labels


def run(n_rows: int, separable: bool) -> bool:
    """Print one line per head; returns whether the gate holds."""
    rows, labels = draw(n_rows, separable, seed=n_rows)
    queries, y_true = draw(5_000, separable, seed=1)
    groups = [f"person{i // GROUP_SIZE}" for i in range(n_rows)]
    auc: dict[str, float] = {}

    def report(name: str, begin: float, scores: NDArray[np.float64], end: float) -> None:
        scoring = (time.process_time() - end) / len(queries) * 1e6
        auc[name] = float(roc_auc_score(y_true, scores))
        kind = "separable" if separable else "overlapping"
        print(
            f"{n_rows:>8} {kind:<12}{name:<12}fit {end - begin:8.2f} s "
            f"({(end - begin) / n_rows * 1e6:.0f} us a row)  score {scoring:.1f} us a row  "
            f"AUC {auc[name]:.4f}",
            flush=True,
        )

    for name in HEADS:
        begin = time.process_time()
        head = make_head(name, EMBEDDING_DIM, C).fit(rows, labels, groups)
        end = time.process_time()
        report(name, begin, head(torch.from_numpy(queries)).numpy(), end)
    if n_rows > GATE_SIZE:
        return True
    begin = time.process_time()
    estimator = CalibratedClassifierCV(
        SVC(kernel="linear", C=C), ensemble=False, cv=make_folds(labels, groups)
    ).fit(rows, labels)
    end = time.process_time()
    report("SVC", begin, estimator.predict_proba(queries)[:, 1], end)
    apart = max(abs(auc[name] - auc["SVC"]) for name in ("svm", "svm-hinge"))
    return n_rows < GATE_SIZE or apart <= 0.002


def main() -> int:
    """Run each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2_000, 6_000, 20_000])
    options = parser.parse_args()
    torch.set_num_threads(1)
    right = True
    with threadpool_limits(1):
        for n_rows in options.sizes:
            for separable in (False, True):
                right &= run(n_rows, separable)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.2f} GiB")
    if not right:
        print("FAILED: another answer than SVC's")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
