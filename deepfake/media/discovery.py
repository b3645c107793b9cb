"""Turn what the user names (folder, file, pattern, list) into ``Source``s in a stable order.

Nothing disappears: a listed line or a file with the suffix of a photo or video is always a source,
if need be one with a ``problem``; everything else in a folder is counted, and looked into: what
holds a photo or a video all the same is counted apart. The module knows no labels.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import count
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from deepfake.errors import MediaError, UsageError
from deepfake.media.containers import HEAD_BYTES, is_video
from deepfake.media.files import describe_mode, is_image, open_regular_file
from deepfake.media.listed import list_sources as list_sources
from deepfake.media.listed import read_names
from deepfake.media.source_list import SourceList
from deepfake.records import Source

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".jpg_large", ".jpg_orig", ".png", ".apng",
    ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif", ".hif",
)  # fmt: skip
"""Suffixes, in any case, of the photos that are picked up from folders and by patterns."""

VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".divx", ".ts", ".mts",
    ".m2ts", ".m2t", ".wmv", ".asf", ".flv", ".f4v", ".mpg", ".mpeg", ".mpe", ".m2p", ".vob",
    ".mod", ".tod", ".ogv", ".ogm", ".mxf", ".dv",
)  # fmt: skip
"""The same for videos."""

FollowLinks = bool | Literal["anywhere"]
"""Whether symbolic links of a folder are followed: not, those that stay inside, or all."""

_MEDIA_MARK = " (media)"

LIST_SUFFIXES = (".txt", ".lst")
"""Suffixes of list files: one path per line."""

# What steers a terminal, breaks a line or is no text; and invisible characters that reorder the
# text around them: a file name may pose as another.
_UNSAFE = re.compile(
    "[\\\\\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found.

    Args:
        sources: Sorted by the bytes of their names; in a list, in the order of the list.
        skipped: How many files were passed over, by suffix; ``(no suffix)``, ``(hidden)`` and
            ``(link to folder)``, which leads back, have their own count, and so have those that
            hold photos or videos (``.nef (media)``; see ``count_passed_over``).
        root: The folder that names are relative to.
        is_folder: Whether the input was a folder, whose name its names lack.
    """

    sources: SourceList
    skipped: dict[str, int]
    root: Path
    is_folder: bool = False


def discover(
    input: str | os.PathLike[str],
    *,
    follow_links: FollowLinks = False,
    exclude: Path | None = None,
    other_stores: bool = False,
) -> Discovery:
    """Find the photos and videos that an input names.

    Args:
        input: A folder, which is searched at any depth; a file, whatever its suffix; a list file
            (``.txt``, ``.lst``) with one path per line, absolute or relative to the list's own
            folder; or, where no such file exists, a pattern with ``*``, ``?``, ``[...]`` and
            ``**`` for any depth.
        follow_links: In folders and patterns, follow symbolic links that stay inside the folder,
            or all with ``anywhere``. A path that is named outright, by the caller or in a list, may
            always be a link.
        exclude: A folder that is not searched: the output of the job.
        other_stores: As of ``list_sources``.

    Raises:
        UsageError: If there is no such input, nothing is found in it, or a list file is not text.
    """
    text = os.fspath(input)
    if not text:
        raise UsageError("the input is empty; expected a folder, file, list file or pattern")
    path = Path(text)
    if path.is_dir():
        found = _discover_tree(text, _Walk(path, ["**"], follow_links, exclude), "")
        return replace(found, is_folder=True)
    if os.path.lexists(path):
        if path.suffix.lower() in LIST_SUFFIXES and path.is_file():
            names = read_names(_read_list(path), path)
            return Discovery(list_sources(names, path.parent, other_stores), {}, path.parent)
        return Discovery(list_sources([text], Path()), {}, path.parent)
    parts = path.parts
    fixed = next((i for i, part in enumerate(parts) if is_pattern(part)), len(parts))
    folder = Path(*parts[:fixed])
    if fixed == len(parts) or not folder.is_dir():
        raise UsageError(f"{text!r}: no such file or folder")
    prefix = "".join(f"{part.rstrip(os.sep)}/" for part in parts[:fixed])
    return _discover_tree(text, _Walk(folder, parts[fixed:], follow_links, exclude), prefix)


def is_pattern(text: str) -> bool:
    """Whether a name may stand for many: ``*``, ``?``, ``[...]``."""
    return re.search(r"[*?[]", text) is not None


