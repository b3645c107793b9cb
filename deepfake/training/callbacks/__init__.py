"""What happens beside the training step: one concern a file, each with its own state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pytorch_lightning import Callback

from deepfake.heads import HeadName
from deepfake.records import Aggregation
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

__all__ = [
    "AverageWeights",
    "CallbackSettings",
    "CollapseWatch",
    "CompileForward",
    "EpochLog",
    "FitHead",
    "FreezeBackbone",
    "MemoryFormat",
    "RefuseNonFinite",
    "RunRecord",
    "SeedDropout",
    "StopOnSignal",
    "make_callbacks",
]


@dataclass(frozen=True)
class AverageSettings:
    """Moving average of the weights.

    Args:
        decay: Share of the old average that a step keeps; 0 leaves the average out.
    """

    decay: float = 0.0


@dataclass(frozen=True)
class FreezeSettings:
    """A backbone that stands still at first.

    Args:
        epochs: So many; its batch normalisation stands still too.
        lr: Learning rate of those epochs; ``null`` leaves them to the schedule.
    """

    epochs: int = 0
    lr: float | None = None


@dataclass(frozen=True)
class CompileSettings:
    """A compiled forward of training steps.

    Args:
        mode: ``default``, or ``reduce-overhead`` for CUDA graphs.
    """

    mode: Literal[False, "default", "reduce-overhead"] = False


@dataclass(frozen=True)
class MemorySettings:
    """Memory format of the network.

    Args:
        channels_last: ``auto`` times both on a GPU and takes the faster, and takes channels-last
            on a CPU.
    """

    channels_last: bool | Literal["auto"] = "auto"


@dataclass(frozen=True)
class HeadSettings:
    """The head that is fitted on the finished embedding.

    Args:
        name: ``svm`` is linear, ``rbf`` has a Gaussian kernel, ``gbm`` is LightGBM, ``logistic`` a
            logistic regression.
        C: Inverse strength of regularisation; of ``gbm``, ``lambda_l2 = 1 / C``.
    """

    name: HeadName = "svm"
    C: float = 2.0


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


@dataclass(frozen=True)
class CallbackSettings:
    """Everything beside the model, the data and the Trainer.

    Args:
        average: Moving average of the weights.
        freeze: A backbone that stands still at first.
        compile: A compiled forward of training steps.
        memory: Memory format of the network.
        head: The head that is fitted on the finished embedding.
        watch: What is watched and said.
    """

    average: AverageSettings = AverageSettings()
    freeze: FreezeSettings = FreezeSettings()
    compile: CompileSettings = CompileSettings()
    memory: MemorySettings = MemorySettings()
    head: HeadSettings = HeadSettings()
    watch: WatchSettings = WatchSettings()


def make_callbacks(
    folder: str | Path,
    settings: CallbackSettings = CallbackSettings(),
    *,
    seed: int = 0,
    weights: Literal["best", "last"] = "best",
    aggregation: Aggregation = Aggregation(),  # noqa: B008 - frozen
) -> list[Callback]:
    """The callbacks of a run, in the order that they need.

    Args:
        folder: The run's folder.
        settings: What is switched on.
        seed: Of dropout and stochastic depth.
        weights: Epoch that the final model is made of.
        aggregation: How predictions make one score of the faces of a file; stored as it is.
    """
    # Lower rooms show nothing by themselves; this is the one place that hands a renderer to one.
    from deepfake.reports.curves import draw_curves

    head, watch = settings.head, settings.watch
    callbacks: list[Callback] = [
        SeedDropout(seed),
        AverageWeights(settings.average.decay),
        FreezeBackbone(settings.freeze.epochs, settings.freeze.lr),
        MemoryFormat(settings.memory.channels_last),
        CompileForward(settings.compile.mode),
    ]
    if watch.finite:
        callbacks.append(RefuseNonFinite())
    if watch.collapse_steps:
        callbacks.append(CollapseWatch(watch.collapse_steps))
    if watch.log_s is not None:
        callbacks.append(EpochLog(watch.log_s))
    if watch.record:
        callbacks.append(RunRecord(folder, draw_curves))
    # The last of them: it scores with the weights that the others have left.
    return [*callbacks, FitHead(folder, head.name, head.C, weights, aggregation)]
