"""The command line: options in, calls to the rooms below, exit codes out.

The only file that knows argparse, jsonargparse and LightningCLI. Nothing heavy is imported before
a command really runs, so that ``--help`` answers at once.

Exit codes: 0 done; 1 failed while running; 2 usage, configuration or checkpoint; 3 with
``--strict``: some inputs have no answer; 4 no input has an answer; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from deepfake import __version__
from deepfake.errors import DeepfakeError, UsageError

if TYPE_CHECKING:
    from deepfake.dataset.parts import Part
    from deepfake.inference.journal import Journal
    from deepfake.inference.predictor import Predictor
    from deepfake.inference.results import Totals
    from deepfake.learning.checkpoint import Checkpoint
    from deepfake.records import CropSpec, MediaScore, Sampling, Source

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INCOMPLETE, EXIT_NO_ANSWER = 0, 1, 2, 3, 4
EXIT_INTERRUPTED = 130
_JOURNAL_SUFFIX = ".partial"  # as in inference.journal, which would import much

_TOP_HELP = """\
usage: deepfake COMMAND ...

Find manipulated faces in photos and videos.

commands, with an example of each:
  crop       cut faces out of photos and videos
             deepfake crop photos/ crops/
  train      train a detector on crops
             deepfake train --config configs/default.yaml --data.root crops/
  doctor     look for leaks, duplicates and other faults in crops
             deepfake doctor crops/
  show-augmentations
             draw what the augmentations of a configuration do to crops
             deepfake show-augmentations configs/default.yaml --data.root crops/
  predict    score photos and videos
             deepfake predict photos/ --checkpoint model.ckpt --output scores.csv
  explain    show what the score of one file rests on
             deepfake explain clip.mp4 --checkpoint model.ckpt --output why.html
  evaluate   measure a checkpoint on labelled data, with a report
             deepfake evaluate --checkpoint model.ckpt --data crops/ --output report/
  calibrate  choose its threshold and sigmoid anew on validation data
             deepfake calibrate --checkpoint model.ckpt --data crops/ --output new.ckpt
  fit-head   fit its classifier anew on other crops
             deepfake fit-head --checkpoint model.ckpt --data crops/ --output new.ckpt
  merge      put together what several machines cropped or predicted with --shard
             deepfake merge scores.csv part1.csv part2.csv
  info       show what a checkpoint holds
             deepfake info model.ckpt
  export     write a checkpoint as ONNX graph or safetensors
             deepfake export model.ckpt --format onnx
  demo       all of it, offline, in a minute or two
             deepfake demo

deepfake COMMAND --help says more. python crop.py, train.py and predict.py are the same commands.
"""

_TRAIN_HELP = """\
usage: deepfake train --config FILE --data.root CROPS [options]

Train an embedding and its classifier on a crop folder.

examples:
  python train.py --config configs/default.yaml --data.root crops/
  python train.py --config configs/dacon.yaml --data.root crops/ --trainer.max_epochs 6
  python train.py --config configs/default.yaml --config configs/cpu.yaml --data.root crops/ \\
      --model.pretrained weights.safetensors
  python train.py --config configs/default.yaml --data.root crops/ --resume runs/001

options that matter most (any of them can stand in the YAML file, without the dashes):
  --config FILE             configuration; may be repeated, later files win
  --data.root CROPS         crop folder that crop.py wrote
  --run FOLDER              folder of this run (default: next free number in runs/)
  --resume RUN              go on from the last checkpoint of a run folder, or from a .ckpt file
  --weights best|last       epoch that the final model is made of (default: best validation AUC)
  --seed_everything N       the one seed: order, augmentation, split, dropout, initial weights
  --model.backbone NAME     any timm model
  --model.pretrained X      true, false, or a local weights file
  --model.lr X              learning rate
  --data.batch_size N       crops per step, over all processes together
  --data.num_workers N      loader processes; changes nothing but the speed
  --trainer.max_epochs N    length
  --trainer.devices N       GPUs or processes
  --print_config            print the configuration with everything filled in, and stop
  --help-all                every option there is
"""


class _Parser(argparse.ArgumentParser):
    """argparse that takes no abbreviations and says what a misspelt option meant."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            known = [option for action in self._actions for option in action.option_strings]
            self.error(f"unknown option {unknown[0]!r}{_hint(unknown[0], known)}")
        return parsed

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"error: {message}\ntry: {self.prog} --help\n")


