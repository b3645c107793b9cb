"""The rules that a divided crop folder must keep, each in one place.

Training raises what they find, ``doctor`` prints it. A group, a fake and its original, and two
crops that look alike must not stand in two splits: a network then remembers instead of judging, and
every metric is too good. Every split that is used needs both classes. Knows no network.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.class_counts import NO_SPLIT, label_word
from deepfake.dataset.duplicates import MAX_DISTANCE
from deepfake.dataset.manifest import Manifest, name_crops, read_sources
from deepfake.dataset.perceptual_hashes import PerceptualHashes
from deepfake.dataset.splits import SPLITS, number_splits
from deepfake.dataset.texts import Texts, Words, find_first, number_texts
from deepfake.errors import UsageError

T = TypeVar("T")
logger = logging.getLogger(__name__)

Severity = Literal["ok", "note", "warning", "unfit", "leak", "damage"]
EXAMPLES = 5
_RAISED_EXAMPLES = 3
_MAX_PAIRS = 10_000
_LARGE_IMBALANCE = 20
_MEASURE_APART = (
    "crop these inputs into a folder of their own to measure on (deepfake evaluate), or set"
    " data.split.by to group"
)
_MEND_SPLITS = "mend the split column, or set data.split.by to group"


@dataclass(frozen=True, slots=True)
class Issue:
    """What one rule came to.

    Args:
        severity: ``unfit`` means that training refuses; ``leak``, that metrics would be too good;
            ``damage``, that crops are missing or cannot be read; ``ok``, that the rule is kept.
        kind: What was looked at, in one or two words.
        message: What was seen.
        remedy: What to do about it.
        examples: Whom it concerns, the first few.
    """

    severity: Severity
    kind: str
    message: str
    remedy: str = ""
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


def raise_issues(issues: Iterable[Issue], *, allow_leak: bool = False) -> None:
    """Refuse what no training must go on with, and log what it should know.

    Args:
        issues: In the order in which they are raised.
        allow_leak: Let leaks pass with a warning.

    Raises:
        UsageError: For the first issue that is ``unfit`` or ``damage``, or a ``leak`` that is not
            allowed.
    """
    for issue in issues:
        shown = ", ".join(issue.examples[:_RAISED_EXAMPLES])
        problem = f"{issue.message}: {shown}" if shown else issue.message
        remedy = f"; {issue.remedy}" if issue.remedy else ""
        if issue.severity == "leak" and allow_leak:
            logger.warning("%s; going on because data.split.allow_leak is true", problem)
        elif issue.severity == "leak":
            raise UsageError(f"{problem}{remedy}, or go on with data.split.allow_leak true")
        elif issue.severity in ("unfit", "damage"):
            raise UsageError(f"{problem}{remedy}")
        elif issue.severity == "warning":
            logger.warning("%s%s", problem, remedy)


def audit_splits(manifest: Manifest, splits: Sequence[str]) -> list[Issue]:
    """Look for what makes the metrics of a division worthless, short of reading the crops.

    Args:
        manifest: The crop folder.
        splits: Split of each of its rows; empty where it has none.
    """
    return [
        *_audit_classes(manifest, splits),
        _audit_groups(manifest, splits),
        *_audit_originals(manifest, splits),
    ]


def _audit_classes(manifest: Manifest, splits: Sequence[str]) -> list[Issue]:
    """Splits that lack a class, or have far less of one."""
    counts = Counter(zip(splits, manifest.rows.values("label"), strict=True))
    if any(label is None or split not in SPLITS for split, label in counts):
        return []
    numbers = {split: [counts[split, label] for label in (0, 1)] for split in SPLITS}
    shown = "; ".join(
        f"{split}: {real:,} real, {fake:,} fake" for split, (real, fake) in numbers.items()
    )
    issues = []
    for split, found in numbers.items():
        if split == "test" and not any(found):
            issues.append(
                Issue("warning", "classes", f"there is no test split ({shown}): no test metrics")
            )
        elif min(found) == 0:
            need = "both classes or no crops" if split == "test" else "both classes"
            message = f"the {split} split needs {need}, but {manifest.root} has {shown}"
            remedy = _MEASURE_APART if split == "test" else ""
            issues.append(Issue("unfit", "classes", message, remedy))
        elif max(found) > _LARGE_IMBALANCE * min(found):
            message = f"the {split} split is imbalanced ({shown})"
            remedy = "data.batches.balance true fills every batch half and half"
            issues.append(
                Issue("warning", "balance", message, remedy)
                if split == "train"
                else Issue("note", "balance", message)
            )
    fakes = sum(counts[split, 1] for split in SPLITS) / len(splits)
    return issues or [Issue("ok", "balance", f"{100 * fakes:.0f} % of the crops are fake")]


def _audit_groups(manifest: Manifest, splits: Sequence[str]) -> Issue:
    groups = manifest.rows.words("group")
    leaks = find_split_groups(groups, splits)
    total = f"{len(groups.texts):,}"
    if not leaks:
        return Issue("ok", "groups", f"none of {total} stands in two splits")

    def show(group: str) -> str:
        places = Counter(
            splits[row] or NO_SPLIT for row in np.flatnonzero(groups.are(group)).tolist()
        )
        counts = ", ".join(f"{count:,} {split}" for split, count in places.items())
        return f"{group} ({counts})"

    return Issue(
        "leak",
        "groups",
        f"{len(leaks):,} of {total} groups stand in more than one split, which makes every metric"
        " worthless",
        _MEND_SPLITS,
        show_some(leaks, show),
    )


def _audit_originals(manifest: Manifest, splits: Sequence[str]) -> list[Issue]:
    rows = manifest.rows
    sources, originals = rows.texts("source"), rows.texts("original")
    absent = find_split_originals(sources, originals, splits)
    issues = []
    if absent:
        message = (
            f"{len(absent):,} originals without a crop have fakes in more than one split, which"
            " show the same"
        )
        issues.append(Issue("leak", "originals", message, _MEND_SPLITS, show_some(absent)))
    pairs = find_split_pairs(sources, originals, splits)
    if not len(pairs):
        return issues
    names = _name_crops(manifest, pairs[:EXAMPLES].ravel().tolist())

    def show(pair: NDArray[np.int64]) -> str:
        fake, real = pair.tolist()
        return f"{splits[fake]} {names[fake]} was made from {splits[real]} {names[real]}"

    message = f"{len(pairs):,} fake crops stand in another split than their original"
    return [Issue("leak", "originals", message, _MEND_SPLITS, show_some(pairs, show)), *issues]


def audit_look_alikes(manifest: Manifest, splits: Sequence[str], hashes: PerceptualHashes) -> Issue:
    """Look for crops of different splits that show the same.

    Args:
        manifest: The crop folder.
        splits: Split of each of its rows.
        hashes: Of its crops.
    """
    kind, rows = "look-alikes", manifest.rows
    pairs, stopped = hashes.find_look_alikes(splits, _MAX_PAIRS)
    compared = f"{hashes.has_content.sum():,} crops compared, up to {MAX_DISTANCE} of 64 bits"
    if not pairs and stopped:
        message = (
            f"too many crops look somewhat alike to compare them all: none among the first"
            f" {_MAX_PAIRS:,} pairs ({compared})"
        )
        return Issue("warning", kind, message)
    if not pairs:
        return Issue("ok", kind, f"none across splits ({compared})")
    names = _name_crops(manifest, [row for _, *two in pairs[:EXAMPLES] for row in two])

    def name(row: int) -> str:
        return f"{splits[row]} {names[row]} ({label_word(rows[row].label)})"

    def show(pair: tuple[float, int, int]) -> str:
        correlation, one, other = pair
        return f"{name(one)} ~ {name(other)}, correlation {correlation:.3f}"

    return Issue(
        "leak",
        kind,
        f"{len(pairs):,}{' or more' if stopped else ''} pairs of crops in two splits look alike"
        f" ({compared}), which makes metrics too good",
        "give both the same group, or remove one",
        show_some(pairs, show),
    )


def _name_crops(manifest: Manifest, places: Sequence[int]) -> dict[int, str]:
    return name_crops(manifest.rows, read_sources(manifest.root), places)


def find_split_groups(groups: Sequence[str] | Words, splits: Sequence[str]) -> list[str]:
    """Groups that stand in more than one split, sorted; empty if all is well."""
    words = groups if isinstance(groups, Words) else Words.of(groups)
    of_row, names = words.numbers, words.texts
    split_of_row = number_splits(splits)
    split_of_group = np.zeros(len(names), np.int32)
    split_of_group[of_row] = split_of_row
    is_split = np.zeros(len(names), np.bool_)
    is_split[of_row[split_of_group[of_row] != split_of_row]] = True
    return [*names[np.flatnonzero(is_split)]]


def find_split_pairs(
    sources: Sequence[str],
    originals: Sequence[str],
    splits: Sequence[str],
) -> NDArray[np.int64]:
    """Fakes whose original stands in another split.

    Args:
        sources: Id of each row's input.
        originals: Id of the input that a row was made from, or empty.
        splits: Split of each row.

    Returns:
        ``(M, 2)``: row of the fake and the first row of its original in another split, in order, a
        pair for each such fake.

    Example:
        >>> find_split_pairs(["r", "f", "g"], ["", "r", "r"], ["train", "train", "test"]).tolist()
        [[2, 0]]
    """
    source, original = number_texts(sources, originals)
    n_inputs = max(source.max(initial=-1), original.max(initial=-1)) + 1
    split = number_splits(splits)
    # Of each input its first row, and its first row in another split than that one's.
    first = find_first(source, n_inputs)
    apart = np.flatnonzero(split[first[source]] != split)
    second = find_first(source[apart], n_inputs)
    second[second >= 0] = apart[second[second >= 0]]
    real = first[original]
    is_beside = (real >= 0) & (split[real] == split)
    real[is_beside] = second[original[is_beside]]
    fakes = np.flatnonzero(real >= 0)
    return np.stack([fakes, real[fakes]], axis=1)


def find_split_originals(
    sources: Sequence[str], originals: Sequence[str], splits: Sequence[str]
) -> list[str]:
    """Originals that have no row themselves, and fakes in more than one split; sorted.

    Args:
        sources: Id of each row's input.
        originals: Id of the input that a row was made from, or empty.
        splits: Split of each row.

    Example:
        >>> find_split_originals(["f", "g", "h"], ["r", "r", "s"], ["train", "test", "test"])
        ['r']
    """
    originals = Texts.of(originals)
    source, original = number_texts(sources, originals)
    n_inputs = max(source.max(initial=-1), original.max(initial=-1)) + 1
    is_alone = ~originals.are_empty() & (find_first(source, n_inputs)[original] < 0)
    fakes = np.flatnonzero(is_alone)
    return find_split_groups(originals[fakes], [splits[row] for row in fakes.tolist()])


def show_some(
    found: Sequence[T] | NDArray[Any], show: Callable[[Any], str] = str
) -> tuple[str, ...]:
    """The first few, in words, and how many more there are."""
    shown = tuple(show(one) for one in found[:EXAMPLES])
    rest = len(found) - len(shown)
    return (*shown, f"... and {rest:,} more") if rest > 0 else shown
