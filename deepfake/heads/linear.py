"""The linear heads, an SVM and a logistic regression: a weight vector and an intercept.

scikit-learn fits them; scoring is one product in torch. Knows no image and no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from deepfake.heads.base import Head, Rows
from deepfake.heads.calibration import Labels

Loss = Literal["squared_hinge", "hinge"]
# At liblinear's own tolerance decision values are off by a hundredth. Its solver of the squared
# hinge comes to the exact minimum in a few steps more; that of the hinge takes many cheap ones.
_SETTINGS: dict[Loss, dict[str, Any]] = {
    "squared_hinge": {"dual": False, "tol": 1e-10, "max_iter": 1000},
    "hinge": {"dual": True, "tol": 1e-5, "max_iter": 100_000},
}


class LinearSVM(Head):
    """Linear support vector machine, ``(N, D)`` embeddings to ``(N,)`` probabilities of fake.

    ``p_fake = 1 / (1 + exp(A * (x . w + b) + B))``: ``w`` and ``b`` are fitted on all rows by
    scikit-learn's ``LinearSVC``, ``A`` and ``B`` on decision values of folds that did not train.
    Equal to ``CalibratedClassifierCV(LinearSVC(...), ensemble=False)`` with the same settings.

    Args:
        embedding_dim: Width D of the embeddings.
        C: Inverse strength of regularisation; 2 equals the contest entry's 1 on doubled data.
        loss: Of a row inside the margin. ``hinge`` is that of ``SVC(kernel="linear")``, which the
            contest entry took; only here the intercept is regularised, too, and time does not grow
            with the square of the rows.

    Attributes:
        weight_: ``(D,)`` float64.
        intercept_: Scalar.
    """

    weight_: Tensor
    intercept_: Tensor

    def __init__(
        self,
        embedding_dim: int = 512,
        C: float = 2.0,  # noqa: N803
        loss: Loss = "squared_hinge",
    ) -> None:
        super().__init__(embedding_dim, C)
        self.loss: Loss = loss
        self.register_buffer("weight_", torch.zeros(embedding_dim, dtype=torch.float64))
        self.register_buffer("intercept_", torch.zeros((), dtype=torch.float64))

    def decision_function(self, embeddings: Tensor) -> Tensor:
        """Decision values ``x . w + b``."""
        return embeddings.double() @ self.weight_ + self.intercept_

    def _train(self, rows: Rows, y_true: Labels) -> Any:
        from sklearn.svm import LinearSVC

        estimator = LinearSVC(C=self.C, loss=self.loss, random_state=0, **_SETTINGS[self.loss])
        return estimator.fit(rows, y_true)

    def _keep(self, estimator: Any, rows: Rows) -> None:
        with torch.no_grad():
            self.weight_.copy_(torch.from_numpy(estimator.coef_[0]))
            self.intercept_.fill_(float(estimator.intercept_[0]))


class LogisticHead(LinearSVM):
    """Logistic regression of the same ``C``, kept as the same tensors.

    Fitted alone, its sigmoid is the plain one: its decisions are log-odds already.
    """

    def _train(self, rows: Rows, y_true: Labels) -> Any:
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=self.C, max_iter=1000).fit(rows, y_true)

    def _fit_sigmoid(
        self, rows: Rows, y_true: Labels, groups: Sequence[str] | None
    ) -> tuple[float, float]:
        return -1.0, 0.0
