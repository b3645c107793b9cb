"""LightningCLI with our model, our data and a run folder: from words to a Trainer."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger

from deepfake.dataset.crop_mirror import peek_job
from deepfake.errors import DeepfakeError, UsageError, one_line
from deepfake.learning.checkpoint import read_info
from deepfake.learning.data import CropDataModule
from deepfake.learning.processes import SyncBatchNorm
from deepfake.learning.resume import refuse_other_settings
from deepfake.learning.task import EmbeddingTask
from deepfake.learning.tuning import choose_precision
from deepfake.records import Aggregation
from deepfake.reports.curves import draw_curves
from deepfake.storage import exclusive
from deepfake.training.callbacks.averaging import AverageWeights
from deepfake.training.callbacks.collapse import CollapseWatch
from deepfake.training.callbacks.compilation import CompileForward
from deepfake.training.callbacks.dropout_seed import SeedDropout
from deepfake.training.callbacks.epoch_log import EpochLog
from deepfake.training.callbacks.finite import RefuseNonFinite
from deepfake.training.callbacks.freezing import FreezeBackbone
from deepfake.training.callbacks.head import FitHead
from deepfake.training.callbacks.interruption import StopOnSignal
from deepfake.training.callbacks.memory import MemoryFormat
from deepfake.training.callbacks.run_record import RunRecord
from deepfake.training.checkpointing import AtomicCheckpointIO, make_checkpoints
from deepfake.training.folder import CHECKPOINTS, LAST, claim_folder, find_start, is_first
from deepfake.training.parser import TrainParser, resolve_configs
from deepfake.training.stored_run import list_kept

logger = logging.getLogger(__name__)


Publish = Callable[[Sequence[str]], None]
_CALLBACKS = {
    "average": AverageWeights,
    "freeze": FreezeBackbone,
    "memory": MemoryFormat,
    "compile": CompileForward,
}
"""Callbacks whose settings are options, by the name of their group, in the order that they need."""
_LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
}
"""Lowest values of what Lightning takes as it is, and passes over or trips on."""
_PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "32", "16", "bf16", "None")
"""Number formats, and Lightning's short names of them; embeddings are float32 in every one."""


@dataclass(frozen=True)
class RunSettings:
    """The run.

    Args:
        run: Folder of this run.
        resume: Run folder or .ckpt to go on from; 'auto' goes on in --run if it was begun.
        checkpoint_minutes: Time between checkpoints in mid-epoch; null keeps ends of epochs only.
        weights: Epoch that the final model is made of.
        preset: Said in a configuration file: it is a whole recipe and inherits nothing.
    """

    run: str | None = None
    resume: str | None = None
    checkpoint_minutes: float | None = 30.0
    weights: Literal["best", "last"] = "best"
    preset: bool = False


@dataclass(frozen=True)
class WatchSettings:
    """What is watched and said.

    Args:
        finite: Stop at a loss, an embedding or a weight that is no number.
        collapse_steps: Warn after so many collapsed steps in a row; 0 leaves it out.
        log_s: Seconds between two lines within an epoch; ``null`` says nothing at all.
        record: Leave ``environment.json``, ``metrics.csv`` and ``curves.svg`` in the run's folder.
    """

    finite: bool = True
    collapse_steps: int = 50
    log_s: float | None = 30.0
    record: bool = True


class CountingTrainer(Trainer):
    """Lightning's, for which a count of batches stays a count.

    ``typing`` gives ``Optional[Union[int, float]]`` the order in which a process met it first.
    After an import of scikit-learn that is float before int, and the parser would read
    ``--trainer.limit_train_batches 1`` as 1.0, which means all of them.
    """

    def __init__(
        self,
        *args: Any,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            *args,
            limit_train_batches=limit_train_batches,
            limit_val_batches=limit_val_batches,
            limit_test_batches=limit_test_batches,
            limit_predict_batches=limit_predict_batches,
            **kwargs,
        )


