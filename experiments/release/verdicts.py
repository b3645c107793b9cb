"""Verdicts as a user sees them, of labelled photos by their source: one table.

    python experiments/release/verdicts.py release/lists/reals-test.csv release/lists/swaps-test.csv
        [--checkpoint default] [--workers 2]

Whole photos go through ``Predictor``, remarks and people and all: where the face that decided is
unlike the training faces the verdict is ``unclear``, which ``evaluate`` on crops does not know.
Shares of the files with an answer, with intervals from drawing whole groups.
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from deepfake.dataset.layouts.labelling import label_sources
from deepfake.evaluation.bootstrap import bootstrap_share
from deepfake.inference.predictor import Predictor
from deepfake.records import Verdict, Workers


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", nargs="+", help="labelled photos: folders or CSVs, as of crop")
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    sources = [
        source
        for data in options.data
        for source in label_sources(data, require_labels=True).sources
    ]
    predictor = Predictor.from_checkpoint(options.checkpoint, workers=Workers(options.workers))
    kinds: dict[str, list[tuple[str, Verdict | None]]] = {}
    for source, result in zip(sources, predictor.score(sources), strict=True):
        kind = f"{'fake' if source.label else 'real'} {source.method or ''}".strip()
        kinds.setdefault(kind, []).append((source.group or source.id, result.verdict))
    names = ["photos", "of them", "no answer", *(f"called {verdict}" for verdict in Verdict)]
    print("| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|")
    for kind, own in sorted(kinds.items()):
        answered = [(group, verdict) for group, verdict in own if verdict is not None]
        cells = [kind, f"{len(own):,}", f"{len(own) - len(answered)}"]
        for verdict in Verdict:
            hits = np.array([one == verdict for _, one in answered])
            share = bootstrap_share(hits, [group for group, _ in answered])
            interval = "" if math.isnan(share.low) else f" [{share.low:.1%}, {share.high:.1%}]"
            cells.append(f"{share.value:.1%}{interval}")
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
