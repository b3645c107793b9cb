"""Runs every benchmark and writes what they print, and whether it is enough, into a page.

    python benchmarks/page.py [--only faces video ...] [--output .cache/benchmarks] [--page FILE]

The page has places for figures: between ``<!-- figures: NAME -->`` and ``<!-- end -->`` stands
what the part NAME printed, with its date and what else the machine did meanwhile; ``goals`` is the
table of all goals. Everything else of the page is left alone. A part that was run on this very code
is not run again; one that was stopped, failed or is of other code is. Parts run one after another:
leave the machine alone meanwhile, or the page says that it was not.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import re
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.parts import ROOT, Part, run_part
from deepfake.learning.checkpoint import describe_versions
from deepfake.storage import write_atomic

_IDLE_CORES = 0.15  # what others may use of a machine that counts as idle
_CPU_TIMES = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that should be reached.

    Args:
        part: Whose output it stands in.
        words: What it is, for the table.
        pattern: Finds it: the first group of the first line that matches.
        bound: What it should be at least.
        at_most: It should be that at most.
    """

    part: str
    words: str
    pattern: str
    bound: float
    at_most: bool = False


PARTS = {
    "limits": Part("benchmarks/limits.py", 600),
    "faces": Part("benchmarks/faces.py --limit 30", 900),
    "crop_job": Part("benchmarks/crop_job.py --limit 24 --copies 6 --rounds 5", 600),
    "predict": Part("benchmarks/predict.py --limit 6", 900),
    "precision": Part("benchmarks/precision.py", 600),
    "video": Part("benchmarks/video.py --rounds 5", 600),
    "mining": Part("benchmarks/mining.py --rounds 5", 300),
    "svm": Part("benchmarks/svm.py", 600),
    "train_step": Part("benchmarks/train_step.py --batches 12 48 --rounds 8", 600),
    "train_step_bf16": Part(
        "benchmarks/train_step.py --batches 48 --backbone tf_efficientnet_lite0 --size 224 "
        "--precision bf16-mixed --rounds 3 --data drawn --workers 2",
        600,
    ),
    "train_step_norm": Part(
        "benchmarks/train_step.py --batches 8 --backbone vit_small_patch14_dinov2 --size 224 "
        "--precision bf16-mixed --rounds 3 --trained norm",
        600,
    ),
    "loader": Part("benchmarks/loader.py --rounds 3", 600),
    "duplicates": Part("benchmarks/duplicates.py", 300),
    "evaluate": Part("benchmarks/evaluate.py --rounds 3", 600),
    "tables": Part("benchmarks/tables.py --rows 10000 100000", 900),
    "crop_store": Part("benchmarks/crop_store.py --crops 5000", 900),
    "first_answer": Part("benchmarks/first_answer.py", 300),
    "cost": Part("benchmarks/cost.py", 900),
}
_RATIO = r"x([\d.]+)"
_FACES = rf"photos, exact, smallest face %d: {_RATIO}"
GOALS = (
    Goal("faces", "all faces of 20 px and more, photos", _FACES % 20, 2.8),
    Goal("faces", "all faces of 60 px and more, photos", _FACES % 60, 3.5),
    Goal("faces", "main face, photos", rf"photos, main face, .*, up to 1000 px .*: {_RATIO}", 15),
    Goal("crop_job", "crop job, one core", rf"one core: {_RATIO}", 6),
    Goal("crop_job", "crop job, from 1 to 2 workers", rf"1 -> 2 workers: {_RATIO}", 1.8),
    Goal("predict", "B4, all faces, 650 px", rf"b4, all faces, 650 px: {_RATIO}", 4),
    Goal("predict", "B4, all faces, 1920 px", rf"b4, all faces, 1920 px: {_RATIO}", 5),
    Goal("predict", "shipped network, all faces, 650 px", rf"lite0, all .* 650 px: {_RATIO}", 8),
    Goal("video", "exact frames, best simple way", rf"best simple way .*: {_RATIO}", 1),
    Goal("video", "keyframes, OpenCV grabbing all", rf"ours keyframes +median .* {_RATIO}", 4),
    Goal("mining", "stock miner and loss, batch 48", rf"^batch +48  stock .*? ms +{_RATIO}", 2),
    Goal("mining", "stock miner and loss, batch 256", rf"^batch +256  stock .*? ms +{_RATIO}", 25),
    Goal("train_step", "training step, batch 48", rf"^batch +48 .*? {_RATIO}", 1),
    Goal("train_step_bf16", "step of the shipped recipe", rf"^batch +48 .*? {_RATIO}", 1.25),
    Goal("train_step_bf16", "real input, of synthetic, %", r"real input (\d+)%", 95),
    Goal("first_answer", "first answer, import of torch", r"ratio ([\d.]+)", 1.5, at_most=True),
)


