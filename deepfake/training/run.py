"""The ``train`` command: configuration to a finished run folder.

``cli`` imports it when a training really starts, because Lightning takes seconds to import.
"""

from __future__ import annotations

import logging
import shutil
import signal
import warnings
from collections.abc import Sequence
from typing import Any, TextIO

from deepfake.error_rates import ErrorRates
from deepfake.errors import UsageError
from deepfake.learning.data import CropDataModule
from deepfake.metrics import format_metric
from deepfake.records import Limits
from deepfake.storage import write_atomic
from deepfake.training.callbacks.head import MODEL_FILE
from deepfake.training.callbacks.interruption import Stopped
from deepfake.training.folder import CHECKPOINTS, CONFIG, LAST, FinishedRun, is_first
from deepfake.training.lightning_cli import Publish, TrainCLI
from deepfake.training.parser import TrainParser
from deepfake.training.presets import choose_configs, merge_configs

logger = logging.getLogger(__name__)


def run_training(arguments: Sequence[str], output: TextIO, publish: Publish | None = None) -> int:
    """Train as the command line says; returns the exit code.

    Args:
        arguments: Words of the command line.
        output: For what it came to.
        publish: As of ``TrainCLI``.

    Raises:
        UsageError: If the configuration, the data or the folder are not usable.
        JobError: If the loss becomes NaN or a crop cannot be read.
    """
    _quieten()
    try:
        cli = TrainCLI(list(arguments), publish)
    except FinishedRun as finished:
        if is_first():
            output.write(f"{finished}\n")
        return 0
    with cli.held:
        return _fit(cli, output)


def _fit(cli: TrainCLI, output: TextIO) -> int:
    """Train, as the command is set up; returns the exit code."""
    if cli.trainer.is_global_zero:
        write_atomic(cli.folder / CONFIG, cli.configuration)
    try:
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=cli.resume)
    except Stopped as stop:
        if cli.trainer.is_global_zero:
            logger.warning("%s; %s", stop, _say_how_to_go_on(cli))
        return 128 + (stop.number or signal.SIGTERM)
    except UsageError:
        # Refused before there was anything to keep: the same --run can be given again.
        kept = cli.goes_on or (cli.folder / CHECKPOINTS).exists()
        if cli.trainer.is_global_zero and not kept:
            shutil.rmtree(cli.folder)
        raise
    except SystemExit:
        # Lightning has turned Ctrl-C into an exit after tearing everything down.
        if cli.trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    if cli.trainer.is_global_zero:
        output.write(_describe(cli))
    return 0


def read_data_module(
    configs: Sequence[str], root: str, seed: int, any_preset: bool = False
) -> CropDataModule:
    """The data of training configurations, set up.

    Args:
        configs: Names or files of presets and overlays, as ``--config`` takes them.
        root: The crop folder.
        seed: Of what is random about the data.
        any_preset: Whether crops of another preset than the configurations' will do.

    Raises:
        UsageError: If a configuration or the crops are not usable.
    """
    # What else they hold is checked by the training.
    settings = merge_configs(choose_configs(configs)).get("data") or {}
    settings |= {"root": root, "seed": seed}
    if any_preset:
        settings["crop_preset"] = None
    parser = TrainParser()
    parser.add_class_arguments(CropDataModule, "data")
    data: CropDataModule = parser.instantiate(parser.parse_object({"data": settings})).data
    data.setup()
    return data


def _say_how_to_go_on(cli: TrainCLI) -> str:
    source = cli.folder if (cli.folder / CHECKPOINTS / LAST).exists() else cli.resume
    if source is None:
        return "nothing was kept: there is no checkpoint yet"
    return f"go on with the same command and --resume {source}, in a new --run"


def _quieten() -> None:
    """Silence advertisements and remarks that our users can do nothing about."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*LightningCLI's args parameter is intended.*",
        ".*does not have many workers which may be a bottleneck.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*treespec, LeafSpec.* is deprecated.*",
        ".*You are trying to `self.log\\(\\)` but `Trainer\\(barebones=True\\).*",
        ".*is smaller than the logging interval.*",
        # Ours does go on in mid-epoch: see CropDataModule.state_dict.
        ".*resuming from a checkpoint that ended before the epoch ended.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def _describe(cli: TrainCLI) -> str:
    """The end of a training on a terminal: figures per split, and what to do next."""
    info: dict[str, Any] = cli.model.info
    model = cli.folder / MODEL_FILE
    lines = [f"{'split':<12}{'real':>7}{'fake':>7}{'AUC':>9}{'EER':>9}{'accuracy':>10}"]
    for split, row in info["metrics"].items():
        lines.append(
            f"{split:<12}{row['n_real']:>7}{row['n_fake']:>7}{format_metric(row['auc'], 9)}"
            f"{format_metric(row['eer'], 9)}{format_metric(row['accuracy'], 10)}"
        )
    limits = Limits.from_dict(info["limits"])
    lines += [
        *ErrorRates.from_dict(info["error_rates"]).describe(limits),
        f"weights of {info['weights']}",
        f"checkpoint: {model}",
        f"next: deepfake predict YOUR_PHOTOS --checkpoint {model} --output scores.csv",
    ]
    return "\n".join(lines) + "\n"