def _hint(word: str, known: Sequence[str]) -> str:
    close = get_close_matches(word.split("=")[0], known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def main(argv: Sequence[str] | None = None) -> int:
    """The ``deepfake`` command."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {"crop": crop, "doctor": doctor, "train": train, "predict": predict}
    commands |= {"explain": explain, "evaluate": evaluate}
    commands |= {"calibrate": calibrate, "fit-head": fit_head}
    commands |= {"merge": merge, "info": info, "export": export, "demo": demo}
    commands |= {"show-augmentations": show_augmentations}
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(_TOP_HELP)
        return EXIT_OK if arguments else EXIT_USAGE
    if arguments[0] == "--version":
        sys.stdout.write(f"deepfake {__version__}\n")
        return EXIT_OK
    if arguments[0] not in commands:
        hint = _hint(arguments[0], list(commands))
        sys.stderr.write(f"error: unknown command {arguments[0]!r}{hint}\ntry: deepfake --help\n")
        return EXIT_USAGE
    return commands[arguments[0]](arguments[1:])


def crop(argv: Sequence[str] | None = None) -> int:
    """Cut faces out of photos and videos: ``python crop.py INPUT OUTPUT``."""
    parser = _Parser(
        prog="deepfake crop",
        description="Cut the faces out of photos and videos and write them with a manifest.\n"
        "Killed at any instant, the same command goes on where it stopped.",
        epilog="""\
labels: folders named real/ and fake/ at any depth of INPUT, the folder of a known data set, or a
CSV with path,label[,group,split,method,original]. Without any the crops are unlabelled.

examples:
  python crop.py photos/ crops/
  python crop.py labels.csv crops/ --size 224 --workers 4
  python crop.py photos/ crops/ --preset dacon
  python crop.py videos/ crops/ --fps 1 --timeout 300
  python crop.py photos/ part2/ --shard 2/4      then: deepfake merge crops/ part1/ part2/ ...
""",
    )
    parser.add_argument("input", help="folder, photo, video, glob pattern, list file (.txt) or CSV")
    parser.add_argument("output", type=Path, help="folder for the crops")
    parser.add_argument(
        "--layout",
        default="auto",
        help="how the folder is arranged: auto (default), tree, dacon, faceforensics, dfd, "
        "celeb-df, dfdc, deeper-forensics, wild-deepfake, dffd, none (no labels)",
    )
    parser.add_argument(
        "--preset", help="recipe: square (aspect kept), dacon (the entry's), dacon-train"
    )
    parser.add_argument(
        "--config", type=Path, help="training configuration; its data.crop_preset is the preset"
    )
    parser.add_argument("--size", type=int, help="side of a crop in pixels (default 380)")
    parser.add_argument(
        "--margin", type=float, help="margin around the face, share of its longer side (square)"
    )
    parser.add_argument("--min-face", type=int, help="smallest face to look for, in pixels")
    parser.add_argument("--faces", choices=["largest", "all"], help="which faces of a photo")
    parser.add_argument(
        "--exhaustive",
        action="store_true",
        help="search every scale even where the largest face is certain (slower)",
    )
    parser.add_argument(
        "--jpeg-quality", type=int, help="quality of the stored crops; 0 stores PNG (default 95)"
    )
    parser.add_argument("--require-labels", action="store_true", help="refuse input without labels")
    _add_media_options(parser)
    _add_shard_option(parser)
    parser.add_argument("--shard-size", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)

    def job() -> int:
        from deepfake.dataset.cropping import crop_media
        from deepfake.records import Sampling, Status

        part = _choose_part(options)
        report = crop_media(
            options.input,
            options.output,
            _choose_spec(options),
            layout=options.layout,
            workers=options.workers,
            timeout_s=options.timeout,
            max_pixels=options.max_pixels,
            sampling=_choose_sampling(options, Sampling()),
            detect_device=options.detect_device,
            part=part,
            shard_size=options.shard_size,
            follow_links=options.follow_links,
            require_labels=options.require_labels,
            quiet=options.quiet,
        )
        sys.stdout.write(f"{report}\n")
        answered = report.statuses[Status.OK.value]
        return _answer_code(answered, report.inputs, options.strict, part is not None)

    return _run(job, "run the same command again to go on")


def doctor(argv: Sequence[str] | None = None) -> int:
    """Look for faults in a crop folder: ``deepfake doctor CROPS``."""
    parser = _Parser(
        prog="deepfake doctor",
        description="Count what a crop folder holds and look for what spoils a figure: groups or\n"
        "near-duplicates in two splits, duplicates, damaged crops, imbalance.",
        epilog="""\
exit code: 1 if something leaks from one split into another or crops are damaged, else 0.
Where the data bring no split, the one that training makes by default is looked at.

examples:
  deepfake doctor crops/
  deepfake doctor crops/ --json | python -m json.tool
  deepfake doctor crops/ --split group --seed 7
""",
    )
    parser.add_argument("crops", type=Path, help="folder that crop.py wrote")
    parser.add_argument(
        "--allow-leak", action="store_true", help="exit with 0 in spite of a leak, and warn"
    )
    parser.add_argument(
        "--split",
        choices=["auto", "given", "group"],
        default="auto",
        help="as data.split of training (default %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="as data.seed of training")
    parser.add_argument("--workers", type=int, default=_default_workers(), help="threads")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(argv)

    def job() -> int:
        from deepfake.dataset.doctor import examine

        report = examine(
            options.crops,
            split=options.split,
            seed=options.seed,
            workers=options.workers,
            quiet=options.quiet,
        )
        text = json.dumps(report.to_dict(), indent=2) if options.json else str(report)
        sys.stdout.write(f"{text}\n")
        if report.damaged:
            return EXIT_FAILED
        if not report.leaks:
            return EXIT_OK
        if options.allow_leak:
            sys.stderr.write("warning: a leak was let pass by --allow-leak\n")
            return EXIT_OK
        return EXIT_FAILED

    return _run(job, "nothing was written")


def show_augmentations(argv: Sequence[str] | None = None) -> int:
    """Draw a contact sheet: ``deepfake show-augmentations CONFIG --data.root CROPS``."""
    parser = _Parser(
        prog="deepfake show-augmentations",
        description="Draw every augmentation on training crops: a row for each, the last one as "
        "CONFIG has it,\na column for each crop, real and fake in turns.",
        epilog="""\
examples:
  deepfake show-augmentations configs/default.yaml --data.root crops/
  deepfake show-augmentations configs/dacon.yaml configs/ablations/12-blind-face.yaml \\
      --data.root crops/ --rows crop "as configured" --output blind.png
""",
    )
    parser.add_argument("config", nargs="+", help="training configuration; later files win")
    parser.add_argument("--data.root", dest="root", required=True, help="folder of crop.py")
    parser.add_argument(
        "--output", type=Path, default=Path("augmentations.png"), help="PNG (default %(default)s)"
    )
    parser.add_argument("--crops", type=int, default=10, help="columns (default %(default)s)")
    parser.add_argument("--rows", nargs="+", default=[], metavar="NAME", help="only these rows")
    parser.add_argument("--seed", type=int, default=0, help="of the choice and of what happens")
    options = parser.parse_args(argv)

    def job() -> int:
        from deepfake.learning.sheet import draw_sheet
        from deepfake.storage import write_atomic
        from deepfake.training import read_data_module

        data = read_data_module(options.config, options.root, options.seed)
        write_atomic(options.output, draw_sheet(data, options.crops, options.rows))
        sys.stdout.write(f"{options.output}\n")
        return EXIT_OK

    return _run(job, "nothing was written")


def predict(argv: Sequence[str] | None = None) -> int:
    """Score photos and videos: ``python predict.py INPUT --checkpoint FILE --output FILE``."""
    parser = _Parser(
        prog="deepfake predict",
        description="Score photos and videos with a trained checkpoint:\n"
        "one row per input, in input order.",
        epilog="""\
A file without an answer has a status (no_face, too_small, unreadable), a reason and an empty
p_fake; it is never guessed and never left out. Killed at any instant, the same command goes on
where it stopped (answers so far lie in OUTPUT.partial until the table is written).

examples:
  python predict.py photos/ --checkpoint runs/001/model.ckpt --output scores.csv
  python predict.py one.jpg --checkpoint model.ckpt --output - --device cpu
  python predict.py clip.mp4 --checkpoint model.ckpt --output clip.csv --faces frames.csv
  python predict.py photos/ --checkpoint model.ckpt --output scores.csv --report scores.html
  python predict.py test/ --checkpoint model.ckpt --output scores.csv \\
      --submission sample_submission.csv
  python predict.py photos/ --checkpoint model.ckpt --output part2.csv --shard 2/4
      then: deepfake merge scores.csv part1.csv part2.csv ...
""",
    )
    parser.add_argument("input", help="folder, photo, video, glob pattern, list file (.txt) or CSV")
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="model.ckpt of a run, or its .safetensors"
    )
    parser.add_argument("--output", required=True, help="CSV to write; - for standard output")
    parser.add_argument(
        "--report", type=Path, help="also write an HTML page with faces and scores over time"
    )
    _add_table_options(parser)
    _add_aggregation(parser)
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
    parser.add_argument("--batch-size", type=int, default=32, help="faces that are scored together")
    _add_media_options(parser)
    _add_shard_option(parser)
    options = parser.parse_args(argv)
    options.command = _command_line("predict", argv)
    return _run(lambda: _predict(options), "run the same command again to go on")


def _predict(options: argparse.Namespace) -> int:
    part = _choose_part(options)
    if part is not None and options.output == "-":
        raise UsageError("--shard needs a file as --output: deepfake merge looks for it")
    if part is not None and options.submission is not None:
        raise UsageError("--submission is filled from all parts: give it to deepfake merge")
    if part is not None and options.report is not None:
        raise UsageError("--report shows all inputs: give it to a predict without --shard")
    outputs = _choose_outputs(options, options.report)
    _refuse_existing(outputs, options)
    from deepfake.dataset.layouts import list_inputs
    from deepfake.inference.backend import expect_faces, parse_devices
    from deepfake.inference.journal import Journal, read_settings
    from deepfake.inference.predictor import Predictor
    from deepfake.inference.results import format_scores
    from deepfake.learning.checkpoint import load_checkpoint
    from deepfake.storage import sync_file, write_atomic

    sources, skipped = list_inputs(options.input, follow_links=options.follow_links)
    checkpoint = load_checkpoint(options.checkpoint)
    sampling = _choose_sampling(options, checkpoint.sampling)
    backend = options.backend
    if backend == "auto" and options.output != "-":
        # A job that goes on does so with what it was begun with.
        backend = read_settings(Path(options.output)).get("backend", "auto")
    predictor = Predictor(
        checkpoint,
        device=options.device if options.devices is None else parse_devices(options.devices),
        batch_size=options.batch_size,
        workers=options.workers,
        timeout_s=options.timeout,
        max_pixels=options.max_pixels,
        sampling=sampling,
        aggregation=options.aggregate,
        detect_device=options.detect_device,
        backend=backend,
        expected_faces=expect_faces(sources, sampling),
    )
    trained_on = checkpoint.info["counts"]["train"]
    settings = {
        "checkpoint_sha256": checkpoint.sha256,
        "prior": trained_on["fake"] / sum(trained_on.values()),
        "sampling": sampling.to_dict(),
        "aggregation": predictor.aggregation.to_dict(),
        "detect_device": options.detect_device,
        "device": predictor.devices[0].type,
        "backend": predictor.backend,
        "batch_size": options.batch_size,
        "max_pixels": options.max_pixels,
        # A job that goes on may replace its own tables, and no others.
        "tables": {name: str(path.resolve()) for name, path in outputs.items()},
    }
    with tempfile.TemporaryDirectory() as folder:
        # What goes to standard output has no place for its journal, and cannot go on either.
        kept = Path(folder, "rows") if options.output == "-" else Path(options.output)
        journal = Journal(kept, settings, sources, part)
        answers = _iter_answers(predictor, sources, journal, options.quiet)
        if options.output == "-":
            sys.stdout.writelines(format_scores(answers))
        else:
            for _ in answers:
                pass
        totals, lines = _write_tables(options, outputs, journal.scores, settings["prior"])
        if options.report is not None:
            page = _report_on(predictor, sources, journal.scores(), options.command)
            write_atomic(options.report, page)
            lines.append(f"report: {options.report}")
        # Of a part, the journal is what is merged.
        journal.remove() if part is None else sync_file(journal.path)
    if skipped:
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(skipped.items()))
        lines[0] += f"; {sum(skipped.values()):,} files of other kinds skipped ({kinds})"
    stream = sys.stderr if options.output == "-" else sys.stdout
    stream.write("\n".join(lines) + "\n")
    return _answer_code(totals.answers, totals.inputs, options.strict, part is not None)


def _iter_answers(
    predictor: Predictor, sources: Sequence[Source], journal: Journal, quiet: bool
) -> Iterator[MediaScore]:
    """Answer what the journal has not yet, and keep it there before anybody sees it."""
    from deepfake.progress import Progress

    answered = journal.open()
    first = journal.inputs.start + answered
    todo = sources[first : journal.inputs.stop]
    with Progress(len(journal.inputs), answered, quiet) as progress:
        for batch in predictor.score_batches(todo, journal.block_size, first):
            journal.append(batch)
            progress.advance(len(batch))
            yield from batch


def _write_tables(
    options: argparse.Namespace,
    outputs: dict[str, Path],
    scores: Callable[[], Iterable[MediaScore]],
    prior: float,
    refuse_other: bool = False,
) -> tuple[Totals, list[str]]:
    """Write all tables, reading the answers once for each; say what they come to.

    With ``refuse_other``, a table that exists must already hold what would be written.
    """
    from deepfake.inference.results import count, fill_submission, format_faces, format_scores
    from deepfake.storage import holds, write_stream

    totals = count(scores())
    lines = [str(totals) + (f" -> {outputs['output']}" if "output" in outputs else "")]
    tables: dict[Path, Callable[[], Iterable[str]]] = {}
    if "submission" in outputs:
        fallback = prior if options.no_answer is None else options.no_answer
        filled = fill_submission(options.submission, scores(), fallback, options.submission_value)
        tables[outputs["submission"]] = lambda: [filled.text]
        total = filled.answered + filled.without_answer + filled.without_file
        lines.append(
            f"{total:,} submission rows = {filled.answered:,} scored + "
            f"{filled.without_answer:,} without an answer + {filled.without_file:,} that name no "
            f"input -> {outputs['submission']}; rows without a score got {fallback:g}"
        )
    if "faces" in outputs:
        tables[outputs["faces"]] = lambda: format_faces(scores())
    if "output" in outputs:
        tables[outputs["output"]] = lambda: format_scores(scores())

    def content(path: Path) -> Iterator[bytes]:
        return (line.encode() for line in tables[path]())

    standing = [path for path in tables if refuse_other and path.exists()]
    for path in standing:
        if not holds(path, content(path)):
            raise UsageError(
                f"{path} exists and holds something else; name another file or pass --overwrite"
            )
    for path in tables:
        if path not in standing:
            write_stream(path, content(path))
    return totals, lines


def merge(argv: Sequence[str] | None = None) -> int:
    """Put parts together: ``deepfake merge OUTPUT PART...``."""
    parser = _Parser(
        prog="deepfake merge",
        description="Put together what several machines cropped or predicted with --shard, to\n"
        "the very bytes of the undivided job. Parts may come in any order; all must be there,\n"
        "finished, and of the same job. They are only read. Killed at any instant, run it again.",
        epilog="""\
A part of crop is its folder; a part of predict is its CSV, beside which lies the .partial file
that everything is merged from; it may be removed afterwards.

examples:
  deepfake merge crops/ parts/*/
  deepfake merge scores.csv parts/*.csv --faces faces.csv
""",
    )
    parser.add_argument("output", help="crop folder or CSV to write")
    parser.add_argument("parts", nargs="+", type=Path, metavar="PART", help="of all machines")
    _add_table_options(parser)
    _add_strict_option(parser)
    options = parser.parse_args(argv)
    return _run(lambda: _merge(options), "run the same command again to go on")


def _merge(options: argparse.Namespace) -> int:
    for path in options.parts:
        if not path.exists() and not Path(f"{path}{_JOURNAL_SUFFIX}").exists():
            raise UsageError(f"{path}: no such folder or file; name the output of every part")
    folders = [path for path in options.parts if path.is_dir()]
    if len(folders) == len(options.parts):
        tables = (options.faces, options.submission, options.submission_output, options.no_answer)
        if options.overwrite or any(value is not None for value in tables):
            raise UsageError("--faces, --submission... and --overwrite are for parts of predict")
        from deepfake.dataset.merging import merge_crops
        from deepfake.records import Status

        report = merge_crops(Path(options.output), options.parts)
        sys.stdout.write(f"{report}\n")
        return _answer_code(report.statuses[Status.OK.value], report.inputs, options.strict)
    if folders:
        files = [path for path in options.parts if not path.is_dir()]
        raise UsageError(
            f"{folders[0]} is a folder and {files[0]} is not; parts are either all folders of crop "
            "or all CSVs of predict"
        )
    if options.output == "-":
        raise UsageError("merge writes a file; name a file as OUTPUT")
    outputs = _choose_outputs(options)
    from deepfake.inference.merging import join_answers

    answers = join_answers(options.parts)
    totals, lines = _write_tables(
        options, outputs, answers.scores, answers.prior, refuse_other=not options.overwrite
    )
    sys.stdout.write("\n".join(lines) + "\n")
    return _answer_code(totals.answers, totals.inputs, options.strict)


def _report_on(
    predictor: Predictor, sources: Sequence[Source], scores: Iterable[MediaScore], command: str
) -> str:
    from deepfake.evaluation.job import describe_origin
    from deepfake.evaluation.pictures import picture_faces
    from deepfake.evaluation.prediction_page import digest_scores, format_prediction_report

    digest = digest_scores(scores)
    pictures = picture_faces(predictor, sources, digest.shown)
    origin = describe_origin(predictor.checkpoint, command)
    return format_prediction_report(digest, pictures, origin, predictor.checkpoint.threshold)


def _choose_outputs(options: argparse.Namespace, report: Path | None = None) -> dict[str, Path]:
    """All files that will be written; refuse before any work what could not be written after."""
    outputs = {} if options.output == "-" else {"output": Path(options.output)}
    if options.faces is not None:
        outputs["faces"] = options.faces
    if report is not None:
        outputs["report"] = report
    if options.submission is not None:
        beside = Path() if options.output == "-" else Path(options.output).parent
        outputs["submission"] = options.submission_output or beside / "submission.csv"
        if outputs["submission"].resolve() == options.submission.resolve():
            raise UsageError(
                f"the submission would replace its sample {options.submission}; name another file "
                "with --submission-output"
            )
    elif options.submission_output is not None:
        raise UsageError("--submission-output needs --submission")
    resolved = [path.resolve() for path in outputs.values()]
    if len(set(resolved)) < len(resolved):
        raise UsageError("two outputs have the same name; every table needs its own file")
    for name, path in outputs.items():
        if not path.parent.is_dir():
            raise UsageError(f"--{name} {path}: there is no folder {path.parent}")
    return outputs


def _refuse_existing(outputs: dict[str, Path], options: argparse.Namespace) -> None:
    # A killed job may have written some of its tables already.
    goes_on = options.output != "-" and Path(f"{options.output}{_JOURNAL_SUFFIX}").exists()
    for name, path in outputs.items():
        if path.exists() and not options.overwrite and not goes_on:
            raise UsageError(f"--{name} {path} exists; name another file or pass --overwrite")


def explain(argv: Sequence[str] | None = None) -> int:
    """Look into the score of one file: ``deepfake explain FILE --checkpoint X --output PAGE``."""
    parser = _Parser(
        prog="deepfake explain",
        description="Show what the score of one photo or video rests on, as one HTML page: the\n"
        "frames at the peaks, where in the face the score comes from (and whether that map holds\n"
        "against its check), and the nearest training faces.",
        epilog="""\
examples:
  deepfake explain photo.jpg --checkpoint model.ckpt --output why.html
  deepfake explain clip.mp4 --checkpoint model.ckpt --output why.html --train-crops crops/ \\
      --embeddings report/embeddings
""",
    )
    parser.add_argument("input", help="photo or video")
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="model.ckpt of a run, or its .safetensors"
    )
    parser.add_argument("--output", type=Path, required=True, help="HTML page to write")
    parser.add_argument("--train-crops", type=Path, help="crop folder to find similar faces in")
    parser.add_argument(
        "--embeddings",
        type=Path,
        metavar="FOLDER",
        help="keep the embeddings of --train-crops there for the next time, as evaluate does in "
        "its output",
    )
    parser.add_argument(
        "--peaks", type=int, default=6, help="faces to look into, at most (default %(default)s)"
    )
    parser.add_argument("--neighbours", type=int, default=5, help="of each face (default 5)")
    _add_aggregation(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--overwrite", action="store_true", help="replace a page that exists")
    _add_media_options(parser)
    options = parser.parse_args(argv)
    command = _command_line("explain", argv)
    return _run(lambda: _explain(options, command), "nothing was written")


def _explain(options: argparse.Namespace, command: str) -> int:
    output: Path = options.output
    if not output.parent.is_dir():
        raise UsageError(f"--output {output}: there is no folder {output.parent}")
    if output.exists() and not options.overwrite:
        raise UsageError(f"--output {output} exists; name another file or pass --overwrite")
    if options.embeddings is not None and options.train_crops is None:
        raise UsageError("--embeddings needs --train-crops")
    for name in ("peaks", "neighbours"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name} {getattr(options, name)}; expected 1 or more")
    from deepfake.dataset.layouts import list_inputs
    from deepfake.evaluation.explain import explain_file
    from deepfake.evaluation.explain_page import format_explanation
    from deepfake.evaluation.job import describe_origin
    from deepfake.inference.predictor import Predictor
    from deepfake.learning.checkpoint import load_checkpoint
    from deepfake.storage import write_atomic

    sources, _ = list_inputs(options.input, follow_links=options.follow_links)
    if len(sources) != 1:
        raise UsageError(f"{options.input} is {len(sources):,} files; explain looks into one")
    checkpoint = load_checkpoint(options.checkpoint)
    predictor = Predictor(
        checkpoint,
        device=options.device,
        workers=options.workers,
        timeout_s=options.timeout,
        max_pixels=options.max_pixels,
        sampling=_choose_sampling(options, checkpoint.sampling),
        aggregation=options.aggregate,
        detect_device=options.detect_device,
        backend="torch",
    )
    explanation = explain_file(
        predictor,
        sources[0],
        options.peaks,
        options.train_crops,
        options.embeddings,
        options.neighbours,
        options.quiet,
    )
    origin = describe_origin(checkpoint, command)
    write_atomic(output, format_explanation(explanation, predictor.aggregation, origin))
    score = explanation.score
    shown = score.status.value if score.p_fake is None else f"{score.label} {score.p_fake:.6f}"
    sys.stdout.write(f"{score.path}: {shown}\n")
    if explanation.peaks:
        word = "holds" if explanation.holds else "FAILS"
        sys.stdout.write(
            f"deletion check {word}: log-odds {-explanation.hot_drop:+.2f} without the hot "
            f"regions, {-explanation.random_drop:+.2f} without as much elsewhere, mean of "
            f"{len(explanation.peaks)} crops\n"
        )
    sys.stdout.write(f"page: {output}\n")
    return _answer_code(int(score.p_fake is not None), 1, options.strict)


def evaluate(argv: Sequence[str] | None = None) -> int:
    """Measure a checkpoint: ``deepfake evaluate --checkpoint FILE --data CROPS``."""
    parser = _Parser(
        prog="deepfake evaluate",
        description="Measure a checkpoint on labelled crops or media: figures at face, track and\n"
        "file level with 95 % intervals, at the checkpoint's own threshold.",
        epilog="""\
DATA is a crop folder, or labelled media: a folder with real/ and fake/ at any depth, or a CSV
with path,label[,group,split,method,original]. Media is cropped by the checkpoint's own recipe
first. Several give a table across data sets.

examples:
  deepfake evaluate --checkpoint runs/001/model.ckpt --data crops/
  deepfake evaluate --checkpoint model.ckpt --data crops/ other_photos/ --output report/
  deepfake evaluate --checkpoint model.ckpt --data videos/ --aggregate tracks --output report/
  deepfake evaluate --checkpoint model.ckpt --data crops/ --output report/ --corruptions jpeg blur
""",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="model.ckpt of a run")
    parser.add_argument(
        "--data", nargs="+", action="extend", required=True, help="crop folders or labelled media"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="folder for report.html, metrics.json, tables, embeddings; may be that of an earlier "
        "evaluation, whose embeddings are used again",
    )
    parser.add_argument(
        "--split",
        choices=["train", "validation", "test", "all"],
        help="which crops (default: test where there are splits, else all)",
    )
    _add_aggregation(parser)
    parser.add_argument(
        "--corruptions",
        nargs="*",
        metavar="NAME",
        help="also measure damaged crops, at five strengths: jpeg, video, blur, noise, downscale, "
        "brightness, jitter, and flip (one strength); without a name all of them",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=1000,
        help="drawings behind each interval; 0 for none (default %(default)s)",
    )
    _add_scoring_options(parser)
    options = parser.parse_args(argv)

    def job() -> int:
        from deepfake.evaluation.evaluate import describe
        from deepfake.evaluation.job import run_evaluation
        from deepfake.learning.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(options.checkpoint)
        evaluation = run_evaluation(
            checkpoint,
            options.data,
            options.output,
            split=options.split,
            aggregation=options.aggregate,
            rounds=options.rounds,
            corruptions=options.corruptions,
            device=options.device,
            batch_size=options.batch_size,
            workers=options.workers,
            timeout_s=options.timeout,
            max_pixels=options.max_pixels,
            detect_device=options.detect_device,
            command=_command_line("evaluate", argv),
            quiet=options.quiet,
        )
        origin = checkpoint.info.get("threshold_origin")
        sys.stdout.write(f"threshold {checkpoint.threshold:.4f} ({origin})\n\n")
        sys.stdout.write(describe(evaluation))
        if options.output is not None:
            sys.stdout.write(f"report: {options.output / 'report.html'}\n")
        return EXIT_OK

    return _run(job, "run the same command again to go on")


def calibrate(argv: Sequence[str] | None = None) -> int:
    """New threshold and sigmoid: ``deepfake calibrate --checkpoint FILE --data CROPS ...``."""
    parser = _Parser(
        prog="deepfake calibrate",
        description="Choose threshold and sigmoid of a checkpoint anew, on labelled data that it\n"
        "did not learn from. The network is not touched; the new file remembers what was done.",
        epilog="""\
examples:
  deepfake calibrate --checkpoint model.ckpt --data crops/ --output strict.ckpt \\
      --false-alarm-rate 0.01
  deepfake calibrate --checkpoint model.ckpt --data photos/ --output rare.ckpt --prevalence 0.02
""",
    )
    _add_derivation(parser)
    parser.add_argument(
        "--split",
        choices=["train", "validation", "test", "all"],
        help="which crops (default: validation where there are splits, else all)",
    )
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument(
        "--false-alarm-rate", type=float, metavar="R", help="share of real files called fake"
    )
    goal.add_argument(
        "--prevalence", type=float, metavar="P", help="share of fakes where it will be used"
    )
    _add_scoring_options(parser)
    options = parser.parse_args(argv)

    def adjust(checkpoint: Checkpoint, root: Path, settings: dict[str, Any]) -> object:
        from deepfake.evaluation.adjust import calibrate

        return calibrate(
            checkpoint,
            root,
            options.output,
            split=options.split,
            false_alarm_rate=options.false_alarm_rate,
            prevalence=options.prevalence,
            **settings,
        )

    return _run(lambda: _derive(options, adjust), "nothing was written")


def fit_head(argv: Sequence[str] | None = None) -> int:
    """A new classifier: ``deepfake fit-head --checkpoint FILE --data CROPS --output FILE``."""
    parser = _Parser(
        prog="deepfake fit-head",
        description="Fit the classifier of a checkpoint anew on other crops: the train\n"
        "split fits, validation chooses the threshold, test is only measured.",
        epilog="examples:\n"
        "  deepfake fit-head --checkpoint model.ckpt --data crops/ --output new.ckpt\n"
        "  deepfake fit-head --checkpoint model.ckpt --data crops/ --output new.ckpt "
        "--head logistic\n",
    )
    _add_derivation(parser)
    parser.add_argument(
        "--head",
        choices=["svm", "logistic", "rbf", "gbm"],
        default="svm",
        help="linear SVM, logistic regression, SVM with a Gaussian kernel, or LightGBM "
        "(default %(default)s)",
    )
    parser.add_argument(
        "--inverse-regularisation",
        type=float,
        default=2.0,
        metavar="C",
        help="of the head; of gbm, lambda_l2 = 1 / C (default %(default)s)",
    )
    _add_scoring_options(parser)
    options = parser.parse_args(argv)

    def adjust(checkpoint: Checkpoint, root: Path, settings: dict[str, Any]) -> object:
        from deepfake.evaluation.adjust import fit_head

        return fit_head(
            checkpoint,
            root,
            options.output,
            head=options.head,
            C=options.inverse_regularisation,
            **settings,
        )

    return _run(lambda: _derive(options, adjust), "nothing was written")


def _derive(
    options: argparse.Namespace,
    adjust: Callable[[Checkpoint, Path, dict[str, Any]], object],
) -> int:
    output: Path = options.output
    if output.exists() and not options.overwrite:
        raise UsageError(f"--output {output} exists; name another file or pass --overwrite")
    if output.resolve() == options.checkpoint.resolve():
        raise UsageError("--output would replace the checkpoint itself; name another file")
    if not output.parent.is_dir():
        raise UsageError(f"--output {output}: there is no folder {output.parent}")
    from deepfake.evaluation.material import open_crops
    from deepfake.learning.checkpoint import load_checkpoint, refuse_safetensors

    refuse_safetensors(options.checkpoint, output)
    checkpoint = load_checkpoint(options.checkpoint)
    with tempfile.TemporaryDirectory(prefix="deepfake-") as folder:
        root = open_crops(
            options.data,
            checkpoint,
            Path(folder) / "crops",
            workers=options.workers,
            timeout_s=options.timeout,
            max_pixels=options.max_pixels,
            detect_device=options.detect_device,
            quiet=options.quiet,
        )
        settings = {
            "origin": options.data,
            "device": options.device,
            "batch_size": options.batch_size,
            "workers": options.workers,
            "quiet": options.quiet,
        }
        sys.stdout.write(str(adjust(checkpoint, root, settings)))
    return EXIT_OK


def info(argv: Sequence[str] | None = None) -> int:
    """Show what a checkpoint holds: ``deepfake info model.ckpt``."""
    parser = _Parser(
        prog="deepfake info",
        description="Show what a checkpoint holds, without running anything in it.",
        epilog="examples:\n  deepfake info runs/001/model.ckpt\n"
        "  deepfake info model.ckpt --json | python -m json.tool\n",
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args(argv)

    def job() -> int:
        import yaml

        from deepfake.learning.checkpoint import read_info

        content = read_info(options.checkpoint)
        if options.json:
            sys.stdout.write(json.dumps(content, indent=2) + "\n")
        else:
            order = (
                "threshold",
                "threshold_origin",
                "head",
                "aggregation",
                "backbone",
                "n_parameters",
                "metrics",
            )
            first = {key: content[key] for key in order if key in content}
            text = yaml.safe_dump(first | content, sort_keys=False, allow_unicode=True)
            sys.stdout.write(text)
        return EXIT_OK

    return _run(job, "nothing was written")


def export(argv: Sequence[str] | None = None) -> int:
    """Write a checkpoint in another format: ``deepfake export model.ckpt --format onnx``."""
    parser = _Parser(
        prog="deepfake export",
        description="Write a finished checkpoint in another format.\n"
        "onnx: one graph from crops to p_fake, to score without this package. It is compared with\n"
        "torch before it is written; predict uses it where it lies beside its checkpoint.\n"
        "safetensors: the same checkpoint without any pickle; every command takes it.",
        epilog="""\
examples:
  deepfake export runs/001/model.ckpt --format onnx
  deepfake export runs/001/model.ckpt --format onnx --crops crops/ --output detector.onnx
  deepfake export runs/001/model.ckpt --format safetensors
""",
    )
    parser.add_argument("checkpoint", type=Path, help="model.ckpt of a run, or its .safetensors")
    parser.add_argument("--format", choices=["onnx", "safetensors"], required=True)
    parser.add_argument(
        "--output", type=Path, help="file to write (default: beside the checkpoint)"
    )
    parser.add_argument(
        "--crops", type=Path, help="crop folder; the graph is compared on some of its crops, too"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    options = parser.parse_args(argv)

    def job() -> int:
        output = options.output or options.checkpoint.with_suffix(f".{options.format}")
        if options.crops is not None and options.format != "onnx":
            raise UsageError("--crops is for --format onnx; other formats compute nothing")
        if not output.parent.is_dir():
            raise UsageError(f"--output {output}: there is no folder {output.parent}")
        if output.resolve() == options.checkpoint.resolve():
            raise UsageError(f"{output} is the checkpoint itself; name another file with --output")
        if output.exists() and not options.overwrite:
            raise UsageError(f"{output} exists; name another file or pass --overwrite")
        from deepfake.inference.export import export_checkpoint

        report = export_checkpoint(options.checkpoint, options.format, output, options.crops)
        sys.stdout.write(f"{output}: {report}\n")
        return EXIT_OK

    return _run(job, "nothing was written")


def demo(argv: Sequence[str] | None = None) -> int:
    """Crop, train, evaluate and predict on drawn portraits, offline: ``deepfake demo``."""
    parser = _Parser(
        prog="deepfake demo",
        description="Crop, train, evaluate and predict on portraits that are drawn by code.",
        epilog="examples:\n  deepfake demo\n  deepfake demo --output /tmp/demo --workers 4\n",
    )
    parser.add_argument("--output", type=Path, default=Path("demo"), help="new folder")
    parser.add_argument("--workers", type=int, default=_default_workers(), help="crop processes")
    options = parser.parse_args(argv)

    def job() -> int:
        from deepfake.demo.walk import walk

        walk(options.output, options.workers, sys.stdout)
        return EXIT_OK

    return _run(job, f"what is in {options.output} can be removed")


def train(argv: Sequence[str] | None = None) -> int:
    """Train on a crop folder: ``python train.py --config FILE --data.root CROPS``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or "-h" in arguments or "--help" in arguments:
        sys.stdout.write(_TRAIN_HELP)
        return EXIT_OK if arguments else EXIT_USAGE
    arguments = ["--help" if word == "--help-all" else word for word in arguments]

    def job() -> int:
        from deepfake.training import run_training

        return run_training(arguments, sys.stdout)

    return _run(job, "go on with: --resume RUN_FOLDER")


def _command_line(command: str, argv: Sequence[str] | None) -> str:
    words = sys.argv[1:] if argv is None else argv
    return shlex.join(["deepfake", command, *words])


def _add_derivation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True, help="the old model.ckpt")
    parser.add_argument("--data", required=True, help="crop folder or labelled media")
    parser.add_argument("--output", type=Path, required=True, help="the new checkpoint")
    parser.add_argument("--overwrite", action="store_true", help="replace an output that exists")


def _add_aggregation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--aggregate",
        choices=["mean", "median", "top", "confident", "max", "tracks"],
        help="how the frames of a video make its score (default: as the checkpoint says)",
    )


def _add_scoring_options(parser: argparse.ArgumentParser) -> None:
    """Of commands that score labelled data."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--batch-size", type=int, default=64, help="crops per call of the network")
    _add_extraction_options(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_table_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--faces", type=Path, help="also write a CSV with a row per face")
    parser.add_argument(
        "--submission", type=Path, help="sample of a contest; its y column is filled"
    )
    parser.add_argument(
        "--submission-output", type=Path, help="filled sample (default: submission.csv by OUTPUT)"
    )
    parser.add_argument(
        "--submission-value",
        choices=["p_fake", "label"],
        default="p_fake",
        help="what to write into y: the probability, or 1 = fake, 0 = real (default %(default)s)",
    )
    parser.add_argument(
        "--no-answer",
        type=float,
        help="y of a row without an answer (default: share of fakes in the training crops)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace output files that exist")


def _add_media_options(parser: argparse.ArgumentParser) -> None:
    _add_extraction_options(parser)
    clips = parser.add_argument_group("frames of videos and animations")
    rate = clips.add_mutually_exclusive_group()
    rate.add_argument(
        "--frames", type=int, metavar="N", help="N frames, evenly spread over the whole length"
    )
    rate.add_argument("--fps", type=float, metavar="R", help="R frames per second")
    rate.add_argument("--every", type=int, metavar="K", help="each K-th frame")
    clips.add_argument(
        "--keyframes", action="store_true", help="nearest keyframes instead: faster, other frames"
    )
    clips.add_argument(
        "--max-frames", type=int, metavar="N", help="never more than N of one file (default 1000)"
    )
    clips.add_argument(
        "--detect-every",
        type=int,
        metavar="K",
        help="search each K-th of these frames for faces and put the boxes of the others in "
        "between, where less than a second lies between (default 1: search all)",
    )
    parser.add_argument(
        "--follow-links", action="store_true", help="follow symbolic links inside a folder"
    )
    _add_strict_option(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_shard_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shard", metavar="I/N", help="do only the I-th of N parts, for deepfake merge"
    )


def _add_strict_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--strict", action="store_true", help="exit with 3 if some inputs have no answer"
    )


def _choose_part(options: argparse.Namespace) -> Part | None:
    from deepfake.dataset.parts import Part

    return None if options.shard is None else Part.parse(options.shard)


def _add_extraction_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        type=int,
        default=_default_workers(),
        help="processes that decode and detect; changes nothing but the speed (default: cores)",
    )
    parser.add_argument(
        "--timeout", type=float, default=60.0, help="seconds for one file (default %(default)s)"
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=100_000_000,
        help="larger pictures are unreadable (default %(default)s)",
    )
    parser.add_argument(
        "--detect-device",
        default="cpu",
        metavar="D",
        help="where faces are searched for: cpu, cuda or cuda:N (default %(default)s)",
    )


def _choose_sampling(options: argparse.Namespace, default: Sampling) -> Sampling:
    """The default with whatever was asked for instead."""
    rate = {name: getattr(options, name) for name in ("frames", "fps", "every")}
    changes: dict[str, Any] = {}
    if any(value is not None for value in rate.values()):
        changes |= rate
    if options.keyframes:
        changes["mode"] = "keyframes"
    for name in ("max_frames", "detect_every"):
        if getattr(options, name) is not None:
            changes[name] = getattr(options, name)
    return replace(default, **changes)


def _default_workers() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _choose_spec(options: argparse.Namespace) -> CropSpec:
    from deepfake.records import CropSpec

    preset = options.preset
    if options.config is not None:
        if preset is not None:
            raise UsageError("--preset and --config both name a recipe; give one of them")
        preset = _preset_of(options.config)
    spec = CropSpec.from_preset(preset or "square")
    changes: dict[str, Any] = {
        name: value
        for name, value in (
            ("size", options.size),
            ("min_face", options.min_face),
            ("faces", options.faces),
        )
        if value is not None
    }
    if options.exhaustive or options.faces == "all":
        changes["search"] = "exact"
    if options.margin is not None:
        if spec.geometry != "square":
            raise UsageError(f"--margin is for squares; preset {spec.preset!r} has the entry's own")
        changes["margins"] = (options.margin, options.margin)
    if options.jpeg_quality is not None:
        changes["jpeg_quality"] = options.jpeg_quality or None
    return replace(spec, **changes)


def _preset_of(config: Path) -> str:
    import yaml

    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"--config {config}: {error}") from error
    preset = ((content or {}).get("data") or {}).get("crop_preset")
    if preset is None:
        raise UsageError(f"--config {config} has no data.crop_preset; give --preset instead")
    return str(preset)


def _answer_code(answered: int, total: int, strict: bool, is_part: bool = False) -> int:
    # Whether nothing at all has an answer is only known of the whole job.
    if answered == 0 and not is_part:
        return EXIT_NO_ANSWER
    return EXIT_INCOMPLETE if strict and answered < total else EXIT_OK


def _run(job: Callable[[], int], advice: str) -> int:
    """Run a command; every foreseeable failure is one line and an exit code."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.getLogger("deepfake").setLevel(logging.INFO)
    try:
        return job()
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_USAGE
    except DeepfakeError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_FAILED
    except KeyboardInterrupt:
        sys.stderr.write(f"\ninterrupted; {advice}\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (``| head``); there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_FAILED
