"""Gradient-boosted trees: LightGBM fits them, tensors keep them, torch scores with them.

LightGBM's own text is read once, after the fit, by who wrote it. A checkpoint, which may be a
stranger's, holds tensors: a graph can be exported from them, and scoring then needs no LightGBM.
What points out of range, has no end or is not finite is an error, never a wrong score. Only what
our own fit writes is known: splits of the form ``number <= threshold``, no missing numbers. Knows
no image and no network.

References:
    Ke et al., "LightGBM: A Highly Efficient Gradient Boosting Decision Tree", NeurIPS 2017.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepfake.errors import JobError, UsageError
from deepfake.heads.base import Head, Rows, is_fitted
from deepfake.heads.calibration import Labels, Vector

N_TREES, LEARNING_RATE, MAX_LEAVES = 100, 0.1, 31
"""LightGBM's own defaults; the contest entry does not say what it took."""
MIN_LEAF_ROWS = 20
"""LightGBM's own default; a tenth of the rows where that is less."""
_MAX_TREES, _MAX_NODES, _MAX_DEPTH = 10_000, 2_000_000, 256


class BoostedTrees(Head):
    """LightGBM's boosted trees, ``(N, D)`` embeddings to ``(N,)`` probabilities of fake.

    A decision value is LightGBM's raw score, the log-odds on training rows; trees learn those by
    heart, so that the sigmoid is fitted on held-out rows as for any other head. An embedding
    with a NaN has no decision: the answer is NaN, too.

    Args:
        embedding_dim: Width D of the embeddings.
        C: Inverse strength of regularisation: ``lambda_l2 = 1 / C``, as of a logistic regression.

    Attributes:
        roots_: ``(T,)`` node that each tree begins with.
        nodes_: ``(3, K)`` for every node of all trees: the column that it asks for, and the nodes
            that come next to the left and to the right. A leaf leads to itself.
        numbers_: ``(2, K)`` numbers up to the first go left; a leaf adds the second.
    """

    piecewise = True
    roots_: Tensor
    nodes_: Tensor
    numbers_: Tensor

    def __init__(self, embedding_dim: int = 512, C: float = 2.0) -> None:  # noqa: N803
        super().__init__(embedding_dim, C)
        self.register_buffer("roots_", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("nodes_", torch.zeros(3, 0, dtype=torch.int64))
        self.register_buffer("numbers_", torch.zeros(2, 0, dtype=torch.float64))
        self._depth = 0

    def check_fit(self, n_rows: int) -> None:
        """Ask for LightGBM."""
        if find_spec("lightgbm") is None:
            raise UsageError(
                "head gbm is fitted by LightGBM, not installed here: pip install 'deepfake[gbm]'"
            )

    def decision_function(self, embeddings: Tensor) -> Tensor:
        """Decision values: the sum of the leaves that a row falls into."""
        rows = embeddings.double()
        feature, left, right = self.nodes_.unbind()  # (K,) each
        threshold, value = self.numbers_.unbind()
        node = self.roots_.expand(rows.shape[0], -1)  # (N, T); a traced graph has no len
        for _ in range(self._depth):
            goes_left = rows.gather(1, feature[node]) <= threshold[node]
            node = torch.where(goes_left, left[node], right[node])
        return torch.where(rows.isnan().any(1), torch.nan, value[node].sum(1))

    def _train(self, rows: Rows, y_true: Labels) -> Any:
        """LightGBM's booster; one thread and one seed, so that all machines give the same trees."""
        try:
            import lightgbm
        except OSError as error:
            raise UsageError(f"LightGBM is installed but does not start: {error}") from error
        settings = {
            "objective": "binary",
            "learning_rate": LEARNING_RATE,
            "num_leaves": MAX_LEAVES,
            "min_data_in_leaf": max(1, min(MIN_LEAF_ROWS, len(rows) // 10)),
            "lambda_l2": 1 / self.C,
            "seed": 0,
            "deterministic": True,
            "force_col_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        }
        return lightgbm.train(settings, lightgbm.Dataset(rows, y_true), N_TREES)

    def _predict(self, estimator: Any, rows: Rows) -> Vector:
        decisions: Vector = estimator.predict(rows, raw_score=True, num_threads=1)
        return decisions

    def _keep(self, estimator: Any, rows: Rows) -> None:
        roots, nodes, numbers, start = [], [], [], 0
        for part in estimator.model_to_string().partition("\nend of trees")[0].split("\nTree=")[1:]:
            fields = dict(line.split("=", 1) for line in part.splitlines() if "=" in line)
            feature, left, right = (
                np.array(fields[name].split(), dtype=np.int64)
                for name in ("split_feature", "left_child", "right_child")
            )
            threshold, value = (
                np.array(fields[name].split(), dtype=float) for name in ("threshold", "leaf_value")
            )
            # Leaves come behind the inner nodes; the text calls them -1, -2, ...
            leaves = len(feature) + np.arange(len(value))
            left, right = (
                start + np.r_[np.where(side < 0, len(feature) + ~side, side), leaves]
                for side in (left, right)
            )
            nodes.append([np.r_[feature, 0 * leaves], left, right])
            numbers.append([np.r_[threshold, 0.0 * leaves], np.r_[0.0 * feature, value]])
            roots.append(start)
            start += len(feature) + len(value)
        self.roots_ = torch.tensor(roots)
        self.nodes_ = torch.from_numpy(np.concatenate(nodes, axis=1))
        self.numbers_ = torch.from_numpy(np.concatenate(numbers, axis=1))
        self._depth = _find_depth(self.roots_, self.nodes_)
        if self._depth == 0:
            raise JobError(
                f"LightGBM finds nothing in {len(rows)} embeddings that tells real from fake; "
                "they are too few or too alike: train the network longer, or choose head svm"
            )

    def _width(self) -> int:
        return max(self.embedding_dim, len(self.roots_))

    def _take(self, state: dict[str, Any]) -> None:
        parts: list[Any] = [state.get(name) for name in ("roots_", "nodes_", "numbers_")]
        if not all(isinstance(part, Tensor) for part in parts):
            return  # what is missing is said by torch
        roots, nodes, numbers = parts
        found = [(tuple(part.shape), part.dtype) for part in parts]
        n_trees, n_nodes = roots.numel(), numbers.numel() // 2
        whole, real = torch.int64, torch.float64
        expected = [((n_trees,), whole), ((3, n_nodes), whole), ((2, n_nodes), real)]
        if found != expected or n_trees > _MAX_TREES or n_nodes > _MAX_NODES:
            raise ValueError(
                f"its trees have shapes and types {found}; expected (T,), (3, K) and (2, K), the "
                f"last of float64, T up to {_MAX_TREES} and K up to {_MAX_NODES}"
            )
        if is_fitted(state) and not n_trees:
            raise ValueError("it has no tree")
        limits = {"roots": (roots, n_nodes), "features": (nodes[0], self.embedding_dim)}
        limits["children"] = (nodes[1:], n_nodes)
        for name, (places, end) in limits.items():
            if bool(((places < 0) | (places >= end)).any()):
                raise ValueError(f"its {name} point outside of 0 to {end - 1}")
        self._depth = _find_depth(roots, nodes)
        self.roots_, self.nodes_, self.numbers_ = map(torch.empty_like, (roots, nodes, numbers))


def _find_depth(roots: Tensor, nodes: Tensor) -> int:
    """Most splits from a root to a leaf.

    Raises:
        ValueError: If a way is too long, or has no end.
    """
    places = roots
    for depth in range(_MAX_DEPTH + 1):
        below = nodes[1:, places]
        if bool((below == places).all()):
            return depth
        places = below.unique()  # type: ignore[no-untyped-call]
    raise ValueError(f"its trees are more than {_MAX_DEPTH} splits deep, or have no end")
