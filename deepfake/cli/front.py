"""The front door: ``deepfake`` without a command, with one, and the ``demo`` of all of them.

Knows the commands by name; nothing of their options.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from deepfake import __version__
from deepfake.cli.checkpoints import export, info, pull, push
from deepfake.cli.command import EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, Parser, hint, run
from deepfake.cli.crops import crop, doctor
from deepfake.cli.evaluation import calibrate, evaluate, explain, fit_head
from deepfake.cli.joining import merge
from deepfake.cli.options import default_workers, from_zero
from deepfake.cli.prediction import predict
from deepfake.cli.serving import serve
from deepfake.cli.training import show_augmentations, train

_TOP_HELP = """\
usage: deepfake COMMAND ...

Find manipulated faces in photos and videos.

commands, with an example of each:
  predict    score photos and videos, by the detector in the box or one of yours
             deepfake predict photo.jpg
             deepfake predict photos/ --checkpoint model.ckpt --output scores.csv
  serve      open a page that scores photos and videos, and an HTTP API
             deepfake serve
  explain    show what the score of one file rests on
             deepfake explain clip.mp4 --output why.html
  crop       cut faces out of photos and videos
             deepfake crop photos/ --output crops/
  doctor     look for leaks, duplicates and other faults in crops
             deepfake doctor --data crops/
  show-augmentations
             draw what the augmentations of a configuration do to crops
             deepfake show-augmentations --data crops/
  train      train a detector on crops
             deepfake train --data crops/
  evaluate   measure a checkpoint on labelled data, with a report
             deepfake evaluate --checkpoint model.ckpt --data crops/ --output report/
  calibrate  choose its limits and sigmoid anew on validation data
             deepfake calibrate --checkpoint model.ckpt --data crops/ --output new.ckpt
  fit-head   fit its head anew on other crops
             deepfake fit-head --checkpoint model.ckpt --data crops/ --output new.ckpt
  merge      put together what several machines cropped or predicted with --shard
             deepfake merge part1.csv part2.csv --output scores.csv
  info       show what a checkpoint holds
             deepfake info default
  export     write a checkpoint as ONNX graph or safetensors
             deepfake export --checkpoint model.ckpt --format onnx
  push       publish a checkpoint on a hub
             deepfake push model.ckpt hf://USER/REPO --card CARD.md
  pull       fetch one; every --checkpoint takes hf://USER/REPO, too
             deepfake pull hf://USER/REPO
  demo       all of it, offline, in a minute or two
             deepfake demo

deepfake COMMAND --help says more. python crop.py, train.py and predict.py are the same commands.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The ``deepfake`` command."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {
        "crop": crop,
        "doctor": doctor,
        "train": train,
        "show-augmentations": show_augmentations,
        "predict": predict,
        "serve": serve,
        "explain": explain,
        "evaluate": evaluate,
        "calibrate": calibrate,
        "fit-head": fit_head,
        "merge": merge,
        "info": info,
        "export": export,
        "push": push,
        "pull": pull,
        "demo": demo,
    }
    if arguments and arguments[0] in commands:
        return commands[arguments[0]](arguments[1:])
    return run(lambda: _introduce(arguments, list(commands)), "nothing was written")


def _introduce(arguments: Sequence[str], commands: Sequence[str]) -> int:
    """Answer to what names no command."""
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(_TOP_HELP)
        return EXIT_OK if arguments else EXIT_USAGE
    if arguments[0] in ("--version", "version"):
        sys.stdout.write(f"deepfake {__version__}\n")
        return EXIT_OK
    meant = hint(arguments[0], commands)
    sys.stderr.write(f"error: unknown command {arguments[0]!r}{meant}\ntry: deepfake --help\n")
    return EXIT_USAGE


def demo(argv: Sequence[str] | None = None) -> int:
    """Crop, train, evaluate and predict on drawn portraits, offline: ``deepfake demo``."""
    parser = Parser(
        prog="deepfake demo",
        description="Crop, train, evaluate and predict on portraits that are drawn by code.",
        epilog="examples:\n  deepfake demo\n  deepfake demo --output /tmp/demo --workers 4\n",
    )
    parser.add_argument("--output", type=Path, default=Path("demo"), help="new folder")
    parser.add_argument(
        "--workers", type=from_zero, default=default_workers(), help="crop processes"
    )
    return run(lambda: _demo(parser.parse_args(argv)), "nothing was written")


def _demo(options: argparse.Namespace) -> int:
    from deepfake.demo.walk import walk

    try:
        walk(options.output, options.workers, sys.stdout)
    except KeyboardInterrupt:
        sys.stderr.write(f"\ninterrupted; what is in {options.output} can be removed\n")
        return EXIT_INTERRUPTED
    return EXIT_OK
