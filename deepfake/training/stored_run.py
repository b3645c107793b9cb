"""A run's folder in a store, as one of this disk that a run goes on from."""

from __future__ import annotations

import re
from pathlib import Path

from deepfake.errors import UsageError
from deepfake.jobs.mirroring import copy_changed, name_mirror, store_must_answer
from deepfake.storage import alone, no_space_is_an_error
from deepfake.stores.address import Address
from deepfake.stores.objects import list_folder
from deepfake.training.callbacks.head import MODEL_FILE
from deepfake.training.folder import CHECKPOINTS, LAST

_WANTED = re.compile(rf"{CHECKPOINTS}/[^/]+\.ckpt|{re.escape(MODEL_FILE)}")  # leads nowhere else


def fetch_run(url: str, job: Path) -> Path:
    """Copy the checkpoints of a run; those that have not changed are copied once.

    Args:
        url: Address of its folder.
        job: The copy lies in this folder. Processes that are started together share it.

    Raises:
        UsageError: If there is no checkpoint to go on from.
        JobError: If the store does not give it.
    """
    address = Address.parse(url.rstrip("/"))
    folder = job / f"resumed-{name_mirror(address)}"
    with no_space_is_an_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with store_must_answer(), alone(folder):
            there = {n: one for n, one in list_folder(address) if _WANTED.fullmatch(n)}
            if f"{CHECKPOINTS}/{LAST}" not in there:
                raise UsageError(
                    f"--resume {address}: there is no {address.below(f'{CHECKPOINTS}/{LAST}')};"
                    " name the folder of a run"
                )
            copy_changed(address, folder, there)
            for path in folder.rglob("*.ckpt"):
                if path.relative_to(folder).as_posix() not in there:
                    path.unlink()  # no longer the best
    return folder


def list_kept(folder: Path) -> list[str]:
    """What another machine goes on from, by the names in a run's folder; the last one for last."""
    found = sorted(path.name for path in (folder / CHECKPOINTS).glob("[!.]*.ckpt"))
    return [f"{CHECKPOINTS}/{name}" for name in sorted(found, key=lambda name: name == LAST)]
