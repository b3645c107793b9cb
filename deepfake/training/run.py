"""The ``train`` command: configuration to a finished run folder, through LightningCLI.

The only file that knows jsonargparse and LightningCLI; ``cli`` imports it when a training really
starts, because Lightning takes seconds to import.
"""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NoReturn, TextIO

import torch
import yaml
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from deepfake.dataset.manifest import read_job
from deepfake.errors import JobError, UsageError
from deepfake.learning.checkpoint import read_info
from deepfake.learning.data import CropDataModule
from deepfake.learning.task import EmbeddingTask
from deepfake.learning.tuning import choose_precision
from deepfake.metrics import format_metric
from deepfake.records import Aggregation
from deepfake.storage import write_atomic
from deepfake.training.callbacks import CallbackSettings, make_callbacks
from deepfake.training.callbacks.head import MODEL_FILE
from deepfake.training.callbacks.interruption import StopOnSignal, Stopped

logger = logging.getLogger(__name__)
_RUN_VARIABLE = "DEEPFAKE_RUN_FOLDER"  # tells the processes that Lightning starts where to write
_CHECKPOINTS = "checkpoints"
_LAST = "last"
_CONFIG = "config.yaml"


class _Parser(LightningArgumentParser):
    """jsonargparse that answers a mistake in a few lines and says what was meant."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        # Any quoted or dashed word of the message may be the misspelt one.
        known = [option for action in self._actions for option in action.option_strings]
        words = re.findall(r"--[\w.]+", message) + [
            f"--{word}" for word in re.findall(r"[\"']([\w.]+)[\"']", message)
        ]
        nested = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message)
        if nested:
            words = [f"--{nested[1]}.{nested[2]}"]
        if "Expected a" in message:
            words = []  # the name was right, its value is not
        hint = ""
        for word in words:
            close = get_close_matches(word, known, n=1, cutoff=0.6)
            if close and close[0] != word and word not in known:
                hint = f"; did you mean {close[0]}?"
                break
        text = " ".join(message.split())
        raise UsageError(f"{text}{hint} (deepfake train --help)")


class _BestCheckpoint(ModelCheckpoint):
    """Knows the best epoch so far when a run goes on in another folder; Lightning's forgets it."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        best = state_dict["best_model_path"]
        if Path(best).is_file():
            # The old file stays where it is: nothing outside of dirpath is ever removed.
            super().load_state_dict(state_dict | {"dirpath": self.dirpath})
        else:
            logger.warning(
                "the best epoch of the run to go on from is gone (%s); only epochs from here on "
                "can become the best",
                best or "it had none",
            )


