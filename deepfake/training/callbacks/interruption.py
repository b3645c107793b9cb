"""When a training stops early or is kept in mid-epoch, so that nothing of it is lost.

SIGTERM, SIGUSR1 (what clusters send before they take a machine away) and the first Ctrl-C end the
running step, write ``last.ckpt`` and stop; a run that goes on from it continues with the next
batch. Knows no command line and no model.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from deepfake.errors import UsageError

logger = logging.getLogger(__name__)
_NAMES = ("SIGTERM", "SIGINT", "SIGUSR1")
_SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
_KEEP, _STOP = 1, 2


class Stopped(Exception):  # noqa: N818
    """The training was told to stop and has kept its state.

    Args:
        number: Of the signal; 0 if another process got it.
    """

    def __init__(self, number: int) -> None:
        name = signal.Signals(number).name if number else "another process"
        super().__init__(f"stopped by {name}")
        self.number = number


class StopOnSignal(Callback):
    """Keep the state between two steps: on a signal, and every few minutes.

    The last step of an epoch is not kept: the end of the epoch is, a validation later. All
    processes of a training stop after the same step.

    Args:
        path: The checkpoint to write.
        minutes: Time between two checkpoints in mid-epoch; 0 keeps every step, ``None`` none.

    Raises:
        UsageError: If it is negative.

    Attributes:
        saved_path: The checkpoint, once one was written here.
    """

    def __init__(self, path: Path, minutes: float | None = 30.0) -> None:
        if minutes is not None and not minutes >= 0:  # NaN is not
            raise UsageError(f"checkpoint_minutes={minutes:g}; expected 0 or more, or null")
        self.path, self.minutes = path, minutes
        self.saved_path = ""
        self._signal = 0
        self._stopping = False
        self._at_once = False
        self._kept_s = 0.0
        self._fresh = False
        self._former: dict[int, Any] = {}
        self._group: Any = None
        self._asked: tuple[Any, Tensor] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen."""
        self._kept_s = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._former[number] = signal.signal(number, self._note)
        if trainer.world_size > 1:
            # A group on the CPUs: a GPU would have to be waited for at every step, which
            # is also what Lightning's own question does.
            self._group = torch.distributed.new_group(backend="gloo")
            loop: Any = trainer.fit_loop.epoch_loop
            loop._broadcast_sigterm_tensor = lambda: None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Keep the state if it is time; stop if that was wanted.

        Raises:
            Stopped: If a signal has come.
        """
        wanted = self._agree(self._wish())
        self._stopping |= wanted >= _STOP
        # The answer to a question of before the last checkpoint is out of date.
        fresh, self._fresh = self._fresh and self._group is not None, False
        loop: Any = trainer.fit_loop.epoch_loop
        if not self._stopping and (not wanted or fresh):
            return
        if loop._num_ready_batches_reached() or loop._should_accumulate():
            return
        trainer.save_checkpoint(self.path)
        self.saved_path, self._kept_s, self._fresh = str(self.path), time.monotonic(), True
        if self._stopping:
            raise Stopped(self._signal)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop between two epochs; the last one has just been kept.

        Raises:
            Stopped: If a signal has come.
        """
        self._kept_s = time.monotonic()
        self._stopping |= self._agree(self._wish(), wait=True) >= _STOP
        if self._stopping and trainer.current_epoch > 0:
            raise Stopped(self._signal)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on nothing is left to be kept: stop where we are.

        Raises:
            Stopped: If a signal has come.
        """
        self._at_once = True
        if self._agree(self._wish(), wait=True) >= _STOP:
            raise Stopped(self._signal)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen no longer."""
        for number, handler in self._former.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._former.clear()
        self._at_once = False

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Listen no longer."""
        self.teardown(trainer, pl_module, "fit")

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._signal:
            raise KeyboardInterrupt  # a second Ctrl-C is in a hurry
        self._signal = number
        if self._at_once:
            raise Stopped(number)
        logger.warning(
            "%s: stopping after this step (in a validation: after it)", signal.Signals(number).name
        )

    def _wish(self) -> int:
        if self._signal:
            return _STOP
        due = self.minutes is not None and time.monotonic() - self._kept_s >= self.minutes * 60
        return _KEEP if due else 0

    def _agree(self, wish: int, wait: bool = False) -> int:
        """The strongest wish of all processes: that of the step before, so that nobody waits."""
        if self._group is None:
            return wish
        answer = 0
        if self._asked is not None:
            work, value = self._asked
            work.wait()
            answer = int(value)
        value = torch.tensor(wish)
        work = torch.distributed.all_reduce(
            value, torch.distributed.ReduceOp.MAX, group=self._group, async_op=True
        )
        self._asked = (work, value)
        if wait:
            work.wait()
            self._asked = None
            answer = max(answer, int(value))
        return answer
