"""Examine a crop folder for what spoils a figure before it is measured.

Leaks first: a group, or a picture that looks like another one, in two splits. Then what misleads
or wastes: duplicates, damaged crops, imbalance, a class that loses more inputs, a size that tells
the classes apart. Every crop is read once; nothing is written. Knows no network.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from deepfake.dataset.census import Census, align
from deepfake.dataset.duplicates import MAX_DISTANCE
from deepfake.dataset.looks import Looks
from deepfake.dataset.manifest import (
    CropRow,
    SourceRow,
    name_crops,
    read_manifest,
    read_sources,
)
from deepfake.dataset.splits import SPLITS, assign_splits, find_leaks, find_parted
from deepfake.errors import UsageError
from deepfake.metrics import compute_auc
from deepfake.records import LABEL_NAMES, Status

Level = Literal["ok", "note", "warning", "unfit", "leak", "damage"]
_EXAMPLES = 5
_MAX_PAIRS = 10_000
_QUANTILES = (0.05, 0.5, 0.95)
_TELLING_AUC = 0.65
_MIN_TELLING = 20  # crops of a class; with fewer, an area under the curve means nothing
_LARGE_IMBALANCE = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Args:
        level: ``unfit`` means that training refuses; ``leak``, that its figures would be too good;
            ``damage``, that crops are missing or cannot be read.
        topic: What was looked at, in two words.
        text: What was seen, and what to do.
        examples: Whom it concerns.
    """

    level: Level
    topic: str
    text: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What was found; ``str()`` is for people, ``to_dict`` for machines.

    Args:
        root: The crop folder.
        n_inputs: Number of inputs of the crop job.
        size: Side of a crop in pixels.
        preset: Name of its recipe.
        census: Crops by label, method and split.
        groups: Number of groups per split.
        statuses: Inputs by label word and status.
        reasons: Inputs without crops, by the first word of the reason.
        face_sizes: Quantiles of the faces' shorter side in pixels, by label word.
        findings: All that was looked at, in a fixed order.
    """

    root: Path
    n_inputs: int
    size: int
    preset: str
    census: Census
    groups: dict[str, int]
    statuses: dict[tuple[str, str], int]
    reasons: dict[str, int]
    face_sizes: dict[str, tuple[float, ...]]
    findings: tuple[Finding, ...]

    @property
    def n_crops(self) -> int:
        """Number of crops."""
        return sum(self.census.counts.values())

    @property
    def leaks(self) -> int:
        """How many findings are leaks."""
        return sum(finding.level == "leak" for finding in self.findings)

    @property
    def damaged(self) -> bool:
        """Whether crops are missing or cannot be read."""
        return any(finding.level == "damage" for finding in self.findings)

    @property
    def unfit(self) -> bool:
        """Whether training would refuse the folder, leaks aside."""
        return any(finding.level == "unfit" for finding in self.findings)

    @property
    def verdict(self) -> str:
        """One line that sums up."""
        counts = Counter(finding.level for finding in self.findings)
        warnings = f"{counts['warning']} warning{'s' if counts['warning'] != 1 else ''}"
        if self.damaged:
            return "damaged: run the crop command again"
        if self.leaks:
            return f"LEAK: figures from this folder would be too good ({warnings} besides)"
        if self.unfit:
            return f"no leak, but training would refuse it ({warnings} besides)"
        return "fit for training" + (f", {warnings}" if counts["warning"] else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for JSON."""
        return {
            "root": str(self.root),
            "inputs": self.n_inputs,
            "crops": self.n_crops,
            "size": self.size,
            "preset": self.preset,
            "counts": [
                {"label": label, "method": method, "split": split, "crops": count}
                for (label, method, split), count in sorted(self.census.counts.items())
            ],
            "groups": self.groups,
            "statuses": [
                {"label": label, "status": status, "inputs": count}
                for (label, status), count in sorted(self.statuses.items())
            ],
            "reasons": self.reasons,
            "face_size_px": {
                label: dict(zip(map(str, _QUANTILES), values, strict=True))
                for label, values in self.face_sizes.items()
            },
            "findings": [
                {
                    "level": one.level,
                    "topic": one.topic,
                    "text": one.text,
                    "examples": list(one.examples),
                }
                for one in self.findings
            ],
            "leak": bool(self.leaks),
            "damaged": self.damaged,
            "unfit": self.unfit,
            "verdict": self.verdict,
        }

    def __str__(self) -> str:
        head = (
            f"{self.root}: {self.n_crops:,} crops of {self.n_inputs:,} inputs, {self.size} px"
            f" ({self.preset})"
        )
        sections = [[head], str(self.census).splitlines()]
        if self.groups:
            sections.append(align([["groups", *self.groups], ["", *self.groups.values()]]))
        sections.append(self._write_statuses())
        if self.face_sizes:
            title = ["face, shorter side in px", *(f"{100 * q:.0f} %" for q in _QUANTILES)]
            rows = [
                [label, *(round(value) for value in values)]
                for label, values in self.face_sizes.items()
            ]
            sections.append(align([title, *rows]))
        sections.append(self._write_findings())
        sections.append([f"verdict: {self.verdict}"])
        return "\n\n".join("\n".join(lines) for lines in sections)

    def _write_statuses(self) -> list[str]:
        labels = sorted({label for label, _ in self.statuses}, key=_label_order)
        statuses = [
            status.value for status in Status if any(there == status for _, there in self.statuses)
        ]
        rows: list[list[object]] = [["inputs", *labels]]
        for status in statuses:
            rows.append([status, *(self.statuses.get((label, status), 0) for label in labels)])
        lines = align(rows)
        if self.reasons:
            shown = ", ".join(f"{count:,} {word}" for word, count in self.reasons.items())
            lines.append(f"without a crop: {shown}")
        return lines

    def _write_findings(self) -> list[str]:
        lines = []
        width = max(len(finding.topic) for finding in self.findings)
        for finding in self.findings:
            calm = finding.level in ("ok", "note")
            mark = finding.level if calm else finding.level.upper()
            lines.append(f"{mark:<7}  {finding.topic:<{width}}  {finding.text}")
            lines += [f"{'':<7}  {'':<{width}}    {example}" for example in finding.examples]
        return lines


