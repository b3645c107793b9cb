r"""The entry's ladder of experiments: every rung trained with the same seeds and budget, one table.

A rung is an overlay in ``experiments/ablations`` (or ``--overlays``) over ``configs/dacon.yaml``;
``--base`` lies between the two and says what all rungs share on this machine (backbone, size,
length); words that are not listed here go to every ``train.py``. A rung that differs from the
entry's finished run in its head alone goes on from the end of that run's training. Killed at any
time, the same command goes on; finished runs are kept, so that several calls with different
``--rungs`` and ``--seeds`` may share an ``--output``. The table has those of the call.

The table has AUC, accuracy at even odds of the calibrated score, and equal error rate on the test
split, means over the seeds, with 95 % intervals from a cluster bootstrap; the
lowest and the highest AUC of the seeds; and with ``--against`` the difference in AUC to other
rungs, from the same resamples.

    python experiments/ladder.py --data CROPS --base experiments/small.yaml --output ladder/ \
        --model.pretrained WEIGHTS
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from deepfake.dataset.manifest import read_manifest
from deepfake.dataset.texts import number_texts
from deepfake.evaluation.bootstrap import N_RESAMPLES, resample_groups, resample_metrics
from deepfake.learning.checkpoint import load_checkpoint
from deepfake.metrics import METRICS
from deepfake.records import EVEN_ODDS
from deepfake.storage import write_atomic
from deepfake.training.presets import merge_configs
from deepfake.training.run import read_data_module

REPO = Path(__file__).resolve().parents[1]
DACON = REPO / "configs" / "dacon.yaml"
ABLATIONS = REPO / "experiments" / "ablations"
FINISHED = "06-head-l2"
METRIC_NAMES = ("auc", "accuracy", "eer")
MIN_GROUPS = 5

# What the entry says of itself: "on average", of data that it does not name.
ENTRY = {
    "00-no-augmentation": "70 %",
    "01-augmentation": "80 %",
    "02-inception-resnet-v2": "80-85 %",
    "03-xception": "80-85 %",
    "04-b4-cross-entropy": "85-90 %",
    "05-triplet": "90-92 %",
    "06-head-l2": "94-97 %",
    "12-blind-face": "best single score, no gain on average",
} | dict.fromkeys(
    (
        *("10-frozen-backbone", "11-pattern", "13-b5-380", "14-b5-456"),
        *("15-margin-0.2", "16-margin-0.5", "17-margin-1.5", "18-lightgbm"),
    ),
    "no gain",
)


@dataclass(frozen=True, slots=True)
class TestPredictions:
    """The test split of one run.

    Args:
        groups: ``(N,)`` names.
        labels: ``(N,)``, 1 = fake.
        p_fake: ``(N,)``.
    """

    groups: NDArray[np.str_]
    labels: NDArray[np.int64]
    p_fake: NDArray[np.float64]


def main() -> int:
    """Train what is missing, score, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="crop folder")
    parser.add_argument("--base", type=Path, help="overlay that all rungs share")
    parser.add_argument("--overlays", type=Path, default=ABLATIONS, help="folder of the rungs")
    parser.add_argument("--rungs", nargs="+", metavar="NAME", help="default: all of them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of runs and table")
    parser.add_argument(
        "--against", nargs="+", default=[], metavar="NAME", help="rungs to compare the others with"
    )
    parser.add_argument("--resamples", type=int, default=N_RESAMPLES, help="of the bootstrap")
    options, more = parser.parse_known_args()
    options.more = more
    against = choose_rungs(options.against, options.overlays)
    wanted = options.rungs and [*options.rungs, *against]
    rungs = choose_rungs(wanted, options.overlays)
    claim(options)
    size = read_manifest(options.data).spec.size
    results: dict[str, list[TestPredictions]] = {}
    n_failed = 0
    for rung in rungs:
        settings = merged(options.base, options.overlays / f"{rung}.yaml")
        side = settings["model"]["image_size"]
        if side != size:
            print(f"{rung}: skipped, it wants crops of {side} px, these have {size} px")
            continue
        for seed in options.seeds:
            run = options.output / rung / f"seed-{seed}"
            if (run / "model.ckpt").exists():
                refuse_stale(run, settings, options.more)
            elif not train(options, rung, seed, run):
                n_failed += 1
                continue
            results.setdefault(rung, []).append(score(run, options.data, seed))
        if rung in results:
            table = describe_all(results, against, options.resamples)
            write_atomic(options.output / "ladder.csv", as_csv(table))
            refitted = [
                name
                for name in results
                if differs_in_head_alone(options.base, options.overlays / f"{name}.yaml")
            ]
            write_atomic(options.output / "ladder.md", as_markdown(table, refitted))
    if results:
        print((options.output / "ladder.md").read_text(encoding="utf-8"))
    return 1 if n_failed or not results else 0