def path_uri(name: str) -> str:
    """Percent-encode the bytes of a name; ``os.fsdecode(unquote_to_bytes(...))`` restores it.

    Example:
        >>> path_uri("a b/ü.jpg")
        'a%20b/%C3%BC.jpg'
    """
    text = quote(os.fsencode(name), safe="/")
    # quote() leaves a hyphen as it is, and a spreadsheet would take it for the sign of a formula.
    return text if not text.startswith("-") else f"%2D{text[1:]}"


def is_called_video(name: str) -> bool:
    """Whether a file has the suffix of a video."""
    return Path(name).suffix.lower() in VIDEO_SUFFIXES


def may_be_clip(name: str) -> bool:
    """Whether a file has the suffix of a video, or of an image format that may move."""
    return is_called_video(name) or Path(name).suffix.lower() in (".gif", ".webp", ".apng")


def display_name(name: str) -> str:
    r"""Make a name safe to show: one line, valid UTF-8, nothing that steers a terminal.

    Control characters, undecodable bytes, marks that reverse the direction of text and (where it
    does not separate folders) the backslash itself are escaped, so that names stay distinct.

    Example:
        >>> display_name("a\nb\x1b[2J.jpg")
        'a\\nb\\x1b[2J.jpg'
    """
    return _UNSAFE.sub(_escape, name)


def _escape(found: re.Match[str]) -> str:
    character, code = found[0], ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if 0x80 <= code < 0x100:
        # Two digits stand only for an undecodable byte.
        return f"\\u{code:04x}"
    return character if character == os.sep else character.encode("unicode_escape").decode()


def give_ids(sources: Iterable[Source]) -> tuple[Source, ...]:
    """The same sources with the ids of one job: from their names, no two alike."""
    taken: set[str] = set()
    named = []
    for source in sources:
        # No name holds a NUL, so a numbered one never hashes to the bytes of another name.
        numbered = (os.fsencode(source.name) + (b"\0%d" % n if n > 1 else b"") for n in count(1))
        hashes = (hashlib.sha1(data, usedforsecurity=False).hexdigest()[:16] for data in numbered)
        identity = next(text for text in hashes if text not in taken)
        taken.add(identity)
        named.append(replace(source, id=identity))
    return tuple(named)


