"""Verdicts as a user sees them, of labelled photos by their source: one table.

    python experiments/release/verdicts.py release/lists/reals-test.csv release/lists/swaps-test.csv
        [--checkpoint default] [--workers 2]

Whole photos go through ``Predictor``, remarks and people and all: where the face that decided is
unlike the training faces the verdict is ``unclear``, which ``evaluate`` on crops does not know.
Shares of the files with an answer, with intervals from drawing whole groups.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepfake.evaluation.bootstrap import bootstrap_share
from deepfake.inference.predictor import Predictor
from deepfake.records import Verdict, Workers


@dataclass(frozen=True, slots=True)
class Photo:
    """A line of a list."""

    path: Path
    label: str
    method: str
    group: str


def read_list(table: Path) -> Iterator[Photo]:
    """Photos of a list; paths are relative to it."""
    with table.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            path = table.parent / row["path"]
            yield Photo(path, row["label"], row.get("method", ""), row.get("group") or str(path))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("lists", type=Path, nargs="+", help="CSVs with path, label, method, group")
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    photos = [photo for table in options.lists for photo in read_list(table)]
    predictor = Predictor.from_checkpoint(options.checkpoint, workers=Workers(options.workers))
    results = list(predictor.predict([photo.path for photo in photos]))
    names = ["photos", "of them", "no answer", *(f"called {verdict}" for verdict in Verdict)]
    print("| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|")
    for kind in sorted({(photo.label, photo.method) for photo in photos}):
        own = [
            (photo.group, result.verdict)
            for photo, result in zip(photos, results, strict=True)
            if (photo.label, photo.method) == kind
        ]
        answered = [(group, verdict) for group, verdict in own if verdict is not None]
        cells = [" ".join(kind), f"{len(own):,}", f"{len(own) - len(answered)}"]
        for verdict in Verdict:
            hits = np.array([one == verdict for _, one in answered])
            share = bootstrap_share(hits, [group for group, _ in answered])
            interval = "" if math.isnan(share.low) else f" [{share.low:.1%}, {share.high:.1%}]"
            cells.append(f"{share.value:.1%}{interval}")
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