def choose_rungs(names: Sequence[str] | None, overlays: Path = ABLATIONS) -> list[str]:
    """Rungs by name or by the number that their name begins with, in the ladder's order."""
    known = sorted(path.stem for path in overlays.glob("*.yaml"))
    if names is None:
        return known
    for name in names:
        if not any(name in (rung, rung.split("-")[0]) for rung in known):
            sys.exit(f"no rung {name!r}; there are {', '.join(known)}")
    return [rung for rung in known if rung in names or rung.split("-")[0] in names]


def claim(options: argparse.Namespace) -> None:
    """Note what all runs in a folder share; refuse to mix them with others."""
    base: Path | None = options.base
    content = {
        "manifest_sha256": read_manifest(options.data).sha256,
        "base_sha256": hashlib.sha256(base.read_bytes()).hexdigest() if base else None,
        "more": options.more,
    }
    output: Path = options.output
    note = output / "ladder.json"
    output.mkdir(parents=True, exist_ok=True)
    if note.exists() and json.loads(note.read_text(encoding="utf-8")) != content:
        sys.exit(
            f"{output} holds runs of other crops, another --base or other settings; choose another "
            "--output"
        )
    write_atomic(note, json.dumps(content))


def refuse_stale(run: Path, settings: Mapping[str, Any], more: Sequence[str]) -> None:
    """Refuse a finished run that was trained with other settings than the overlays have now."""
    given = {word.split("=")[0] for word in more if word.startswith("--")}
    trained = _flatten(yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")))
    for key, value in _flatten(settings).items():
        was = trained.get(key)  # of a version without this setting, a run has none
        if key != "seed_everything" and f"--{key}" not in given and was != value:
            sys.exit(
                f"{run} was trained with {key} {was}, the overlays now say {value}; remove it "
                "to train it anew, or choose another --output"
            )


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their names on a command line, ``data.split.by``."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def merged(base: Path | None, overlay: Path) -> dict[str, Any]:
    """The settings of a rung, as training merges them: later files win, key by key."""
    return merge_configs(configs_of(base, overlay))


def configs_of(base: Path | None, overlay: Path) -> list[Path]:
    """Configuration files of a rung, the strongest last."""
    return [DACON, *([base] if base else []), overlay]


def differs_in_head_alone(base: Path | None, overlay: Path) -> bool:
    """Whether a rung's network is that of the entry's finished run."""
    if overlay.parent != ABLATIONS:
        return False  # whose runs have no such name
    settings, finished = merged(base, overlay), merged(base, ABLATIONS / f"{FINISHED}.yaml")
    heads = [part.pop("head", None) for part in (settings, finished)]
    return heads[0] != heads[1] and settings == finished


def take_network(options: argparse.Namespace, seed: int, run: Path) -> bool:
    """Make a run that has trained the finished run's network, but has no head; whether it could.

    Not ``deepfake fit-head``, whose checkpoint would carry the other run's configuration.
    """
    finished = options.output / FINISHED / f"seed-{seed}"
    if not (finished / "model.ckpt").exists() and not train(options, FINISHED, seed, finished):
        return False
    last = Path("checkpoints", "last.ckpt")
    (run / last).parent.mkdir(parents=True, exist_ok=True)
    for name in (last, Path("config.yaml")):
        write_atomic(run / name, (finished / name).read_bytes())
    return True


def train(options: argparse.Namespace, rung: str, seed: int, run: Path) -> bool:
    """Train one rung with one seed, or go on with it; whether it came to its end."""
    overlay = options.overlays / f"{rung}.yaml"
    if differs_in_head_alone(options.base, overlay) and not take_network(options, seed, run):
        return False
    configs = configs_of(options.base, overlay)
    words = [word for path in configs for word in ("--config", str(path))] + options.more
    words += ["--data.root", str(options.data), "--seed_everything", str(seed)]
    words += ["--run", str(run), "--resume", "auto"]
    run.parent.mkdir(parents=True, exist_ok=True)
    log = run.with_suffix(".log")
    print(f"{rung}, seed {seed}: training, see {log}", flush=True)
    environment = {k: v for k, v in os.environ.items() if k != "DEEPFAKE_RUN_FOLDER"}
    with log.open("ab") as output:
        command = [sys.executable, str(REPO / "train.py"), *words]
        code = subprocess.run(
            command, stdout=output, stderr=output, env=environment, check=False
        ).returncode
    if code:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        print(f"{rung}, seed {seed}: failed with exit code {code}: {''.join(last)}")
    return code == 0


def score(run: Path, data: Path, seed: int) -> TestPredictions:
    """Score the test split with a finished run, or read the scores of an earlier call."""
    checkpoint = load_checkpoint(run / "model.ckpt")
    kept = run / "test-scores.csv"
    if not kept.exists():
        module = read_data_module([str(run / "config.yaml")], str(data), seed)
        dataset = module.datasets["test"]
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        embedder = checkpoint.embedder.to(device)
        with torch.inference_mode():
            parts = [
                checkpoint.head(embedder(batch["image"].to(device)).cpu())
                for batch in module.test_dataloader()
            ]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("group", "label", "p_fake"))
        for row, p_fake in zip(dataset.rows, torch.cat(parts).tolist(), strict=True):
            writer.writerow((row.group, row.label, repr(p_fake)))
        write_atomic(kept, text.getvalue())
    with kept.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return TestPredictions(
        np.array([row["group"] for row in rows]),
        np.array([int(row["label"]) for row in rows]),
        np.array([float(row["p_fake"]) for row in rows]),
    )


