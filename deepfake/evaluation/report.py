"""Figures and answers in, one self-contained HTML page out.

The page asks nothing of any network, follows light and dark, and can be printed. Whatever comes
from files (names, reasons, groups) is hostile and escaped. Works out no figure and no score.
"""

from __future__ import annotations

import base64
import heapq
import math
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from deepfake import __version__
from deepfake.errors import MediaError
from deepfake.evaluation.charts import (
    Axes,
    Series,
    doubling_axes,
    draw_counts,
    draw_histogram,
    draw_lines,
    draw_points,
    draw_timeline,
    map_axes,
    project,
    spread,
)
from deepfake.evaluation.evaluate import (
    FIGURE_NAMES,
    ROBUST,
    TOGETHER,
    UNNAMED,
    Curve,
    Evaluation,
    Level,
    Rows,
    Slice,
    explain,
    name_strength,
)
from deepfake.evaluation.material import Scored
from deepfake.evaluation.traits import Part, Trait
from deepfake.faces.extraction import decode_crop, encode_crop
from deepfake.media.discovery import display_name
from deepfake.metrics import (
    FIGURES,
    Figure,
    trace_calibration,
    trace_precision,
    trace_roc,
)
from deepfake.records import LABEL_NAMES, MediaScore, Status

MISTAKES = 12
"""Thumbnails of each kind of mistake."""
FILES = 200
"""Files with a picture on the page of a prediction."""
_OTHERS, _UNANSWERED = 2000, 10_000  # rows of its tables: a page of megabytes opens on no phone
_POINTS = 1500  # of a cloud: more cannot be told apart
_THUMBNAIL_PX, _THUMBNAIL_QUALITY = 128, 80
_MEANINGS = {
    "auc": "chance that a fake scores above a real",
    "balanced_accuracy": "right calls at the threshold, both classes alike",
    "tpr_at_fpr_5": "fakes found if 1 real in 20 may be accused",
    "ece": "how far scores are from being probabilities",
}
_TILE_NAMES = {
    "auc": "AUC",
    "balanced_accuracy": "Balanced accuracy",
    "tpr_at_fpr_5": "Found at 5 % false alarms",
    "ece": "Calibration error",
}
LIMITS = (
    "A score says how much a face resembles the fakes that the detector was trained on. It is "
    "evidence, not proof: a kind of forgery that was never trained on can score like a real face, "
    "and compression, filters or make-up can make a real face score like a fake. "
)


def format_report(evaluation: Evaluation, provenance: Mapping[str, Any]) -> str:
    """The page of an evaluation.

    Args:
        evaluation: What was found; crops are read again for thumbnails.
        provenance: As of ``job.describe_origin``.
    """
    level = evaluation.levels["file"]
    names = [scored.material.name for scored in evaluation.sets]
    overall = evaluation.readings[TOGETHER]
    tables, notes = _figure_tables(evaluation)
    alarms, missed = _mistakes(evaluation)
    threshold = evaluation.threshold
    return render(
        "evaluation.html",
        title=f"Evaluation on {', '.join(names)}",
        subtitle=f"Checkpoint {display_name(str(provenance['checkpoint']))}, threshold "
        f"{threshold:.4f} ({provenance['threshold_origin']})",
        remarks=[
            f"{scored.material.name}: {remark}"
            for scored in evaluation.sets
            for remark in scored.material.remarks
        ],
        summary=_summarise(evaluation),
        tiles=[_tile(name, level.overall.figures[name]) for name in _MEANINGS],
        statuses=list(overall.statuses),
        inputs=_input_rows(evaluation),
        figure_names=[FIGURE_NAMES[name] for name in FIGURES],
        figures_note=notes,
        tables=tables,
        pictures_note="Made of files, unless a picture says otherwise. Reals are dots and blue, "
        "fakes are crosses and orange; the dashed line is the threshold.",
        charts=_evaluation_charts(evaluation),
        traits=[
            chart
            for trait in evaluation.traits
            for chart in (_trait_chart(trait, evaluation), _parts_chart(trait))
        ],
        trait_tables=[_trait_table(trait) for trait in evaluation.traits],
        curves=[_curve_chart(curve) for curve in evaluation.curves],
        curve_names=[FIGURE_NAMES[name] for name in ROBUST],
        curve_rows=_curve_rows(evaluation.curves),
        confusion=_confusion(level.rows, threshold),
        false_alarms=alarms,
        missed=missed,
        n_unanswered=overall.files - overall.statuses[Status.OK.value],
        unanswered=[
            {
                "name": file.path,
                "dataset": scored.material.name,
                "label": "" if file.label is None else LABEL_NAMES[file.label],
                "status": file.status,
                "reason": file.reason,
            }
            for scored in evaluation.sets
            for file in scored.material.files
            if file.id not in scored.file_p_fake
        ],
        meaning=LIMITS + "These figures hold for files like the ones measured here; other sources, "
        "other forgeries and other shares of fakes have other figures. Intervals say what another "
        "drawing of the same kind of people and videos would change, nothing more.",
        provenance=_provenance(evaluation, provenance),
    )