def examine(
    root: Path,
    *,
    split: str = "auto",
    seed: int = 0,
    workers: int = 1,
    quiet: bool = False,
) -> Report:
    """Examine a finished crop folder.

    Args:
        root: The folder.
        split: Whence the splits come, as ``data.split`` of training.
        seed: Seed of splits that are divided or drawn, as ``data.seed`` of training.
        workers: Threads that read crops.
        quiet: Show no progress.

    Raises:
        UsageError: If the folder holds no finished crop job, or a table is damaged.
    """
    manifest, sources = read_manifest(root), read_sources(root)
    rows = manifest.rows
    if not rows:
        raise UsageError(f"{root} holds no crops: no input had a face; see its sources.csv")
    findings: list[Finding] = []
    splits = _choose_splits(rows, split, seed, findings)
    looks = Looks.take(manifest, workers, quiet)
    names = name_crops(rows, sources)

    findings.append(_check_groups_across(rows, splits))
    findings.append(_check_alike(rows, splits, looks, names))
    findings += _check_identical(rows, splits, looks, names)
    findings += _check_damage(looks)
    findings += _check_balance(rows, splits)
    findings.append(_check_groups(rows))
    findings += _check_losses(sources)
    findings += _check_telling(rows, looks)
    findings += _check_originals(rows, splits, sources, names)
    return Report(
        root,
        len(sources),
        manifest.spec.size,
        manifest.spec.preset,
        Census.take(
            (row.label, row.method, split) for row, split in zip(rows, splits, strict=True)
        ),
        _count_groups(rows, splits),
        dict(Counter((_label_word(source.label), source.status) for source in sources)),
        dict(
            Counter(
                source.reason.partition(":")[0]
                for source in sources
                if source.status != Status.OK.value
            ).most_common()
        ),
        _measure_faces(rows),
        tuple(findings),
    )


