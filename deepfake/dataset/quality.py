"""What misleads or wastes in a crop folder, beyond the rules of ``audit``.

Duplicates, damaged and blank crops, groups of one, a class that loses more inputs, a size that
gives the class away. Every issue is for people to read: training does not ask. Knows no network.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from deepfake.dataset.audit import Issue, show_some
from deepfake.dataset.class_counts import label_word
from deepfake.dataset.crop_folder import find_damaged_shards
from deepfake.dataset.manifest import CropRow, Manifest, SourceRow, name_crops
from deepfake.dataset.perceptual_hashes import PerceptualHashes
from deepfake.faces.geometry import measure_box
from deepfake.metrics import compute_auc
from deepfake.records import Status

_TELLING_AUC = 0.65
_MIN_TELLING = 20  # crops of a class; with fewer, an area under the curve means nothing


def audit_quality(
    manifest: Manifest,
    sources: Sequence[SourceRow],
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
        *_audit_duplicates(rows, splits, hashes, name_crops(rows, sources)),
        *_audit_files(manifest, hashes),
        _audit_group_sizes(rows),
        _audit_losses(sources),
        *_audit_sizes(rows, hashes),
        *_count_originals(rows, sources),
    ]


def _audit_duplicates(
    rows: Sequence[CropRow], splits: Sequence[str], hashes: PerceptualHashes, names: Sequence[str]
) -> list[Issue]:
    """Crops that are the same byte for byte."""
    same: dict[bytes, list[int]] = defaultdict(list)
    for row, digest in enumerate(hashes.digests):
        if digest:
            same[digest].append(row)
    sets = [found for found in same.values() if len(found) > 1]
    if not sets:
        return [Issue("ok", "duplicates", "no two crops are the same bytes")]

    def show(same: Sequence[int]) -> str:
        return " = ".join(f"{names[row]} ({label_word(rows[row].label)})" for row in same[:3])

    issues = []
    if across := [found for found in sets if len({splits[row] for row in found}) > 1]:
        message = f"{len(across):,} sets of identical crops stand in two splits"
        issues.append(Issue("leak", "duplicates", message, examples=show_some(across, show)))
    if torn := [found for found in sets if len({rows[row].label for row in found}) > 1]:
        message = f"{len(torn):,} sets of identical crops are called both real and fake"
        issues.append(Issue("warning", "labels", message, examples=show_some(torn, show)))
    spare = sum(len(found) - 1 for found in sets)
    message = f"{spare:,} crops repeat another one byte for byte"
    return [*issues, Issue("note", "duplicates", message, examples=show_some(sets, show))]


def _audit_files(manifest: Manifest, hashes: PerceptualHashes) -> list[Issue]:
    """Shards that are not as they were written, rows that repeat, crops that are of no use."""
    named = Counter(
        name
        for row in manifest.rows
        for name in (row.crop, f"frame {row.frame}, face {row.face} of {row.source}")
    )
    problems = hashes.problems
    issues = []
    for kind, what, found in (
        ("shards", "shards are not as they were written", find_damaged_shards(manifest.root)),
        ("rows", "crops have two rows", [name for name, count in named.items() if count > 1]),
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


def _audit_group_sizes(rows: Sequence[CropRow]) -> Issue:
    inputs: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        inputs[row.group].add(row.source)
    single = sum(len(found) == 1 for found in inputs.values())
    if single == len(inputs) > 1:
        message = "every group holds one input"
        remedy = "if several show one person, metrics will be too good: name groups in a CSV"
        return Issue("warning", "group sizes", message, remedy)
    largest, size = Counter(row.group for row in rows).most_common(1)[0]
    message = (
        f"{single:,} of {len(inputs):,} hold one input; the largest, {largest}, has"
        f" {100 * size / len(rows):.0f} % of the crops"
    )
    if size > len(rows) / 2:
        return Issue("note", "group sizes", f"{message}: hard to divide in another way")
    return Issue("ok", "group sizes", message)


def _audit_losses(sources: Sequence[SourceRow]) -> Issue:
    """Inputs that gave no crop: many, or many more of one class."""
    totals = Counter(source.label for source in sources)
    lost = Counter(source.label for source in sources if source.status != Status.OK.value)
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


def _audit_sizes(rows: Sequence[CropRow], hashes: PerceptualHashes) -> list[Issue]:
    """Whether a size, which is not the face, tells the classes apart."""
    known = [i for i, row in enumerate(rows) if row.label is not None]
    labels = np.array([rows[i].label for i in known], np.int64)
    if min(np.bincount(labels, minlength=2)) < _MIN_TELLING:
        return []
    issues = []
    for kind, values in (
        ("face size", np.array([measure_box(rows[i].box_xyxy) for i in known])),
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


def _count_originals(rows: Sequence[CropRow], sources: Sequence[SourceRow]) -> list[Issue]:
    """How many fakes can be paired with the real input that they were made from."""
    fakes = [source for source in sources if source.label == 1]
    linked = sum(bool(source.original) for source in fakes)
    if not linked:
        return []
    cropped = {row.source for row in rows}
    both = sum(source.id in cropped and source.original in cropped for source in fakes)
    message = f"{linked:,} of {len(fakes):,} fakes name their original; {both:,} have crops of both"
    return [Issue("note", "originals", message)]