def _read_list(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: list file cannot be read ({error.strerror})") from error


def _discover_tree(text: str, walk: _Walk, prefix: str) -> Discovery:
    walk.run()
    skipped = dict(sorted(walk.skipped.items()))
    if not walk.found:
        raise say_nothing_found(text, skipped)
    walk.found.sort()
    problems = {
        n: walk.problems[name] for n, name in enumerate(walk.found) if name in walk.problems
    }
    return Discovery(SourceList(walk.found, walk.root, problems, prefix), skipped, walk.root)


def say_nothing_found(text: str, skipped: Mapping[str, int]) -> UsageError:
    """Of an input without photo or video: what was looked for, and what was passed over."""
    counts = ", ".join(f"{n} {suffix}" for suffix, n in skipped.items())
    return UsageError(
        f"{text!r}: no photo found, and no video; looked for"
        f" {' '.join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)}"
        + (f"; passed over {counts}" if counts else "")
        + "; files with other suffixes can be given in a list file"
    )


class _Walk:
    """One search of a folder tree.

    Its result are the bytes of the names that were ``found``, ``problems`` of some of them by name,
    and what was ``skipped``.

    Args:
        root: Where to start.
        pattern: Components that a path below the root must match.
        follow_links: Follow symbolic links that stay below the root, or all of them.
        exclude: Folder that is not entered.
    """

    def __init__(
        self,
        root: Path,
        pattern: Sequence[str],
        follow_links: FollowLinks,
        exclude: Path | None,
    ) -> None:
        self.found: list[bytes] = []
        self.problems: dict[bytes, str] = {}
        self.skipped: Counter[str] = Counter()
        self.root = root
        self._real_root = os.path.realpath(root)
        self._pattern = pattern
        self._follow_links = follow_links
        self._excluded = _identify(exclude) if exclude is not None and exclude.exists() else None

    def run(self) -> None:
        identity = _identify(self.root)
        if identity == self._excluded:
            raise UsageError(f"{str(self.root)!r}: the input folder is also the output folder")
        # A stack instead of recursion: trees may be deeper than Python's call stack. Each entry
        # carries the folders above it, to notice a link back into one of them.
        waiting: list[tuple[tuple[str, ...], frozenset[tuple[int, int]]]] = [
            ((), frozenset({identity}))
        ]
        while waiting:
            parts, above = waiting.pop()
            for entry in self._iter_entries(parts):
                below = (*parts, entry.name)
                inner = self._visit(entry, below, above)
                if inner is not None:
                    waiting.append((below, above | {inner}))

    def _iter_entries(self, parts: tuple[str, ...]) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(self.root.joinpath(*parts)) as entries:
                yield from entries  # one folder may hold a million
        except OSError as error:
            reason = f"cannot list folder ({error.strerror or error})"
            if not parts:
                raise UsageError(f"{str(self.root)!r}: {reason}") from error
            self._keep_folder(parts, f"io_error: {reason}")

    def _visit(
        self, entry: os.DirEntry[str], parts: tuple[str, ...], above: frozenset[tuple[int, int]]
    ) -> tuple[int, int] | None:
        """Record an entry; if it is a folder to be entered, return its device and inode."""
        path = self.root.joinpath(*parts)
        if entry.name.startswith("."):
            if self._matches(parts) or leads_on(parts, self._pattern):
                self.skipped["(hidden)"] += 1
            return None
        if entry.is_file(follow_symlinks=False):
            self._add(parts, path, None)
            return None
        is_link = entry.is_symlink()
        try:
            problem = self._find_link_problem(path) if is_link else None
            status = path.stat() if path.exists() else path.lstat()
        except OSError as error:
            reason = f"io_error: {error.strerror or error}"
            if entry.is_dir(follow_symlinks=False):
                self._keep_folder(parts, reason)
            else:
                self._add(parts, path, reason)
            return None
        if not stat.S_ISDIR(status.st_mode):
            if problem is None and not stat.S_ISREG(status.st_mode):
                problem = f"not_regular_file: {describe_mode(status.st_mode)}"
            self._add(parts, path, problem)
            return None

        identity = (status.st_dev, status.st_ino)
        if identity == self._excluded:
            return None
        if has_media_suffix(entry.name):
            self._add(parts, path, problem or "not_regular_file: a folder")
        if not leads_on(parts, self._pattern):
            return None
        if is_link and problem is not None:
            # A row: what lies behind it may be a whole class.
            self._keep_folder(parts, f"{problem}; it leads to a folder")
            return None
        if is_link and identity in above:
            self.skipped["(link to folder)"] += 1
            return None
        return identity

    def _find_link_problem(self, path: Path) -> str | None:
        if not self._follow_links:
            return "not_regular_file: a symbolic link (links are not followed by default)"
        target = Path(os.path.realpath(path))
        if target.is_symlink() or not target.exists():
            return "not_regular_file: broken link"
        if self._follow_links != "anywhere" and not target.is_relative_to(self._real_root):
            return "not_regular_file: a link that leads out of the input folder"
        return None

    def _add(self, parts: tuple[str, ...], path: Path, problem: str | None) -> None:
        if not self._matches(parts):
            return
        if has_media_suffix(parts[-1]):
            self._keep("/".join(parts), problem)
        else:
            suffix = name_suffix(parts[-1])
            self.skipped[suffix + (_MEDIA_MARK if problem is None and _is_media(path) else "")] += 1

    def _keep_folder(self, parts: Sequence[str], problem: str) -> None:
        # The slash keeps its name apart from that of a file or an oddly named folder.
        self._keep("/".join(parts) + "/", problem)

    def _keep(self, name: str, problem: str | None) -> None:
        self.found.append(os.fsencode(name))
        if problem is not None:
            self.problems[self.found[-1]] = problem

    def _matches(self, parts: Sequence[str]) -> bool:
        return match_parts(parts, self._pattern)


def leads_on(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a folder may hold what a pattern matches."""
    for part, wanted in zip(parts, pattern, strict=False):
        if wanted == "**":
            return True
        if not fnmatchcase(part, wanted):
            return False
    return len(parts) < len(pattern)


def match_parts(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the components of a path are those of a pattern; ``**`` stands for any number."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(match_parts(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    fits = bool(parts) and fnmatchcase(parts[0], pattern[0])
    return fits and match_parts(parts[1:], pattern[1:])


def has_media_suffix(name: str) -> bool:
    """Whether a file is picked up from folders and by patterns."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES


def name_suffix(name: str) -> str:
    """What files like this one are counted as where they are passed over."""
    return display_name(Path(name).suffix.lower()) or "(no suffix)"


def _is_media(path: Path) -> bool:
    try:
        with open_regular_file(path, path.name) as file:
            head = file.read(HEAD_BYTES)
    except (MediaError, OSError):
        return False
    # Two letters say little: texts begin so, too.
    return is_video(head) or (is_image(head) and not head.startswith(b"BM"))


def count_passed_over(skipped: Mapping[str, int]) -> int:
    """How many of the files that were passed over hold photos or videos, whatever their suffix."""
    return sum(n for kind, n in skipped.items() if kind.endswith(_MEDIA_MARK))


def _identify(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