def _choose_splits(
    rows: Sequence[CropRow], mode: str, seed: int, findings: list[Finding]
) -> list[str]:
    given = [row.split for row in rows]
    if any(row.label is None for row in rows):
        count = sum(row.label is None for row in rows)
        findings.append(Finding("unfit", "labels", f"{count:,} crops have none"))
        return given
    try:
        splits = assign_splits(
            [row.group for row in rows],
            [row.label or 0 for row in rows],
            [row.source for row in rows],
            [row.original for row in rows],
            given,
            mode,
            seed=seed,
        )
    except UsageError as error:
        findings.append(Finding("unfit", "splits", str(error)))
        return given
    if splits == given:
        text = "as the data bring them"
    elif any(given) and mode != "group":
        text = f"as the data bring them; validation drawn from train by group (seed {seed})"
    else:
        text = f"divided by group, as training does it (seed {seed})"
    findings.append(Finding("ok", "splits", text))
    return splits


def _check_groups_across(rows: Sequence[CropRow], splits: Sequence[str]) -> Finding:
    groups = [row.group for row in rows]
    leaks = find_leaks(groups, splits)
    total = f"{len(set(groups)):,}"
    if not leaks:
        return Finding("ok", "groups", f"none of {total} stands in two splits")
    places: dict[str, Counter[str]] = defaultdict(Counter)
    for group, split in zip(groups, splits, strict=True):
        places[group][split or "no split"] += 1
    examples = tuple(
        f"{group}: " + ", ".join(f"{count:,} {split}" for split, count in places[group].items())
        for group in leaks[:_EXAMPLES]
    )
    return Finding(
        "leak",
        "groups",
        f"{len(leaks):,} of {total} stand in two splits: mend the split column, or train with"
        " data.split group",
        _and_more(examples, len(leaks)),
    )


def _check_alike(
    rows: Sequence[CropRow], splits: Sequence[str], looks: Looks, names: Sequence[str]
) -> Finding:
    """Crops of different splits that look alike."""
    alike, stopped = looks.find_alike(splits, _MAX_PAIRS)
    n_seen = int(looks.seen.sum())
    topic = "look-alikes"
    compared = f"{n_seen:,} crops compared, up to {MAX_DISTANCE} of 64 bits"
    if not alike and stopped:
        text = f"none among the first {_MAX_PAIRS:,} pairs that could be some ({compared})"
        return Finding("warning", topic, text)
    if not alike:
        return Finding("ok", topic, f"none across splits ({compared})")
    examples = tuple(
        f"{splits[one]} {names[one]} ({_label_word(rows[one].label)}) ~ {splits[other]}"
        f" {names[other]} ({_label_word(rows[other].label)}), correlation {correlation:.3f}"
        for correlation, one, other in alike[:_EXAMPLES]
    )
    more = " or more" if stopped else ""
    return Finding(
        "leak",
        topic,
        f"{len(alike):,}{more} pairs across splits ({compared}): give both the same group, or"
        " remove one",
        _and_more(examples, len(alike)),
    )


def _check_identical(
    rows: Sequence[CropRow], splits: Sequence[str], looks: Looks, names: Sequence[str]
) -> list[Finding]:
    """Crops that are the same byte for byte."""
    same: dict[bytes, list[int]] = defaultdict(list)
    for row, digest in enumerate(looks.digests):
        if digest:
            same[digest].append(row)
    sets = [found for found in same.values() if len(found) > 1]
    across = [found for found in sets if len({splits[row] for row in found}) > 1]
    torn = [found for found in sets if len({rows[row].label for row in found}) > 1]

    def show(found: Sequence[Sequence[int]]) -> tuple[str, ...]:
        shown = [
            " = ".join(f"{names[row]} ({_label_word(rows[row].label)})" for row in one[:3])
            for one in found[:_EXAMPLES]
        ]
        return _and_more(tuple(shown), len(found))

    if not sets:
        return [Finding("ok", "duplicates", "no two crops are the same bytes")]
    findings = []
    if across:
        text = f"{len(across):,} sets of identical crops stand in two splits"
        findings.append(Finding("leak", "duplicates", text, show(across)))
    if torn:
        text = f"{len(torn):,} sets of identical crops are called both real and fake"
        findings.append(Finding("warning", "labels", text, show(torn)))
    spare = sum(len(found) - 1 for found in sets)
    text = f"{spare:,} crops repeat another one byte for byte"
    findings.append(Finding("note", "duplicates", text, show(sets)))
    return findings


