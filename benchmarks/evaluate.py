"""The evaluation: its bootstrap beside a loop of scikit-learn, and where the time of a report goes.

Bootstrap: every metric of a thousand resamples of groups, on a hundred thousand rows, in groups of
ten. The baseline repeats the rows of each resample and asks scikit-learn; it does a few resamples,
and both sides are compared by the resample. Both get the same ones, and every metric of those
must agree to 1e-9, or the run fails.

Report (with ``--checkpoint`` and ``--data``): how much of the time of ``deepfake evaluate`` the
network takes, and what takes the rest. Each crop must pass the network once, and none a second
time when the same report is made again. All on one thread, in processor time.

    python benchmarks/evaluate.py [--rounds 3] [--checkpoint model.ckpt --data CROPS --split all]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    log_loss,
    roc_auc_score,
    roc_curve,
)
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from deepfake.evaluation import job
from deepfake.evaluation.bootstrap import N_RESAMPLES, resample_groups, resample_metrics
from deepfake.evaluation.embeddings import EmbedOptions
from deepfake.learning.checkpoint import load_checkpoint
from deepfake.reports import evaluation_charts, evaluation_page

THRESHOLD, BINS, GROUP_SIZE = 0.5, 15, 10
LOOP_RESAMPLES = 5
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def draw_rows(n_rows: int) -> tuple[Ints, Floats, Ints]:
    """Labels, overlapping scores (AUC about 0.86) and groups."""
    rng = np.random.default_rng(0)
    groups = np.arange(n_rows) // GROUP_SIZE
    labels = rng.integers(0, 2, groups[-1] + 1)[groups]
    scores = 1 / (1 + np.exp(-rng.normal(1.5 * (2 * labels - 1) / 2, 1)))
    return labels, scores, groups


def ask_scikit_learn(labels: Ints, scores: Floats) -> dict[str, float]:
    """Every metric of the report, as one would write it down."""
    predicted = (scores >= THRESHOLD).astype(np.int64)
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    gap = fpr - (1 - tpr)
    after = int(np.argmax(gap >= 0))
    step = -gap[after - 1] / (gap[after] - gap[after - 1])
    places = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    surplus = np.bincount(places, scores - labels, minlength=BINS)
    return {
        "auc": float(roc_auc_score(labels, scores)),
        "ap": float(average_precision_score(labels, scores)),
        "eer": float(fpr[after - 1] + step * (fpr[after] - fpr[after - 1])),
        "accuracy": float(accuracy_score(labels, predicted)),
        "balanced_accuracy": float(balanced_accuracy_score(labels, predicted)),
        "log_loss": float(log_loss(labels, scores)),
        "brier": float(brier_score_loss(labels, scores)),
        "ece": float(np.abs(surplus).sum() / len(labels)),
        "tpr_at_fpr_1": float(tpr[fpr <= 0.01 + 1e-12].max()),
        "tpr_at_fpr_5": float(tpr[fpr <= 0.05 + 1e-12].max()),
    }


def compare_bootstrap(n_rows: int, n_resamples: int, rounds: int) -> bool:
    """Print both times a resample and their ratio; returns whether all metrics agree."""
    labels, scores, groups = draw_rows(n_rows)
    own, loop, apart = list[float](), list[float](), 0.0
    for _ in range(rounds):
        begin = time.process_time()
        counts = resample_groups(int(groups[-1]) + 1, n_resamples)
        found = resample_metrics(labels, scores, groups, counts, THRESHOLD)
        own.append((time.process_time() - begin) / n_resamples)
        begin = time.process_time()
        slow = []
        for count in resample_groups(int(groups[-1]) + 1, LOOP_RESAMPLES):
            rows = np.repeat(np.arange(n_rows), count[groups])
            slow.append(ask_scikit_learn(labels[rows], scores[rows]))
        loop.append((time.process_time() - begin) / LOOP_RESAMPLES)
        for number, metrics in enumerate(slow):
            off = [abs(value - float(found[name][number])) for name, value in metrics.items()]
            apart = max(apart, *off)
    ratios = [theirs / ours for theirs, ours in zip(loop, own, strict=True)]
    whole = statistics.median(own) * n_resamples
    print(f"bootstrap: {n_resamples:,} resamples of {n_rows:,} rows, {len(found)} metrics")
    print(f"  ours                  {1e3 * statistics.median(own):8.2f} ms each, {whole:.1f} s all")
    print(
        f"  loop of scikit-learn  {1e3 * statistics.median(loop):8.2f} ms each (of "
        f"{LOOP_RESAMPLES} resamples), x{statistics.median(ratios):.1f} "
        f"({min(ratios):.1f}-{max(ratios):.1f})"
    )
    print(f"  largest difference of any metric {apart:.0e}")
    return apart <= 1e-9


class Clock:
    """Adds up the processor seconds of stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens inside."""
        begin = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - begin

    def watch(self, room: Any, name: str, stage: str) -> Callable[[], None]:
        """Count every call of a function of a room; returns what ends that."""
        plain = getattr(room, name)

        def counted(*args: Any, **options: Any) -> Any:
            with self.stage(stage):
                return plain(*args, **options)

        setattr(room, name, counted)
        return lambda: setattr(room, name, plain)


WATCHED = (
    (job, "read_evaluation_set", "tables read"),
    (job, "embed_once", "crops to embeddings"),
    (job, "evaluate", "metrics and intervals"),
    (evaluation_page, "format_report", "page"),
    (evaluation_charts, "place_by_tsne", "t-SNE"),
)


def share_time(checkpoint: Path, data: str, split: str | None) -> bool:
    """Print where the time of a report goes; returns whether each crop was embedded once."""
    with tempfile.TemporaryDirectory() as folder:
        passed = []
        for again in (False, True):
            clock, crops = Clock(), list[int]()
            begin = time.process_time()
            loaded = load_checkpoint(checkpoint)
            network = loaded.embedder
            plain = network.forward

            def forward(images: torch.Tensor) -> torch.Tensor:
                crops.append(len(images))  # noqa: B023
                with clock.stage("network"):  # noqa: B023
                    return plain(images)  # noqa: B023

            network.forward = forward  # type: ignore[method-assign]
            restore = [clock.watch(*words) for words in WATCHED]
            try:
                found = job.run_evaluation(
                    loaded,
                    [data],
                    Path(folder) / "report",
                    job.EvaluationOptions(split=split),
                    EmbedOptions(device="cpu"),
                    render=evaluation_page.format_report,
                )
            finally:
                for end in restore:
                    end()
            total = time.process_time() - begin
            faces = len(found.sets[0].dataset.faces)
            passed.append((sum(crops), faces))
            describe_stages(clock.seconds, total, faces, again)
    first, second = passed
    print(f"  crops through the network: {first[0]:,} of {first[1]:,}, then {second[0]:,}")
    return first[0] == first[1] and second[0] == 0


def describe_stages(seconds: dict[str, float], total: float, faces: int, again: bool) -> None:
    """Print the parts of a total; nested ones are taken out of what they lie in."""
    parts = dict(seconds)
    parts["loading and decoding"] = parts.pop("crops to embeddings") - parts.get("network", 0.0)
    parts["page"] -= parts.get("t-SNE", 0.0)
    parts["checkpoint, tables written"] = total - sum(parts.values())
    print(f"report of {faces:,} crops{', a second time' if again else ''}: {total:.1f} s")
    for name, spent in sorted(parts.items(), key=lambda item: -item[1]):
        print(f"  {name:<28}{spent:8.2f} s {100 * spent / total:5.1f} %")


def main() -> int:
    """Both parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--resamples", type=int, default=N_RESAMPLES)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--data", help="crop folder of the checkpoint's recipe")
    parser.add_argument("--split", default="all")
    options = parser.parse_args()
    if (options.checkpoint is None) != (options.data is None):
        parser.error("--checkpoint and --data go together")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with threadpool_limits(1):
        if not compare_bootstrap(options.rows, options.resamples, options.rounds):
            print("FAILED: other values than scikit-learn's")
            return 1
        if options.checkpoint is None:
            print("report: skipped, no --checkpoint and --data")
        elif not share_time(options.checkpoint, options.data, options.split):
            print("FAILED: a crop was embedded twice, or not at all")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
