"""Metrics of an embedding, from the embeddings that an epoch has made anyway.

While training, scores come from a linear SVM on the running epoch's own training embeddings: they
cost no extra pass and never see a validation label. Knows no network and no Trainer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from deepfake.heads import Head, LinearSVM
from deepfake.learning.batches import deduplicate
from deepfake.metrics import compute_accuracy, compute_auc, compute_eer
from deepfake.records import EVEN_ODDS

Row = tuple[Tensor, Tensor]
_MAX_ROWS = 4096


class RecentEmbeddings:
    """The last training embeddings of an epoch, and a head that is fitted on them."""

    def __init__(self) -> None:
        self._batches: deque[Row] = deque()  # (B, D), (B,)

    def add(self, embeddings: Tensor, labels: Tensor) -> None:
        """Take a batch in; it stays on its device, because moving it would wait for that."""
        self._batches.append((embeddings, labels))
        while len(self._batches) > 1 and len(self._batches) * len(labels) > _MAX_ROWS:
            self._batches.popleft()

    def fit_head(self) -> Head | None:
        """A linear SVM on them; ``None`` without two rows of each class."""
        if not self._batches:
            return None
        rows, labels = (
            torch.cat([part.cpu() for part in parts]) for parts in zip(*self._batches, strict=True)
        )
        if not bool(rows.isfinite().all()) or int(labels.bincount(minlength=2).min()) < 2:
            return None
        return LinearSVM(rows.shape[1]).fit(rows, labels)

    def clear(self) -> None:
        """Begin an epoch."""
        self._batches.clear()

    def state_dict(self) -> list[Row]:
        """What a checkpoint in mid-epoch keeps."""
        return [(rows.cpu(), labels.cpu()) for rows, labels in self._batches]

    def load_state_dict(self, state: list[Row]) -> None:
        """Go on with an epoch."""
        self._batches = deque(state)


class CollectedEmbeddings:
    """All embeddings of a validation or test split, and their metrics."""

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, index: Tensor, labels: Tensor, embeddings: Tensor) -> None:
        """Take a batch of all processes in; rows may come twice."""
        self._batches.append((index.cpu(), labels.cpu(), embeddings.cpu()))

    def measure(
        self,
        loss_of: Callable[[Tensor, Tensor], Tensor],
        batch_size: int,
        head: Head | None,
    ) -> dict[str, float]:
        """Loss, AUC, equal error rate and accuracy, every row counted once; forgets the rows.

        Args:
            loss_of: Loss of embeddings ``(B, D)`` and labels ``(B,)``.
            batch_size: Rows of each loss, drawn in a fixed random order.
            head: What scores; without one there is no AUC but a nan.
        """
        columns = (torch.cat(parts) for parts in zip(*self._batches, strict=True))
        labels, embeddings = deduplicate(*columns)  # (N,), (N, D)
        self._batches.clear()
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        total = sum(
            len(part) * float(loss_of(embeddings[part], labels[part]))
            for part in torch.split(order, batch_size)
        )
        # The AUC is always there, if need be as nan: checkpoints are chosen by it.
        metrics = {"loss": total / len(labels), "auc": float("nan")}
        if head is None or not bool(embeddings.isfinite().all()):
            return metrics
        y_true, y_score = labels.numpy(), head(embeddings).numpy()
        return metrics | {
            "auc": compute_auc(y_true, y_score),
            "eer": compute_eer(y_true, y_score),
            "accuracy": compute_accuracy(y_true, y_score, EVEN_ODDS),
        }
