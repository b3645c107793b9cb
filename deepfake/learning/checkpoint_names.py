"""What a checkpoint may be called: a file, a model in the box, or an address."""

from __future__ import annotations

import atexit
import os
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from deepfake.errors import CheckpointError, MediaError
from deepfake.learning import hub
from deepfake.stores.address import Address, is_url

DEFAULT = "default"
"""The model that speaks where nobody names one."""
_GRAPH_SUFFIX = ".onnx"
SHIPPED = Path(__file__).resolve().parents[1] / "models"
"""Folder of the models in the box; ``NAME.safetensors`` is called ``NAME``."""


@dataclass(frozen=True, slots=True)
class NamedCheckpoint:
    """Where a checkpoint lies, and what to call it.

    Args:
        path: The file.
        name: By which it is found again: path, name in the box, or address with its commit.
    """

    path: Path
    name: str

    @property
    def is_own_file(self) -> bool:
        """Whether a path named it."""
        return Path(self.name) == self.path

    def suggest_output(self, suffix: str) -> Path:
        """What is made of it: beside a file of the user's own, else in the working folder."""
        if self.is_own_file:
            return self.path.with_suffix(suffix)
        word = self.name.removeprefix(hub.SCHEME).split("@")[0].split("/")[-1]
        is_file = is_url(self.name) and not self.name.startswith(hub.SCHEME)
        return Path(word).with_suffix(suffix) if is_file else Path(f"{word}{suffix}")


CheckpointName = str | os.PathLike[str] | NamedCheckpoint


def find_checkpoint(name: CheckpointName) -> NamedCheckpoint:
    """Find the file of a checkpoint.

    Args:
        name: A path; ``default`` or another name without suffix of a model in the box (a file that
            is called so is ``./default``); ``hf://USER/REPO[@REVISION]``, which is fetched into
            the cache of the hub's client (at its first time its licence and card are told); or the
            address of a file in a store, of which this process has a copy until it ends. What was
            found before stays as it is.

    Raises:
        CheckpointError: If there is no model of that name in the box, or a store does not give the
            file.
        UsageError: If an address leads nowhere.
    """
    if isinstance(name, NamedCheckpoint):
        return name
    if not isinstance(name, str):
        return NamedCheckpoint(Path(name), os.fspath(name))
    if name.startswith(hub.SCHEME):
        fetched = hub.fetch(hub.Address.parse(name))
        if fetched.is_new:
            hub.logger.info("fetched %s", fetched.describe())
        return NamedCheckpoint(fetched.path, str(fetched.address))
    address = Address.parse(name) if is_url(name) else None
    path = Path(name) if address is None else address.path
    if path.suffix.lower() == _GRAPH_SUFFIX:
        raise CheckpointError(
            f"{name} is a graph for programs without this package, as deepfake export writes it; "
            f"name the checkpoint that it was made of, as {path.with_suffix('.ckpt')}: where the "
            "graph lies beside it, scoring on a CPU takes it by itself"
        )
    if address is not None:
        return NamedCheckpoint(_fetch(address), str(address))
    if path.suffix or path.name != name:
        return NamedCheckpoint(path, name)
    shipped = list_shipped()
    if name in shipped:
        return NamedCheckpoint(shipped[name], name)
    if path.exists():
        return NamedCheckpoint(path, name)
    raise CheckpointError(
        f"there is no checkpoint {name}: this build of deepfake ships "
        f"{', '.join(sorted(shipped)) or 'none'}; name the model.ckpt of a run, its .safetensors, "
        "or hf://USER/REPO"
    )


@cache
def _fetch(address: Address) -> Path:
    if str(address) != address.url:
        raise CheckpointError(
            f"{address} is signed, and a checkpoint is written down by its name: fetch the file "
            "and name that"
        )
    from deepfake.stores.objects import download  # it takes time, and --help asks for the names

    folder = tempfile.TemporaryDirectory(prefix="deepfake-")
    atexit.register(folder.cleanup)
    path = Path(folder.name) / address.path.name
    try:
        download(address, path)
    except MediaError as error:
        raise CheckpointError(f"checkpoint {error}") from error
    return path


def list_shipped() -> dict[str, Path]:
    """The models in the box, by name."""
    from deepfake.learning.checkpoint_file import SAFETENSORS_SUFFIX, is_checkpoint

    paths = SHIPPED.glob(f"*{SAFETENSORS_SUFFIX}")
    return {path.stem: path for path in paths if is_checkpoint(path)}