class _AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that appear whole or not at all, on the disk and not only in its cache.

    Lightning's own writes into the system's temporary folder first; the way from there to another
    disk is a copy, which can be cut in the middle.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write beside the target, then rename.

        Raises:
            JobError: If the disk is full.
        """
        content = io.BytesIO()
        torch.save(checkpoint, content)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_atomic(target, content.getvalue())
        except JobError as error:
            last = target.parent / f"{_LAST}.ckpt"
            good = f"the last good checkpoint is {last}" if last.exists() else "there is none yet"
            raise JobError(
                f"no space left for {target} ({len(content.getvalue()) / 1e6:.0f} MB); {good}: "
                "free some space and go on from it with --resume"
            ) from error.__cause__


class _Trainer(Trainer):
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


class _TrainCLI(LightningCLI):
    """LightningCLI with our model, our data and a run folder."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--run", type=str | None, default=None, help="folder of this run")
        parser.add_argument(
            "--resume",
            type=str | None,
            default=None,
            help="run folder or .ckpt to go on from; 'auto' goes on in --run if it was begun",
        )
        parser.add_argument(
            "--checkpoint_minutes",
            type=float | None,
            default=30.0,
            help="time between checkpoints in mid-epoch; null keeps ends of epochs only",
        )
        parser.add_argument(
            "--weights",
            type=Literal["best", "last"],
            default="best",
            help="epoch that the final model is made of",
        )
        # How predictions make one score of the faces of a file; training only stores it.
        parser.add_class_arguments(Aggregation, "aggregation")
        parser.add_class_arguments(CallbackSettings)
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    def instantiate_classes(self) -> None:
        # What fails for certain must fail before a network is built or weights are fetched.
        read_job(Path(self.config.data.root))
        goes_on, wanted = _find_begun(self.config.resume, self.config.run)
        self.resume = _find_resume(wanted)
        self.folder = _claim_folder(self.config.run, goes_on)
        skipped = ("run", "resume", "config")
        kept = self.config.clone()
        for key in skipped:
            kept.pop(key, None)
        self.configuration = self.parser.dump(kept, skip_unset=False, skip_link_targets=True)
        try:
            super().instantiate_classes()
        except BaseException:
            with suppress(OSError):
                self.folder.rmdir()  # only if nothing was written
            raise
        self.model.configuration = self.configuration

    def instantiate_trainer(self, **options: Any) -> Trainer:
        trainer = self.config_init.trainer
        groups = CallbackSettings.__dataclass_fields__
        settings = CallbackSettings(**{name: self.config_init[name] for name in groups})
        own = [
            _BestCheckpoint(
                dirpath=self.folder / _CHECKPOINTS,
                filename="epoch{epoch:03d}-auc{val_auc:.4f}",
                auto_insert_metric_name=False,
                monitor="val_auc",
                mode="max",
                save_top_k=1,
                save_on_train_epoch_end=True,
            ),
            # Of its own: Lightning's save_last skips the epochs that are not the best so far.
            ModelCheckpoint(
                dirpath=self.folder / _CHECKPOINTS,
                filename=_LAST,
                enable_version_counter=False,
                # An epoch's checkpoint is only resumable once the epoch is really over.
                save_on_train_epoch_end=True,
            ),
            StopOnSignal(
                self.folder / _CHECKPOINTS / f"{_LAST}.ckpt", self.config.checkpoint_minutes
            ),
            *make_callbacks(
                self.folder,
                settings,
                seed=int(self.config.seed_everything),
                weights=self.config.weights,
                aggregation=Aggregation(**self.config.aggregation.as_dict()),
            ),
        ]
        if trainer.enable_progress_bar is not False and sys.stderr.isatty():
            # Every look at the loss waits for the device.
            own.append(TQDMProgressBar(refresh_rate=10))
        else:
            options["enable_progress_bar"] = False  # a log file wants a line per epoch
        if trainer.logger is not False:
            options["logger"] = [*self._own_loggers(trainer.logger), *_as_list(trainer.logger)]
        if trainer.precision is None:
            options["precision"] = choose_precision(str(trainer.accelerator))
            logger.info("precision: %s", options["precision"])
        if trainer.benchmark is None and not trainer.deterministic:
            options["benchmark"] = True  # all batches have one shape
        plugins = [*_as_list(trainer.plugins), _AtomicCheckpointIO()]
        if SLURMEnvironment.detect() and not any(
            isinstance(plugin, SLURMEnvironment) for plugin in plugins
        ):
            # Lightning's answer to SLURM's signal saves in the middle of a step; ours is
            # StopOnSignal's.
            plugins.append(SLURMEnvironment(auto_requeue=False))
        options["plugins"] = plugins
        options["callbacks"] = [*(trainer.callbacks or []), *own]
        return super().instantiate_trainer(**options)

    def _own_loggers(self, wanted: Any) -> list[Logger]:
        """A table always; TensorBoard where it is installed and nobody asked for another."""
        if _is_first():
            _set_aside(self.folder / "metrics.csv")
        loggers: list[Logger] = [CSVLogger(self.folder.parent, self.folder.name, version="")]
        if wanted in (None, True) and find_spec("tensorboard"):
            loggers.append(TensorBoardLogger(self.folder, "tensorboard", version=""))
        return loggers


def run_training(arguments: Sequence[str], output: TextIO) -> int:
    """Train as the command line says; returns the exit code.

    Raises:
        UsageError: If the configuration, the data or the folder are not usable.
        JobError: If the loss becomes NaN or a crop cannot be read.
    """
    _quieten()
    cli = _TrainCLI(
        EmbeddingTask,
        CropDataModule,
        trainer_class=_Trainer,
        args=list(arguments),
        run=False,
        seed_everything_default=0,
        save_config_callback=None,
        parser_class=_Parser,
        auto_configure_optimizers=False,  # the task has its own, flat settings
        trainer_defaults={
            # Our own sampler divides the batches; Lightning's would pad and repeat samples.
            "use_distributed_sampler": False,
            "num_sanity_val_steps": 0,
            "enable_model_summary": False,
            "max_epochs": 6,
        },
    )
    if cli.trainer.is_global_zero:
        write_atomic(cli.folder / _CONFIG, cli.configuration)
    try:
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=cli.resume)
    except Stopped as stop:
        if cli.trainer.is_global_zero:
            logger.warning("%s; %s", stop, _say_how_to_go_on(cli))
        return 128 + (stop.number or signal.SIGTERM)
    except UsageError:
        # Refused before there was anything to keep: the same --run can be given again.
        if cli.trainer.is_global_zero and not (cli.folder / _CHECKPOINTS).exists():
            shutil.rmtree(cli.folder)
        raise
    except SystemExit:
        # Lightning has turned Ctrl-C into an exit after tearing everything down.
        if cli.trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    if cli.trainer.is_global_zero:
        model = cli.folder / MODEL_FILE
        if not model.exists():
            source = cli.resume or "the configuration"
            raise UsageError(
                f"nothing was left to train: {source} has already reached "
                f"trainer.max_epochs={cli.trainer.max_epochs}; ask for more"
            )
        output.write(_describe(cli.model.info, model))
    return 0


