"""Commands that make tables of scores: ``predict``, and ``merge`` of what several machines did.

Knows which files are written and in what order; nothing of how a score comes about.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepfake.cli.command import EXIT_FAILED, Parser, answer_code, command_line, run
from deepfake.cli.options import (
    add_aggregation,
    add_detector_options,
    add_evidence_options,
    add_faces_per_frame,
    add_media_options,
    add_shard_option,
    add_strict_option,
    choose_part,
    choose_sampling,
    choose_workers,
    count,
    find_detector,
    refuse_missing_folder,
)
from deepfake.errors import UsageError

if TYPE_CHECKING:
    from deepfake.inference.job import PredictionJob
    from deepfake.inference.outputs import Outputs
    from deepfake.inference.predictor import Predictor
    from deepfake.inference.results import Level, Totals
    from deepfake.inference.stored import StoredCrops
    from deepfake.inference.submission import Sample
    from deepfake.jobs.parts import JobPart
    from deepfake.learning.checkpoint import Checkpoint
    from deepfake.records import Result, Source

_JOB_SUFFIX = ".job"
_LEVELS: dict[str, Level] = {"faces": "face", "output": "file"}
"""What the tables of an option have a row for."""


def predict(argv: Sequence[str] | None = None) -> int:
    """Score photos and videos: ``python predict.py INPUT --checkpoint FILE --output FILE``."""
    parser = Parser(
        prog="deepfake predict",
        description="Score photos and videos: one line per file, in input order; with --output\n"
        "a table that goes on where it was stopped.",
        epilog="""\
A file without an answer has a status (no_face, too_small, unreadable), a reason and an empty
p_fake; it is never guessed and never left out. Without --output nothing is written. With it, killed
at any instant, the same command goes on where it stopped; run when it is finished, it does what
changed inputs ask for and no more. What it goes on with lies in OUTPUT.job, which may be removed
when nothing is left to do. A file whose name begins with a dash stands behind --.

examples:
  deepfake predict photo.jpg --checkpoint model.ckpt
  deepfake predict a.jpg b.mp4 folder/ 'more/*.jpg' --checkpoint model.ckpt
  python predict.py photos/ --checkpoint runs/001/model.ckpt --output scores.csv
  python predict.py one.jpg --checkpoint model.ckpt --output - --device cpu
  python predict.py clip.mp4 --checkpoint model.ckpt --output clip.csv --faces frames.csv
  python predict.py photos/ --checkpoint model.ckpt --output scores.csv --report scores.html
  python predict.py test/ --checkpoint model.ckpt --output scores.csv \\
      --submission sample_submission.csv
  python predict.py photos/ --checkpoint model.ckpt --output part2.csv --shard 2/4
      then: deepfake merge part1.csv part2.csv ... --output scores.csv
