"""Commands of a training: ``train``, and ``show-augmentations`` before it.

Knows the help that a person wants of ``train``, not its options: those are LightningCLI's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from deepfake.cli.command import EXIT_OK, EXIT_USAGE, Parser, run

_TRAIN_HELP = """\
usage: deepfake train --config FILE --data.root CROPS [options]

Train an embedding and its head on a crop folder.

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
  --model.optimizer.lr X    learning rate
  --data.batch_size N       crops per step, over all processes together
  --data.num_workers N      loader processes; changes nothing but the speed
  --trainer.max_epochs N    length
  --trainer.devices N       GPUs or processes
  --print_config            print the configuration with everything filled in, and stop
  --help-all                every option there is
"""


def train(argv: Sequence[str] | None = None) -> int:
    """Train on a crop folder: ``python train.py --config FILE --data.root CROPS``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run(lambda: _train(arguments), "go on with: --resume RUN_FOLDER")


def _train(arguments: Sequence[str]) -> int:
    if not arguments or "-h" in arguments or "--help" in arguments:
        sys.stdout.write(_TRAIN_HELP)
        return EXIT_OK if arguments else EXIT_USAGE
    from deepfake.training.run import run_training

    words = ["--help" if word == "--help-all" else word for word in arguments]
    return run_training(words, sys.stdout)


def show_augmentations(argv: Sequence[str] | None = None) -> int:
    """Draw a contact sheet: ``deepfake show-augmentations CONFIG --data.root CROPS``."""
    parser = Parser(
        prog="deepfake show-augmentations",
        description="Draw every augmentation on training crops: a row for each, the last one as "
        "CONFIG has it,\na column for each crop, real and fake in turns.",
        epilog="""\
examples:
  deepfake show-augmentations configs/default.yaml --data.root crops/
  deepfake show-augmentations configs/dacon.yaml experiments/ablations/12-blind-face.yaml \\
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
    return run(lambda: _show_augmentations(parser.parse_args(argv)), "nothing was written")


def _show_augmentations(options: argparse.Namespace) -> int:
    from deepfake.augment.sheet import draw_sheet
    from deepfake.storage import write_atomic
    from deepfake.training.run import read_data_module

    data = read_data_module(options.config, options.root, options.seed, any_preset=True)
    write_atomic(options.output, draw_sheet(data, options.crops, options.rows))
    sys.stdout.write(f"{options.output}\n")
    return EXIT_OK