def _check_damage(looks: Looks) -> list[Finding]:
    findings = []
    if looks.problems:
        examples = tuple(
            f"{looks.files[row]}: {problem}"
            for row, problem in list(looks.problems.items())[:_EXAMPLES]
        )
        text = f"{len(looks.problems):,} crops cannot be read: run the crop command again"
        findings.append(Finding("damage", "files", text, _and_more(examples, len(looks.problems))))
    blank = [
        looks.files[row]
        for row in np.flatnonzero(~looks.seen).tolist()
        if row not in looks.problems
    ]
    if blank:
        text = f"{len(blank):,} crops show nothing (a flat colour)"
        findings.append(
            Finding("warning", "blank", text, _and_more(tuple(blank[:_EXAMPLES]), len(blank)))
        )
    return findings


def _check_balance(rows: Sequence[CropRow], splits: Sequence[str]) -> list[Finding]:
    if any(row.label is None for row in rows):
        return []
    findings = []
    for split in SPLITS if set(splits) <= set(SPLITS) else ():
        counts = Counter(
            row.label for row, there in zip(rows, splits, strict=True) if there == split
        )
        if min(counts[0], counts[1]) == 0:
            text = f"{split} has {counts[0]:,} real and {counts[1]:,} fake crops"
            if split != "test":
                findings.append(Finding("unfit", "classes", f"{text}: it needs both"))
            elif counts:
                text += ": it needs both or no crops; measure these in a folder of their own"
                findings.append(Finding("unfit", "classes", text))
            else:
                findings.append(Finding("warning", "classes", f"{text}: no test figures"))
        elif max(counts.values()) > _LARGE_IMBALANCE * min(counts.values()):
            text = (
                f"{split} has {counts[0]:,} real and {counts[1]:,} fake crops; data.balance true"
                " fills every batch half and half"
            )
            findings.append(Finding("warning", "balance", text))
    if findings:
        return findings
    fakes = sum(row.label == 1 for row in rows) / len(rows)
    return [Finding("ok", "balance", f"{100 * fakes:.0f} % of the crops are fake")]


def _check_groups(rows: Sequence[CropRow]) -> Finding:
    inputs: dict[str, set[str]] = defaultdict(set)
    crops: Counter[str] = Counter()
    for row in rows:
        inputs[row.group].add(row.source)
        crops[row.group] += 1
    lonely = sum(len(found) == 1 for found in inputs.values())
    largest, size = crops.most_common(1)[0]
    text = (
        f"{lonely:,} of {len(inputs):,} hold one input; the largest, {largest}, has"
        f" {100 * size / len(rows):.0f} % of the crops"
    )
    if lonely == len(inputs) > 1:
        return Finding(
            "warning",
            "group sizes",
            "every group holds one input: if several show one person, figures will be too good;"
            " name groups in a CSV",
        )
    if size > len(rows) / 2:
        return Finding("note", "group sizes", f"{text}: hard to divide in another way")
    return Finding("ok", "group sizes", text)