@dataclass(frozen=True, slots=True)
class Digest:
    """What a page says of a prediction, however many files it had.

    Args:
        statuses: Number of files by status.
        n_fake: Files that are called fake.
        values: Score of every file with an answer, in input order.
        shown: The most suspicious files with their places, highest score first.
        others: The next ones.
        unanswered: Files without an answer, in input order, as far as they fit.
    """

    statuses: dict[str, int]
    n_fake: int
    values: NDArray[np.float64]
    shown: list[tuple[int, MediaScore]]
    others: list[tuple[int, MediaScore]]
    unanswered: list[MediaScore]

    @property
    def n_silent(self) -> int:
        """Number of files without an answer."""
        return sum(self.statuses.values()) - len(self.values)


def digest_scores(scores: Iterable[MediaScore]) -> Digest:
    """Read answers once, in input order, and keep what a page can hold."""
    statuses = dict.fromkeys((status.value for status in Status), 0)
    values = array("d")
    top: list[tuple[float, int, MediaScore]] = []
    unanswered: list[MediaScore] = []
    n_fake = 0
    for place, score in enumerate(scores):
        statuses[score.status.value] += 1
        n_fake += score.label == "fake"
        if score.p_fake is None:
            if len(unanswered) < _UNANSWERED:
                unanswered.append(score)
            continue
        values.append(score.p_fake)
        # Places differ, so that answers themselves are never compared; the first of equals wins.
        entry = (score.p_fake, -place, score)
        if len(top) < FILES + _OTHERS:
            heapq.heappush(top, entry)
        else:
            heapq.heappushpop(top, entry)
    ranked = [(-place, score) for _, place, score in sorted(top, key=lambda e: e[:2], reverse=True)]
    return Digest(
        statuses,
        n_fake,
        np.array(values, dtype=np.float64),
        ranked[:FILES],
        ranked[FILES:],
        unanswered,
    )


def format_prediction_report(
    digest: Digest,
    pictures: Mapping[int, bytes],
    provenance: Mapping[str, Any],
    threshold: float,
) -> str:
    """The page of a prediction: for people who look at single files.

    Args:
        digest: The answers.
        pictures: Encoded crop of the most suspicious face of the shown files, by place.
        provenance: As of ``job.describe_origin``.
        threshold: Of the checkpoint.
    """
    values, n_files = digest.values, sum(digest.statuses.values())
    rest = len(values) - len(digest.shown) - len(digest.others)
    parts = " + ".join(f"{number:,} {status}" for status, number in digest.statuses.items())
    more = f", {rest:,} further ones are in the table of scores alone" if rest else ""
    return render(
        "prediction.html",
        title="Scores of photos and videos",
        subtitle=f"Checkpoint {display_name(str(provenance['checkpoint']))}, threshold "
        f"{threshold:.4f} ({provenance['threshold_origin']})",
        summary=f"{n_files:,} inputs = {parts}. Of the {len(values):,} with an answer, "
        f"{digest.n_fake:,} are called fake.",
        charts=[_score_chart(values, threshold)] if len(values) else [],
        files_note="Each picture is the most suspicious face of its file; the mark on the bar is "
        "the threshold. For videos, the line shows the most fake face of each frame.",
        files=[_file_card(score, pictures.get(place), threshold) for place, score in digest.shown],
        others=[_file_card(score, None, threshold) for _, score in digest.others],
        others_note=f"{len(digest.others):,} files with lower scores{more}.",
        threshold_percent=f"{100 * min(max(threshold, 0), 1):.1f}",
        unanswered=[
            {
                "name": display_name(score.path),
                "status": score.status.value,
                "reason": display_name(score.reason),
            }
            for score in digest.unanswered
        ],
        n_unanswered=digest.n_silent,
        meaning=LIMITS + "A file without an answer was not judged: it is neither real nor fake. "
        "Nobody should be accused on a score alone.",
        provenance=list_origins(provenance),
    )


