"""Whatever a user of Python hands over as photos and videos, as sources.

A string is a path, or an address in a store; what is in memory is written into a folder and goes
the way of files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from deepfake.dataset.layouts.labelling import list_inputs
from deepfake.dataset.manifest import is_crop_folder
from deepfake.errors import UsageError
from deepfake.media.discovery import LIST_SUFFIXES, is_pattern
from deepfake.media.listed import list_sources
from deepfake.media.memory import KINDS, Picture, keep_as_file
from deepfake.records import Source
from deepfake.stores.address import Address, is_url
from deepfake.stores.objects import look

Input = str | os.PathLike[str] | Picture
Inputs = Input | Iterable[Input]
_LISTS = (*LIST_SUFFIXES, ".csv")


def check_inputs(inputs: Inputs) -> None:
    """Refuse, before any work, what is neither an input nor many of them.

    Raises:
        UsageError: If it is not.
    """
    if not isinstance(inputs, str | os.PathLike | Iterable | KINDS):
        raise _refusal(inputs)


def iter_sources(inputs: Inputs, folder: Path, other_stores: bool = False) -> Iterator[Source]:
    """The files that inputs are, one by one and in order.

    Args:
        inputs: One, or many.
        folder: Where to write what is in memory.
        other_stores: As of ``Workers``.

    Raises:
        UsageError: If one is no input, or a folder or pattern names no file.
        MediaError: If a store does not say what lies in it.
    """
    check_inputs(inputs)
    # A string, bytes and an array can be walked through, too; none of them is many inputs.
    several = [inputs] if isinstance(inputs, str | os.PathLike | KINDS) else inputs
    for number, one in enumerate(several, start=1):
        if isinstance(one, KINDS):
            yield keep_as_file(one, folder, number)
        elif isinstance(one, str | os.PathLike):
            yield from _find(os.fspath(one), other_stores)
        else:
            raise _refusal(one)


def _find(name: str, other_stores: bool) -> Iterator[Source]:
    """The files of a path or address; one that does not exist is one without an answer."""
    if is_url(name):
        address = Address.parse(name)
        is_many = is_pattern(address.key) and not address.is_web
        is_many = is_many or address.path.suffix.lower() in _LISTS or name.endswith("/")
        found = None if is_many else look(address, other_stores)
        if is_many or (found is not None and found.is_folder):
            yield from list_inputs(name, with_folder=True, other_stores=other_stores)[0]
        else:
            yield from list_sources([name], address, other_stores)
        return
    path = Path(name)
    if path.is_dir() and is_crop_folder(path):
        raise UsageError(f"{name} is a crop folder; give the photos and videos themselves")
    is_list = path.suffix.lower() in _LISTS and path.is_file()
    if path.is_dir() or is_list or (is_pattern(name) and not os.path.lexists(path)):
        yield from list_inputs(name, with_folder=True, other_stores=other_stores)[0]
    else:
        yield from list_sources([name], Path())


def _refusal(one: Any) -> UsageError:
    return UsageError(
        f"{type(one).__name__} {one!r:.80} is no photo and no video; expected a path, a folder, "
        "a pattern, an address in a store, an RGB array (H, W, 3) of uint8, a picture of Pillow, "
        "bytes of a file, or many of them"
    )
