"""Turns what the user names in a store (folder, object, pattern, list) into ``Source``s.

They are what the same folder of this disk would give: same names, same order, same ids. What is
passed over is counted and not looked into, which would mean to fetch it. Knows no labels.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from deepfake.errors import UsageError
from deepfake.media.discovery import (
    LIST_SUFFIXES,
    Discovery,
    has_media_suffix,
    is_pattern,
    leads_on,
    match_parts,
    name_suffix,
    say_nothing_found,
)
from deepfake.media.listed import list_sources, read_names
from deepfake.media.source_list import ObjectFacts, SourceList
from deepfake.stores.address import Address
from deepfake.stores.objects import Look, list_folder, look, read_object


def discover_objects(url: str, other_stores: bool = False) -> Discovery:
    """Find the photos and videos that an address names.

    Args:
        url: Of an object, whatever its suffix; of a list file (``.txt``, ``.lst``) with one name
            per line, relative to it or an address; of a folder, searched at any depth; or, where
            there is no such object, a pattern as of ``discover``. A web server has objects and
            lists, but no folders.
        other_stores: As of ``list_sources``; a redirect of a web server, too, may then lead to
            another public one.

    Raises:
        UsageError: If there is no such object or folder, nothing is found in it, or a name in a
            list leads elsewhere.
        MediaError: If the store does not answer.
    """
    address = Address.parse(url)
    found = None
    if address.key and not url.endswith("/"):
        found = look(address, other_stores)
    if found is not None and not found.is_folder:
        names = [url]
        if PurePosixPath(address.name).suffix.lower() in LIST_SUFFIXES:
            names = list(read_names(read_object(address, other_stores), address))
        return Discovery(list_sources(names, address, other_stores), {}, address.path.parent)
    if address.is_web:
        raise UsageError(
            f"{address}: no such object, and a web server has no folders or patterns to look into: "
            "name a list file or a CSV of its objects"
        )
    parts = address.key.split("/")
    fixed = next((i for i, part in enumerate(parts) if is_pattern(part)), len(parts))
    is_folder = fixed == len(parts) or found is not None
    if is_folder:
        folder, pattern, prefix = address, ["**"], ""
    else:
        folder = Address(address.scheme, address.host, "/".join(parts[:fixed]))
        pattern, prefix = parts[fixed:], f"{folder.url.rstrip('/')}/"
    listing = _Listing(folder, pattern)
    if not (listing.found or listing.skipped):
        raise UsageError(f"{str(address)!r}: no such object or folder")
    if not listing.found:
        raise say_nothing_found(url, listing.skipped)
    sources = listing.make_sources(prefix, other_stores)
    return Discovery(sources, listing.skipped, folder.path, is_folder)


class _Listing:
    """What lies below a folder: the media that were ``found``, and what was ``skipped``.

    Args:
        folder: Where to start.
        pattern: Components that a key below it must match.
    """

    def __init__(self, folder: Address, pattern: Sequence[str]) -> None:
        self._folder = folder
        self.found: list[tuple[bytes, Look]] = []
        skipped: Counter[str] = Counter()
        hidden: set[tuple[str, ...]] = set()
        for name, seen in list_folder(folder):
            parts = name.split("/")
            at = next((i for i, part in enumerate(parts) if part.startswith(".")), None)
            if at is not None:
                above = tuple(parts[: at + 1])
                if match_parts(above, pattern) or leads_on(above, pattern):
                    hidden.add(above)
            elif match_parts(parts, pattern):
                if has_media_suffix(parts[-1]):
                    self.found.append((os.fsencode(name), seen))
                else:
                    skipped[name_suffix(parts[-1])] += 1
        if hidden:
            skipped["(hidden)"] = len(hidden)
        self.skipped = dict(sorted(skipped.items()))
        self.found.sort(key=lambda item: item[0])

    def make_sources(self, prefix: str, other_stores: bool) -> SourceList:
        """The media as sources, in the order of their names."""
        sizes = array("q", (-1 if seen.size is None else seen.size for _, seen in self.found))
        stamps = array("Q", (int(seen.stamp or "0", 16) for _, seen in self.found))
        facts = ObjectFacts(self._folder, True, sizes, stamps, other_stores)
        names = (name for name, _ in self.found)
        return SourceList(names, self._folder.path, {}, prefix, facts)
