"""What misleads or wastes in a crop folder, beyond the rules of ``audit``.

Duplicates, damaged and blank crops, groups of one, a class that loses more inputs, a size that
gives the class away. Every issue is for people to read: training does not ask. Knows no network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfake.dataset.audit import EXAMPLES, Issue, show_some
from deepfake.dataset.class_counts import label_word
from deepfake.dataset.crop_folder import find_damaged_shards
from deepfake.dataset.manifest import Manifest, name_crops
from deepfake.dataset.perceptual_hashes import PerceptualHashes
from deepfake.dataset.rows import CropRows, SourceRows
from deepfake.dataset.texts import CHUNK, number_texts
from deepfake.faces.geometry import measure_boxes
from deepfake.metrics import compute_auc
from deepfake.records import Status

_TELLING_AUC = 0.65
_MIN_TELLING = 20  # crops of a class; with fewer, an area under the curve means nothing


def audit_quality(
    manifest: Manifest,
    sources: SourceRows,
    splits: Sequence[str],
    hashes: PerceptualHashes,
) -> list[Issue]:
    """Look for what misleads or wastes.

    Args:
        manifest: The crop folder.
        sources: Its inputs.
        splits: Split of each crop.
        hashes: Of the crops.
    """
    rows = manifest.rows
    return [
        *_audit_duplicates(rows, sources, splits, hashes),
        *_audit_files(manifest, hashes),
        _audit_group_sizes(rows),
        _audit_losses(sources),
        *_audit_sizes(rows, hashes),
        *_count_originals(rows, sources),
    ]


def _audit_duplicates(
    rows: CropRows, sources: SourceRows, splits: Sequence[str], hashes: PerceptualHashes
) -> list[Issue]:
    """Crops that are the same byte for byte."""
    sets = [found.tolist() for found in _find_repeats(hashes.digests) if hashes.digests[found[0]]]
    if not sets:
        return [Issue("ok", "duplicates", "no two crops are the same bytes")]

    def show_sets(found: Sequence[Sequence[int]]) -> tuple[str, ...]:
        shown = [row for same in found[:EXAMPLES] for row in same[:3]]
        names = name_crops(rows, sources, shown)

        def show(same: Sequence[int]) -> str:
            return " = ".join(f"{names[row]} ({label_word(rows[row].label)})" for row in same[:3])

        return show_some(found, show)

    labels = rows.kept("label")
    issues = []
    if across := [found for found in sets if len({splits[row] for row in found}) > 1]:
        message = f"{len(across):,} sets of identical crops stand in two splits"
        issues.append(Issue("leak", "duplicates", message, examples=show_sets(across)))
    if torn := [found for found in sets if len({labels[row] for row in found}) > 1]:
        message = f"{len(torn):,} sets of identical crops are called both real and fake"
        issues.append(Issue("warning", "labels", message, examples=show_sets(torn)))
    spare = sum(len(found) - 1 for found in sets)
    message = f"{spare:,} crops repeat another one byte for byte"
    return [*issues, Issue("note", "duplicates", message, examples=show_sets(sets))]


def _find_repeats(*columns: NDArray[Any]) -> list[NDArray[np.int64]]:
    """The rows of each value, or values, that more than one row has, in order of their first."""
    order, is_first = _sort(*columns)
    bounds = np.append(is_first, True)
    starts = np.flatnonzero(bounds[:-1] & ~bounds[1:])
    ends = np.flatnonzero(~bounds[:-1] & bounds[1:]) + 1
    sets = [order[start:end] for start, end in zip(starts, ends, strict=True)]
    return sorted(sets, key=lambda found: int(found[0]))


def _sort(*columns: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The rows sorted by their values, and whether each place has other values than that before."""
    order = np.lexsort(columns[::-1])
    is_first = np.zeros(len(order), np.bool_)
    is_first[:1] = True
    for column in columns:
        for start in range(1, len(order), CHUNK):  # some at a time: these are copies
            some = column[order[start - 1 : start + CHUNK]]
            is_first[start : start + CHUNK] |= some[1:] != some[:-1]
    return order, is_first


def _list_repeated(rows: CropRows) -> list[str]:
    """Crops, and faces of a frame, that have two rows."""
    (crop,) = number_texts(rows.texts("crop"))
    found = [(int(same[0]), 0) for same in _find_repeats(crop)]
    (source,) = number_texts(rows.texts("source"))
    found += [
        (int(same[0]), 1) for same in _find_repeats(source, rows.kept("frame"), rows.kept("face"))
    ]
    names = []
    for place, is_face in sorted(found):
        row = rows[place]
        face_name = f"frame {row.frame}, face {row.face} of {row.source}"
        names.append(face_name if is_face else row.crop)
    return names


