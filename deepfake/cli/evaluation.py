"""Commands that measure a checkpoint, explain one score of it, or fit its last stages anew.

Knows nothing of metrics, charts or heads.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from deepfake.cli.command import EXIT_OK, Parser, answer_code, command_line, run
from deepfake.cli.options import (
    CHECKPOINT,
    PAGE,
    add_aggregation,
    add_cache_options,
    add_detector_options,
    add_engine_options,
    add_evidence_options,
    add_extraction_options,
    add_faces_per_frame,
    add_media_options,
    choose_engine,
    choose_sampling,
    choose_workers,
    count,
    find_detector,
    open_crop_folders,
    refuse_existing,
    refuse_missing_folder,
    refuse_other_suffix,
)
from deepfake.cli.uploads import add_job_option, place, with_uploads
from deepfake.errors import UsageError

if TYPE_CHECKING:
    from deepfake.evaluation.embeddings import EmbedOptions
    from deepfake.evaluation.refit import Refit
    from deepfake.learning.checkpoint import Checkpoint
    from deepfake.learning.checkpoint_names import NamedCheckpoint


def evaluate(argv: Sequence[str] | None = None) -> int:
    """Measure a checkpoint: ``deepfake evaluate --checkpoint FILE --data CROPS``."""
    parser = Parser(
        prog="deepfake evaluate",
        description="Measure a checkpoint on labelled crops or media: metrics at face, person and\n"
        "file level with 95 % intervals, and how often its verdicts are wrong, right or unclear.",
        epilog="""\
