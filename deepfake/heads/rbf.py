"""An SVM with a Gaussian kernel, kept as its support vectors.

scikit-learn's ``SVC`` with ``gamma="scale"`` fits it, in a time that grows faster than the square
of the rows; scoring is torch. Knows no image and no network.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepfake.errors import JobError, UsageError
from deepfake.heads.base import Head, Rows, is_fitted
from deepfake.heads.calibration import Labels

logger = logging.getLogger(__name__)
MAX_ROWS = 30_000
"""Most rows that it is fitted on, and most support vectors that it is read with."""
_SLOW_ROWS = 5000
_CACHE_MB = 500  # of libsvm, for rows of the kernel
_ALIKE = 1e-6  # of the largest number; float32 embeddings of a collapsed network differ by less


class GaussianSVM(Head):
    """SVM with the kernel ``exp(-gamma * |x - s|^2)``, ``(N, D)`` embeddings to ``(N,)``.

    ``gamma = 1 / (D * variance of all numbers)``. Equal to scikit-learn's
    ``CalibratedClassifierCV(SVC(C=C, gamma="scale"), ensemble=False)``. Memory for scoring is
    bounded, whatever the number of embeddings.

    Args:
        embedding_dim: Width D of the embeddings.
        C: Inverse strength of regularisation.

    Attributes:
        support_: ``(M, D)`` support vectors, float64, or float32 if the embeddings were.
        dual_: ``(M,)`` their coefficients.
        gamma_: Scalar.
        intercept_: Scalar.
    """

    support_: Tensor
    dual_: Tensor
    gamma_: Tensor
    intercept_: Tensor

    def __init__(self, embedding_dim: int = 512, C: float = 2.0) -> None:  # noqa: N803
        super().__init__(embedding_dim, C)
        self.register_buffer("support_", torch.zeros(0, embedding_dim, dtype=torch.float64))
        self.register_buffer("dual_", torch.zeros(0, dtype=torch.float64))
        for name in ("gamma_", "intercept_"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    def check_fit(self, n_rows: int) -> None:
        """Refuse more rows than can be waited for."""
        if n_rows > MAX_ROWS:
            raise UsageError(
                f"head rbf on {n_rows} rows would take hours or days: its time grows faster than "
                f"the square of the rows, and {MAX_ROWS} are the most that it takes; choose head "
                "svm, logistic or gbm, or fit it on fewer crops with deepfake fit-head"
            )
        if n_rows > _SLOW_ROWS:
            logger.info("head rbf on %d rows: fitting takes minutes", n_rows)

    def decision_function(self, embeddings: Tensor) -> Tensor:
        """Decision values ``sum(dual * kernel(x, support)) + b``."""
        rows, support = embeddings.double(), self.support_.double()
        lengths = rows.square().sum(1, keepdim=True) + support.square().sum(1)
        distances = (lengths - 2 * rows @ support.T).clamp_min(0)
        return torch.exp(-self.gamma_ * distances) @ self.dual_ + self.intercept_

    def _train(self, rows: Rows, y_true: Labels) -> Any:
        from sklearn.svm import SVC

        wide = rows.astype(np.float64, copy=False)
        variance = float(wide.var())
        if np.ptp(wide, axis=0).max() <= _ALIKE * np.abs(wide).max():
            raise JobError(
                f"the {len(rows)} embeddings are all alike (variance {variance:g}), so that there "
                "is no gamma for head rbf: the network has collapsed; train it anew, for example "
                "with a smaller learning rate"
            )
        gamma = 1 / (self.embedding_dim * variance)  # what scikit-learn calls "scale"
        return SVC(C=self.C, gamma=gamma, cache_size=_CACHE_MB).fit(wide, y_true)

    def _keep(self, estimator: Any, rows: Rows) -> None:
        self.support_ = torch.from_numpy(rows[estimator.support_])
        self.dual_ = torch.from_numpy(estimator.dual_coef_[0].copy())
        with torch.no_grad():
            self.gamma_.fill_(estimator.gamma)
            self.intercept_.fill_(float(estimator.intercept_[0]))

    def _width(self) -> int:
        return max(self.embedding_dim, len(self.support_))

    def _take(self, state: dict[str, Any]) -> None:
        if not all(isinstance(state.get(name), Tensor) for name in ("support_", "dual_", "gamma_")):
            return  # what is missing is said by torch
        support, dual, gamma = state["support_"], state["dual_"], state["gamma_"]
        shape = (len(dual), self.embedding_dim) if dual.ndim == 1 else None
        floats = (torch.float32, torch.float64)
        if support.shape != shape or support.dtype not in floats or len(support) > MAX_ROWS:
            raise ValueError(
                f"support_ has shape {tuple(support.shape)} and type {support.dtype}, dual_ "
                f"{tuple(dual.shape)}; expected (M, {self.embedding_dim}) floats and (M,), with M "
                f"up to {MAX_ROWS}"
            )
        if is_fitted(state) and (len(support) == 0 or bool((gamma <= 0).any())):
            raise ValueError(
                f"it has {len(support)} support vectors and gamma_ is {gamma.tolist()}; expected "
                "one or more, and a number above 0"
            )
        self.support_ = torch.empty_like(support)
        self.dual_ = torch.empty(len(support), dtype=torch.float64)