def render(template: str, **values: Any) -> str:
    """Fill in a template; whatever is not ``Markup`` is escaped."""
    environment = Environment(
        loader=PackageLoader("deepfake.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(version=__version__, **values)


def _summarise(evaluation: Evaluation) -> str:
    rows, readings = evaluation.levels["file"].rows, evaluation.readings[TOGETHER]
    called = rows.p_fake >= evaluation.threshold
    fakes = rows.labels == 1
    text = (
        f"{readings}. At the checkpoint's own threshold it found {int((called & fakes).sum()):,} "
        f"of {int(fakes.sum()):,} fakes and accused {int((called & ~fakes).sum()):,} of "
        f"{int((~fakes).sum()):,} reals."
    )
    silent = readings.files - readings.statuses[Status.OK.value]
    if silent:
        text += (
            f" Accuracy is {_show(readings.answered)} of the answers, {_show(readings.all_wrong)} "
            f"if the {silent:,} files without one count as wrong, {_show(readings.all_real)} if "
            "they are called real."
        )
    return text


def _tile(name: str, figure: Figure) -> dict[str, str]:
    return {
        "name": _TILE_NAMES[name],
        "value": _show(figure.value),
        "interval": _interval(figure) or figure.reason or figure.note,
        "meaning": _MEANINGS[name],
    }


def _input_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    splits = {scored.material.name: scored.material.split for scored in evaluation.sets}
    return [
        {
            "name": name,
            "split": splits.get(name, ""),
            "files": f"{part.files:,}",
            "statuses": [f"{number:,}" for number in part.statuses.values()],
            "readings": [_show(value) for value in (part.answered, part.all_wrong, part.all_real)],
        }
        for name, part in evaluation.readings.items()
        if name != TOGETHER or len(evaluation.sets) > 1
    ]


def _figure_tables(evaluation: Evaluation) -> tuple[list[dict[str, Any]], str]:
    tables = []
    note = (
        f"Small numbers are 95 % intervals, from {evaluation.rounds:,} drawings of whole groups. "
        "Accuracies are at the checkpoint's threshold, which was not chosen on these files."
    )
    note += " A track is one person in one file, and scores as the mean of its faces."
    for name, level in evaluation.distinct_levels().items():
        parts = dict(level.datasets)
        if len(parts) > 1:
            parts[TOGETHER] = level.overall
        tables.append(_figure_table(f"By {name} and data set", "data set", parts))
        if list(level.methods) != [UNNAMED]:
            tables.append(
                _figure_table(
                    f"By {name} and method: the fakes of each against all reals beside them",
                    "method",
                    level.methods,
                )
            )
    return tables, note


def _figure_table(caption: str, head: str, parts: Mapping[str, Slice]) -> dict[str, Any]:
    return {
        "caption": caption,
        "head": head,
        "rows": [
            {
                "name": name,
                "n_real": f"{part.n_real:,}",
                "n_fake": f"{part.n_fake:,}",
                "n_groups": f"{part.n_groups:,}",
                "cells": [
                    {"value": _show(figure.value), "interval": _interval(figure)}
                    for figure in part.figures.values()
                ],
            }
            for name, part in parts.items()
        ],
        "notes": explain(parts),
    }


def _evaluation_charts(evaluation: Evaluation) -> list[dict[str, Any]]:
    level, threshold = evaluation.levels["file"], evaluation.threshold
    rows = level.rows
    charts = [_class_histogram(rows, threshold)]
    charts += [_roc_chart(level, threshold), _precision_chart(level, threshold)]
    charts += [_calibration_chart(level), *_map_charts(evaluation)]
    return charts


def _class_histogram(rows: Rows, threshold: float) -> dict[str, Any]:
    real, fake = rows.p_fake[rows.labels == 0], rows.p_fake[rows.labels == 1]
    middle = [f"median {np.median(part):.2f}" if len(part) else "none" for part in (real, fake)]
    text = f"Reals: {middle[0]}; fakes: {middle[1]}; threshold {threshold:.2f}."
    return {
        "title": "Scores",
        "svg": Markup(draw_histogram(real, fake, threshold, "Scores of reals and fakes", text)),
        "legend": [],
        "caption": f"{text} A good detector has the reals left and the fakes right.",
    }


def _parts_of(level: Level) -> dict[str, Rows]:
    """All rows, and each data set where there are several: the lines of a chart."""
    parts = {TOGETHER: level.rows}
    if len(level.datasets) > 1:
        parts |= {name: level.rows.where(level.rows.datasets == name) for name in level.datasets}
    return dict(list(parts.items())[:6])


def _roc_chart(level: Level, threshold: float) -> dict[str, Any]:
    series = [Series(name, *trace_roc(p.labels, p.p_fake)) for name, p in _parts_of(level).items()]
    series = [line for line in series if len(line.x)]
    rows = level.rows
    point = _operating_point(rows, threshold)
    auc = level.overall.figures["auc"]
    text = f"Area {_with_interval(auc)}. "
    marks = []
    if point is not None:
        marks = [point]
        text += (
            f"The ring is the threshold: {point[1]:.1%} of fakes found, {point[0]:.1%} of reals "
            "accused."
        )
    axes = Axes("reals accused", "fakes found")
    svg = draw_lines(axes, series, "ROC curve", text, diagonal=True, marks=marks)
    return _line_chart("ROC", svg, series, text)


def _precision_chart(level: Level, threshold: float) -> dict[str, Any]:
    series = [
        Series(name, *trace_precision(p.labels, p.p_fake)) for name, p in _parts_of(level).items()
    ]
    series = [line for line in series if len(line.x)]
    rows = level.rows
    called, fakes = rows.p_fake >= threshold, rows.labels == 1
    marks = []
    share = float(fakes.mean()) if len(fakes) else math.nan
    text = f"Average precision {_show(level.overall.figures['ap'].value)}; "
    text += f"{_percent(share)} of the files are fakes, which is what blind accusing reaches."
    if called.any() and fakes.any():
        marks = [(float(called[fakes].mean()), float(fakes[called].mean()))]
        text += f" At the threshold {marks[0][1]:.1%} of the accusations are right."
    axes = Axes("fakes found", "accusations that are right")
    svg = draw_lines(axes, series, "Precision-recall curve", text, marks=marks)
    return _line_chart("Precision and recall", svg, series, text)


def _calibration_chart(level: Level) -> dict[str, Any]:
    rows = level.rows
    said, seen, numbers = trace_calibration(rows.labels, rows.p_fake)
    figure = level.overall.figures["ece"]
    text = f"Expected calibration error {_with_interval(figure)}, over {len(numbers)} bins."
    text += " On the dotted line a score of 0.7 would mean 7 fakes in 10."
    svg = draw_lines(
        Axes("score", "share of fakes"),
        [Series("", said, seen)],
        "Calibration",
        text,
        diagonal=True,
        dots=True,
    )
    return {"title": "Calibration", "svg": Markup(svg), "legend": [], "caption": text}


def _trait_chart(trait: Trait, evaluation: Evaluation) -> dict[str, Any]:
    labels = np.array(
        [face.label for scored in evaluation.sets for face in scored.material.faces],
        dtype=np.int64,
    )
    scores = np.concatenate([scored.p_fake for scored in evaluation.sets])
    shown = _sample(len(labels))
    values = np.maximum(trait.values, 1.0)
    text = f"Every face, by the {trait.unit}: median {np.median(trait.values):.0f}."
    if len(shown) < len(labels):
        text += f" {len(shown):,} of {len(labels):,} faces are drawn."
    title = f"Score against {trait.title}"
    svg = draw_points(
        doubling_axes(values, trait.unit, "score"),
        *(values[shown], scores[shown], labels[shown]),
        *(title, text),
        threshold=evaluation.threshold,
    )
    return {"title": title, "svg": Markup(svg), "legend": _class_legend(), "caption": text}


_ERRORS: dict[str, Callable[[Part], Figure]] = {
    "reals accused": lambda part: part.accused,
    "fakes missed": lambda part: part.missed,
}


def _parts_chart(trait: Trait) -> dict[str, Any]:
    series = []
    for name, figure_of in _ERRORS.items():
        found = [(part.middle, figure_of(part)) for part in trait.parts]
        found = [(middle, figure) for middle, figure in found if not figure.reason]
        series.append(
            Series(
                name,
                [max(middle, 1.0) for middle, _ in found],
                [figure.value for _, figure in found],
                [figure.low for _, figure in found],
                [figure.high for _, figure in found],
            )
        )
    parts = len(trait.parts)
    text = f"{parts:,} part{'s' if parts != 1 else ''} of about equal numbers of faces, each drawn "
    text += "at its median. Whiskers are 95 % intervals; the table has the numbers."
    highest = max((float(v) for line in series for v in (*line.y, *line.high) if v == v), default=1)
    title = f"Errors by {trait.title}"
    axes = doubling_axes(trait.values, trait.unit, "share of its class", highest)
    return _line_chart(title, draw_lines(axes, series, title, text, dots=True), series, text)


def _trait_table(trait: Trait) -> dict[str, Any]:
    rows = [
        {
            "name": f"{_number(part.low)} to {_number(part.high)}",
            "counts": [f"{part.n_real:,}", f"{part.n_fake:,}"],
            "cells": [_cell(figure_of(part)) for figure_of in _ERRORS.values()],
        }
        for part in trait.parts
    ]
    return {
        "caption": f"Faces by {trait.title}, at the threshold.",
        "head": trait.unit,
        "columns": ["real", "fake", *_ERRORS],
        "rows": rows,
    }


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _cell(figure: Figure) -> dict[str, str]:
    return {"value": _percent(figure.value), "remark": _percents(figure)}


def _percents(figure: Figure) -> str:
    if math.isfinite(figure.low):
        return f"{100 * figure.low:.1f}\N{EN DASH}{100 * figure.high:.1f}"
    return figure.reason or figure.note


def _map_charts(evaluation: Evaluation) -> list[dict[str, Any]]:
    embeddings = np.concatenate([scored.embedded.vectors for scored in evaluation.sets])
    labels = np.array(
        [face.label for scored in evaluation.sets for face in scored.material.faces],
        dtype=np.int64,
    )
    plane, share = project(embeddings)
    shown = _sample(len(labels))
    text = (
        f"The embeddings of all faces in their plane of greatest variance (PCA), which holds "
        f"{share:.0%} of it."
    )
    maps = [("Map of embeddings", plane[shown], text)]
    near = spread(embeddings[shown])
    if len(near):
        text = "The same faces so that near ones stay near (t-SNE); distances between clouds and "
        text += "sizes of clouds mean nothing."
        maps.append(("Map of neighbourhoods", near, text))
    charts = []
    for title, points, caption in maps:
        if len(shown) < len(labels):
            caption += f" {len(shown):,} of {len(labels):,} faces are drawn."
        svg = draw_points(
            *(map_axes(points), points[:, 0], points[:, 1], labels[shown], title, caption)
        )
        legend = _class_legend()
        charts.append({"title": title, "svg": Markup(svg), "legend": legend, "caption": caption})
    return charts


def _curve_chart(curve: Curve) -> dict[str, Any]:
    series = []
    for name in ROBUST:
        found = [(point.strength, point.figures[name]) for point in curve.points]
        found = [(strength, figure) for strength, figure in found if not figure.reason]
        series.append(
            Series(
                FIGURE_NAMES[name],
                [strength for strength, _ in found],
                [figure.value for _, figure in found],
                [figure.low for _, figure in found],
                [figure.high for _, figure in found],
            )
        )
    first, last = curve.points[0].figures["auc"], curve.points[-1].figures["auc"]
    strengths = ", ".join(name_strength(point) for point in curve.points[1:])
    text = f"AUC {_show(first.value)} falls to " if last.value < first.value else "AUC "
    text += f"{_show(last.value)} at the last strength. {_capital(curve.unit)}: {strengths}."
    count = len(curve.points) - 1
    axes = Axes("strength", "figure", (0, count), x_ticks=range(count + 1))
    svg = draw_lines(axes, series, f"Robustness: {curve.title}", text, dots=True)
    return _line_chart(_capital(curve.title), svg, series, text)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _curve_rows(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    points = [("as they are", "", curve.points[0]) for curve in curves[:1]]
    points += [
        (curve.title, f"{curve.unit}: {name_strength(point)}", point)
        for curve in curves
        for point in curve.points[1:]
    ]
    return [
        {
            "name": name,
            "value": value,
            "cells": [
                {"value": _show(figure.value), "interval": _interval(figure)}
                for figure in point.figures.values()
            ],
        }
        for name, value, point in points
    ]


def _score_chart(values: NDArray[np.float64], threshold: float) -> dict[str, Any]:
    text = f"Median {np.median(values):.2f}; threshold {threshold:.2f}."
    svg = draw_counts(values, threshold, "Scores of all files", text)
    return {"title": "Scores", "svg": Markup(svg), "legend": [], "caption": text}


def _line_chart(title: str, svg: str, series: Sequence[Series], caption: str) -> dict[str, Any]:
    legend = []
    if len(series) > 1:
        legend = [
            {
                "name": line.name,
                "swatch": Markup(
                    '<svg viewBox="0 0 26 10" aria-hidden="true"><path class="line '
                    f's{number % 6}" d="M0 5H26"/></svg>'
                ),
            }
            for number, line in enumerate(series)
        ]
    return {"title": title, "svg": Markup(svg), "legend": legend, "caption": caption}


def _class_legend() -> list[dict[str, Any]]:
    shapes = {"real": "M13 5h0", "fake": "M11 3l4 4m0-4l-4 4"}
    return [
        {
            "name": word,
            "swatch": Markup(
                f'<svg viewBox="0 0 26 10" aria-hidden="true"><path class="points {word}" '
                f'd="{shape}"/></svg>'
            ),
        }
        for word, shape in shapes.items()
    ]


def _operating_point(rows: Rows, threshold: float) -> tuple[float, float] | None:
    called, fakes = rows.p_fake >= threshold, rows.labels == 1
    if not fakes.any() or fakes.all():
        return None
    return float(called[~fakes].mean()), float(called[fakes].mean())


def _sample(n: int) -> NDArray[np.int64]:
    """Which rows of a cloud are drawn: all, or a fixed random choice in order."""
    if n <= _POINTS:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, _POINTS, replace=False))


def _confusion(rows: Rows, threshold: float) -> dict[str, Any]:
    called = rows.p_fake >= threshold
    lines = []
    for label, word in enumerate(LABEL_NAMES):
        own = rows.labels == label
        numbers = [int((own & ~called).sum()), int((own & called).sum())]
        lines.append(
            {
                "name": f"{word} files",
                "cells": [
                    {
                        "count": f"{number:,}",
                        "share": _percent(number / own.sum() if own.any() else math.nan),
                    }
                    for number in numbers
                ],
            }
        )
    return {
        "caption": f"Files with an answer, at {threshold:.4f}.",
        "rows": lines,
        "note": "Shares are of the row: of all real and of all fake files.",
    }


def _mistakes(evaluation: Evaluation) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The worst false alarms and the worst misses, with the most suspicious face of each file."""
    wrong: dict[int, list[tuple[float, Scored, int]]] = {0: [], 1: []}
    for scored in evaluation.sets:
        for place, file in enumerate(scored.material.files):
            p_fake = scored.file_p_fake.get(file.id)
            if p_fake is None or file.label is None:
                continue
            if (p_fake >= evaluation.threshold) != (file.label == 1):
                wrong[file.label].append((p_fake, scored, place))
    kinds = []
    for label, direction in ((0, -1), (1, 1)):
        worst = sorted(wrong[label], key=lambda item, d=direction: d * item[0])  # type: ignore[misc]
        kinds.append([_mistake(*item) for item in worst[:MISTAKES]])
    return kinds[0], kinds[1]


def _mistake(p_fake: float, scored: Scored, place: int) -> dict[str, Any]:
    material = scored.material
    file = material.files[place]
    faces = [number for number, row in enumerate(material.faces) if row.source == file.id]
    peak = material.faces[max(faces, key=lambda number: scored.p_fake[number])]
    path = material.root / peak.crop
    picture = make_thumbnail(path.read_bytes()) if path.is_file() else None
    return {
        "name": _short(file.path),
        "path": file.path,
        "label": LABEL_NAMES[file.label or 0],
        "score": f"{p_fake:.3f}",
        "detail": ", ".join(word for word in (file.method, material.name) if word),
        "picture": picture,
    }


def make_thumbnail(encoded: bytes) -> str | None:
    """A stored crop as a small picture inside the page, or ``None`` if it is no picture."""
    try:
        crop = decode_crop(encoded)
    except MediaError:
        return None
    return embed_picture(crop, _THUMBNAIL_PX)


def embed_picture(image: NDArray[np.uint8], longest_px: int) -> str:
    """A picture inside the page, no larger than this."""
    factor = longest_px / max(image.shape[:2])
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    sized = np.asarray(cv2.resize(image, (width, height), interpolation=way), dtype=np.uint8)
    data = base64.b64encode(encode_crop(sized, _THUMBNAIL_QUALITY)).decode("ascii")
    return f"data:image/jpeg;base64,{data}"


def _file_card(score: MediaScore, picture: bytes | None, threshold: float) -> dict[str, Any]:
    frames = frame_scores(score)
    detail = [f"{score.n_faces:,} face{'s' if score.n_faces != 1 else ''}"]
    people = len({face.track for face in score.faces})
    if people > 1:
        detail.append(f"{people} people")
    if score.reason:
        detail.append(display_name(score.reason))
    timeline = None
    if len(frames) > 1 and picture is not None:
        peak = max(frames, key=lambda frame: frame[1])
        text = f"Highest {peak[1]:.2f} at {peak[0]:.1f} s, threshold {threshold:.2f}."
        times, values = zip(*frames, strict=True)
        timeline = Markup(draw_timeline(times, values, threshold, "Score over time", text))
    p_fake = score.p_fake or 0.0
    return {
        "name": display_name(score.path),
        "score": f"{p_fake:.3f}",
        "percent": f"{100 * p_fake:.1f}",
        "verdict": score.label or "",
        "n_faces": f"{score.n_faces:,}",
        "detail": ", ".join(detail),
        "picture": make_thumbnail(picture) if picture is not None else None,
        "timeline": timeline,
    }


def frame_scores(score: MediaScore) -> list[tuple[float, float]]:
    """Time in seconds and highest face score of each frame with a face."""
    return [
        (faces[0].time_s, max(face.p_fake for face in faces))
        for _, group in groupby(score.faces, key=lambda face: face.frame_index)
        if (faces := list(group))
    ]


def _provenance(evaluation: Evaluation, provenance: Mapping[str, Any]) -> list[Any]:
    entries = list_origins(provenance)
    for scored in evaluation.sets:
        material = scored.material
        entries += [
            (
                f"data {material.name}",
                _text(
                    f"{display_name(material.origin)}, split {material.split}, "
                    f"{len(material.faces):,} faces"
                ),
            ),
            ("its manifest (SHA-256)", _code(material.manifest_sha256)),
        ]
    entries.append(("a file's score", _text(f"{evaluation.aggregation.policy} over its frames")))
    return entries


def list_origins(provenance: Mapping[str, Any]) -> list[Any]:
    """The rows of "where this comes from"."""
    trained = provenance.get("trained_with") or {}
    used = provenance["evaluated_with"]
    entries = [
        ("command", _code(display_name(str(provenance["command"])))),
        ("checkpoint", _code(display_name(str(provenance["checkpoint"])))),
        ("its SHA-256", _code(provenance["checkpoint_sha256"])),
        ("its network", _code(f"{provenance['backbone']}, {provenance['network_sha256']}")),
        ("trained on (SHA-256)", _code(str(provenance["trained_on_manifest_sha256"]))),
        ("trained with", _text(_versions(trained))),
        ("scored with", _text(_versions(used))),
    ]
    if provenance["history"]:
        entries.append(("changed since by", _text(", ".join(map(str, provenance["history"])))))
    return entries


def _versions(versions: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items()) or "unknown"


def _text(text: str) -> dict[str, Any]:
    return {"text": text, "code": False}


def _code(text: str) -> dict[str, Any]:
    return {"text": text, "code": True}


def _show(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "n/a"


def _percent(value: float) -> str:
    return f"{value:.1%}" if math.isfinite(value) else "n/a"


def _interval(figure: Figure) -> str:
    return f"{figure.low:.3f}\N{EN DASH}{figure.high:.3f}" if math.isfinite(figure.low) else ""


def _with_interval(figure: Figure) -> str:
    interval = _interval(figure)
    return f"{_show(figure.value)} (95 %: {interval})" if interval else _show(figure.value)


def _short(path: str) -> str:
    """The last two parts of a long path: what fits below a thumbnail."""
    parts = path.split("/")
    return path if len(parts) <= 2 else "\N{HORIZONTAL ELLIPSIS}/" + "/".join(parts[-2:])