def read_data_module(
    configs: Sequence[str], root: str, seed: int, any_preset: bool = False
) -> CropDataModule:
    """The data of training configurations, set up; later files win.

    Args:
        configs: Files.
        root: The crop folder.
        seed: Of what is random about the data.
        any_preset: Whether crops of another preset than the configurations' will do.

    Raises:
        UsageError: If a configuration or the crops are not usable.
    """
    settings: dict[str, Any] = {}
    for config in configs:
        try:
            content = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UsageError(f"configuration {config}: {error}") from error
        # What else it holds is checked by the training.
        part = content.get("data", {}) if isinstance(content, dict) else None
        if not isinstance(part, dict):
            raise UsageError(f"configuration {config}: no settings, or none under data")
        settings |= part
    parser = _Parser()
    parser.add_class_arguments(CropDataModule, "data")
    settings |= {"root": root, "seed": seed}
    if any_preset:
        settings["crop_preset"] = None
    parsed = parser.parse_object({"data": settings})
    data: CropDataModule = parser.instantiate(parsed).data
    data.setup()
    return data


def _say_how_to_go_on(cli: _TrainCLI) -> str:
    last = cli.folder / _CHECKPOINTS / f"{_LAST}.ckpt"
    source = cli.folder if last.exists() else cli.resume
    if source is None:
        return "nothing was kept: not one step was done"
    return f"go on with the same command and --resume {source}, in a new --run"


def _find_begun(resume: str | None, run: str | None) -> tuple[bool, str | None]:
    """Whether the run's own folder is gone on with, and what to go on from."""
    if resume != "auto":
        return False, resume
    if run is None:
        raise UsageError("--resume auto goes on in the folder of --run; name it")
    if (Path(run) / MODEL_FILE).exists():
        raise UsageError(f"--resume auto: the run in {run} is finished")
    begun = (Path(run) / _CHECKPOINTS / f"{_LAST}.ckpt").exists()
    # A run that was killed before its first checkpoint has left its configuration only.
    return (Path(run) / _CONFIG).exists(), run if begun else None


def _claim_folder(wanted: str | None, goes_on: bool = False) -> Path:
    """The run's folder, created; a given one must be new or empty, unless it is gone on with."""
    inherited = os.environ.get(_RUN_VARIABLE)
    if inherited is not None and "LOCAL_RANK" in os.environ:
        return Path(inherited)
    if wanted is None:
        if "WORLD_SIZE" in os.environ or "SLURM_PROCID" in os.environ:
            raise UsageError("several processes were started together: name their --run FOLDER")
        taken = [int(path.name) for path in Path("runs").glob("[0-9]*") if path.name.isdigit()]
        folder = Path("runs") / f"{max(taken, default=0) + 1:03d}"
    else:
        folder = Path(wanted)
    in_use = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if in_use and not goes_on and _is_first():
        raise UsageError(f"the run folder {folder} exists and is not empty; name a new one")
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[_RUN_VARIABLE] = str(folder)
    return folder


def _is_first() -> bool:
    """Whether this process is the only one, or the first of those that were started together."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return all(os.environ.get(name, "0") == "0" for name in names)


def _find_resume(wanted: str | None) -> str | None:
    if wanted is None:
        return None
    path = Path(wanted)
    if path.is_dir():
        path = path / _CHECKPOINTS / f"{_LAST}.ckpt"
    if not path.is_file():
        raise UsageError(f"--resume {wanted}: there is no checkpoint {path}")
    if read_info(path)["threshold"] is not None:
        raise UsageError(
            f"--resume {wanted}: {path} is finished and holds no optimiser; give its run folder to "
            "go on from the last epoch"
        )
    return str(path)


def _quieten() -> None:
    """Silence advertisements and remarks that our users can do nothing about."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*LightningCLI's args parameter is intended.*",
        ".*does not have many workers which may be a bottleneck.*",
        ".*Experiment logs directory .* exists and is not empty.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*treespec, LeafSpec.* is deprecated.*",
        ".*The dirpath has changed from.*",  # _BestCheckpoint says what matters of it
        ".*is smaller than the logging interval.*",
        # Ours does go on in mid-epoch: see CropDataModule.state_dict.
        ".*resuming from a checkpoint that ended before the epoch ended.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def _describe(info: dict[str, Any], model: Path) -> str:
    """The end of a training on a terminal: figures per split, and what to do next."""
    lines = [f"{'split':<12}{'real':>7}{'fake':>7}{'AUC':>9}{'EER':>9}{'accuracy':>10}"]
    for split, row in info["metrics"].items():
        lines.append(
            f"{split:<12}{row['n_real']:>7}{row['n_fake']:>7}{format_metric(row['auc'], 9)}"
            f"{format_metric(row['eer'], 9)}{format_metric(row['accuracy'], 10)}"
        )
    lines += [
        f"threshold {info['threshold']:.4f} ({info['threshold_origin']}), weights of "
        f"{info['weights']}",
        f"checkpoint: {model}",
        f"next: deepfake predict YOUR_PHOTOS --checkpoint {model} --output scores.csv",
    ]
    return "\n".join(lines) + "\n"


def _as_list(value: Any) -> list[Any]:
    """What a setting of Lightning holds that takes nothing, one or several."""
    if value in (None, True, False):
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _set_aside(path: Path) -> None:
    """Keep a table that a resumed run would begin anew."""
    if path.exists():
        taken = len(list(path.parent.glob(f"{path.stem}.*{path.suffix}")))
        path.rename(path.with_name(f"{path.stem}.{taken + 1}{path.suffix}"))
