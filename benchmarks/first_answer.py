"""How long one cold answer takes, beside the import of torch that it cannot do without.

    python benchmarks/first_answer.py [PHOTO] [--checkpoint default]

Each run is a new process; both sides alternate, and the medians are compared. Equality: every run
prints the same line.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.photos import collect, find_photos


def main() -> None:
    """Time both sides and print their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo", type=Path, nargs="?")
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    code = "from deepfake.cli import main; raise SystemExit(main())"
    with tempfile.TemporaryDirectory() as name:
        photo = options.photo or Path(name) / "photos" / "000.jpg"
        if options.photo is None:
            collect(find_photos(), photo.parent, 1)
        # Named from where it lies: what is printed belongs to no machine.
        file = Path(options.checkpoint)
        checkpoint = str(file.resolve()) if file.exists() else options.checkpoint
        words = ["predict", photo.name, "--checkpoint", checkpoint, "--quiet"]
        imports, answers, lines = [], [], set()
        for _ in range(options.runs):
            imports.append(measure([sys.executable, "-c", "import torch"], photo.parent)[0])
            seconds, line = measure([sys.executable, "-c", code, *words], photo.parent)
            answers.append(seconds)
            lines.add(line)
    if len(lines) != 1:
        raise SystemExit(f"the answers differ: {sorted(lines)}")
    print(lines.pop().strip())
    torch_s, answer_s = median(imports), median(answers)
    print(f"import torch {torch_s:.2f} s, answer {answer_s:.2f} s, ratio {answer_s / torch_s:.2f}")


def measure(command: list[str], folder: Path) -> tuple[float, str]:
    """Seconds that a command takes in a folder, and what it prints."""
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return time.perf_counter() - began, done.stdout


if __name__ == "__main__":
    main()
