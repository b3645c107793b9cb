"""The lists of the release runs: what is trained on, what chooses, what is held out.

    python experiments/release/lists.py --data $DEEPFAKE_DATA --output release/

``train.csv`` joins the face swaps of dfdc224, split as they came, the reals of two other worlds,
public-domain portraits (faces_pd) and news photographs (lfw_reals), one photo a person, and whole
faces from a generator, the first 125 of each class of gan140k by name. Of portraits and news,
people are drawn by a seed: 200 and 300 for the test split, 100 and 200 for validation, the others
to train on. Of gan140k the last 25 of each class are for validation; each fake stands beside a real
of the same set, as if it had been made of it. ``swaps.csv`` is dfdc224 alone, ``no-synthesis.csv``
all but the generator, ``synthesis.csv`` the generator beside reals of its set and some of each
other world. The others name a set and its split: what chooses among runs, and what is opened once,
at the end.
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path
from typing import TypeAlias

import numpy as np

REPO = Path(__file__).resolve().parents[2]
SEED = 14
# People held out of each world: for the test split, for validation.
HELD_OUT = {"faces_pd": (200, 100), "lfw_reals": (300, 200)}
SYNTHESIS, SYNTHESIS_VALIDATION = 125, 25
# Reals of each other world that stand beside the generator alone.
BESIDE_SYNTHESIS = {"train": 500, "validation": 100}
COLUMNS = ("path", "label", "method", "group", "split", "original")
Row: TypeAlias = dict[str, str]


def main() -> None:
    """Write the lists."""
    here = os.environ.get("DEEPFAKE_DATA", REPO.parent / "shared" / "data")
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=Path(here), help="folder of shared data")
    parser.add_argument("--output", type=Path, required=True, help="folder of the lists")
    options = parser.parse_args()
    for name, rows in make_lists(options.data.resolve()).items():
        options.output.mkdir(parents=True, exist_ok=True)
        with (options.output / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        print(f"{name}: {len(rows)} lines")


def make_lists(data: Path) -> dict[str, list[Row]]:
    """Lines of every list by its name."""
    swaps = _read(data / "labelled" / "dfdc224.csv")
    portraits = _read(data / "faces_pd" / "faces_pd.csv")
    news = [
        {"path": str(path), "group": path.stem}
        for path in sorted((data / "labelled" / "lfw_reals" / "real").glob("*.jpg"))
    ]
    worlds = {"faces_pd": portraits, "lfw_reals": news}
    for name, rows in worlds.items():
        drawn = np.random.default_rng((SEED, len(rows))).permutation(len(rows))
        n_test, n_validation = HELD_OUT[name]
        splits = ["test"] * n_test + ["validation"] * n_validation
        splits += ["train"] * (len(rows) - len(splits))
        for number, split in zip(drawn, splits, strict=True):
            rows[number] |= {"label": "real", "method": name, "split": split}
    synthesis = sorted(
        (data / "labelled" / "gan140k_ffhq_stylegan1_256").glob("*/*.jpg"),
        key=lambda path: path.name,
    )
    lists: dict[str, list[Row]] = {
        "train": [*swaps, *portraits, *news],
        "swaps": swaps,
        "no-synthesis": [*swaps, *portraits, *news],
        "synthesis": [],
        "swaps-validation": [row for row in swaps if row["split"] == "validation"],
        "swaps-test": [row for row in swaps if row["split"] == "test"],
        "reals-validation": [row for row in [*portraits, *news] if row["split"] == "validation"],
        "reals-test": [row for row in [*portraits, *news] if row["split"] == "test"],
        "synthesis-validation": [],
        "gan140k-test": [],
    }
    reals = [path for path in synthesis if path.parent.name == "real"]
    for label in ("real", "fake"):
        own = [path for path in synthesis if path.parent.name == label]
        for number, path in enumerate(own):
            row = {"path": str(path), "label": label, "method": "stylegan", "split": "test"}
            row["group"] = f"gan140k-{number}"
            if number >= SYNTHESIS:
                lists["gan140k-test"].append(row)
                continue
            if label == "fake":
                row["original"] = str(reals[number])
            row["split"] = "train"
            if number >= SYNTHESIS - SYNTHESIS_VALIDATION:
                row["split"] = "validation"
                lists["synthesis-validation"].append(row)
            lists["train"].append(row)
            lists["synthesis"].append(row)
    for world in (swaps, portraits, news):
        for split, count in BESIDE_SYNTHESIS.items():
            lone = [row for row in world if (row["label"], row["split"]) == ("real", split)]
            lists["synthesis"] += lone[:count]
    return lists


def _read(table: Path) -> list[Row]:
    with table.open(newline="", encoding="utf-8") as file:
        return [row | {"path": str(table.parent / row["path"])} for row in csv.DictReader(file)]


if __name__ == "__main__":
    main()