def main(arguments: list[str] | None = None) -> int:
    """Run what is not done, and write the page; 1 where a part failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", nargs="+", choices=[*PARTS], default=[*PARTS], metavar="NAME")
    parser.add_argument("--output", type=Path, default=ROOT / ".cache" / "benchmarks")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    code = describe_code()
    for name in options.only:
        result = read_result(options.output, name)
        if result is None or result["code"] != code or result["rc"] != 0:
            print(f"{name} ...", flush=True)
            result = measure(PARTS[name]) | {"code": code}
            write_atomic(options.output / f"{name}.json", json.dumps(result, indent=1) + "\n")
        state = "stopped at its limit" if result["timed_out"] else f"exit code {result['rc']}"
        print(f"{name}: {state}, {result['seconds']:.0f} s, {describe_others(result)}", flush=True)
    results = {name: read_result(options.output, name) for name in PARTS}
    done = {name: one for name, one in results.items() if one is not None}
    page = options.page.read_text(encoding="utf-8")
    write_atomic(options.page, fill_page(page, done))
    print(f"written to {options.page}")
    return int(any(done[name]["rc"] != 0 for name in options.only))


def measure(part: Part) -> dict[str, Any]:
    """Run a part, and note what others used of the machine meanwhile."""
    before, began_s = busy_seconds(), time.monotonic()
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = run_part(part.command.split(), part.limit_s)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = (after.ru_utime + after.ru_stime) - (own.ru_utime + own.ru_stime)
    passed = time.monotonic() - began_s
    others = None
    if before is not None and (busy := busy_seconds()) is not None:
        others = round(max(0.0, busy - before - spent) / passed, 2)
    return result | {"others_cores": others, "date": datetime.date.today().isoformat()}


def busy_seconds() -> float | None:
    """Processor time that the whole machine has used or lost to its host; where Linux tells."""
    if not _CPU_TIMES.exists():
        return None
    fields = [int(field) for field in _CPU_TIMES.read_text().split("\n", 1)[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / os.sysconf("SC_CLK_TCK")


def describe_code() -> str:
    """What the figures belong to: a hash of the package and the benchmarks as they lie here."""
    digest = hashlib.sha256()
    for folder in ("deepfake", "benchmarks"):
        files = (p for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".safetensors"))
        for path in sorted(files):
            digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def describe_others(result: dict[str, Any]) -> str:
    """Whether the machine was idle but for the part."""
    others = result["others_cores"]
    if others is None:
        return "what else ran is not known"
    word = "idle" if others <= _IDLE_CORES else "NOT IDLE"
    return f"machine otherwise {word} ({others:.2f} cores)"


def read_result(folder: Path, name: str) -> dict[str, Any] | None:
    """What a part left, or nothing."""
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def fill_page(page: str, results: dict[str, dict[str, Any]]) -> str:
    """The page with the figures of all parts that have some.

    Raises:
        SystemExit: If a part has no place in the page.
    """
    blocks = {name: show_part(result) for name, result in results.items()}
    for name, block in (blocks | {"goals": show_goals(results, page)}).items():
        begin, end = f"<!-- figures: {name} -->\n", "<!-- end -->"
        if page.count(begin) != 1:
            raise SystemExit(f"the page has not one place for the figures of {name}")
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n{block}\n\n{end}{rest.partition(end)[2]}"
    return page


def show_part(result: dict[str, Any]) -> str:
    """What a part printed, as it is, and under which circumstances."""
    words = [f"{result['date']}, {result['seconds']:.0f} s, {describe_others(result)}."]
    if result["rc"] != 0:
        last = result["errors"][-1:] or ["no word"]
        words.append(f"**It failed** (exit code {result['rc']}: {last[0]}).")
    lines = [line.rstrip() for line in result["output"]]
    if lines and lines[0].startswith("| "):
        return "\n".join([*lines, "", *words])
    return "\n".join(["```text", *lines, "```", "", *words])


def show_goals(results: dict[str, dict[str, Any]], page: str) -> str:
    """A row a goal, that of the page where its part was not run since, and the machine."""
    rows = ["| what, against what | reached | goal | |", "|---|---|---|---|"]
    for goal in GOALS:
        before = re.search(rf"^\| {re.escape(goal.words)} \|.*", page, re.MULTILINE)
        if goal.part not in results and before:
            rows.append(before[0])
            continue
        figure = find_figure(goal, results)
        cells = ("not measured", "") if figure is None else (f"{figure:g}", judge(goal, figure))
        bound = f"{'at most ' if goal.at_most else ''}{goal.bound:g}"
        rows.append(f"| {goal.words} | {cells[0]} | {bound} | {cells[1]} |")
    versions = ", ".join(f"{name} {value}" for name, value in describe_versions().items())
    machine = f"{describe_cpu()}, {os.cpu_count()} cores; {versions}."
    return "\n".join([*rows, "", machine])


def judge(goal: Goal, figure: float) -> str:
    """Whether it is enough."""
    enough = figure <= goal.bound if goal.at_most else figure >= goal.bound
    return "met" if enough else "**missed**"


def find_figure(goal: Goal, results: dict[str, dict[str, Any]]) -> float | None:
    """The figure of a goal in what its part printed; the worst of several."""
    if goal.part not in results:
        return None
    found = (re.search(goal.pattern, line) for line in results[goal.part]["output"])
    figures = [float(match[1]) for match in found if match]
    worst = max if goal.at_most else min
    return worst(figures) if figures else None


def describe_cpu() -> str:
    """The processor, and which of the instructions that matter it has."""
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.exists() else ""
    model = re.search(r"model name\s*: (.*)", text)
    name = model[1] if model else platform.processor() or platform.machine()
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in text]
    return f"{name} ({', '.join(flags) or torch.backends.cpu.get_cpu_capability()})"


if __name__ == "__main__":
    sys.exit(main())
