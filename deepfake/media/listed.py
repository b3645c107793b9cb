"""What a list names, each line a source: paths of this disk, and objects of stores.

A list is somebody else's text. One that lies in a store speaks of that store alone, and one of this
disk of files, unless the user allows more.
"""

from __future__ import annotations

import io
import os
import stat
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from deepfake.errors import MediaError, UsageError
from deepfake.media.files import describe_mode
from deepfake.media.source_list import ObjectFacts, SourceList
from deepfake.stores.address import Address, is_url
from deepfake.stores.objects import Look, look_at_all

Base = Path | Address
"""What listed names are relative to: a folder of this disk, or a list (or object) in a store."""


def list_sources(names: Iterable[str], base: Base, other_stores: bool = False) -> SourceList:
    """Make every listed path or address a source, whether it can be read or not.

    Args:
        names: Paths or addresses, absolute or relative to ``base``; a repeated one gets its own id.
        base: Where relative ones start.
        other_stores: Whether they may lead to other stores than that of ``base``, and from this
            disk to a store.

    Raises:
        UsageError: If one leads to another store, or is an address of an unknown kind.
    """
    if isinstance(base, Address) or other_stores:
        return _list_objects(list(names), base, other_stores)
    problems: dict[int, str] = {}

    def look() -> Iterator[bytes]:
        for place, name in enumerate(names):
            _locate(name, base)
            problem = _find_problem(base / name)
            if problem is not None:
                problems[place] = problem
            yield os.fsencode(name)

    return SourceList(look(), base, problems)


def read_names(data: bytes, name: object) -> Iterator[str]:
    """The names in a list file: one a line.

    Args:
        data: Its content.
        name: What errors call it.

    Raises:
        UsageError: If it is no text, or empty.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data:
        raise UsageError(
            f"{name}: list file is UTF-16 or not text; save it as UTF-8, one path per line"
        )
    # Bytes that are not UTF-8 are kept: they are how such a file is called.
    lines = (line.rstrip(b"\n") for line in io.BytesIO(data.removeprefix(b"\xef\xbb\xbf")))
    names = (os.fsdecode(line.removesuffix(b"\r")) for line in lines if line.strip())
    first = next(names, None)
    if first is None:
        raise UsageError(f"{name}: list file is empty; expected one path per line")
    return chain([first], names)


def _list_objects(names: Sequence[str], base: Base, other_stores: bool) -> SourceList:
    places = [_locate(name, base, other_stores) for name in names]
    remote = [address for address in places if address is not None]
    looks = look_at_all(remote, other_stores)
    sizes, stamps = array("q"), array("Q")
    problems: dict[int, str] = {}
    for place, (name, address) in enumerate(zip(names, places, strict=True)):
        found: Look | MediaError = Look()
        problem: str | None = None
        if address is not None:
            found = next(looks)
        elif isinstance(base, Path):
            problem = _find_problem(base / name)
        if isinstance(found, MediaError):
            problem = found.reason
            found = Look()
        elif found.is_folder:
            problem = "not_regular_file: a folder"
        sizes.append(-1 if found.size is None or found.is_folder else found.size)
        stamps.append(int(found.stamp or "0", 16))
        if problem is not None:
            problems[place] = problem
    facts = ObjectFacts(
        base if isinstance(base, Address) else None, False, sizes, stamps, other_stores
    )
    folder = Path() if isinstance(base, Address) else base
    return SourceList(map(os.fsencode, names), folder, problems, objects=facts)


def _locate(name: str, base: Base, other_stores: bool = False) -> Address | None:
    """Where a listed object lies; ``None`` for a file of this disk."""
    if isinstance(base, Path):
        if not is_url(name):
            return None
        if not other_stores:
            raise UsageError(
                f"a list of this disk names {name}, which lies in a store; --other-stores allows "
                "that, or name it on the command line"
            )
        return Address.parse(name)
    address = base.join(name)
    if not (other_stores or base.shares_store(address)):
        raise UsageError(
            f"{base} names {address}, which lies in another store; --other-stores allows that"
        )
    return address


def _find_problem(path: Path) -> str | None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            return "not_regular_file: broken link"
        return "io_error: no such file"
    except (OSError, ValueError) as error:
        return f"io_error: {getattr(error, 'strerror', None) or error}"
    return None if stat.S_ISREG(mode) else f"not_regular_file: {describe_mode(mode)}"
