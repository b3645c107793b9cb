r"""The run of ``docs/results.md``, from pictures to report: crop, train, evaluate across data sets.

    python experiments/real_run.py --data $DEEPFAKE_DATA --output real/ [--corruptions]

Every step is a public command, printed before it runs; a step that is done is not done again, so
that the same call, after a stop or after a change of the report, goes on or draws the report anew.
Words that are not listed here go to ``train.py``. The training set is ``labelled/dfdc224.csv``;
measured are its test split and every labelled set of the folder that has fakes, none of which was
trained on. ``real/report/report.html`` is the result.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
CONFIGS = ("default", "cpu")
SIZE = 224
TRAINED_ON = "labelled/dfdc224.csv"
FOREIGN = ("labelled/ciplab_dev", "labelled/gan140k_ffhq_stylegan1_256", "videos/labelled")
WEIGHTS = "weights/mobilenetv2_100_torch_nohead.safetensors"


def main() -> int:
    """Do what is not done yet; the exit code of the first step that fails."""
    here = os.environ.get("DEEPFAKE_DATA", REPO.parent / "shared" / "data")
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=Path(here), help="folder of shared data")
    parser.add_argument("--output", type=Path, required=True, help="crops, run and report")
    parser.add_argument("--corruptions", nargs="*", metavar="NAME", help="as of evaluate")
    options, more = parser.parse_known_args()
    data: Path = options.data
    crops, run, report = (options.output / name for name in ("dfdc224", "run", "report"))
    model = run / "model.ckpt"
    steps = [["crop", str(data / TRAINED_ON), str(crops), "--size", str(SIZE)]]
    if not model.exists():
        configs = [str(REPO / "configs" / f"{name}.yaml") for name in CONFIGS]
        words = [word for config in configs for word in ("--config", config)]
        words += ["--data.root", str(crops), "--model.pretrained", str(data / WEIGHTS), *more]
        steps.append(["train", *words, "--run", str(run), "--resume", "auto"])
    sets = [str(crops), *(str(data / name) for name in FOREIGN)]
    evaluate = ["evaluate", "--checkpoint", str(model), "--output", str(report), "--data", *sets]
    if options.corruptions is not None:
        evaluate += ["--corruptions", *options.corruptions]
    steps.append(evaluate)
    environment = {k: v for k, v in os.environ.items() if k != "DEEPFAKE_RUN_FOLDER"}
    for words in steps:
        print(f"$ deepfake {shlex.join(words)}", flush=True)
        command = [sys.executable, "-c", "from deepfake.cli import main; raise SystemExit(main())"]
        code = subprocess.run([*command, *words], env=environment, check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
