"""How long one cold answer takes, beside the import of torch that it cannot do without.

    python benchmarks/first_answer.py [PHOTO] [--checkpoint default]

Each run is a new process; both sides alternate, and the medians are compared. Equality: every run
prints the same line.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks.photos import find_photos


def main() -> None:
    """Time both sides and print their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo", type=Path, nargs="?")
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    code = "from deepfake.cli import main; raise SystemExit(main())"
    photo = options.photo or next(find_photos().rglob("*.jpg"))
    words = ["predict", str(photo), "--checkpoint", options.checkpoint, "--quiet"]
    imports, answers, lines = [], [], set()
    for _ in range(options.runs):
        imports.append(measure([sys.executable, "-c", "import torch"])[0])
        seconds, line = measure([sys.executable, "-c", code, *words])
        answers.append(seconds)
        lines.add(line)
    if len(lines) != 1:
        raise SystemExit(f"the answers differ: {sorted(lines)}")
    print(lines.pop().strip())
    torch_s, answer_s = median(imports), median(answers)
    print(f"import torch {torch_s:.2f} s, answer {answer_s:.2f} s, ratio {answer_s / torch_s:.2f}")


def measure(command: list[str]) -> tuple[float, str]:
    """Seconds that a command takes, and what it prints."""
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.perf_counter() - began, done.stdout


if __name__ == "__main__":
    main()
