"""An evaluation in, its tables for a terminal out: aligned, with 95 % intervals below the values.

Computes no metric.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from deepfake.error_rates import RATES, describe_chance, is_chance, show_rate
from deepfake.evaluation.evaluate import (
    OVERALL,
    ROBUSTNESS_METRICS,
    UNNAMED,
    Coverage,
    Evaluation,
    GroupMetrics,
    RobustnessCurve,
    RobustnessPoint,
)
from deepfake.metrics import METRICS, Estimate
from deepfake.reports.page import show


def describe(evaluation: Evaluation) -> str:
    """The whole result as text."""
    blocks = [
        _align_groups(f"{'methods, ' if by == 'method' else ''}by {level}", groups)
        for level, by, groups in list_tables(evaluation)
    ]
    blocks += [_align_rates(f"verdicts by {by}", groups) for by, groups in list_rates(evaluation)]
    blocks += [_align_curve(curve) for curve in evaluation.robustness]
    lines = ["\n\n".join(blocks), ""]
    for name, coverage in list_coverage(evaluation).items():
        lines.append(f"{name}: {coverage}; accuracy {_describe_coverage(coverage)}")
    lines += list_remarks(evaluation)
    lines += list_chance(evaluation.levels["file"].datasets)
    return "\n".join(lines) + "\n"


def list_tables(evaluation: Evaluation) -> list[tuple[str, str, dict[str, GroupMetrics]]]:
    """Level, kind of group and groups of each table; groups of one are not shown together."""
    tables = []
    for name, level in evaluation.distinct_levels().items():
        together = {OVERALL: level.overall} if len(level.datasets) > 1 else {}
        tables.append((name, "data set", level.datasets | together))
        if level.methods.keys() - {UNNAMED}:  # reals alone have none
            tables.append((name, "method", level.methods))
    return tables


def list_rates(evaluation: Evaluation) -> list[tuple[str, dict[str, GroupMetrics]]]:
    """Kind of group and groups of each table of verdicts, which are about files."""
    tables = list_tables(evaluation)
    return [(by, groups) for level, by, groups in tables if level.split(", ")[0] == "file"]


def list_chance(groups: Mapping[str, GroupMetrics]) -> list[str]:
    """Where the detector cannot be told from chance."""
    return [
        f"{name}: {describe_chance(group.metrics['auc'])}"
        for name, group in groups.items()
        if is_chance(group.metrics["auc"])
    ]


def list_coverage(evaluation: Evaluation) -> dict[str, Coverage]:
    """The coverage of each data set, and of all together where there are several."""
    hidden = OVERALL if len(evaluation.sets) == 1 else None
    return {name: part for name, part in evaluation.coverage.items() if name != hidden}


def list_remarks(evaluation: Evaluation) -> list[str]:
    """What a reader must know of the data sets."""
    datasets = [predictions.dataset for predictions in evaluation.sets]
    return [f"{dataset.name}: {remark}" for dataset in datasets for remark in dataset.remarks]


def list_gaps(groups: Mapping[str, GroupMetrics]) -> list[str]:
    """Why values or intervals are missing: a line for each row of a table and each reason."""
    lines = []
    for row, group in groups.items():
        titles: dict[str, list[str]] = {}
        for name, estimate in group.metrics.items():
            remark = f"n/a: {estimate.reason}" if estimate.reason else estimate.note
            if remark:
                titles.setdefault(remark, []).append(METRICS[name].title)
        for remark, gaps in titles.items():
            which = "all metrics" if len(gaps) == len(group.metrics) else ", ".join(gaps)
            lines.append(f"{row}: {which} {remark}")
    return lines


def name_severity(point: RobustnessPoint) -> str:
    """The value of a severity, or that there is none."""
    return f"{point.value:g}" if point.severity else "as they are"


def _describe_coverage(coverage: Coverage) -> str:
    text = show(coverage.accuracy)
    if not coverage.n_unscored:
        return text
    return (
        f"{text} of those with a score, {show(coverage.accuracy_if_wrong)} if the others count as "
        f"wrong, {show(coverage.accuracy_if_real)} if they are predicted real"
    )


def _align_groups(title: str, groups: Mapping[str, GroupMetrics]) -> str:
    table = [[title, "real", "fake", "groups", *(metric.title for metric in METRICS.values())]]
    for name, group in groups.items():
        counts = [f"{group.n_real:,}", f"{group.n_fake:,}", f"{group.n_groups:,}"]
        estimates = [group.metrics[metric] for metric in METRICS]
        table.append([name, *counts, *(show(estimate.value) for estimate in estimates)])
        intervals = [_show_interval(estimate) for estimate in estimates]
        if any(intervals):
            table.append(["", "", "", "", *intervals])
    return "\n".join([*_align(table), *(f"  {line}" for line in list_gaps(groups))])


def _align_rates(title: str, groups: Mapping[str, GroupMetrics]) -> str:
    table = [[title, "real", "fake", *(title for title, _ in RATES.values())]]
    for name, group in groups.items():
        rates = [show_rate(group.rates[rate]) for rate in RATES]
        table.append([name, f"{group.n_real:,}", f"{group.n_fake:,}", *rates])
    return "\n".join(_align(table))


def _align_curve(curve: RobustnessCurve) -> str:
    titles = [cell for name in ROBUSTNESS_METRICS for cell in (METRICS[name].title, "")]
    table = [[f"{curve.title} ({curve.unit})", *titles]]
    for point in curve.points:
        cells = [(show(one.value), _show_interval(one)) for one in point.metrics.values()]
        table.append([name_severity(point), *(text for cell in cells for text in cell)])
    return "\n".join(_align(table))


def _align(table: Sequence[Sequence[str]]) -> list[str]:
    """Names to the left, everything else to the right."""
    first, *others = (max(map(len, column)) for column in zip(*table, strict=True))
    return [
        "  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]).rstrip() for row in table
    ]


def _show_interval(estimate: Estimate) -> str:
    if not math.isfinite(estimate.low):
        return ""
    return f"{show(estimate.low).removeprefix('0')}-{show(estimate.high).removeprefix('0')}"
