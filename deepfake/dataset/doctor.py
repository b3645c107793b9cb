"""Show what is wrong with a crop folder, as text for people and as plain types for machines.

``audit`` has the rules that training keeps, ``quality`` what else misleads or wastes. Every crop is
read once; nothing is written. Knows no network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepfake.dataset.audit import Issue, Severity, audit_look_alikes, audit_splits
from deepfake.dataset.class_counts import LABEL_WORDS, NO_SPLIT, ClassCounts, label_word
from deepfake.dataset.manifest import read_manifest, read_sources
from deepfake.dataset.perceptual_hashes import PerceptualHashes
from deepfake.dataset.quality import audit_quality
from deepfake.dataset.rows import CropRows, require_labels
from deepfake.dataset.splits import SPLITS, assign_splits
from deepfake.dataset.texts import number_texts
from deepfake.errors import UsageError
from deepfake.faces.geometry import measure_boxes
from deepfake.records import Status
from deepfake.tables import align

_QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True, slots=True)
class Report:
    """What the audit of a folder came to; ``str()`` is for people, ``to_dict`` for machines.

    Args:
        root: The crop folder, or its address.
        n_inputs: Number of inputs of the crop job.
        size: Side of a crop in pixels.
        preset: Name of its recipe.
        counts: Crops by label, method and split.
        groups: Number of groups per split.
        statuses: Inputs by label word and status.
        reasons: Inputs without crops, by the first word of the reason.
        face_sizes: Quantiles of the faces' shorter side in pixels, by label word.
        issues: All that was looked at, in a fixed order.
    """

    root: Path | str
    n_inputs: int
    size: int
    preset: str
    counts: ClassCounts
    groups: dict[str, int]
    statuses: dict[tuple[str, str], int]
    reasons: dict[str, int]
    face_sizes: dict[str, tuple[float, ...]]
    issues: tuple[Issue, ...]

    @property
    def n_crops(self) -> int:
        """Number of crops."""
        return self.counts.counts.total()

    @property
    def leaks(self) -> int:
        """How many issues are leaks."""
        return self._count("leak")

    @property
    def damaged(self) -> bool:
        """Whether crops are missing or cannot be read."""
        return self._count("damage") > 0

    @property
    def unfit(self) -> bool:
        """Whether training would refuse the folder, leaks aside."""
        return self._count("unfit") > 0

    def _count(self, severity: Severity) -> int:
        return sum(issue.severity == severity for issue in self.issues)

    @property
    def verdict(self) -> str:
        """One line that sums up."""
        count = self._count("warning")
        warnings = f"{count} warning{'s' if count != 1 else ''}"
        if self.damaged:
            return "damaged: run the crop command again"
        if self.leaks:
            return f"LEAK: metrics from this folder would be too good ({warnings} besides)"
        if self.unfit:
            return f"no leak, but training would refuse it ({warnings} besides)"
        return "fit for training" + (f", {warnings}" if count else "")

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
                for (label, method, split), count in sorted(self.counts.counts.items())
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
            "issues": [asdict(issue) for issue in self.issues],
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
        sections = [[head], str(self.counts).splitlines()]
        if self.groups:
            sections.append(align([["groups", *self.groups], ["", *self.groups.values()]]))
        sections.append(self._write_statuses())
        if self.face_sizes:
            title = ["face, shorter side in px", *(f"{100 * q:.0f} %" for q in _QUANTILES)]
            sizes = self.face_sizes.items()
            rows = [[label, *(round(value) for value in values)] for label, values in sizes]
            sections.append(align([title, *rows]))
        sections += [self._write_issues(), [f"verdict: {self.verdict}"]]
        return "\n\n".join("\n".join(lines) for lines in sections)

    def _write_statuses(self) -> list[str]:
        labels = sorted({label for label, _ in self.statuses}, key=LABEL_WORDS.index)
        found = {status for _, status in self.statuses}
        rows: list[list[object]] = [["inputs", *labels]]
        for status in Status:
            if status.value in found:
                counts = (self.statuses.get((label, status.value), 0) for label in labels)
                rows.append([status.value, *counts])
        lines = align(rows)
        if self.reasons:
            shown = ", ".join(f"{count:,} {word}" for word, count in self.reasons.items())
            lines.append(f"without a crop: {shown}")
        return lines

    def _write_issues(self) -> list[str]:
        lines = []
        width = max(len(issue.kind) for issue in self.issues)
        for issue in self.issues:
            calm = issue.severity in ("ok", "note")
            mark = issue.severity if calm else issue.severity.upper()
            lines.append(f"{mark:<7}  {issue.kind:<{width}}  {issue}")
            lines += [f"{'':<7}  {'':<{width}}    {example}" for example in issue.examples]
        return lines


def examine(
    root: Path, *, split: str = "auto", seed: int = 0, threads: int = 1, quiet: bool = False
) -> Report:
    """Examine a finished crop folder.

    Args:
        root: The folder.
        split: Where the splits come from, as ``data.split.by`` of training.
        seed: Seed of splits that are divided or drawn, as ``data.seed`` of training.
        threads: How many read crops.
        quiet: Show no progress.

    Raises:
        UsageError: If the folder holds no finished crop job, or a table is damaged.
    """
    manifest, sources = read_manifest(root), read_sources(root)
    rows = manifest.rows
    if not rows:
        raise UsageError(f"{root} holds no crops: no input had a face; see its sources.csv")
    splits, origin = _choose_splits(rows, split, seed)
    hashes = PerceptualHashes.compute(manifest, threads, quiet)
    lost = np.flatnonzero([status != Status.OK.value for status in sources.values("status")])
    reasons = sources.choose(lost).values("reason")
    return Report(
        root=root,
        n_inputs=len(sources),
        size=manifest.spec.size,
        preset=manifest.spec.preset,
        counts=ClassCounts.count(
            zip(rows.values("label"), rows.values("method"), splits, strict=True)
        ),
        groups=_count_groups(rows, splits),
        statuses=dict(
            Counter(
                zip(map(label_word, sources.values("label")), sources.values("status"), strict=True)
            )
        ),
        reasons=dict(Counter(reason.partition(":")[0] for reason in reasons).most_common()),
        face_sizes=_measure_faces(rows),
        issues=(
            origin,
            *audit_splits(manifest, splits),
            audit_look_alikes(manifest, splits, hashes),
            *audit_quality(manifest, sources, splits, hashes),
        ),
    )


def _choose_splits(rows: CropRows, mode: str, seed: int) -> tuple[list[str], Issue]:
    """The splits that training would take, or those of the data where it would refuse; an issue."""
    given = [*rows.values("split")]
    kind = "labels"
    try:
        require_labels(rows)
        kind = "splits"
        splits = assign_splits(rows, mode, seed=seed)
    except UsageError as error:
        return given, Issue("unfit", kind, str(error))
    message = "as the data bring them"
    if splits != given and any(given) and mode != "group":
        message += f"; validation drawn from train by group (seed {seed})"
    elif splits != given:
        message = f"divided by group, as training does it (seed {seed})"
    return splits, Issue("ok", kind, message)


def _count_groups(rows: CropRows, splits: Sequence[str]) -> dict[str, int]:
    (group,) = number_texts(rows.texts("group"))
    names = (*SPLITS, NO_SPLIT)
    n_kinds = len(names) + 1  # the last is of splits that nobody knows
    numbers = {name: number for number, name in enumerate((*SPLITS, ""))}
    split = np.fromiter((numbers.get(one, len(names)) for one in splits), np.int8, len(splits))
    occurs = np.zeros((group.max(initial=-1) + 1, n_kinds), np.bool_)
    occurs[group, split] = True
    counts = occurs.sum(axis=0).tolist()
    return {name: count for name, count in zip(names, counts, strict=False) if count}


def _measure_faces(rows: CropRows) -> dict[str, tuple[float, ...]]:
    sizes, labels = measure_boxes(rows.kept("box_xyxy")), rows.kept("label")
    found = {}
    for label in (0, 1, None):
        own = sizes[labels == (-1 if label is None else label)]
        if len(own):
            values = np.quantile(own, _QUANTILES).tolist()
            found[label_word(label)] = tuple(values)
    return found
