r"""The release runs: train what is not done, and print the table of what is.

    python experiments/release/run.py --data $DEEPFAKE_DATA --output release/ [--only NAME ...]
        [--table] [--test NAME]

``runs.yaml`` lists the runs; base.yaml is what they share. Each step is a public command, printed
before it runs; a step that is done is not done again, a training that was stopped goes on. Runs are
compared on the validation splits of the swaps and of the whole synthetic faces, on held-out real
people and their own self-blends, and on ciplab_dev, a foreign set. ``--test NAME`` is the
end: it writes what one run ships, in half precision with limits chosen anew, and opens the test
sets for it, once. Words that are not listed here go to every ``train``.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from deepfake.augment.self_blending import self_blend
from deepfake.dataset.manifest import read_manifest
from deepfake.faces.extraction import encode_crop
from deepfake.learning.crops import CropDataset

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
SIZE = 224
WEIGHTS = {
    "tf_efficientnet_lite0": "tf_efficientnet_lite0_fp16.safetensors",
    "tf_efficientnet_lite2": "tf_efficientnet_lite2_fp16.safetensors",
    "vit_small_patch14_dinov2": "vit_small_patch14_dinov2_fp16.safetensors",
    "mobilenetv2_100": "mobilenetv2_100_torch_nohead.safetensors",
}
CHOOSING = ("swaps-validation", "self-blends", "synthesis-validation", "ciplab_dev")
TESTING = ("swaps-test", "gan140k-test", "reals-test")
SHIPPED = "default.safetensors"
BLENDED = ("self-blends", "portraits")
MESHED = ("train", "swaps", "no-synthesis", "portraits")


class Study:
    """The folder of all runs.

    Args:
        data: Folder of shared data.
        output: Folder of lists, crops and runs.
    """

    def __init__(self, data: Path, output: Path) -> None:
        self.data, self.output = data, output
        plan = yaml.safe_load((HERE / "runs.yaml").read_text(encoding="utf-8"))
        self.lengths: dict[str, Any] = plan["lengths"]
        self.runs: dict[str, dict[str, Any]] = {run["name"]: run for run in plan["runs"]}

    def train(self, name: str, more: list[str]) -> None:
        """Train one run, or those that it joins, and measure it on what chooses."""
        run, folder = self.runs[name], self.output / "runs" / name
        crops = self.crop(run.get("crops", "train"), run.get("crop", []))
        if "members" in run:
            for member in run["members"]:
                self.train(member, more)
            members = [self.output / "runs" / one / "model.ckpt" for one in run["members"]]
            self.calibrate(members, name, folder / "model.ckpt", [])
        elif not (folder / "model.ckpt").exists():
            settings = run.get("settings", {})
            overlay = self.output / "overlays" / f"{name}.yaml"
            overlay.parent.mkdir(parents=True, exist_ok=True)
            overlay.write_text(yaml.safe_dump(settings), encoding="utf-8")
            length = overlay.with_name(f"{run.get('length', 'short')}.length.yaml")
            length.write_text(yaml.safe_dump(self.lengths[run.get("length", "short")]))
            base = run.get("base", HERE / "base.yaml")
            backbone = settings.get("model", {}).get("backbone", "tf_efficientnet_lite0")
            words = [word for file in (base, length, overlay) for word in ("--config", str(file))]
            words += ["--data.root", str(crops)]
            start = self.data / "weights" / WEIGHTS[backbone]
            if "start" in run:
                start = self.output / "runs" / run["start"] / "model.ckpt"
            words += ["--model.pretrained", str(start)]
            command("train", *words, *more, "--run", str(folder), "--resume", "auto")
        self.evaluate(name, "choosing", CHOOSING, "model.ckpt")

    def evaluate(self, name: str, purpose: str, sets: tuple[str, ...], file: str) -> None:
        """Measure a file of a finished run on some sets."""
        run, folder = self.runs[name], self.output / "runs" / name
        if (folder / purpose / "metrics.json").exists():
            return
        crops = [str(self.crop(one, run.get("crop", []))) for one in sets]
        words = ["--output", str(folder / purpose), "--split", "all", "--data", *crops]
        command("evaluate", "--checkpoint", str(folder / file), *words)

    def test(self, name: str) -> None:
        """Write what a run ships, and measure that on the test sets."""
        run, folder = self.runs[name], self.output / "runs" / name
        halves = []
        for member in run.get("members", [name]):
            half = self.output / "runs" / member / "half.safetensors"
            halves.append(half)
            if not half.exists():
                words = ["--format", "safetensors", "--half", "--output", str(half)]
                command("export", "--checkpoint", str(half.with_name("model.ckpt")), *words)
        self.calibrate(halves, name, folder / SHIPPED, run.get("calibrate", []))
        self.evaluate(name, "test", TESTING, SHIPPED)

    def calibrate(self, files: list[Path], name: str, output: Path, options: list[str]) -> None:
        """Choose the limits of one file, or of several that become one."""
        run = self.runs[name]
        if output.exists():
            return
        output.parent.mkdir(parents=True, exist_ok=True)
        crops = self.crop(run.get("crops", "train"), run.get("crop", []))
        words = ["--data", str(crops), "--output", str(output), *options]
        command("calibrate", "--checkpoint", *map(str, files), *words)

    def crop(self, name: str, options: list[str]) -> Path:
        """Crops of a list, made where they are not there."""
        suffix = "".join(options).replace("--", "-")
        crops = self.output / f"crops-{name}{suffix}"
        if (crops / "manifest.csv").exists():
            return crops
        words = [str(self.source(name)), str(crops), "--size", str(SIZE), *options]
        words += ["--landmarks", "mesh"] if name in MESHED else []
        command("crop", *words)
        return crops

    def source(self, name: str) -> Path:
        """What a set is cropped from."""
        if name == "ciplab_dev":
            return self.data / "labelled" / name
        if name in BLENDED:
            return self.blend(name)
        lists = self.output / "lists"
        if not lists.exists():
            words = ["--data", str(self.data), "--output", str(lists)]
            subprocess.run([sys.executable, str(HERE / "lists.py"), *words], check=True)
        return lists / f"{name}.csv"

    def blend(self, name: str) -> Path:
        """Reals, each beside its own blend, both through the same JPEG, and their list.

        ``self-blends``: all validation reals, to choose by. ``portraits``: the public-domain
        portraits that are not held out, all that the twin of the release sees.
        """
        crops, folder = self.crop("train", []), self.output / name
        table = folder / "list.csv"
        if table.exists():
            return table
        manifest = read_manifest(crops)
        rows = [row for row in manifest.rows if row.label == 0 and row.split != "test"]
        if name == "portraits":
            rows = [row for row in rows if row.method == "faces_pd"]
        else:
            rows = [row for row in rows if row.split == "validation"]
        dataset = CropDataset(crops, rows, manifest.spec.size)
        lines = ["path,label,method,group,split,original"]
        for index in dataset.blend_sources.tolist():
            row = rows[index]
            real, points = dataset.read(row), dataset.points(row)
            if points is None:
                continue
            rng = np.random.default_rng((14, index))
            quality = int(rng.integers(60, 96))
            for label, image in (("real", real), ("fake", self_blend(real, points, rng))):
                path = folder / label / f"{index:05d}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encode_crop(image, quality))
                original = f"real/{path.name}" if label == "fake" else ""
                group = f"{row.method}-{row.group}"
                lines.append(
                    f"{label}/{path.name},{label},self-blend,{group},{row.split},{original}"
                )
        table.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return table

    def table(self) -> str:
        """AUC of every finished run on what chooses, as Markdown."""
        lines = [
            "| run | factor | " + " | ".join(CHOOSING) + " |",
            "|---" * (2 + len(CHOOSING)) + "|",
        ]
        for name, run in self.runs.items():
            report = self.output / "runs" / name / "choosing" / "metrics.json"
            cells = ["not run"] * len(CHOOSING)
            if report.exists():
                cells = read_cells(json.loads(report.read_text(encoding="utf-8")))
            lines.append(f"| {name} | {run['factor']} | " + " | ".join(cells) + " |")
        return "\n".join(lines)


def read_cells(report: dict[str, Any]) -> list[str]:
    """AUC with its interval, of each set in the order that they were given in."""
    cells = []
    for name in (one["name"] for one in report["datasets"]):
        auc = report["levels"]["file"]["datasets"][name]["metrics"]["auc"]
        cells.append(f"{auc['value']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}]")
    return cells


def command(*words: str) -> None:
    """Run one command of ours; the program ends where it fails."""
    print(f"$ deepfake {shlex.join(words)}", flush=True)
    environment = {k: v for k, v in os.environ.items() if k != "DEEPFAKE_RUN_FOLDER"}
    start = [sys.executable, "-c", "from deepfake.cli import main; raise SystemExit(main())"]
    code = subprocess.run([*start, *words], env=environment, check=False).returncode
    if code:
        raise SystemExit(code)


def main() -> None:
    """Train, measure, and print the table."""
    here = os.environ.get("DEEPFAKE_DATA", REPO.parent / "shared" / "data")
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=Path(here), help="folder of shared data")
    parser.add_argument("--output", type=Path, required=True, help="lists, crops and runs")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these runs alone")
    parser.add_argument("--table", action="store_true", help="train nothing, print the table")
    parser.add_argument("--test", metavar="NAME", help="open the test sets for this run")
    options, more = parser.parse_known_args()
    study = Study(options.data.resolve(), options.output.resolve())
    if options.test:
        study.test(options.test)
        return
    for name in [] if options.table else options.only or study.runs:
        study.train(name, more)
    print(study.table())


if __name__ == "__main__":
    main()
