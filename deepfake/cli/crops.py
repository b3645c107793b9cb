"""Commands about crop folders: ``crop`` makes one, ``doctor`` looks for its faults.

Knows how options become a crop recipe; nothing of how crops are made.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deepfake.cli.command import EXIT_FAILED, EXIT_OK, Parser, answer_code, run
from deepfake.cli.options import (
    add_cache_options,
    add_engine_options,
    add_media_options,
    add_shard_option,
    choose_engine,
    choose_part,
    choose_sampling,
    count,
    default_workers,
    from_zero,
    open_crop_folder,
)
from deepfake.cli.uploads import add_job_option, place, with_uploads
from deepfake.errors import UsageError

if TYPE_CHECKING:
    from deepfake.records import CropSpec


def crop(argv: Sequence[str] | None = None) -> int:
    """Cut faces out of photos and videos: ``python crop.py INPUT --output CROPS``."""
    parser = Parser(
        prog="deepfake crop",
        description="Cut the faces out of photos and videos and write them with a manifest.\n"
        "Killed at any instant, the same command goes on where it stopped.",
        epilog="""\
labels: folders named real/ and fake/ at any depth of INPUT, the folder of a known data set, or a
CSV with path,label[,group,split,method,original]. Without any the crops are unlabelled.

examples:
  python crop.py photos/ --output crops/
  python crop.py labels.csv --output crops/ --size 224 --workers 4
  python crop.py photos/ --output crops/ --preset dacon
  python crop.py videos/ --output crops/ --fps 1 --timeout 300
  python crop.py photos/ --output part2/ --shard 2/4
      then: deepfake merge part1/ part2/ ... --output crops/
""",
    )
    parser.add_subject(
        "input",
        help="folder, photo, video, glob pattern, list file (.txt) or CSV, also in a store "
        "(s3://bucket/photos/)",
    )
    parser.add_subject(
        "output",
        type=place,
        metavar="CROPS",
        help="folder for the crops, also in a store (s3://bucket/crops, with --job)",
    )
    _add_recipe_options(parser)
    parser.add_argument(
        "--layout",
        default="auto",
        help="how the folder is arranged: auto, tree, dacon, faceforensics, dfd, celeb-df, dfdc, "
        "deeper-forensics, wild-deepfake, dffd, none (no labels)",
    )
    parser.add_argument("--require-labels", action="store_true", help="refuse input without labels")
    parser.add_argument(
        "--landmarks",
        choices=["five", "mesh"],
        default="five",
        help="mesh stores 468 points of each face, too, for self-blending (4 kB a crop)",
    )
    parser.add_argument(
        "--store",
        choices=["folder", "tar"],
        default="folder",
        help="tar: the crops of a shard in one file, as WebDataset reads it (default: folder)",
    )
    add_media_options(parser)
    add_engine_options(parser)
    add_shard_option(parser)
    add_job_option(parser)
    parser.add_argument("--shard-size", type=int, help=argparse.SUPPRESS)
    return run(
        lambda: with_uploads(_crop, parser.parse_args(argv), "output"),
        "run the same command again to go on",
    )


def _add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """How faces are found and cut; ``_choose_spec`` reads them."""
    parser.add_argument("--size", type=int, help="side of a crop in pixels (default: 380)")
    parser.add_argument(
        "--preset",
        help="recipe: square (aspect kept), aligned (turned upright by the five points), whole "
        "(face crops of others, as they are), "
        "dacon (the contest entry's), dacon-train",
    )
    parser.add_argument(
        "--config", help="configuration of a training; its data.crop_preset is the preset"
    )
    parser.add_argument(
        "--faces", choices=["largest", "all"], help="which faces of a frame (default: largest)"
    )
    parser.add_argument(
        "--margin",
        type=float,
        help="margin on each side, as a share of the longer side of the face (square) or of the "
        "template's side (aligned)",
    )
    parser.add_argument("--min-face", type=int, help="smallest face to look for, in pixels")
    parser.add_argument(
        "--exhaustive",
        action="store_true",
        help="search every scale even where the largest face is certain (slower)",
    )
    parser.add_argument(
        "--jpeg-quality", type=int, help="quality of the stored crops; 0 stores PNG (default: 95)"
    )


def _crop(options: argparse.Namespace) -> int:
    from deepfake.dataset.cropping import crop_media
    from deepfake.dataset.layouts.labelling import InputOptions
    from deepfake.jobs.parts import Division
    from deepfake.media.discovery import count_passed_over
    from deepfake.records import Sampling, Status

    part, engine = choose_part(options), choose_engine(options)
    report = crop_media(
        options.input,
        options.output,
        _choose_spec(options),
        inputs=InputOptions(options.layout, options.follow_links, options.require_labels),
        workers=engine.workers,
        sampling=choose_sampling(options, Sampling()),
        division=Division(part, options.shard_size),
        landmarks=options.landmarks,
        store=options.store,
        quiet=options.quiet,
        execute=engine.execute,
    )
    if report.was_finished:
        sys.stdout.write(f"{options.output} was finished already; nothing was left to do\n")
    sys.stdout.write(f"{report}\n")
    answered = report.statuses[Status.OK.value]
    expected = report.inputs + count_passed_over(report.skipped)
    return answer_code(answered, expected, options.strict, part is not None)


def _choose_spec(options: argparse.Namespace) -> CropSpec:
    from deepfake.records import CropSpec

    preset = options.preset
    if options.config is not None:
        if preset is not None:
            raise UsageError("--preset and --config both name a recipe; give one of them")
        preset = _preset_of(options.config)
    spec = CropSpec.from_preset(preset or "square")
    searching = {
        "--min-face": options.min_face,
        "--exhaustive": options.exhaustive or None,
        "--detect-every": options.detect_every,
    }
    given = [name for name, value in searching.items() if value is not None]
    if spec.search == "none" and given:
        raise UsageError(
            f"{given[0]} is for a search, and preset {spec.preset!r} takes pictures as they are"
        )
    changes: dict[str, Any] = {
        name: value
        for name, value in (
            ("size", options.size),
            ("min_face", options.min_face),
            ("faces", options.faces),
        )
        if value is not None
    }
    if options.exhaustive:
        changes["search"] = "exact"
    if options.margin is not None:
        if spec.geometry == "entry":
            raise UsageError(
                f"--margin is for square and aligned crops; preset {spec.preset!r} has its own"
            )
        changes["margins"] = (options.margin, options.margin)
    if options.jpeg_quality is not None:
        changes["jpeg_quality"] = options.jpeg_quality or None
    return replace(spec, **changes)


def _preset_of(config: str) -> str:
    from deepfake.training.presets import read_config

    preset = (read_config(config).get("data") or {}).get("crop_preset")
    if preset is None:
        raise UsageError(f"--config {config} has no data.crop_preset; give --preset instead")
    return str(preset)


def doctor(argv: Sequence[str] | None = None) -> int:
    """Look for faults in a crop folder: ``deepfake doctor --data CROPS``."""
    parser = Parser(
        prog="deepfake doctor",
        description="Count what a crop folder holds and look for what makes metrics worthless:\n"
        "groups or near-duplicates in two splits, duplicates, damaged files, imbalance.",
        epilog="""\