""",
    )
    parser.add_subject(
        "input",
        many=True,
        help="folders, photos, videos, glob patterns, list files (.txt) or CSVs; a crop folder's "
        "crops are scored as they are",
    )
    add_detector_options(parser)
    parser.add_argument(
        "--output",
        help="table to write: .csv, .parquet, .json or .jsonl; - for CSV on standard output "
        "(default: a line for each input is printed, and nothing is written)",
    )
    parser.add_argument(
        "--report", type=Path, help="also write an HTML page with faces and scores over time"
    )
    add_evidence_options(parser)
    parser.add_argument(
        "--annotate",
        type=Path,
        metavar="FOLDER",
        help="also write a copy of every file that has a score there, with boxes, numbers of "
        "people and scores drawn in; videos whole, as MP4 without sound",
    )
    _add_table_options(parser)
    add_aggregation(parser)
    add_faces_per_frame(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    where.add_argument(
        "--devices", metavar="N", help="share the work: N CUDA devices, or names: cuda:0,cuda:2"
    )
    parser.add_argument(
        "--backend",
        choices=["auto", "torch", "onnx"],
        default="auto",
        help="what runs the network; auto takes ONNX Runtime on a CPU where it is installed and "
        "the job is large, or model.onnx lies beside model.ckpt (default %(default)s)",
    )
    parser.add_argument(
        "--batch-size", type=count, default=32, help="faces that are scored together"
    )
    add_media_options(parser)
    add_shard_option(parser)
    command = command_line("predict", argv)
    return run(
        lambda: _predict(parser.parse_args(argv), command), "run the same command again to go on"
    )


def _predict(options: argparse.Namespace, command: str) -> int:
    part = choose_part(options)
    _refuse_for_a_part(options, part)
    if options.report is None and (options.case is not None or options.analyst is not None):
        raise UsageError("--case and --analyst stand on a page: name it with --report FILE")
    paths = _choose_paths(options, options.report)
    sample = _read_sample(options)
    if options.annotate is not None:
        from deepfake.reports.annotation import refuse_folder

        refuse_missing_folder("annotate", options.annotate)
        for one in options.input:
            refuse_folder(options.annotate, Path(one))
    from deepfake.dataset.layouts.labelling import list_inputs
    from deepfake.dataset.manifest import is_crop_folder
    from deepfake.inference.outputs import Outputs, refuse_destroying
    from deepfake.media.discovery import count_passed_over, display_name

    found = find_detector(options)
    read = [*(one.path for one in found), *([sample.path] if sample else [])]
    stored: StoredCrops | None = None
    sources: Sequence[Source] = ()
    skipped: dict[str, int] = {}
    crop_folders = [one for one in options.input if is_crop_folder(one)]
    if crop_folders and len(options.input) > 1:
        raise UsageError(f"{crop_folders[0]} is a crop folder: score it by itself, without others")
    if not crop_folders:
        sources, skipped = list_inputs(options.input, follow_links=options.follow_links)
        refuse_destroying(paths.values(), chain(read, (source.path for source in sources)))
    if not options.quiet:
        # Imports and weights take seconds; nobody shall wonder meanwhile.
        what = f"{len(sources):,} files" if len(sources) > 1 else options.input[0]
        sys.stderr.write(f"scoring {display_name(what)} with {found[0].name} ...\n")
        sys.stderr.flush()
    from deepfake.inference.job import PredictionJob
    from deepfake.learning.ensemble import load_detector

    checkpoint = load_detector(found, options.tta)
    if crop_folders:
        stored = _open_crops(options, checkpoint)
        sources = stored.sources
        refuse_destroying(paths.values(), [*read, *stored.files])
    with _hold_job(options.output) as root:
        outputs = Outputs(paths, root)
        outputs.refuse_foreign(options.overwrite)
        predictor = _make_predictor(options, checkpoint, sources, root, stored)
        settings = _describe_job(options, predictor)
        digest = None if stored is None else stored.digest
        job = PredictionJob(root, sources, settings, part, options.overwrite, digest)
        was_finished, before = job.is_finished, outputs.hash_files()
        outputs.claim()
        _answer(job, predictor, options)
        totals, lines = _write_tables(options, outputs, sample, job.answers, job.settings)
        if options.report is not None:
            page = _report_on(predictor, sources, job, options, command)
            outputs.write("report", [page.encode()])
            lines.append(f"report: {options.report}")
        failures = [] if options.annotate is None else _annotate(options, job, lines)
        written = [path for path, now in outputs.hash_files().items() if now != before[path]]
    if predictor.policy_remark:
        lines.append(predictor.policy_remark)
    if skipped:
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(skipped.items()))
        lines[0] += f"; {sum(skipped.values()):,} files of other kinds skipped ({kinds})"
    if was_finished:
        written += [] if options.annotate is None else [options.annotate]
        shown = ", ".join(map(str, written))
        done = f"written now: {shown}" if written else "nothing was left to do"
        lines.insert(0, f"{options.output} was finished already; {done}")
    if options.output is None and totals.inputs == 1:
        del lines[0]  # the answer itself says all that there is to count
    stream = sys.stderr if _is_streamed(options) else sys.stdout
    stream.writelines(f"{line}\n" for line in lines)
    sys.stderr.writelines(f"error: not annotated: {failure}\n" for failure in failures)
    if failures:
        return EXIT_FAILED
    expected = totals.inputs + count_passed_over(skipped)
    return answer_code(totals.answers, expected, options.strict, part is not None)


def _refuse_for_a_part(options: argparse.Namespace, part: JobPart | None) -> None:
    if part is None:
        return
    if _is_streamed(options):
        raise UsageError("--shard needs a file as --output: deepfake merge looks for it")
    if options.submission is not None:
        raise UsageError("--submission is filled from all parts: give it to deepfake merge")
    if options.report is not None:
        raise UsageError("--report shows all inputs: give it to a predict without --shard")


def _is_streamed(options: argparse.Namespace) -> bool:
    """Whether standard output has the answers, and no file."""
    return options.output in (None, "-")


@contextmanager
def _hold_job(output: str | None) -> Iterator[Path]:
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


def job_folder(output: Path) -> Path:
    """Where the job of a table lies."""
    return output.with_name(f"{output.name}{_JOB_SUFFIX}")


def _open_crops(options: argparse.Namespace, checkpoint: Checkpoint) -> StoredCrops:
    """The crop folder that is scored as it is; refuse what was asked of its photos and videos."""
    from deepfake.inference.stored import StoredCrops

    wanted = options.faces_per_frame or checkpoint.recipe.aggregation.faces_per_frame
    folder = Path(options.input[0])
    stored = StoredCrops(folder, checkpoint, wanted)
    asked = [name for name in ("annotate", "follow_links") if getattr(options, name)]
    if choose_sampling(options, stored.sampling) != stored.sampling:
        asked.append("frames, fps, every, keyframes, max-frames or detect-every other than cropped")
    if asked:
        raise UsageError(
            f"{folder} is a crop folder, whose crops are scored as they are; --{asked[0]} "
            "needs the photos and videos themselves"
        )
    return stored


def _make_predictor(
    options: argparse.Namespace,
    checkpoint: Checkpoint,
    sources: Sequence[Source],
    root: Path,
    stored: StoredCrops | None,
) -> Predictor:
    from deepfake.inference.backend import expect_faces, parse_devices
    from deepfake.inference.predictor import Predictor
    from deepfake.jobs.folder import JOB_FILE, read_job

    sampling = choose_sampling(options, checkpoint.recipe.sampling)
    n_faces = expect_faces(sources, sampling)
    if stored is not None:
        sampling, n_faces = stored.sampling, stored.n_crops
    backend = options.backend
    if backend == "auto" and (root / JOB_FILE).exists():
        # A job that goes on does so with what it was begun with.
        backend = read_job(root).get("backend", "auto")
    elif backend == "auto" and options.shard is not None:
        backend = "torch"  # machines that share a job may not have the same packages
    return Predictor(
        checkpoint,
        device=options.device if options.devices is None else parse_devices(options.devices),
        batch_size=options.batch_size,
        sampling=sampling,
        aggregation=options.aggregate,
        faces_per_frame=options.faces_per_frame,
        backend=backend,
        expected_faces=n_faces,
        workers=choose_workers(options),
        stored=stored,
    )


def _describe_job(options: argparse.Namespace, predictor: Predictor) -> dict[str, Any]:
    """Everything that an answer depends on; not the machine, nor its number of processes."""
    trained_on = predictor.checkpoint.info["counts"]["train"]
    return {
        "checkpoint_sha256": predictor.checkpoint.sha256,
        "prior": trained_on["fake"] / sum(trained_on.values()),
        "sampling": predictor.sampling.to_dict(),
        "aggregation": predictor.aggregation.to_dict(),
        "backend": predictor.backend,
        "batch_size": options.batch_size,
        "max_pixels": options.max_pixels,
    }


def _answer(job: PredictionJob, predictor: Predictor, options: argparse.Namespace) -> None:
    """Answer what has no answer yet; on standard output as they come."""
    from deepfake.inference.results import describe_results, format_scores
    from deepfake.progress import Progress

    answered = job.count_answered()
    with Progress(job.job.count_inputs(), answered, options.quiet) as progress:
        predictor.watch = progress.note_frames
        answers = job.run(predictor, progress.advance, options.report is not None)
        if options.output == "-":
            sys.stdout.writelines(format_scores(answers))
        elif options.output is None:
            for line in describe_results(answers):
                with progress.hidden():
                    sys.stdout.write(line)
                    sys.stdout.flush()
        else:
            for _ in answers:
                pass


def _report_on(
    predictor: Predictor,
    sources: Sequence[Source],
    job: PredictionJob,
    options: argparse.Namespace,
    command: str,
) -> str:
    from deepfake.evaluation.job import describe_origin
    from deepfake.media.inspection import inspect_files
    from deepfake.reports.evidence import describe_run
    from deepfake.reports.prediction_page import digest_scores, format_prediction_report
    from deepfake.reports.thumbnails import find_thumbnails

    digest = digest_scores(job.answers())
    thumbnails = find_thumbnails(job, predictor, digest.shown)
    inspected = inspect_files([sources[place] for place in digest.inspected], predictor.workers)
    facts = dict(zip(digest.inspected, (found for _, found in inspected), strict=True))
    run = describe_run(predictor, job.times, options.case, options.analyst)
    origin = describe_origin(predictor.checkpoint, command) | {"run": run}
    return format_prediction_report(digest, thumbnails, origin, predictor.limits, facts)


def _annotate(options: argparse.Namespace, job: PredictionJob, lines: list[str]) -> list[str]:
    """Write annotated copies; what was not written, and why."""
    from deepfake.media.discovery import display_name
    from deepfake.reports.annotation import annotate_files
    from deepfake.storage import exclusive

    folder: Path = options.annotate
    folder.mkdir(exist_ok=True)
    with exclusive(folder):
        done = list(annotate_files(job.pairs(), folder, choose_workers(options)))
    failures = [
        f"{display_name(source.name)}: {why}" for source, why in done if isinstance(why, str)
    ]
    lines.append(f"annotated: {len(done) - len(failures):,} files -> {folder}")
    return failures


def merge(argv: Sequence[str] | None = None) -> int:
    """Put parts together: ``deepfake merge PART... --output OUTPUT``."""
    parser = Parser(
        prog="deepfake merge",
        description="Put together what several machines cropped or predicted with --shard, to\n"
        "the very bytes of the undivided job. Parts may come in any order; all must be there,\n"
        "finished, and of the same job. They are only read. Killed at any instant, run it again.",
        epilog="""\
