"""The command line: options in, calls to the rooms below, exit codes out.

    command      parser, run, exit codes: what every command is made of
    options      groups of options that several commands share
    score_tables what predict and merge write
    crops, training, prediction, joining, serving, evaluation, checkpoints: commands by what they
                 are about
    front        ``deepfake`` itself: finds the command

The only room that knows argparse. Nothing heavy is imported before a command really runs, so that
``--help`` answers at once.

Exit codes: 0 done; 1 failed while running; 2 usage, configuration or checkpoint; 3 with
``--strict``: some inputs have no answer; 4 no input has an answer; 130 interrupted.
"""

from deepfake.cli.checkpoints import export, info, pull, push
from deepfake.cli.command import (
    EXIT_FAILED,
    EXIT_INCOMPLETE,
    EXIT_INTERRUPTED,
    EXIT_NO_ANSWER,
    EXIT_OK,
    EXIT_USAGE,
)
from deepfake.cli.crops import crop, doctor
from deepfake.cli.evaluation import calibrate, evaluate, explain, fit_head
from deepfake.cli.front import demo, main
from deepfake.cli.joining import merge
from deepfake.cli.prediction import predict
from deepfake.cli.serving import serve
from deepfake.cli.training import show_augmentations, train

__all__ = [
    "EXIT_FAILED",
    "EXIT_INCOMPLETE",
    "EXIT_INTERRUPTED",
    "EXIT_NO_ANSWER",
    "EXIT_OK",
    "EXIT_USAGE",
    "calibrate",
    "crop",
    "demo",
    "doctor",
    "evaluate",
    "explain",
    "export",
    "fit_head",
    "info",
    "main",
    "merge",
    "predict",
    "pull",
    "push",
    "serve",
    "show_augmentations",
    "train",
]
