"""The mean of what several heads say, each of its own part of an embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from deepfake.errors import JobError
from deepfake.heads.base import Head

_LEAST = 1e-15
"""Nearest that a mean comes to 0 or 1, where its log-odds would have no end."""


class MeanHead(Head):
    """Mean ``p_fake`` of several fitted heads: a linear opinion pool.

    Before it is calibrated as a whole, that mean is what comes out.

    Args:
        heads: One for each part of an embedding, in order.

    References:
        Lakshminarayanan, Pritzel and Blundell, "Simple and Scalable Predictive Uncertainty
        Estimation using Deep Ensembles", NeurIPS 2017.
    """

    def __init__(self, heads: Sequence[Head]) -> None:
        super().__init__(sum(head.embedding_dim for head in heads))
        self.heads = nn.ModuleList(heads)
        self.widths = [head.embedding_dim for head in heads]
        self.piecewise = any(head.piecewise for head in heads)
        self._calibrated(slope=-1.0, offset=0.0)

    def decision_function(self, embeddings: Tensor) -> Tensor:
        """The log-odds of the mean, ``(N, D) -> (N,)``; D is the sum of the widths."""
        # Each part is of unit norm by itself, and so are all of them together.
        parts = (embeddings * len(self.widths) ** 0.5).split(self.widths, dim=1)
        found = [
            head.to_probability(part)  # type: ignore[operator]
            for head, part in zip(self.heads, parts, strict=True)
        ]
        return torch.logit(torch.stack(found).mean(dim=0), eps=_LEAST)

    def _width(self) -> int:
        widest: int = max(head._width() for head in self.heads)  # type: ignore[operator]
        return widest

    def _train(self, rows: Any, y_true: Any) -> NoReturn:
        raise JobError("several heads are not fitted together; fit each by itself")

    def _keep(self, estimator: Any, rows: Any) -> NoReturn:
        raise JobError("several heads are not fitted together; fit each by itself")
