"""The tables that ``predict`` and ``merge`` write: their options, their paths, their content.

Knows which files are written; nothing of how a score comes about.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepfake.cli.options import PAGE, refuse_missing_folder, refuse_other_suffix
from deepfake.cli.uploads import place, with_uploads
from deepfake.errors import UsageError
from deepfake.stores.address import is_url

if TYPE_CHECKING:
    from deepfake.inference.outputs import Outputs
    from deepfake.inference.results import Level, Totals
    from deepfake.inference.submission import Sample
    from deepfake.records import Result

JOB_SUFFIX = ".job"
_SUBMISSION_FILE = "submission.csv"
_LEVELS: dict[str, Level] = {"faces": "face", "output": "file"}
"""What the tables of an option have a row for."""


def job_folder(output: Path) -> Path:
    """Where the job of a table lies."""
    return output.with_name(f"{output.name}{JOB_SUFFIX}")


@contextmanager
def hold_job(output: str | Path | None) -> Iterator[Path]:
    """The folder of the job of an output, held by this process alone."""
    from deepfake.storage import exclusive, no_space_is_an_error

    if output in (None, "-"):
        # What goes to standard output has no place for its job, and cannot go on either.
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    root = job_folder(Path(output))
    if root.is_symlink() or (root.exists() and not root.is_dir()):
        raise UsageError(f"{root} is in the way: {output} keeps what it goes on with there")
    with no_space_is_an_error(root):
        root.mkdir(exist_ok=True)
        try:
            with exclusive(root):
                yield root
        finally:
            with suppress(OSError):
                root.rmdir()  # only where nothing was begun


def is_streamed(options: argparse.Namespace) -> bool:
    """Whether standard output has the answers, and no file."""
    return options.output in (None, "-")


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """Which tables are written beside the one of scores."""
    parser.add_argument(
        "--faces", type=place, help="also write a table with a row per face, as of --output"
    )
    parser.add_argument(
        "--submission", type=Path, help="sample of a contest, to be filled with our scores"
    )
    parser.add_argument(
        "--submission-columns",
        nargs=2,
        metavar=("FILE", "VALUE"),
        help="its columns: the one that names files, the one to fill (default: found by name)",
    )
    parser.add_argument(
        "--submission-output", type=place, help="filled sample (default: submission.csv by OUTPUT)"
    )
    parser.add_argument(
        "--submission-value",
        choices=["p_fake", "label"],
        default="p_fake",
        help="what to fill in: the probability, or 1 = fake, 0 = real",
    )
    parser.add_argument(
        "--no-answer",
        type=float,
        help="written where there is no answer (default: share of fakes in the training crops; "
        "for labels 0 or 1, by default 1 where that share is more than a half)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace output files that exist")


def write_with_uploads(
    work: Callable[[argparse.Namespace], int],
    options: argparse.Namespace,
    *more: str,
    fetches: bool = False,
) -> int:
    """``with_uploads`` of all tables; ``more`` are options that name other outputs."""
    is_beside = options.submission is not None and options.submission_output is None
    if is_beside and options.output is not None and is_url(options.output):
        options.submission_output = f"{options.output.rpartition('/')[0]}/{_SUBMISSION_FILE}"
    names = ["output", "faces", "submission_output", *more]
    if getattr(options, "shard", None) is not None and is_url(options.output or ""):
        options.output_job = f"{options.output}{JOB_SUFFIX}"  # deepfake merge reads it
        names.append("output_job")
    return with_uploads(work, options, *names, fetches=fetches)


def choose_paths(options: argparse.Namespace, report: Path | None = None) -> dict[str, Path]:
    """All files that will be written; refuse before any work what could not be written after."""
    from deepfake.inference.formats import check_format

    outputs = {} if is_streamed(options) else {"output": Path(options.output)}
    if options.faces is not None:
        outputs["faces"] = options.faces
    if report is not None:
        refuse_other_suffix("report", report, *PAGE)
        outputs["report"] = report
    if options.submission is not None:
        beside = Path() if is_streamed(options) else Path(options.output).parent
        outputs["submission"] = options.submission_output or beside / _SUBMISSION_FILE
        refuse_other_suffix("submission-output", outputs["submission"], "a CSV", ".csv")
        if outputs["submission"].resolve() == options.submission.resolve():
            raise UsageError(
                f"the submission would replace its sample {options.submission}; name another file "
                "with --submission-output"
            )
    else:
        _refuse_without_sample(options)
    resolved = [path.resolve() for path in outputs.values()]
    if len(set(resolved)) < len(resolved):
        raise UsageError("two outputs have the same name; every table needs its own file")
    for name, path in outputs.items():
        if name in ("output", "faces"):
            check_format(name, path)
        refuse_missing_folder(name, path)
    return outputs


def _refuse_without_sample(options: argparse.Namespace) -> None:
    """Options that say how a sample is filled say nothing where there is none."""
    for option, is_given in (
        ("--submission-output", options.submission_output is not None),
        ("--submission-columns", options.submission_columns is not None),
        ("--submission-value", options.submission_value != "p_fake"),
        ("--no-answer", options.no_answer is not None),
    ):
        if is_given:
            raise UsageError(f"{option} needs --submission, the sample that is filled")


def read_sample(options: argparse.Namespace) -> Sample | None:
    """The sample of a contest, checked before anything is scored."""
    from deepfake.inference.submission import Sample, check_fallback

    if options.submission is None:
        return None
    if options.no_answer is not None:
        check_fallback(options.no_answer, options.submission_value)
    return Sample(options.submission, options.submission_columns)


def write_tables(
    options: argparse.Namespace,
    outputs: Outputs,
    sample: Sample | None,
    scores: Callable[[], Iterable[Result]],
    settings: Mapping[str, Any],
    refuse_other: bool = False,
) -> tuple[Totals, list[str]]:
    """Write all tables, reading the answers once for each; say what they come to.

    ``settings`` are those of the job. With ``refuse_other``, a table that exists must already hold
    what would be written.
    """
    from deepfake.inference.formats import encode_table
    from deepfake.inference.job import describe_settings
    from deepfake.inference.results import count
    from deepfake.storage import holds

    totals = count(scores())
    lines = [str(totals) + ("" if is_streamed(options) else f" -> {options.output}")]
    tables: dict[str, Callable[[], Iterable[bytes]]] = {}
    if sample is not None:
        filled, line = _fill(options, sample, scores(), float(settings["prior"]))
        tables["submission"] = lambda: [filled.encode()]
        lines.append(line.format(output=outputs.paths["submission"]))
    told = describe_settings(settings)
    for name, level in _LEVELS.items():
        if name in outputs.paths:
            tables[name] = partial(encode_table, outputs.paths[name], scores, told, level)
    standing = [name for name in tables if refuse_other and outputs.paths[name].exists()]
    for name in standing:
        if not holds(outputs.paths[name], tables[name]()):
            raise UsageError(
                f"{outputs.paths[name]} exists and holds something else; name another file or "
                "pass --overwrite"
            )
    for name in tables:
        if name not in standing:
            outputs.write(name, tables[name]())
    return totals, lines


def _fill(
    options: argparse.Namespace, sample: Sample, scores: Iterable[Result], prior: float
) -> tuple[str, str]:
    """The filled sample, and what to say of it."""
    fallback = options.no_answer
    if fallback is None:
        fallback = prior if options.submission_value == "p_fake" else float(prior > 0.5)
    filled = sample.fill(scores, fallback, options.submission_value)
    total = filled.answered + filled.without_answer + filled.without_file
    line = (
        f"{total:,} submission rows = {filled.answered:,} scored + "
        f"{filled.without_answer:,} without an answer + {filled.without_file:,} that name no "
        f"input -> {{output}}; rows without a score got {filled.fallback}"
    )
    return filled.text, line
