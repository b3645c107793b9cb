"""Everything that needs a GPU, in about ten minutes, as one JSON file and one page.

    python benchmarks/gpu.py [--output gpu.json] [--parts tests train_step ...] [--dry-run]

The page, ``gpu.md`` for ``gpu.json``, is the same to read. Runs ``pytest -m gpu`` and the GPU rows
of the benchmarks. Each part has its own time limit and its own process group, which is killed at
the limit; what it printed until then is kept. Both files are written anew after each part, so that
a machine that goes away leaves what was done. Needs no network and no photos. ``--dry-run`` runs
every part in small on a CPU: it shows that all of it would run, and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.parts import Part, run_part
from deepfake.learning.checkpoint import describe_versions
from deepfake.storage import write_atomic

PARTS = {
    "tests": Part(
        command="-m pytest -q -m gpu -p no:cacheprovider",
        dry="-m pytest -q -m gpu -p no:cacheprovider --collect-only tests",
        limit_s=90,
    ),
    "train_step": Part(
        command="benchmarks/train_step.py --batches 12 48 96 --rounds 3",
        dry="benchmarks/train_step.py --batches 4 --backbone test_resnet --size 32 --rounds 1",
        limit_s=210,
    ),
    # By itself: every row trains twice, and those of the part above matter more.
    "real_input": Part(
        command="benchmarks/train_step.py --batches 48 --rounds 3 --data drawn",
        dry="benchmarks/train_step.py --batches 4 --backbone test_resnet --size 64 --rounds 1 "
        "--data drawn --workers 0",
        limit_s=90,
    ),
    "mining": Part(
        command="benchmarks/mining.py --device cuda",
        dry="benchmarks/mining.py --rounds 2 --large 64",
        limit_s=30,
    ),
    "faces": Part(
        command="benchmarks/faces.py --drawn 1080 --device cuda",
        dry="benchmarks/faces.py --drawn 96 --rounds 1",
        limit_s=60,
    ),
    "devices": Part(
        command="benchmarks/devices.py",
        dry="benchmarks/devices.py --side 160 --photos 16 --frames 4 --workers 0",
        limit_s=60,
    ),
    "video": Part(
        command="benchmarks/video.py --hardware cuda --rounds 3",
        dry="benchmarks/video.py --hardware cuda --rounds 1 --size 64x64",
        limit_s=60,
    ),
    "loader": Part(
        command="benchmarks/loader.py --workers 0 4 --rounds 2",
        dry="benchmarks/loader.py --sizes 64 --workers 0 --rounds 1 --crops 4 --batch-size 2",
        limit_s=60,
    ),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the parts one after another; 0 if all went well, 2 if there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--parts", nargs="+", choices=[*PARTS], default=[*PARTS])
    parser.add_argument("--dry-run", action="store_true", help="in small, on a CPU")
    options = parser.parse_args(arguments)
    dry = options.dry_run
    if not dry and not torch.cuda.is_available():
        built = torch.version.cuda or "none"
        print(
            f"no CUDA device: torch {torch.__version__} is built for CUDA {built} and sees "
            f"{torch.cuda.device_count()} devices; --dry-run tries the parts on a CPU",
            file=sys.stderr,
        )
        return 2
    results: dict[str, dict[str, Any]] = {
        name: {"not_run": "was not asked for" if name not in options.parts else "not reached"}
        for name in PARTS
    }
    head = {"dry_run": dry, "device": describe_device(dry), "versions": describe_versions()}
    for name in options.parts:
        part = PARTS[name]
        results[name] = run_part((part.dry if dry else part.command).split(), part.limit_s, dry)
        write_atomic(options.output, json.dumps(head | {"parts": results}, indent=1) + "\n")
        write_atomic(options.output.with_suffix(".md"), describe(head, results))
        print(f"{name}: {describe_end(results[name])}", flush=True)
    print(f"written to {options.output} and {options.output.with_suffix('.md')}")
    return int(any(results[name]["rc"] != 0 for name in options.parts))


def describe(head: dict[str, Any], results: dict[str, dict[str, Any]]) -> str:
    """The page: the machine, and what each part printed."""
    title = "# Tried in small on a CPU: no figures" if head["dry_run"] else "# Figures of a GPU"
    lines = [title, ""]
    for facts in (head["device"], head["versions"]):
        lines += [", ".join(f"{name} {value}" for name, value in facts.items()) + ".", ""]
    for name, result in results.items():
        lines += [f"## {name}", ""]
        if "not_run" in result:
            lines += [f"Not run: {result['not_run']}.", ""]
            continue
        said = result["output"] + (result["errors"] if result["rc"] else [])
        lines += [f"`{' '.join(result['command'])}`: {describe_end(result)}.", ""]
        lines += ["```text", *said, "```", ""]
    return "\n".join(lines)


def describe_end(result: dict[str, Any]) -> str:
    """How a part came to its end, and when."""
    end = "stopped at its limit" if result["timed_out"] else f"exit code {result['rc']}"
    return f"{end} after {result['seconds']:.0f} s"


def describe_device(dry: bool) -> dict[str, Any]:
    """What the figures belong to."""
    if dry:
        return {"name": "cpu"}
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "count": torch.cuda.device_count(),
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "cpus": os.cpu_count(),
    }


if __name__ == "__main__":
    sys.exit(main())
