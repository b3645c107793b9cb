"""The command that puts together what several machines did: ``merge``.

Knows which rooms join parts, and nothing of what is in them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deepfake.cli.command import Parser, answer_code, run
from deepfake.cli.options import add_strict_option
from deepfake.cli.score_tables import (
    JOB_SUFFIX,
    add_table_options,
    choose_paths,
    job_folder,
    read_sample,
    write_tables,
    write_with_uploads,
)
from deepfake.cli.uploads import add_job_option, place
from deepfake.errors import UsageError

if TYPE_CHECKING:
    from deepfake.records import Result


def merge(argv: Sequence[str] | None = None) -> int:
    """Put parts together: ``deepfake merge PART... --output OUTPUT``."""
    parser = Parser(
        prog="deepfake merge",
        description="Put together what several machines cropped or predicted with --shard, to\n"
        "the very bytes of the undivided job. Parts may come in any order; all must be there,\n"
        "finished, and of the same job. They are only read. Killed at any instant, run it again.",
        epilog="""\
A part of crop is its folder; a part of predict is its table, beside which lies the .job folder
that everything is merged from; it may be removed afterwards. Parts in a store are copied into the
folder of --job first; what has not changed is copied once.

examples:
  deepfake merge parts/*/ --output crops/
  deepfake merge parts/*.csv --output scores.csv --faces faces.csv
  deepfake merge s3://bucket/parts/{1..64} --output s3://bucket/crops --job work/
""",
    )
    parser.add_argument(
        "parts",
        nargs="+",
        type=place,
        metavar="PART",
        help="of all machines, also in a store (s3://bucket/part, with --job)",
    )
    parser.add_argument(
        "--output",
        help="crop folder, or table to write as of predict; without it the first bare word",
    )
    add_table_options(parser)
    add_strict_option(parser)
    add_job_option(parser)
    return run(
        lambda: _merge_anywhere(parser.parse_args(argv)), "run the same command again to go on"
    )


def _merge_anywhere(options: argparse.Namespace) -> int:
    if options.output is None:
        options.output = str(options.parts.pop(0))
        _refuse_part(options.output)
    if not options.parts:
        raise UsageError("name the parts to put together, and the --output to write")
    stored = [part for part in options.parts if isinstance(part, str)]
    if stored and options.job is None:
        raise UsageError(
            f"{stored[0]} lies in a store: name a folder of this disk with --job, into which "
            "parts are copied before they are put together"
        )
    return write_with_uploads(_merge, options, fetches=bool(stored))


def _refuse_part(output: str) -> None:
    """Refuse to write where a part lies: all bare words are parts where --output was forgotten."""
    from deepfake.jobs.folder import JOB_FILE, read_job

    for root in (Path(output), job_folder(Path(output))):
        if (root / JOB_FILE).is_file() and read_job(root).get("part") is not None:
            raise UsageError(f"{output} is a part itself; name what is written with --output")


def _fetch(part: str, job: Path) -> Path:
    """A part that lies in a store as one of this disk."""
    from deepfake.jobs.mirroring import copy_job, name_mirror
    from deepfake.stores.address import Address

    address = Address.parse(part.rstrip("/"))
    if address.is_web:
        raise UsageError(f"{address}: a web server has no folders; copy the parts to a disk")
    copy = job / f"part-{name_mirror(address)}"
    beside = Address.parse(f"{address.url}{JOB_SUFFIX}")
    if not copy_job(address, copy) and not copy_job(beside, job_folder(copy)):
        raise UsageError(
            f"{address}: no part of a job lies there, or its upload has not come to its end; name "
            "the output of every part"
        )
    return copy


def _merge(options: argparse.Namespace) -> int:
    options.parts = [
        _fetch(part, options.job) if isinstance(part, str) else part for part in options.parts
    ]
    for path in options.parts:
        if not path.exists() and not job_folder(path).exists():
            raise UsageError(f"{path}: no such folder or file; name the output of every part")
    folders = [path for path in options.parts if path.is_dir()]
    if len(folders) == len(options.parts):
        return _merge_crops(options)
    if folders:
        files = [path for path in options.parts if not path.is_dir()]
        raise UsageError(
            f"{folders[0]} is a folder and {files[0]} is not; parts are either all folders of crop "
            "or all tables of predict"
        )
    if options.output == "-":
        raise UsageError("merge writes a file; name a file as --output")
    paths = choose_paths(options)
    sample = read_sample(options)
    from deepfake.inference.job import KIND, iter_answers
    from deepfake.inference.outputs import Outputs, refuse_destroying
    from deepfake.jobs.merging import join_parts

    refuse_destroying(paths.values(), [*options.parts, *([sample.path] if sample else [])])
    joined = join_parts([job_folder(path) for path in options.parts], KIND)

    def answers() -> Iterator[Result]:
        for folder in joined.folders():
            yield from iter_answers(folder)

    with tempfile.TemporaryDirectory() as nowhere:
        outputs = Outputs(paths, Path(nowhere))
        totals, lines = write_tables(
            options, outputs, sample, answers, joined.settings, refuse_other=not options.overwrite
        )
    sys.stdout.write("\n".join(lines) + "\n")
    return answer_code(totals.answers, totals.inputs, options.strict)


def _merge_crops(options: argparse.Namespace) -> int:
    tables = [options.faces, options.submission, options.submission_output, options.no_answer]
    tables.append(options.submission_columns)
    asked = options.overwrite or options.submission_value != "p_fake"
    if asked or any(value is not None for value in tables):
        raise UsageError("--faces, --submission... and --overwrite are for parts of predict")
    from deepfake.dataset.merging import merge_crops
    from deepfake.records import Status

    report = merge_crops(Path(options.output), options.parts)
    sys.stdout.write(f"{report}\n")
    return answer_code(report.statuses[Status.OK.value], report.inputs, options.strict)
