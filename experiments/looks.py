r"""What a mirrored look and several checkpoints gain, and what they cost: one table.

    python experiments/looks.py --checkpoint a.ckpt b.ckpt --data CROPS ... --output looks/
        [--split test]

Each checkpoint alone, each with a mirrored look, and where there are several their mean, without
and with it. AUC of files with 95 % intervals from one cluster bootstrap for all rows, so that the
gain over the first row has an interval of its own; cost is the time of a forward of 32 crops,
against the first row's, in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from deepfake.dataset.texts import number_texts
from deepfake.evaluation.bootstrap import N_RESAMPLES, resample_groups, resample_metrics
from deepfake.evaluation.embeddings import EmbedOptions
from deepfake.evaluation.evaluate import file_rows
from deepfake.evaluation.job import EvaluationOptions, run_evaluation
from deepfake.inference.export import make_crops
from deepfake.inference.scoring import TorchScorer
from deepfake.learning.checkpoint import Checkpoint
from deepfake.learning.ensemble import combine, load_detector
from deepfake.metrics import METRICS
from deepfake.records import EVEN_ODDS
from deepfake.tables import align

TURNS = 5


def score_files(
    detector: Checkpoint, data: str, split: str | None
) -> tuple[NDArray[np.int64], NDArray[np.float64], Sequence[str]]:
    """Labels, scores and groups of the files of a data set."""
    options = EvaluationOptions(split=split, n_resamples=0)
    evaluation = run_evaluation(detector, [data], None, options, EmbedOptions(quiet=False))
    rows = file_rows(evaluation.sets[0])
    return rows.labels, rows.p_fake, rows.groups.texts[rows.groups.numbers]


def time_forward(detectors: Sequence[Checkpoint]) -> list[float]:
    """Seconds of 32 crops through each, medians of turns after one that warms up."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scorers = [TorchScorer(one, device, 32) for one in detectors]
    crops = make_crops(detectors[0].recipe.crop.size)
    seconds: list[list[float]] = [[] for _ in scorers]
    for turn in range(TURNS + 1):
        for kept, scorer in zip(seconds, scorers, strict=True):
            started_s = time.perf_counter()
            for _ in range(32 // scorer.batch_size):
                scorer.score(np.resize(crops, (scorer.batch_size, *crops.shape[1:])))
            if turn:
                kept.append(time.perf_counter() - started_s)
    return [statistics.median(kept) for kept in seconds]


def describe(
    names: Sequence[str],
    scored: Sequence[tuple[NDArray[np.int64], NDArray[np.float64], Sequence[str]]],
) -> list[dict[str, object]]:
    """AUC of each detector and its gain over the first, with intervals from the same resamples."""
    labels, _, groups = scored[0]
    (group_of_row,) = number_texts(groups)
    counts = [*resample_groups(int(group_of_row.max()) + 1, N_RESAMPLES)]
    spreads = [
        resample_metrics(labels, p_fake, group_of_row, counts, EVEN_ODDS)["auc"]
        for _, p_fake, _ in scored
    ]
    points = [METRICS["auc"].formula(labels, p_fake, EVEN_ODDS) for _, p_fake, _ in scored]
    table: list[dict[str, object]] = []
    for name, point, spread in zip(names, points, spreads, strict=True):
        low, high = np.nanpercentile(spread, [2.5, 97.5])
        worse, better = np.nanpercentile(spread - spreads[0], [2.5, 97.5])
        table.append(
            {
                "detector": name,
                "AUC": f"{point:.4f} [{low:.4f}, {high:.4f}]",
                "gain": f"{point - points[0]:+.4f} [{worse:+.4f}, {better:+.4f}]",
            }
        )
    return table


def main() -> None:
    """Score, time, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--checkpoint", nargs="+", required=True)
    parser.add_argument("--data", nargs="+", required=True, help="crop folders or labelled media")
    parser.add_argument("--split")
    parser.add_argument("--output", type=Path, required=True, help="folder for looks.json")
    options = parser.parse_args()
    alone = [load_detector(name, "none") for name in options.checkpoint]
    short = {Path(one.name).parent.name or one.name: one for one in alone}
    detectors = short if len(short) == len(alone) else {one.name: one for one in alone}
    detectors |= {
        f"{name}, mirrored too": combine([one], "flip") for name, one in detectors.items()
    }
    if len(alone) > 1:
        detectors |= {"all": combine(alone), "all, mirrored": combine(alone, "flip")}
    seconds = time_forward(list(detectors.values()))
    result: dict[str, list[dict[str, object]]] = {}
    for data in options.data:
        scored = [score_files(one, data, options.split) for one in detectors.values()]
        result[data] = describe(list(detectors), scored)
        for line, taken_s in zip(result[data], seconds, strict=True):
            line["time"] = f"{taken_s / seconds[0]:.2f}"
        print(f"{data}: {len(scored[0][0])} files")
        print(
            "\n".join(
                align([list(result[data][0]), *(list(line.values()) for line in result[data])])
            )
        )
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "looks.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
