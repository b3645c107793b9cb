"""The folder of a run: which one it is, what lies where in it, and what a run goes on from.

Knows no Trainer and no command line but the words of its messages.
"""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from deepfake.errors import UsageError
from deepfake.learning.checkpoint import read_info
from deepfake.storage import LOCK_NAMES, Confinement
from deepfake.training.callbacks.head import MODEL_FILE

CHECKPOINTS = "checkpoints"
LAST = "last.ckpt"
CONFIG = "config.yaml"
_RUN_VARIABLE = "DEEPFAKE_RUN_FOLDER"  # tells the processes that Lightning starts where to write


class FinishedRun(Exception):  # noqa: N818 - it is good news
    """The run to go on from has nothing left to do.

    Args:
        run: Its folder.
    """

    def __init__(self, run: Path) -> None:
        model = run / MODEL_FILE
        super().__init__(
            f"the run in {run} is finished: {model}\n"
            f"train it longer (constant rate): --config {run / CONFIG} --resume {run} "
            "--trainer.max_epochs MORE --run NEW\n"
            f"or start a new run from its weights: --model.pretrained {model}"
        )


def find_start(
    resume: str | None, run: str | None, max_epochs: int | None, max_steps: int
) -> tuple[Path | None, bool]:
    """The checkpoint that a run goes on from, and whether it goes on in its own folder.

    Args:
        resume: A run's folder, a checkpoint of mid-training, or ``auto`` for the folder ``run``.
        run: Folder of this run.
        max_epochs: Length of this run; ``None`` or -1 is without end.
        max_steps: The same in steps.

    Raises:
        UsageError: If there is nothing to go on from, or a run's folder holds a link that leads out
            of it, a device or a pipe.
        FinishedRun: If it is finished, and no longer run is asked for.
    """
    goes_on = False
    if resume == "auto":
        if run is None:
            raise UsageError("--resume auto goes on in the folder of --run; name it")
        if (Path(run) / MODEL_FILE).exists():
            raise FinishedRun(Path(run))
        Confinement(Path(run)).check_all()
        resume = run if (Path(run) / CHECKPOINTS / LAST).exists() else None
        # A run that was killed before its first checkpoint has left its configuration only.
        goes_on = resume is not None or _is_ours(Path(run) / CONFIG)
    if resume is None:
        return None, goes_on
    path = Path(resume)
    if path.is_dir():
        # Whoever goes on reads, replaces and removes what a stranger may have put there.
        Confinement(path).check_all()
        path = path / CHECKPOINTS / LAST
    if not path.is_file():
        raise UsageError(f"--resume {resume}: there is no checkpoint {path}")
    info = read_info(path)
    if info["limits"] is not None:
        raise UsageError(
            f"--resume {resume}: {path} is finished and holds no optimiser; give its run folder to "
            "go on from the last epoch"
        )
    is_over = -1 < (-1 if max_epochs is None else max_epochs) <= info["epoch"] + 1
    if (is_over or -1 < max_steps <= info["global_step"]) and (
        path.parent.parent / MODEL_FILE
    ).exists():
        raise FinishedRun(path.parent.parent)
    return path, goes_on


def _is_ours(config: Path) -> bool:
    """Whether a configuration was written by a run: nobody else's folder is gone on with."""
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return False
    return isinstance(content, dict) and content.keys() >= {"trainer", "model", "data", "head"}


def claim_folder(wanted: str | None, goes_on: bool = False) -> Path:
    """The run's folder, created; a given one must be new or empty, unless it is gone on with.

    Raises:
        UsageError: If it is in use, or several processes would choose one each.
    """
    inherited = os.environ.get(_RUN_VARIABLE)
    if inherited is not None and "LOCAL_RANK" in os.environ:
        return Path(inherited)
    if wanted is None:
        if "WORLD_SIZE" in os.environ or "SLURM_PROCID" in os.environ:
            raise UsageError("several processes were started together: name their --run FOLDER")
        taken = [int(path.name) for path in Path("runs").glob("[0-9]*") if path.name.isdigit()]
        folder = Path("runs") / f"{max(taken, default=0) + 1:03d}"
    else:
        folder = Path(wanted)
    # Of a run that was killed before it wrote anything, its lock is left.
    in_use = folder.exists() and (
        not folder.is_dir() or any(path.name not in LOCK_NAMES for path in folder.iterdir())
    )
    if in_use and not goes_on and is_first():
        raise UsageError(f"the run folder {folder} exists and is not empty; name a new one")
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[_RUN_VARIABLE] = str(folder)
    return folder


def is_first() -> bool:
    """Whether this process is the only one, or the first of those that were started together."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return all(os.environ.get(name, "0") == "0" for name in names)