A part of crop is its folder; a part of predict is its table, beside which lies the .job folder
that everything is merged from; it may be removed afterwards.

examples:
  deepfake merge parts/*/ --output crops/
  deepfake merge parts/*.csv --output scores.csv --faces faces.csv
""",
    )
    parser.add_argument("parts", nargs="+", type=Path, metavar="PART", help="of all machines")
    parser.add_argument(
        "--output",
        help="crop folder, or table to write as of predict; without it the first bare word",
    )
    _add_table_options(parser)
    add_strict_option(parser)
    return run(lambda: _merge(parser.parse_args(argv)), "run the same command again to go on")


def _merge(options: argparse.Namespace) -> int:
    if options.output is None:
        options.output = str(options.parts.pop(0))
    if not options.parts:
        raise UsageError("name the parts to put together, and the --output to write")
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
    paths = _choose_paths(options)
    sample = _read_sample(options)
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
        totals, lines = _write_tables(
            options, outputs, sample, answers, joined.settings, refuse_other=not options.overwrite
        )
    sys.stdout.write("\n".join(lines) + "\n")
    return answer_code(totals.answers, totals.inputs, options.strict)


def _merge_crops(options: argparse.Namespace) -> int:
    tables = (options.faces, options.submission, options.submission_output, options.no_answer)
    if options.overwrite or any(value is not None for value in tables):
        raise UsageError("--faces, --submission... and --overwrite are for parts of predict")
    from deepfake.dataset.merging import merge_crops
    from deepfake.records import Status

    report = merge_crops(Path(options.output), options.parts)
    sys.stdout.write(f"{report}\n")
    return answer_code(report.statuses[Status.OK.value], report.inputs, options.strict)


def _add_table_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--faces", type=Path, help="also write a table with a row per face, as of --output"
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
        "--submission-output", type=Path, help="filled sample (default: submission.csv by OUTPUT)"
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


def _choose_paths(options: argparse.Namespace, report: Path | None = None) -> dict[str, Path]:
    """All files that will be written; refuse before any work what could not be written after."""
    from deepfake.inference.formats import check_format

    outputs = {} if _is_streamed(options) else {"output": Path(options.output)}
    if options.faces is not None:
        outputs["faces"] = options.faces
    if report is not None:
        outputs["report"] = report
    if options.submission is not None:
        beside = Path() if _is_streamed(options) else Path(options.output).parent
        outputs["submission"] = options.submission_output or beside / "submission.csv"
        if outputs["submission"].resolve() == options.submission.resolve():
            raise UsageError(
                f"the submission would replace its sample {options.submission}; name another file "
                "with --submission-output"
            )
    elif options.submission_output is not None or options.submission_columns is not None:
        raise UsageError("--submission-output and --submission-columns need --submission")
    resolved = [path.resolve() for path in outputs.values()]
    if len(set(resolved)) < len(resolved):
        raise UsageError("two outputs have the same name; every table needs its own file")
    for name, path in outputs.items():
        if name in ("output", "faces"):
            check_format(name, path)
        refuse_missing_folder(name, path)
    return outputs


def _read_sample(options: argparse.Namespace) -> Sample | None:
    from deepfake.inference.submission import Sample, check_fallback

    if options.submission is None:
        return None
    if options.no_answer is not None:
        check_fallback(options.no_answer, options.submission_value)
    return Sample(options.submission, options.submission_columns)


def _write_tables(
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
    lines = [str(totals) + ("" if _is_streamed(options) else f" -> {options.output}")]
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