class TrainCLI(LightningCLI):
    """The ``train`` command, set up and not yet started.

    Args:
        arguments: Words of the command line.
        publish: Told the names of the checkpoints in the run's folder when the last one is written.

    Attributes:
        folder: Of the run.
        resume: Checkpoint that it goes on from.
        configuration: Every setting, as YAML that runs again as it is.
        held: The folder, for this run alone until this is closed.
    """

    def __init__(self, arguments: list[str], publish: Publish | None = None) -> None:
        self._publish = publish
        self.held = ExitStack()
        super().__init__(
            EmbeddingTask,
            CropDataModule,
            trainer_class=CountingTrainer,
            args=arguments,
            run=False,
            seed_everything_default=0,
            save_config_callback=None,
            parser_class=TrainParser,
            auto_configure_optimizers=False,  # the task configures its own
            trainer_defaults={
                # Our own sampler divides the batches; Lightning's would pad and repeat samples.
                "use_distributed_sampler": False,
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
                "max_epochs": 6,
            },
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """What is neither the model's, nor the data's, nor the Trainer's."""
        parser.add_class_arguments(RunSettings)
        # How predictions make one score of the faces of a file; training only stores it.
        parser.add_class_arguments(Aggregation, "aggregation")
        for name, kind in _CALLBACKS.items():
            parser.add_class_arguments(kind, name)
        skipped = {"folder", "weights", "aggregation"}
        parser.add_class_arguments(FitHead, "head", skip=skipped, instantiate=False)
        parser.add_class_arguments(WatchSettings, "watch")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Presets and overlays first; misspelt options before missing ones."""
        if isinstance(parser, TrainParser) and isinstance(args, list):
            parser.refuse_unknown(args)
            args = resolve_configs(args)
        super().parse_arguments(parser, args)
        if isinstance(parser, TrainParser):
            parser.refuse_emptied(self.config)
            parser.refuse_null(self.config)
        if not 0 <= (seed := int(self.config.seed_everything)) < 2**32:
            raise UsageError(f"seed_everything={seed}; expected 0 to {2**32 - 1}")

    def instantiate_classes(self) -> None:
        """What fails for certain fails before a network is built or weights are fetched."""
        data = self.config.data
        peek_job(data.root, data.cache, data.cache_gb)
        trainer = self.config.trainer
        resume, self.goes_on = find_start(
            self.config.resume, self.config.run, trainer.max_epochs, trainer.max_steps
        )
        self.resume = resume
        self.folder = claim_folder(self.config.run, self.goes_on)
        if is_first():
            self.held.enter_context(exclusive(self.folder))
        kept = self.config.clone()
        for key in ("run", "resume", "config"):
            kept.pop(key, None)
        self.configuration = self.parser.dump(kept, skip_unset=False, skip_link_targets=True)
        try:
            if resume is not None:
                begun = read_info(resume).get("configuration") or ""
                refuse_other_settings(begun, self.configuration)
            super().instantiate_classes()
        except BaseException as error:
            self.held.close()
            with suppress(OSError):
                self.folder.rmdir()  # only if nothing was written
            # jsonargparse tells of all types that a setting may have; only one was meant.
            named = re.search(r"given class_path '([\w.]+)':\s+(.+)", str(error))
            if isinstance(error, ValueError) and not isinstance(error, DeepfakeError):
                told = f"{named[1]}: {named[2]}" if named else one_line(str(error), 800)
                raise UsageError(told if named else f"configuration: {told}") from error
            raise
        self.model.configuration = self.configuration

    def instantiate_trainer(self, **options: Any) -> Trainer:
        """Lightning's Trainer with our callbacks, loggers and plugins."""
        trainer = self.config_init.trainer
        for name in ("max_epochs", "max_steps", "limit_train_batches"):
            if trainer[name] == 0:
                raise UsageError(f"trainer.{name}=0: nothing would be trained")
        for name, least in _LEAST.items():
            if trainer[name] is not None and not trainer[name] >= least:  # NaN is not
                raise UsageError(f"trainer.{name}={trainer[name]}; expected {least} or more")
        if str(trainer.precision) not in _PRECISIONS:
            raise UsageError(
                f"trainer.precision={trainer.precision}; expected "
                f"{', '.join(_PRECISIONS[:3])} or null"
            )
        shows_progress = trainer.enable_progress_bar is not False and not trainer.barebones
        if not (shows_progress and sys.stderr.isatty()):
            options["enable_progress_bar"] = shows_progress = False  # a log wants a line an epoch
        options["callbacks"] = [*_as_list(trainer.callbacks), *self._make_callbacks(shows_progress)]
        options["logger"] = _as_list(trainer.logger) or False
        if trainer.logger in (None, True) and find_spec("tensorboard") and not trainer.barebones:
            options["logger"] = TensorBoardLogger(self.folder, "tensorboard", version="")
        if trainer.precision is None:
            options["precision"] = choose_precision(str(trainer.accelerator))
            logger.info("precision: %s", options["precision"])
        if trainer.benchmark is None and not trainer.deterministic:
            options["benchmark"] = True  # all batches have one shape
        plugins = [*_as_list(trainer.plugins), AtomicCheckpointIO(self._publish_checkpoints)]
        if trainer.sync_batchnorm:
            plugins.append(SyncBatchNorm())
        if SLURMEnvironment.detect() and not any(
            isinstance(plugin, SLURMEnvironment) for plugin in plugins
        ):
            # Lightning's answer to SLURM's signal saves in the middle of a step; ours is
            # StopOnSignal's.
            plugins.append(SLURMEnvironment(auto_requeue=False))
        options["plugins"] = plugins
        try:
            return super().instantiate_trainer(**options)
        except (MisconfigurationException, ImportError, TypeError, ValueError) as error:
            # A device that is not there, settings that do not go together.
            raise UsageError(f"trainer: {one_line(str(error), 800)}") from error

    def _publish_checkpoints(self) -> None:
        if self._publish is not None:
            self._publish(list_kept(self.folder))

    def _make_callbacks(self, shows_progress: bool) -> list[Callback]:
        trainer = self.config_init.trainer
        keeps = trainer.enable_checkpointing is not False
        keeps = keeps and not trainer.barebones and not trainer.fast_dev_run
        validates = trainer.limit_val_batches != 0
        weights = self.config.weights
        if weights == "best" and not (keeps and validates):
            logger.info("without checkpoints or validation, the model is made of the last epoch")
            weights = "last"
        watch = self.config_init.watch
        callbacks: list[Callback | None] = [
            *(make_checkpoints(self.folder, validates, self.resume) if keeps else []),
            StopOnSignal(
                self.folder / CHECKPOINTS / LAST, self.config.checkpoint_minutes if keeps else None
            ),
            SeedDropout(int(self.config.seed_everything)),
            *(self.config_init[name] for name in _CALLBACKS),
            RefuseNonFinite() if watch.finite else None,
            CollapseWatch(watch.collapse_steps) if watch.collapse_steps else None,
            EpochLog(watch.log_s) if watch.log_s is not None else None,
            RunRecord(self.folder, draw_curves) if watch.record else None,
            # Every look at the loss waits for the device.
            TQDMProgressBar(refresh_rate=10) if shows_progress else None,
            # The last of them: it scores with the weights that the others have left.
            FitHead(
                self.folder,
                **self.config.head.as_dict(),
                weights=weights,
                aggregation=self.config_init.aggregation,
            ),
        ]
        return [callback for callback in callbacks if callback is not None]


def _as_list(value: Any) -> list[Any]:
    """What a setting of Lightning holds that takes nothing, one or several."""
    if value in (None, True, False):
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
