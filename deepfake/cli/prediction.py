"""The command that scores: ``predict``.

Knows what is asked of whom and in what order; nothing of how a score comes about.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepfake.cli.command import EXIT_FAILED, Parser, answer_code, command_line, run
from deepfake.cli.options import (
    Engine,
    add_aggregation,
    add_cache_options,
    add_detector_options,
    add_engine_options,
    add_evidence_options,
    add_faces_per_frame,
    add_media_options,
    add_shard_option,
    choose_engine,
    choose_part,
    choose_sampling,
    choose_workers,
    count,
    find_detector,
    open_crop_folders,
    refuse_missing_folder,
)
from deepfake.cli.score_tables import (
    add_table_options,
    choose_paths,
    hold_job,
    is_streamed,
    read_sample,
    write_tables,
    write_with_uploads,
)
from deepfake.cli.uploads import add_job_option, place
from deepfake.errors import UsageError
from deepfake.stores.address import hide_secrets

if TYPE_CHECKING:
    from deepfake.inference.job import PredictionJob
    from deepfake.inference.predictor import Predictor
    from deepfake.inference.stored import StoredCrops
    from deepfake.jobs.parts import JobPart
    from deepfake.learning.checkpoint import Checkpoint
    from deepfake.records import Source


_EPILOG = """\
A file without an answer has a status (no_face, too_small, unreadable), a reason and an empty
p_fake; it is never guessed and never left out. Without --output nothing is written. With it, killed
at any instant, the same command goes on where it stopped; run when it is finished, it does what
changed inputs ask for and no more. What it goes on with lies in OUTPUT.job, which may be removed
when nothing is left to do. A file whose name begins with a dash stands behind --.

examples:
  deepfake predict photo.jpg
  deepfake predict a.jpg b.mp4 folder/ 'more/*.jpg'
  python predict.py photos/ --checkpoint runs/001/model.ckpt --output scores.csv
  python predict.py one.jpg --checkpoint model.ckpt --output - --device cpu
  python predict.py clip.mp4 --checkpoint model.ckpt --output clip.csv --faces frames.csv
  python predict.py photos/ --checkpoint model.ckpt --output scores.csv --report scores.html
  python predict.py test/ --checkpoint model.ckpt --output scores.csv \\
      --submission sample_submission.csv
  python predict.py photos/ --checkpoint model.ckpt --output part2.csv --shard 2/4
      then: deepfake merge part1.csv part2.csv ... --output scores.csv
