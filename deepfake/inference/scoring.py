"""Face crops in, probabilities of fake out: by torch on any device, or by ONNX Runtime on a CPU.

The torch scorer is the reference; the other one is the same network as an exported graph, up to
twice as fast on a CPU. Both may run in threads, one scorer a thread. Knows no file of media and
makes no graph.
"""

from __future__ import annotations

import logging
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from deepfake.errors import JobError, one_line
from deepfake.learning.checkpoint import KEY, Checkpoint
from deepfake.learning.embedder import are_unit
from deepfake.learning.folding import copy_for_scoring
from deepfake.learning.tuning import keep_freed_memory
from deepfake.tables import parse_json

logger = logging.getLogger(__name__)

Backend = Literal["torch", "onnx"]
CROPS, P_FAKE, EMBEDDING = "crops", "p_fake", "embedding"
"""Names of the input and the outputs of a graph."""
CPU_FACES = 4  # more at once cost memory and gain nothing on a CPU


class Scorer(Protocol):
    """Scores crops on one device.

    Attributes:
        backend: What runs the network.
        name: The same for people, with its version.
        batch_size: Most crops that it takes at once; may shrink.
    """

    backend: Backend
    name: str
    batch_size: int

    def score(self, images: NDArray[np.uint8]) -> list[float]:
        """``(N, S, S, 3)`` RGB to N values of ``p_fake``; N is at most ``batch_size``.

        A crop whose embedding is no direction has ``nan``: no head may make an answer of it.
        """
        ...


class TorchScorer:
    """The checkpoint's own network, on any device.

    Args:
        checkpoint: Stays as it is; the network is copied.
        device: Where the network runs.
        batch_size: Most crops at once; where memory cannot hold them, it shrinks.
    """

    backend: Backend = "torch"

    def __init__(self, checkpoint: Checkpoint, device: torch.device, batch_size: int) -> None:
        self.device, self.name = device, f"torch {torch.__version__}"
        self.batch_size = min(batch_size, CPU_FACES) if device.type == "cpu" else batch_size
        keep_freed_memory(device)
        self._embedder = copy_for_scoring(checkpoint.embedder, device)
        self._head = checkpoint.head

    def score(self, images: NDArray[np.uint8]) -> list[float]:
        """Score a batch; where the device's memory cannot hold it, in halves from now on."""
        try:
            return _list_scores(*self.run(images))
        except torch.OutOfMemoryError:
            if len(images) == 1:
                raise
        half = len(images) // 2
        self.batch_size = max(1, min(self.batch_size, half))
        logger.warning("the device is out of memory; going on with %d faces a batch", half)
        torch.cuda.empty_cache()
        return self.score(images[:half]) + self.score(images[half:])

    @torch.inference_mode()
    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """``(N, S, S, 3)`` to ``(N,)`` probabilities and ``(N, D)`` embeddings."""
        batch = torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device)
        # Never in half precision, not even inside a caller's autocast: a CPU without instructions
        # for it takes 16 times as long, and scores must not depend on who asks.
        with torch.autocast(self.device.type, enabled=False):
            # The head runs on the CPU: Apple's devices have no float64.
            embeddings = self._embedder(batch).cpu()
        return self._head(embeddings).numpy(), embeddings.numpy()


class OnnxScorer:
    """An exported graph in ONNX Runtime, on the CPU, with as many threads as torch would use.

    Args:
        graph: Bytes of an ``.onnx`` file that ``deepfake export`` wrote.
        batch_size: Most crops at once.

    Attributes:
        description: What the graph says about itself.

    Raises:
        JobError: If the bytes are no such graph.
    """

    backend: Backend = "onnx"

    def __init__(self, graph: bytes, batch_size: int) -> None:
        import onnxruntime

        self.name = f"ONNX Runtime {onnxruntime.__version__}"
        self.batch_size = min(batch_size, CPU_FACES)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; they are raised, too
        # Between batches the cores belong to the workers that decode and detect.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._errors = _error_classes()
        try:
            self._session = onnxruntime.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"]
            )
            metadata = self._session.get_modelmeta().custom_metadata_map
            self.description: dict[str, Any] = dict(parse_json(metadata[KEY]))
        except self._errors as error:
            raise JobError(f"this is no graph of deepfake: {one_line(str(error), 400)}") from error

    def score(self, images: NDArray[np.uint8]) -> list[float]:
        """Score a batch."""
        return _list_scores(*self.run(images))

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """``(N, S, S, 3)`` to ``(N,)`` probabilities and ``(N, D)`` embeddings.

        Raises:
            JobError: If the graph does not take these crops.
        """
        crops = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        try:
            p_fake, embeddings = self._session.run([P_FAKE, EMBEDDING], {CROPS: crops})
        except self._errors as error:
            raise JobError(
                f"the graph does not score crops: {one_line(str(error), 400)}"
            ) from error
        return p_fake, embeddings


def _list_scores(p_fake: NDArray[np.float64], embeddings: NDArray[np.float32]) -> list[float]:
    usable = are_unit(torch.from_numpy(embeddings)).numpy()  # (N, D) -> (N,)
    scores: list[float] = np.where(usable, p_fake, np.nan).tolist()
    return scores


def _error_classes() -> tuple[type[Exception], ...]:
    """ONNX Runtime's errors, which have no base of their own, and those of what it gives back."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found = [value for value in vars(state).values() if isinstance(value, type)]
    theirs = (value for value in found if issubclass(value, Exception))
    return (*theirs, LookupError, ValueError, TypeError)