def _audit_files(manifest: Manifest, hashes: PerceptualHashes) -> list[Issue]:
    """Shards that are not as they were written, rows that repeat, crops that are of no use."""
    problems = hashes.problems
    issues = []
    for kind, what, found in (
        ("shards", "shards are not as they were written", find_damaged_shards(manifest.root)),
        ("rows", "crops have two rows", _list_repeated(manifest.rows)),
        ("files", "crops cannot be read", [f"{hashes.files[i]}: {problems[i]}" for i in problems]),
    ):
        if found:
            shown = show_some(found)
            message = f"{len(found):,} {what}"
            issues.append(Issue("damage", kind, message, "run the crop command again", shown))
    flat = np.flatnonzero(~hashes.has_content).tolist()
    if blank := [hashes.files[row] for row in flat if row not in problems]:
        message = f"{len(blank):,} crops show nothing (a flat colour)"
        issues.append(Issue("warning", "blank", message, examples=show_some(blank)))
    return issues


def _audit_group_sizes(rows: CropRows) -> Issue:
    (group,), (source,) = (number_texts(rows.texts(name)) for name in ("group", "source"))
    order, is_first = _sort(group, source)
    inputs = np.bincount(group[order[is_first]])
    single = int((inputs == 1).sum())
    if single == len(inputs) > 1:
        message = "every group holds one input"
        remedy = "if several show one person, metrics will be too good: name groups in a CSV"
        return Issue("warning", "group sizes", message, remedy)
    sizes = np.bincount(group)
    first = int(np.flatnonzero(sizes[group] == sizes.max())[0])
    largest, size = rows[first].group, int(sizes.max())
    message = (
        f"{single:,} of {len(inputs):,} hold one input; the largest, {largest}, has"
        f" {100 * size / len(rows):.0f} % of the crops"
    )
    if size > len(rows) / 2:
        return Issue("note", "group sizes", f"{message}: hard to divide in another way")
    return Issue("ok", "group sizes", message)


def _audit_losses(sources: SourceRows) -> Issue:
    """Inputs that gave no crop: many, or many more of one class."""
    totals = Counter(sources.values("label"))
    told = zip(sources.values("label"), sources.values("status"), strict=True)
    lost = Counter(label for label, status in told if status != Status.OK.value)
    if not lost.total():
        return Issue("ok", "losses", "every input gave a crop")
    share = lost.total() / len(sources)
    message = f"{lost.total():,} of {len(sources):,} inputs gave no crop ({100 * share:.1f} %)"
    rates = [lost[label] / totals[label] for label in (0, 1) if totals[label]]
    if len(rates) == 2 and max(rates) > 0.02 and max(rates) > 2 * min(rates):
        message += (
            f"; {100 * rates[0]:.1f} % of the real and {100 * rates[1]:.1f} % of the fake ones: the"
            " classes are not lost alike"
        )
        return Issue("warning", "losses", message)
    if share > 0.1:
        return Issue("warning", "losses", message, "see sources.csv")
    return Issue("note", "losses", message)


def _audit_sizes(rows: CropRows, hashes: PerceptualHashes) -> list[Issue]:
    """Whether a size, which is not the face, tells the classes apart."""
    labels = rows.kept("label").astype(np.int64)
    known = np.flatnonzero(labels >= 0)
    labels = labels[known]
    if min(np.bincount(labels, minlength=2)) < _MIN_TELLING:
        return []
    issues = []
    for kind, values in (
        ("face size", measure_boxes(rows.kept("box_xyxy")[known])),
        ("file size", hashes.sizes[known].astype(np.float64)),
    ):
        auc = compute_auc(labels, values)
        message = (
            f"alone it tells fake from real with AUC {max(auc, 1 - auc):.2f} (0.5 = not at all)"
        )
        if max(auc, 1 - auc) >= _TELLING_AUC:
            larger = "fakes" if auc > 0.5 else "reals"
            message += f"; {larger} are larger: a network may learn that"
            issues.append(Issue("warning", kind, message))
        else:
            issues.append(Issue("ok", kind, message))
    return issues


def _count_originals(rows: CropRows, sources: SourceRows) -> list[Issue]:
    """How many fakes can be paired with the real input that they were made from."""
    is_fake = sources.kept("label") == 1
    linked = np.flatnonzero(is_fake & ~sources.texts("original").are_empty())
    if not len(linked):
        return []
    ids, originals = (sources.texts(name)[linked] for name in ("id", "original"))
    cropped, fakes, reals = number_texts(rows.texts("source"), ids, originals)
    is_cropped = np.zeros(max(one.max(initial=-1) for one in (cropped, fakes, reals)) + 1, bool)
    is_cropped[cropped] = True
    both = is_cropped[fakes] & is_cropped[reals]
    message = (
        f"{len(linked):,} of {is_fake.sum():,} fakes name their original; {both.sum():,} have crops"
        " of both"
    )
    return [Issue("note", "originals", message)]
