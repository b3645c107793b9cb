"""Commands of a training: ``train``, and ``show-augmentations`` before it.

Knows the help that a person wants of ``train``, not its options: those are LightningCLI's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from deepfake.cli.command import EXIT_OK, EXIT_USAGE, Parser, run
from deepfake.cli.options import (
    add_cache_options,
    count,
    from_zero,
    open_crop_folder,
    refuse_missing_folder,
    refuse_other_suffix,
)
from deepfake.cli.uploads import add_job_option, with_uploads
from deepfake.errors import UsageError
from deepfake.stores.address import hide_secrets, is_url

_TRAIN_HELP = """\
usage: deepfake train --data CROPS [--config NAME ...] [options]

Train an embedding and a head on a crop folder; without --config, by the recommended recipe.

examples:
  deepfake train --data crops/
  deepfake train --data crops/ --config cpu --model.pretrained weights.safetensors
  deepfake train --data crops/ --config dacon
  deepfake train --data crops/ --resume runs/001 --run runs/002

the most used options, with the defaults of the recommended recipe (in a YAML file: no dashes):
  --config NAME             recipe: default, foundation, dacon (the contest entry's), or a file;
                            cpu, ddp, smoke add to a recipe. May be repeated; later ones win
  --data CROPS              crop folder (required; its key is data.root), also in a store
                            (s3://bucket/crops, with --cache DIR)
  --cache DIR               folder for copies of crops from a store
  --data.cache_gb N         billions of bytes of crops in it, at most (default 100)
  --run FOLDER              folder of this run (the next free number in runs/), also in a store
                            (s3://bucket/runs/001, with --job DIR, where it is made)
  --resume RUN              go on from the last checkpoint of a run's folder, also of one in a store
                            (with --job DIR), or from a .ckpt file; auto goes on in --run, if it
                            was begun
  --weights best|last       epoch that the final model is made of: best has the highest validation
                            AUC (default best)
  --seed_everything N       the one seed: order, augmentation, split, dropout, initial weights
                            (default 0)
  --model.backbone NAME     any timm model (default tf_efficientnet_b4.aa_in1k)
  --model.image_size N      side of the crops in pixels (that of the crop folder)
  --model.pretrained X      true: timm's weights, which it may download; false: random; a file of
                            weights, or the model.ckpt of another run (default true)
  --model.optimizer.lr X    learning rate, the highest of its schedule (default 0.0007)
  --data.batch_size N       crops of a step, over all processes together (default 48)
  --data.num_workers N      loader processes; changes nothing but the speed (default 2)
  --trainer.max_epochs N    passes over the data (default 8)
  --trainer.devices N       GPUs or processes (default auto)
  --print_config            print every setting as YAML, to be run again, and stop
  --help-all                every option there is
"""
_PLACES = ("--config",)
_SAME = {
    "--help-all": "--help",
    "--data": "--data.root",
    "--cache": "--data.cache",
    "--cache-gb": "--data.cache_gb",
}
"""Names that are the same in all commands; here they are also keys of the configuration."""
_OTHER_COMMANDS = {
    "validate": "deepfake evaluate --checkpoint MODEL --data CROPS",
    "test": "deepfake evaluate --checkpoint MODEL --data CROPS",
    "predict": "deepfake predict MEDIA --checkpoint MODEL",
}


def train(argv: Sequence[str] | None = None) -> int:
    """Train on a crop folder: ``python train.py --data CROPS``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run(lambda: _train(arguments), "go on with: --resume RUN_FOLDER")


def _train(arguments: Sequence[str]) -> int:
    if not arguments or "-h" in arguments or "--help" in arguments:
        sys.stdout.write(_TRAIN_HELP)
        return EXIT_OK if arguments else EXIT_USAGE
    if arguments[0] == "fit":  # where LightningCLI has several commands, this is its name
        arguments = arguments[1:]
    elif arguments[0] in _OTHER_COMMANDS:
        raise UsageError(f"train only trains; use: {_OTHER_COMMANDS[arguments[0]]}")
    from deepfake.training.run import run_training

    parts = [word.partition("=") for word in arguments]
    words = [_SAME.get(name, name) + sep + value for name, sep, value in parts]
    _refuse_addresses(words)
    parser = Parser(prog="deepfake train", add_help=False)
    for name in ("--run", "--resume"):
        parser.add_argument(name)
    add_job_option(parser)
    options, others = parser.parse_known_args(words)
    if options.job is None and not is_url(options.run or "") and not is_url(options.resume or ""):
        return run_training(words, sys.stdout)
    if any(word.startswith("--print_config") for word in others):
        return run_training(others, sys.stdout)  # it makes nothing, and asks no store
    return _train_with_stores(options, others)


def _train_with_stores(options: argparse.Namespace, others: Sequence[str]) -> int:
    """Train where the run's folder, or that of the run to go on from, lies in a store."""
    from deepfake.training.folder import is_first
    from deepfake.training.run import run_training
    from deepfake.training.stored_run import fetch_run

    is_fetched = is_url(options.resume or "")
    if is_fetched and options.job is None:
        raise UsageError(
            f"--resume {hide_secrets(options.resume)} lies in a store: name a folder of this disk "
            "with --job, where its checkpoints are copied to"
        )

    def work(options: argparse.Namespace) -> int:
        words = [*others]
        if options.run is not None:
            words += ["--run", str(options.run)]
        if is_fetched:
            words += ["--resume", str(fetch_run(options.resume, options.job))]
        elif options.resume is not None:
            words += ["--resume", options.resume]
        return run_training(words, sys.stdout, options.publish)

    if is_fetched and not is_url(options.run or ""):
        options.publish = None
        return work(options)  # nothing is uploaded
    return with_uploads(work, options, "run", leads=is_first())


def _refuse_addresses(words: Sequence[str]) -> None:
    """Refuse what would be looked for as a file; other options may well hold an address."""
    option = ""
    for word in words:
        name, _, value = word.partition("=")
        option, value = (name, value) if name.startswith("--") else (option, word)
        if option in _PLACES and is_url(value):
            raise UsageError(
                f"{option} {hide_secrets(value)} lies in a store, and train reads it from a disk: "
                "copy it there and name the copy"
            )


def show_augmentations(argv: Sequence[str] | None = None) -> int:
    """Draw a contact sheet: ``deepfake show-augmentations --data CROPS``."""
    parser = Parser(
        prog="deepfake show-augmentations",
        description="Draw every augmentation on training crops: a row for each, the last one as "
        "configured,\na column for each crop, real and fake in turns.",
        epilog="""\
examples:
  deepfake show-augmentations --data crops/
  deepfake show-augmentations --data crops/ --config dacon \\
      --config experiments/ablations/12-blind-face.yaml --rows crop "as configured"
""",
    )
    parser.add_subject("data", metavar="CROPS", help="crop folder")
    parser.add_argument(
        "--config", action="append", default=[], metavar="NAME", help="as of train; repeatable"
    )
    parser.add_argument("--output", type=Path, default=Path("augmentations.png"), help="PNG")
    parser.add_argument("--columns", type=count, default=10, metavar="N", help="crops to draw on")
    parser.add_argument("--rows", nargs="+", default=[], metavar="NAME", help="only these rows")
    parser.add_argument(
        "--seed", type=from_zero, default=0, help="of the choice and of what happens"
    )
    add_cache_options(parser)
    return run(lambda: _show_augmentations(parser.parse_args(argv)), "nothing was written")


def _show_augmentations(options: argparse.Namespace) -> int:
    from deepfake.augment.sheet import alternate_classes, draw_sheet
    from deepfake.storage import write_atomic
    from deepfake.training.run import read_data_module

    refuse_other_suffix("output", options.output, "a PNG", ".png")
    refuse_missing_folder("output", options.output)
    root = open_crop_folder(options, options.data, in_order=False)
    data = read_data_module(options.config, str(root), options.seed, any_preset=True)
    dataset = data.datasets["train"]
    chosen = alternate_classes(dataset.labels, options.columns, data.seed)
    examples = [dataset.example(index) for index in chosen]
    write_atomic(options.output, draw_sheet(examples, options.rows))
    sys.stdout.write(f"{options.output}\n")
    return EXIT_OK