exit code: 1 if something leaks from one split into another, crops are damaged or training would
refuse them for another reason (no labels, a split of one class), else 0.
Where the data bring no split, the one that training makes by default is looked at.

examples:
  deepfake doctor --data crops/
  deepfake doctor --data crops/ --json | python -m json.tool
  deepfake doctor --data crops/ --split group --seed 7
""",
    )
    parser.add_subject(
        "data", metavar="CROPS", help="folder that crop wrote, also in a store (s3://bucket/crops)"
    )
    parser.add_argument(
        "--allow-leak", action="store_true", help="exit with 0 in spite of a leak, and warn"
    )
    parser.add_argument(
        "--split",
        choices=["auto", "given", "group"],
        default="auto",
        help="as data.split.by of training",
    )
    parser.add_argument("--seed", type=from_zero, default=0, help="as data.seed of training")
    parser.add_argument("--workers", type=count, default=default_workers(), help="threads")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument(
        "--quiet", action="store_true", help="no progress, only results and warnings"
    )
    add_cache_options(parser)
    return run(lambda: _doctor(parser.parse_args(argv)), "nothing was written")


def _doctor(options: argparse.Namespace) -> int:
    from deepfake.dataset.doctor import examine
    from deepfake.tables import format_json

    report = examine(
        open_crop_folder(options, options.data),
        split=options.split,
        seed=options.seed,
        threads=options.workers,
        quiet=options.quiet,
    )
    report = replace(report, root=options.data)  # not where it is mirrored
    sys.stdout.write(format_json(report.to_dict()) if options.json else f"{report}\n")
    if report.damaged or report.unfit:
        return EXIT_FAILED
    if not report.leaks:
        return EXIT_OK
    if options.allow_leak:
        sys.stderr.write("warning: a leak was let pass by --allow-leak\n")
        return EXIT_OK
    return EXIT_FAILED