def _check_losses(sources: Sequence[SourceRow]) -> list[Finding]:
    """Inputs that gave no crop: many, or many more of one class."""
    totals = Counter(source.label for source in sources)
    lost = Counter(source.label for source in sources if source.status != Status.OK.value)
    if not lost.total():
        return [Finding("ok", "losses", "every input gave a crop")]
    share = lost.total() / len(sources)
    text = f"{lost.total():,} of {len(sources):,} inputs gave no crop ({100 * share:.1f} %)"
    rates = [lost[label] / totals[label] for label in (0, 1) if totals[label]]
    if len(rates) == 2 and max(rates) > 0.02 and max(rates) > 2 * min(rates):
        text += f"; {100 * rates[0]:.1f} % of the real and {100 * rates[1]:.1f} % of the fake ones"
        return [Finding("warning", "losses", f"{text}: the classes are not lost alike")]
    if share > 0.1:
        return [Finding("warning", "losses", f"{text}; see sources.csv")]
    return [Finding("note", "losses", text)]


def _check_telling(rows: Sequence[CropRow], looks: Looks) -> list[Finding]:
    """Whether something that is not the face tells the classes apart."""
    known = [i for i, row in enumerate(rows) if row.label is not None]
    labels = np.array([rows[i].label for i in known], np.int64)
    if min(np.bincount(labels, minlength=2)) < _MIN_TELLING:
        return []
    findings = []
    for topic, values in (
        ("face size", np.array([_face_size(rows[i]) for i in known])),
        ("file size", looks.sizes[known].astype(np.float64)),
    ):
        auc = compute_auc(labels, values)
        text = f"alone it tells fake from real with AUC {max(auc, 1 - auc):.2f} (0.5 = not at all)"
        level: Level = "ok"
        if max(auc, 1 - auc) >= _TELLING_AUC:
            level = "warning"
            text += f"; {'fakes' if auc > 0.5 else 'reals'} are larger: a network may learn that"
        findings.append(Finding(level, topic, text))
    return findings


def _check_originals(
    rows: Sequence[CropRow],
    splits: Sequence[str],
    sources: Sequence[SourceRow],
    names: Sequence[str],
) -> list[Finding]:
    findings = []
    parted = find_parted([row.source for row in rows], [row.original for row in rows], splits)
    if parted:
        examples = tuple(
            f"{splits[fake]} {names[fake]} was made from {splits[real]} {names[real]}"
            for fake, real in parted[:_EXAMPLES]
        )
        text = (
            f"{len(parted):,} fake crops stand in another split than their original: mend the split"
            " column, or train with data.split group"
        )
        findings.append(Finding("leak", "originals", text, _and_more(examples, len(parted))))
    fakes = [source for source in sources if source.label == 1]
    linked = sum(bool(source.original) for source in fakes)
    if linked:
        cropped = {row.source for row in rows}
        both = sum(source.id in cropped and source.original in cropped for source in fakes)
        text = (
            f"{linked:,} of {len(fakes):,} fakes name their original; {both:,} have crops of both"
        )
        findings.append(Finding("note", "originals", text))
    return findings


def _count_groups(rows: Sequence[CropRow], splits: Sequence[str]) -> dict[str, int]:
    groups: dict[str, set[str]] = defaultdict(set)
    for row, split in zip(rows, splits, strict=True):
        groups[split or "no split"].add(row.group)
    return {split: len(groups[split]) for split in (*SPLITS, "no split") if split in groups}


def _measure_faces(rows: Sequence[CropRow]) -> dict[str, tuple[float, ...]]:
    sizes: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        sizes[_label_word(row.label)].append(_face_size(row))
    return {
        label: tuple(float(value) for value in np.quantile(sizes[label], _QUANTILES))
        for label in sorted(sizes, key=_label_order)
    }


def _face_size(row: CropRow) -> float:
    x0, y0, x1, y1 = row.box_xyxy
    return min(x1 - x0, y1 - y0)


def _label_word(label: int | None) -> str:
    return "no label" if label is None else LABEL_NAMES[label]


def _label_order(word: str) -> int:
    return [*LABEL_NAMES, "no label"].index(word)


def _and_more(examples: tuple[str, ...], total: int) -> tuple[str, ...]:
    rest = total - len(examples)
    return (*examples, f"... and {rest:,} more") if rest > 0 else examples