DATA is a crop folder, also in a store (s3://bucket/crops, with --cache), or labelled media: a
folder with real/ and fake/ at any depth, or a CSV with path,label[,group,split,method,original].
Media is cropped by the checkpoint's own recipe first. Several give a table across data sets.

examples:
  deepfake evaluate --checkpoint runs/001/model.ckpt --data crops/
  deepfake evaluate --checkpoint model.ckpt --data crops/ other_photos/ --output report/
  deepfake evaluate --checkpoint model.ckpt --data videos/ --aggregate top --output report/
  deepfake evaluate --checkpoint model.ckpt --data crops/ --output report/ --corruptions jpeg blur
""",
    )
    add_detector_options(parser)
    parser.add_argument(
        "--data", nargs="+", action="extend", required=True, help="crop folders or labelled media"
    )
    parser.add_argument(
        "--output",
        type=place,
        help="folder for report.html, metrics.json, tables, embeddings; may be that of an earlier "
        "evaluation, whose embeddings are used again",
    )
    _add_split(parser, "test")
    add_aggregation(parser)
    parser.add_argument(
        "--corruptions",
        nargs="*",
        metavar="NAME",
        help="also measure corrupted crops, at five severities: jpeg, video, blur, noise, "
        "downscale, brightness, jitter, and flip (one severity); without a name all of them",
    )
    parser.add_argument(
        "--resamples",
        type=int,
        default=1000,
        help="bootstrap resamples behind each interval; 0 for none",
    )
    _add_scoring_options(parser)
    add_engine_options(parser)
    add_cache_options(parser)
    add_job_option(parser)
    evaluate_ = partial(_evaluate, command=command_line("evaluate", argv))
    return run(
        lambda: with_uploads(evaluate_, parser.parse_args(argv), "output"),
        "run the same command again to go on",
    )


def _evaluate(options: argparse.Namespace, command: str) -> int:
    from deepfake.evaluation.embeddings import EmbedOptions
    from deepfake.evaluation.job import EvaluationOptions, run_evaluation
    from deepfake.learning.ensemble import load_detector
    from deepfake.reports.evaluation_page import format_report
    from deepfake.reports.evaluation_text import describe

    engine = choose_engine(options)
    if not engine.is_here and options.output is None:
        raise UsageError("--engine ray needs --output, a folder that all nodes see")
    engine = engine.reading(open_crop_folders(options, options.data))
    checkpoint = load_detector(find_detector(options), options.tta)
    evaluation = run_evaluation(
        checkpoint,
        options.data,
        options.output,
        EvaluationOptions(
            split=options.split,
            aggregation=options.aggregate,
            n_resamples=options.resamples,
            corruptions=options.corruptions,
        ),
        EmbedOptions(engine.device, options.batch_size, engine.workers.processes, options.quiet),
        engine.workers,
        render=format_report,
        command=command,
        execute=engine.execute,
    )
    rates = checkpoint.error_rates
    if rates is not None:
        sys.stdout.write("\n".join([*rates.describe(checkpoint.limits), "", ""]))
    sys.stdout.write(describe(evaluation))
    if options.output is not None:
        sys.stdout.write(f"report: {options.output / 'report.html'}\n")
    return EXIT_OK


def explain(argv: Sequence[str] | None = None) -> int:
    """Look into the score of one file: ``deepfake explain FILE --checkpoint X --output PAGE``."""
    parser = Parser(
        prog="deepfake explain",
        description="Show what the score of one photo or video rests on, as one HTML page: the\n"
        "top frames, where in the face the score comes from (and whether that saliency map holds\n"
        "against its check), and the nearest training faces.",
        epilog="""\
examples:
  deepfake explain photo.jpg --output why.html
  deepfake explain clip.mp4 --checkpoint model.ckpt --output why.html --data crops/ \\
      --embeddings report/embeddings
""",
    )
    parser.add_subject("input", help="photo or video")
    add_detector_options(parser)
    parser.add_argument("--output", type=place, required=True, help="HTML page to write")
    add_evidence_options(parser)
    parser.add_argument("--data", type=Path, help="crop folder to find similar faces in")
    parser.add_argument(
        "--embeddings",
        type=Path,
        metavar="FOLDER",
        help="keep the embeddings of --data there for the next time, as evaluate does",
    )
    parser.add_argument("--top-frames", type=int, default=6, help="faces to look into, at most")
    parser.add_argument(
        "--neighbours", type=int, help="similar faces of each face, of --data (default: 5)"
    )
    add_aggregation(parser)
    add_faces_per_frame(parser)
    _add_device(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a page that exists")
    add_media_options(parser)
    add_job_option(parser)
    explain_ = partial(_explain, command=command_line("explain", argv))
    return run(
        lambda: with_uploads(explain_, parser.parse_args(argv), "output", anew=True),
        "nothing was written",
    )


def _explain(options: argparse.Namespace, command: str) -> int:
    output: Path = options.output
    refuse_other_suffix("output", output, *PAGE)
    refuse_missing_folder("output", output)
    refuse_existing("output", output, options.overwrite)
    if options.embeddings is not None and options.data is None:
        raise UsageError("--embeddings needs --data")
    if options.neighbours is not None and options.data is None:
        raise UsageError("--neighbours needs --data")
    n_neighbours = 5 if options.neighbours is None else options.neighbours
    for name, value in (("top-frames", options.top_frames), ("neighbours", n_neighbours)):
        if value < 1:
            raise UsageError(f"--{name} {value}; expected 1 or more")
    from deepfake.dataset.layouts.labelling import list_inputs
    from deepfake.dataset.manifest import is_crop_folder
    from deepfake.evaluation.explain import explain_file
    from deepfake.evaluation.job import describe_origin
    from deepfake.inference.predictor import Predictor
    from deepfake.inference.results import describe_result
    from deepfake.learning.ensemble import load_detector
    from deepfake.media.inspection import inspect_files
    from deepfake.reports.evidence import describe_run
    from deepfake.reports.explain_page import format_explanation
    from deepfake.storage import write_atomic

    if is_crop_folder(options.input):
        raise UsageError(
            f"{options.input} is a crop folder; explain looks into one photo or video: name that"
        )
    sources, _ = list_inputs(
        options.input, follow_links=options.follow_links, other_stores=options.other_stores
    )
    if len(sources) != 1:
        raise UsageError(f"{options.input} is {len(sources):,} files; explain looks into one")
    checkpoint = load_detector(find_detector(options), options.tta)
    predictor = Predictor(
        checkpoint,
        device=options.device,
        sampling=choose_sampling(options, checkpoint.recipe.sampling),
        aggregation=options.aggregate,
        faces_per_frame=options.faces_per_frame,
        backend="torch",
        workers=choose_workers(options),
    )
    began = datetime.now(UTC)
    explanation = explain_file(
        predictor,
        sources[0],
        options.top_frames,
        options.data,
        options.embeddings,
        n_neighbours,
        options.quiet,
    )
    ((_, facts),) = inspect_files(sources, predictor.workers)
    run = describe_run(
        predictor,
        (began, datetime.now(UTC)),
        options.case,
        options.analyst,
        top_frames=options.top_frames,
        **({"neighbours": n_neighbours} if options.data is not None else {}),
    )
    origin = describe_origin(checkpoint, command) | {"run": run}
    write_atomic(output, format_explanation(explanation, predictor.aggregation, origin, facts))
    score = explanation.score
    sys.stdout.write(f"{describe_result(score)}\n")
    if explanation.top_frames:
        failure = explanation.failure
        word = f"FAILS, the maps point at nothing ({failure})" if failure else "holds"
        sys.stdout.write(
            f"deletion check {word}: log-odds {-explanation.salient_drop:+.2f} without the salient "
            f"regions, {-explanation.random_drop:+.2f} without as much elsewhere, mean of "
            f"{len(explanation.top_frames)} crops\n"
        )
    sys.stdout.write(f"page: {output}\n")
    return answer_code(int(score.p_fake is not None), 1, options.strict)


def calibrate(argv: Sequence[str] | None = None) -> int:
    """New sigmoid and limits: ``deepfake calibrate --checkpoint FILE --data CROPS ...``."""
    parser = Parser(
        prog="deepfake calibrate",
        description="Fit the sigmoid and choose the two limits of a checkpoint's verdict anew, on\n"
        "labelled data that it did not learn from: real up to the one, fake from the other,\n"
        "unclear between. The network is not touched; the new file remembers what was done.\n"
        "Several become one file, whose score is the mean of theirs.\n"
        "Refused where there are too few files to measure a rate, or the detector is at chance.",
        epilog="""\
examples:
  deepfake calibrate --checkpoint model.ckpt --data crops/ --output strict.ckpt --max-fpr 0.01
  deepfake calibrate --checkpoint model.ckpt --data photos/ --output rare.ckpt --prevalence 0.02
  deepfake calibrate --checkpoint model.ckpt --data crops/ --output mirrored.ckpt --tta flip
  deepfake calibrate --checkpoint a.ckpt b.ckpt --data crops/ --output both.safetensors
""",
    )
    add_detector_options(parser)
    _add_derivation(parser)
    _add_error_rates(parser)
    parser.add_argument(
        "--prevalence",
        type=float,
        metavar="P",
        help="share of fakes where it will be used: p_fake is a probability there",
    )
    _add_split(parser, "validation")
    _add_scoring_options(parser, may_overwrite=True)
    return run(
        lambda: with_uploads(_calibrate, parser.parse_args(argv), "output", anew=True),
        "nothing was written",
    )


def _calibrate(options: argparse.Namespace) -> int:
    _check_output(options)
    from deepfake.evaluation.refit import calibrate_checkpoint, check_wishes
    from deepfake.learning.ensemble import load_detector

    # Before anything is cropped, which may take hours.
    check_wishes(options.max_fpr, options.max_fnr, options.prevalence)
    return _derive(
        options,
        load_detector(_find_others(options), options.tta),
        calibrate_checkpoint,
        split=options.split,
        max_fpr=options.max_fpr,
        max_fnr=options.max_fnr,
        prevalence=options.prevalence,
    )


def fit_head(argv: Sequence[str] | None = None) -> int:
    """A new head: ``deepfake fit-head --checkpoint FILE --data CROPS --output FILE``."""
    parser = Parser(
        prog="deepfake fit-head",
        description="Fit the head of a checkpoint anew: the train split fits the classifier,\n"
        "validation its sigmoid and the limits of the verdict, test is only measured. A last.ckpt\n"
        "of mid-training becomes a complete model by it.",
        epilog="examples:\n"
        "  deepfake fit-head --checkpoint model.ckpt --data crops/ --output new.ckpt\n"
        "  deepfake fit-head --checkpoint last.ckpt --data crops/ --output model.ckpt\n"
        "  deepfake fit-head --checkpoint model.ckpt --data crops/ --output new.ckpt "
        "--head logistic\n",
    )
    parser.add_argument("--checkpoint", nargs=1, **CHECKPOINT | {"default": None})
    _add_derivation(parser)
    parser.add_argument(
        "--head",
        choices=["svm", "svm-hinge", "logistic", "rbf", "gbm"],
        default="svm",
        help="linear SVM (squared hinge or hinge loss), logistic regression, SVM with a Gaussian "
        "kernel, or LightGBM",
    )
    parser.add_argument(
        "--C",
        type=float,
        default=2.0,
        metavar="C",
        help="inverse strength of regularisation; of gbm, lambda_l2 = 1 / C",
    )
    _add_error_rates(parser)
    _add_scoring_options(parser, may_overwrite=True)
    return run(
        lambda: with_uploads(_fit_head, parser.parse_args(argv), "output", anew=True),
        "nothing was written",
    )


def _fit_head(options: argparse.Namespace) -> int:
    _check_output(options)
    from deepfake.evaluation.refit import check_wishes, fit_new_head
    from deepfake.heads import make_head
    from deepfake.learning.checkpoint import load_checkpoint

    # Before anything is cropped, which may take hours.
    check_wishes(options.max_fpr, options.max_fnr)
    make_head(options.head, 1, options.C).check_fit(0)
    return _derive(
        options,
        load_checkpoint(_find_others(options)[0], require_head=False),
        fit_new_head,
        head=options.head,
        C=options.C,
        max_fpr=options.max_fpr,
        max_fnr=options.max_fnr,
    )


def _add_derivation(parser: argparse.ArgumentParser) -> None:
    """Of commands that make a checkpoint out of others."""
    parser.add_argument("--data", required=True, help="crop folder or labelled media")
    parser.add_argument(
        "--output", type=place, required=True, help="the new checkpoint: .ckpt or .safetensors"
    )
    add_cache_options(parser)
    add_job_option(parser)


def _add_error_rates(parser: argparse.ArgumentParser) -> None:
    """Of commands that choose limits."""
    for name, wrong, said in (("fpr", "real", "fake"), ("fnr", "fake", "real")):
        parser.add_argument(
            f"--max-{name}",
            type=float,
            default=0.05,
            metavar="R",
            help=f"highest share of {wrong} files that are called {said} (default %(default)s)",
        )


def _add_split(parser: argparse.ArgumentParser, usual: str) -> None:
    parser.add_argument(
        "--split",
        choices=["train", "validation", "test", "all"],
        help=f"which crops (default: {usual} where there are splits, else all); where there are "
        "none, one that is named is what training would make of them",
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")


def _add_scoring_options(parser: argparse.ArgumentParser, may_overwrite: bool = False) -> None:
    """Of commands that score labelled data."""
    _add_device(parser)
    parser.add_argument(
        "--batch-size", type=count, default=64, help="crops per call of the network"
    )
    if may_overwrite:
        parser.add_argument("--overwrite", action="store_true", help="replace an old --output")
    add_extraction_options(parser)
    parser.add_argument(
        "--quiet", action="store_true", help="no progress, only results and warnings"
    )


def _check_output(options: argparse.Namespace) -> None:
    """Refuse, before any work, an output that a new checkpoint must not go to."""
    output: Path = options.output
    refuse_other_suffix("output", output, "a checkpoint", ".ckpt", ".safetensors")
    refuse_existing("output", output, options.overwrite)
    refuse_missing_folder("output", output)


def _find_others(options: argparse.Namespace) -> list[NamedCheckpoint]:
    """The checkpoints that a new one is made of; none of them is replaced by it."""
    found = find_detector(options)
    if options.output.resolve() in [one.path.resolve() for one in found]:
        raise UsageError("--output would replace the checkpoint itself; name another file")
    return found


def _derive(
    options: argparse.Namespace,
    checkpoint: Checkpoint,
    refit: Callable[..., Refit],
    **settings: object,
) -> int:
    """Make a new checkpoint out of ``--checkpoint``, and show what has changed."""
    from deepfake.evaluation.sets import open_crops

    workers = choose_workers(options)
    open_crop_folders(options, [options.data])
    with tempfile.TemporaryDirectory(prefix="deepfake-") as folder:
        crops = Path(folder) / "crops"
        root = open_crops(options.data, checkpoint, crops, workers, options.quiet)
        result = refit(
            checkpoint,
            root,
            options.output,
            origin=options.data,
            options=_choose_embedding(options),
            **settings,
        )
    sys.stdout.write(str(result))
    return EXIT_OK


def _choose_embedding(options: argparse.Namespace) -> EmbedOptions:
    from deepfake.evaluation.embeddings import EmbedOptions

    return EmbedOptions(options.device, options.batch_size, options.workers, options.quiet)