def compute_metrics(predictions: TestPredictions) -> list[float]:
    """The metrics of a run, in the order of ``METRIC_NAMES``."""
    return [
        METRICS[name].formula(predictions.labels, predictions.p_fake, EVEN_ODDS)
        for name in METRIC_NAMES
    ]


def resample(runs: Sequence[TestPredictions], n_resamples: int) -> NDArray[np.float64] | None:
    """The metrics' means over the runs in every resample, ``(R, 3)``.

    A resample has whole groups, the same ones for all runs and all rungs: they share the test
    split. ``None`` with too few groups.
    """
    groups_of_runs = number_texts(*(run.groups for run in runs))
    n_groups = 1 + max(int(groups.max()) for groups in groups_of_runs)
    if n_groups < MIN_GROUPS:
        return None
    counts = [*resample_groups(n_groups, n_resamples)]
    parts = []
    for run, group_of_row in zip(runs, groups_of_runs, strict=True):
        resampled = resample_metrics(run.labels, run.p_fake, group_of_row, counts, EVEN_ODDS)
        parts.append(np.stack([resampled[name] for name in METRIC_NAMES], axis=1))
    means: NDArray[np.float64] = np.mean(parts, axis=0)
    return means


def describe_all(
    results: Mapping[str, Sequence[TestPredictions]], against: Sequence[str], n_resamples: int
) -> list[dict[str, str]]:
    """The table, a line for each rung."""
    resampled = {rung: resample(runs, n_resamples) for rung, runs in results.items()}
    table = []
    for rung, runs in results.items():
        each = np.array([compute_metrics(run) for run in runs])
        means, resamples = each.mean(axis=0), resampled[rung]
        line = {"rung": rung}
        if any(name in ENTRY for name in results):
            line["the entry reports"] = ENTRY.get(rung, "not tried")
        for place, name in enumerate(METRIC_NAMES):
            spread = None if resamples is None else resamples[:, place]
            line |= with_interval(METRICS[name].title, means[place], spread, "")
        line["AUC of the seeds"] = f"{each[:, 0].min():.4f} to {each[:, 0].max():.4f}"
        for name in against:
            if name in results:
                other = resampled[name]
                difference = means[0] - np.mean([compute_metrics(run)[0] for run in results[name]])
                apart = (
                    None if resamples is None or other is None else resamples[:, 0] - other[:, 0]
                )
                line |= with_interval(f"AUC against {name}", difference, apart, "+")
        table.append(line | {"seeds": str(len(runs)), "test crops": str(len(runs[0].labels))})
    return table


def with_interval(
    name: str, value: float, resampled: NDArray[np.float64] | None, sign: str
) -> dict[str, str]:
    """A value and the bounds of its 95 % interval, as cells of the table."""
    bounds = ["", ""]
    if resampled is not None:
        bounds = [f"{bound:{sign}.4f}" for bound in np.nanquantile(resampled, [0.025, 0.975])]
    return {name: f"{value:{sign}.4f}", f"{name} from": bounds[0], f"{name} to": bounds[1]}


def as_csv(table: Sequence[dict[str, str]]) -> str:
    """For machines."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def as_markdown(table: Sequence[dict[str, str]], refitted: Sequence[str] = ()) -> str:
    """For people: a value and its interval in one cell, and whose network is not their own."""
    bounds = [f"{name} {end}" for name in table[0] for end in ("from", "to")]
    head = [name for name in table[0] if name not in bounds]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in table:
        cells = [
            f"{row[name]} [{row[f'{name} from']}, {row[f'{name} to']}]"
            if row.get(f"{name} from")
            else row[name]
            for name in head
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if refitted:
        lines += ["", f"Of the network of {FINISHED}, with another head: {', '.join(refitted)}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