"""


def predict(argv: Sequence[str] | None = None) -> int:
    """Score photos and videos: ``python predict.py INPUT --checkpoint FILE --output FILE``."""
    parser = Parser(
        prog="deepfake predict",
        description="Score photos and videos: one line per file, in input order; with --output\n"
        "a table that goes on where it was stopped.",
        epilog=_EPILOG,
    )
    parser.add_subject(
        "input",
        many=True,
        help="folders, photos, videos, glob patterns, list files (.txt) or CSVs, also in a store "
        "(s3://bucket/photos/); or a crop folder, whose crops are scored as they are",
    )
    add_detector_options(parser)
    _add_output_options(parser)
    add_aggregation(parser)
    add_faces_per_frame(parser)
    _add_network_options(parser)
    add_media_options(parser)
    add_engine_options(parser)
    add_shard_option(parser)
    add_cache_options(parser)
    add_job_option(parser)
    command = command_line("predict", argv)
    return run(
        lambda: write_with_uploads(
            partial(_predict, command=command), parser.parse_args(argv), "report"
        ),
        "run the same command again to go on",
    )


def _add_output_options(parser: Parser) -> None:
    parser.add_argument(
        "--output",
        help="table to write: .csv, .parquet, .json or .jsonl, also in a store "
        "(s3://bucket/scores.csv, with --job); - for CSV on standard output (default: a line for "
        "each input is printed, and nothing is written)",
    )
    parser.add_argument(
        "--report", type=place, help="also write an HTML page with faces and scores over time"
    )
    add_evidence_options(parser)
    parser.add_argument(
        "--annotate",
        type=Path,
        metavar="FOLDER",
        help="also write a copy of every file that has a score there, with boxes, numbers of "
        "people and scores drawn in; videos whole, as MP4 without sound",
    )
    add_table_options(parser)


def _add_network_options(parser: Parser) -> None:
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


def _predict(options: argparse.Namespace, command: str) -> int:
    part, engine = choose_part(options), choose_engine(options)
    _refuse_for_a_part(options, part)
    _refuse_on_pages_and_copies(options)
    paths = choose_paths(options, options.report)
    sample = read_sample(options)
    from deepfake.inference.outputs import Outputs, refuse_destroying
    from deepfake.media.discovery import count_passed_over, may_be_clip

    found = find_detector(options)
    read = [*(one.path for one in found), *([sample.path] if sample else [])]
    stored: StoredCrops | None = None
    listed = _list_inputs(options)
    sources, skipped = listed or ((), {})
    if listed is not None:
        files = (source.path for source in sources if source.stored is None)
        refuse_destroying(paths.values(), chain(read, files))
    _announce(options, len(sources), " + ".join(one.name for one in found))
    from deepfake.faces.pipeline import early_worker

    starts_one = engine.is_here and listed is not None
    early = early_worker(engine.workers) if starts_one else nullcontext()
    with early, hold_job(options.output) as root:
        from deepfake.inference.job import PredictionJob
        from deepfake.learning.ensemble import load_detector

        checkpoint = load_detector(found, options.tta)
        if listed is None:
            stored = _open_crops(options, checkpoint)
            sources, engine = stored.sources, engine.reading([stored.root])
            refuse_destroying(paths.values(), [*read, *stored.files])
        outputs = Outputs(paths, root)
        outputs.refuse_foreign(options.overwrite)
        if options.annotate is not None:
            _refuse_copies_among_inputs(options.annotate, sources)
        predictor = _make_predictor(options, engine, checkpoint, sources, root, stored)
        settings = _describe_job(options, predictor)
        digest = None if stored is None else stored.digest
        job = PredictionJob(root, sources, settings, part, options.overwrite, digest)
        was_finished, before = job.is_finished, outputs.hash_files()
        outputs.claim()
        _answer(job, predictor, options, engine)
        totals, lines = write_tables(options, outputs, sample, job.answers, job.settings)
        if options.report is not None:
            page = _report_on(predictor, sources, job, options, command)
            outputs.write("report", [page.encode()])
            lines.append(f"report: {options.report}")
        failures = [] if options.annotate is None else _annotate(options, job, lines)
        written = [path for path, now in outputs.hash_files().items() if now != before[path]]
    has_clips = any(may_be_clip(source.name) for source in sources)
    remark = predictor.policy_remark if has_clips else predictor.judge.compare_with_limits(False)
    if remark:
        lines.append(remark)
    if skipped:
        lines[0] += _describe_skipped(skipped)
    if was_finished:
        written += [] if options.annotate is None else [options.annotate]
        shown = ", ".join(map(str, written))
        done = f"written now: {shown}" if written else "nothing was left to do"
        lines.insert(0, f"{options.output} was finished already; {done}")
    if options.output is None and totals.inputs == 1 and not skipped:
        del lines[0]  # the answer itself says all that there is to count
    stream = sys.stderr if is_streamed(options) else sys.stdout
    stream.writelines(f"{line}\n" for line in lines)
    sys.stderr.writelines(f"error: not annotated: {failure}\n" for failure in failures)
    if failures:
        return EXIT_FAILED
    expected = totals.inputs + count_passed_over(skipped)
    return answer_code(totals.answers, expected, options.strict, part is not None)


def _list_inputs(options: argparse.Namespace) -> tuple[Sequence[Source], dict[str, int]] | None:
    """What is scored, and what was passed over, by kind.

    ``None`` for a crop folder: it can only be opened with the checkpoint that scores it.
    """
    from deepfake.dataset.crop_mirror import find_crops
    from deepfake.dataset.layouts.labelling import list_inputs

    open_crop_folders(options, options.input)
    crop_folders = [one for one in options.input if find_crops(one) is not None]
    if not crop_folders:
        return list_inputs(
            options.input, follow_links=options.follow_links, other_stores=options.other_stores
        )
    if len(options.input) > 1:
        raise UsageError(f"{crop_folders[0]} is a crop folder: score it by itself, without others")
    return None


def _announce(options: argparse.Namespace, n_files: int, checkpoint: str) -> None:
    """Imports and weights take seconds; nobody shall wonder meanwhile."""
    from deepfake.media.discovery import display_name

    if not options.quiet:
        what = f"{n_files:,} files" if n_files > 1 else options.input[0]
        sys.stderr.write(f"scoring {hide_secrets(display_name(what))} with {checkpoint} ...\n")
        sys.stderr.flush()


def _describe_skipped(skipped: Mapping[str, int]) -> str:
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(skipped.items()))
    return f"; {sum(skipped.values()):,} files of other kinds skipped ({kinds})"


def _refuse_for_a_part(options: argparse.Namespace, part: JobPart | None) -> None:
    if part is None:
        return
    if is_streamed(options):
        raise UsageError("--shard needs a file as --output: deepfake merge looks for it")
    if options.submission is not None:
        raise UsageError("--submission is filled from all parts: give it to deepfake merge")
    if options.report is not None:
        raise UsageError("--report shows all inputs: give it to a predict without --shard")


def _refuse_on_pages_and_copies(options: argparse.Namespace) -> None:
    if options.report is None and (options.case is not None or options.analyst is not None):
        raise UsageError("--case and --analyst stand on a page: name it with --report FILE")
    if options.annotate is not None:
        from deepfake.reports.annotation import refuse_folder

        refuse_missing_folder("annotate", options.annotate)
        for one in options.input:
            refuse_folder(options.annotate, Path(one))


def _refuse_copies_among_inputs(folder: Path, sources: Sequence[Source]) -> None:
    """Refuse a folder for copies that a pattern or a list has led into."""
    inside = folder.resolve()
    for source in sources:
        if source.stored is None and source.path.parent.resolve().is_relative_to(inside):
            raise UsageError(
                f"--annotate {folder} holds {hide_secrets(source.name)}, which is an input; name a "
                "folder outside"
            )


def _open_crops(options: argparse.Namespace, checkpoint: Checkpoint) -> StoredCrops:
    """The crop folder that is scored as it is; refuse what was asked of its photos and videos."""
    from deepfake.dataset.crop_mirror import find_crops
    from deepfake.inference.stored import StoredCrops

    wanted = options.faces_per_frame or checkpoint.recipe.aggregation.faces_per_frame
    folder = find_crops(options.input[0])
    assert folder is not None
    stored = StoredCrops(folder, checkpoint, wanted)
    asked = [name for name in ("annotate", "follow_links") if getattr(options, name)]
    if choose_sampling(options, stored.sampling) != stored.sampling:
        asked.append("frames, fps, every, keyframes, max-frames or detect-every other than cropped")
    if asked:
        raise UsageError(
            f"{options.input[0]} is a crop folder, whose crops are scored as they are; "
            f"--{asked[0]} needs the photos and videos themselves"
        )
    return stored


def _make_predictor(
    options: argparse.Namespace,
    engine: Engine,
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
    elif backend == "auto" and (options.shard is not None or not engine.is_here):
        backend = "torch"  # machines that share a job may not have the same packages
    workers = choose_workers(options)
    device: str | list[str] = engine.device
    if not engine.is_here:  # nor need this machine have the GPUs of the others
        workers, device = replace(workers, detect_device="cpu"), "cpu"
    elif options.devices is not None:
        device = parse_devices(options.devices)
    predictor = Predictor(
        checkpoint,
        device=device,
        batch_size=options.batch_size,
        sampling=sampling,
        aggregation=options.aggregate,
        faces_per_frame=options.faces_per_frame,
        backend=backend,
        expected_faces=n_faces,
        workers=workers,
        stored=stored,
    )
    if not engine.is_here:
        predictor.elsewhere = {"device": engine.device, "workers": engine.workers}
    return predictor


def _describe_job(options: argparse.Namespace, predictor: Predictor) -> dict[str, Any]:
    """Everything that an answer depends on; not the machine, nor its number of processes."""
    trained_on = predictor.checkpoint.info["counts"]["train"]
    several = [one.sha256 for one in predictor.checkpoint.members]
    return {
        "tta": predictor.checkpoint.tta,
        # Of several, or of one that looks twice, the next is a hash of these and of that.
        **({"checkpoints_sha256": several} if several else {}),
        "checkpoint_sha256": predictor.checkpoint.sha256,
        "prior": trained_on["fake"] / sum(trained_on.values()),
        "sampling": predictor.sampling.to_dict(),
        "aggregation": predictor.aggregation.to_dict(),
        "backend": predictor.backend,
        "batch_size": options.batch_size,
        "max_pixels": options.max_pixels,
    }


def _answer(
    job: PredictionJob, predictor: Predictor, options: argparse.Namespace, engine: Engine
) -> None:
    """Answer what has no answer yet; on standard output as they come."""
    from deepfake.inference.results import describe_results, format_scores
    from deepfake.progress import Progress

    answered = job.count_answered()
    with Progress(job.job.count_inputs(), answered, options.quiet) as progress:
        predictor.watch = progress.note_frames
        keep_crops = options.report is not None
        answers = job.run(predictor, progress.advance, keep_crops, engine.execute)
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
    facts = {}
    if predictor.stored is None:  # of a crop folder only crops are here, not the files themselves
        inspected = inspect_files([sources[place] for place in digest.inspected], predictor.workers)
        facts = dict(zip(digest.inspected, (found for _, found in inspected), strict=True))
    run = describe_run(predictor, job.times, options.case, options.analyst)
    origin = describe_origin(predictor.checkpoint, command) | {"run": run}
    return format_prediction_report(digest, thumbnails, origin, predictor.judge.limits, facts)


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
