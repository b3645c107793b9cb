"""Gradient-boosted trees: LightGBM fits them, a text keeps them, torch scores with them.

LightGBM writes a model as text, and that text is what a checkpoint holds. It is read here because
LightGBM's own reader trusts what it reads, and the file may be a stranger's; because a graph can
be exported from tensors only; and because scoring then needs no LightGBM. One evaluator serves all
three. What is no tree, points out of range or is not finite is an error, never a wrong score. Only
what our own fit writes is known: splits of the form ``number <= threshold``, no missing numbers.
Knows no image and no network.

References:
    Ke et al., "LightGBM: A Highly Efficient Gradient Boosting Decision Tree", NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepfake.errors import JobError, UsageError
from deepfake.heads.base import Head, Rows, is_fitted
from deepfake.heads.calibration import Labels, Vector

N_TREES, LEARNING_RATE, MAX_LEAVES = 100, 0.1, 31
"""LightGBM's own defaults; the contest entry does not say what it took."""
MIN_LEAF_ROWS = 20
"""LightGBM's own default; a tenth of the rows where that is less."""
_MAX_BYTES, _MAX_TREES, _MAX_NODES, _MAX_DEPTH = 2**25, 10_000, 2_000_000, 256
_VERSIONS = ("v3", "v4")  # one format
# Bit 1 is a categorical split, 4 sends zeros aside. Bits 2 and 8 only say where a NaN would go.
_KNOWN_DECISIONS = (0, 2, 8, 10)


class Forest(NamedTuple):
    """Trees as arrays; a leaf is a node that leads to itself.

    Args:
        roots: ``(T,)`` node that each tree begins with.
        feature: ``(K,)`` column that a node asks for.
        threshold: ``(K,)`` numbers up to it go left.
        left: ``(K,)`` next node.
        right: ``(K,)`` next node.
        value: ``(K,)`` what a leaf adds; 0 elsewhere.
        depth: Most splits from a root to a leaf.
    """

    roots: Tensor
    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    value: Tensor
    depth: int


class BoostedTrees(Head):
    """LightGBM's boosted trees, ``(N, D)`` embeddings to ``(N,)`` probabilities of fake.

    A decision value is LightGBM's raw score, the log-odds on training rows; trees learn those by
    heart, so that the sigmoid is fitted on held-out rows as for any other head. An embedding
    with a NaN has no decision: the answer is NaN, too.

    Args:
        embedding_dim: Width D of the embeddings.
        C: Inverse strength of regularisation: ``lambda_l2 = 1 / C``, as of a logistic regression.

    Attributes:
        model_: ``(L,)`` uint8, LightGBM's text.
    """

    piecewise = True
    model_: Tensor
    _roots: Tensor
    _feature: Tensor
    _threshold: Tensor
    _left: Tensor
    _right: Tensor
    _value: Tensor

    def __init__(self, embedding_dim: int = 512, C: float = 2.0) -> None:  # noqa: N803
        super().__init__(embedding_dim, C)
        self.register_buffer("model_", torch.zeros(0, dtype=torch.uint8))
        self._plant(None)

    @property
    def text(self) -> str:
        """LightGBM's text; ``lightgbm.Booster(model_str=text)`` reads it, too."""
        return self.model_.numpy().tobytes().decode("ascii")

    def check_fit(self, n_rows: int) -> None:
        """Ask for LightGBM."""
        if find_spec("lightgbm") is None:
            raise UsageError(
                "head gbm is fitted by LightGBM, not installed here: pip install 'deepfake[gbm]'"
            )

    def decision_function(self, embeddings: Tensor) -> Tensor:
        """Decision values: the sum of the leaves that a row falls into."""
        rows = embeddings.double()
        node = self._roots.expand(rows.shape[0], -1)  # (N, T); a traced graph has no len
        for _ in range(self._depth):
            goes_left = rows.gather(1, self._feature[node]) <= self._threshold[node]
            node = torch.where(goes_left, self._left[node], self._right[node])
        return torch.where(rows.isnan().any(1), torch.nan, self._value[node].sum(1))

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
        text = estimator.model_to_string()
        forest = read_forest(text, self.embedding_dim)
        if forest.depth == 0:
            raise JobError(
                f"LightGBM finds nothing in {len(rows)} embeddings that tells real from fake; "
                "they are too few or too alike: train the network longer, or choose head svm"
            )
        self.model_ = torch.frombuffer(bytearray(text, "ascii"), dtype=torch.uint8)
        self._plant(forest)

    def _width(self) -> int:
        return max(self.embedding_dim, len(self._roots))

    def _take(self, state: dict[str, Any]) -> None:
        model = state.get("model_")
        if not isinstance(model, Tensor):
            return  # torch says so
        if model.dtype != torch.uint8 or model.ndim != 1 or len(model) > _MAX_BYTES:
            raise ValueError(
                f"model_ has shape {tuple(model.shape)} and type {model.dtype}; expected up to "
                f"{_MAX_BYTES} bytes"
            )
        if len(model) == 0 and is_fitted(state):
            raise ValueError("model_ is empty")
        text = model.numpy().tobytes()
        self._plant(read_forest(text, self.embedding_dim) if text else None)
        self.model_ = torch.empty_like(model)

    def _plant(self, forest: Forest | None) -> None:
        """Keep the arrays beside the text; they are not saved."""
        if forest is None:
            none, nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64)
            forest = Forest(none, none, nothing, none, none, nothing, 0)
        for name, array in zip(Forest._fields[:-1], forest[:-1], strict=True):
            self.register_buffer(f"_{name}", array, persistent=False)
        self._depth = forest.depth


def read_forest(text: str | bytes, n_features: int) -> Forest:
    """Read LightGBM's text of a binary classifier.

    Args:
        text: The model; nothing is assumed of it.
        n_features: Columns of the rows that it will see.

    Raises:
        ValueError: If it is no such text, or has what is not known here; it says where and what.
    """
    try:
        text = text.decode("ascii") if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise ValueError(f"the text of the trees is no ASCII: {error}") from error
    body, end, _ = text.partition("\nend of trees")
    if not body.startswith("tree\n") or not end:
        raise ValueError("the text of the trees has no beginning or no end")
    head, *parts = body.split("\nTree=")
    _check_head(_fields(head), n_features)
    if not 1 <= len(parts) <= _MAX_TREES:
        raise ValueError(f"it has {len(parts)} trees; expected 1 to {_MAX_TREES}")
    trees: list[dict[str, NDArray[Any]]] = []
    depth = n_nodes = 0
    for number, part in enumerate(parts):
        try:
            tree, tree_depth = _read_tree(_fields(part), n_features)
        except KeyError as error:
            raise ValueError(f"tree {number}: it has no {error.args[0]}") from error
        except (ValueError, OverflowError) as error:
            raise ValueError(f"tree {number}: {error}") from error
        # Nodes are numbered through over all trees.
        tree["left"] += n_nodes
        tree["right"] += n_nodes
        tree["roots"] = np.array([n_nodes])
        n_nodes += len(tree["left"])
        if n_nodes > _MAX_NODES:
            raise ValueError(f"it has more than {_MAX_NODES} nodes")
        depth = max(depth, tree_depth)
        trees.append(tree)
    arrays = {
        name: torch.from_numpy(np.concatenate([tree[name] for tree in trees]))
        for name in Forest._fields[:-1]
    }
    return Forest(**arrays, depth=depth)


def _fields(part: str) -> dict[str, str]:
    """The lines ``name=value`` of a part of the text."""
    lines = (line.partition("=") for line in part.splitlines())
    return {name: value for name, _, value in lines}


def _check_head(head: dict[str, str], n_features: int) -> None:
    expected = {
        "num_class": ("1",),
        "num_tree_per_iteration": ("1",),
        "max_feature_idx": (str(n_features - 1),),
        "version": _VERSIONS,
    }
    for name, words in expected.items():
        if head.get(name) not in words:
            raise ValueError(f"{name} is {head.get(name)!r}; expected {' or '.join(words)}")
    if head.get("objective", "").split(" ")[0] != "binary":
        raise ValueError(f"objective is {head.get('objective')!r}; expected binary")
    if "average_output" in head:
        raise ValueError("its trees are averaged (a random forest); expected boosted trees")


def _read_tree(fields: dict[str, str], n_features: int) -> tuple[dict[str, NDArray[Any]], int]:
    """Arrays of one tree, its inner nodes first and its leaves behind them, and its depth."""
    n_leaves = int(fields["num_leaves"])
    if not 1 <= n_leaves <= _MAX_NODES:
        raise ValueError(f"num_leaves is {n_leaves}; expected 1 to {_MAX_NODES}")
    for name, what in (("num_cat", "categorical splits"), ("is_linear", "linear leaves")):
        if fields.get(name, "0") != "0":
            raise ValueError(f"it has {what}, which are not known here")
    n_splits = n_leaves - 1
    value = _numbers(fields, "leaf_value", n_leaves, float)
    threshold = _numbers(fields, "threshold", n_splits, float)
    names = ("split_feature", "decision_type", "left_child", "right_child")
    feature, decision, *sides = (_numbers(fields, name, n_splits, int) for name in names)
    if n_splits and not (feature.min() >= 0 and feature.max() < n_features):
        raise ValueError(f"it asks for features outside of 0 to {n_features - 1}")
    if not np.isin(decision, _KNOWN_DECISIONS).all():
        raise ValueError("its decision_type holds more than plain thresholds")
    children = np.stack(sides)  # (2, K); a leaf is written as -1 - its number
    inner = np.where(children < n_splits, children, -1 - n_leaves)  # which is no leaf
    children = np.where(inner < 0, n_splits + ~inner, inner)
    # Every node but the root has one parent, which comes before it: no cycle, and no way around.
    if sorted(children.ravel().tolist()) != list(range(1, n_splits + n_leaves)):
        raise ValueError("its children are no tree: one is missing, doubled or out of range")
    if (children <= np.arange(n_splits)).any():
        raise ValueError("its children are no tree: one comes before its parent")
    depth_of = [0] * (n_splits + n_leaves)
    for node, (a, b) in enumerate(children.T.tolist()):
        depth_of[a] = depth_of[b] = depth_of[node] + 1
    if max(depth_of) > _MAX_DEPTH:
        raise ValueError(f"it is {max(depth_of)} splits deep; expected up to {_MAX_DEPTH}")
    leaves = np.arange(n_splits, n_splits + n_leaves)
    arrays = {
        "feature": np.concatenate([feature, np.zeros(n_leaves, dtype=np.int64)]),
        "threshold": np.concatenate([threshold, np.zeros(n_leaves)]),
        "left": np.concatenate([children[0], leaves]),
        "right": np.concatenate([children[1], leaves]),
        "value": np.concatenate([np.zeros(n_splits), value]),
    }
    return arrays, max(depth_of)


def _numbers(
    fields: dict[str, str], name: str, count: int, kind: Callable[[str], float]
) -> NDArray[Any]:
    """Finite numbers of one line; ``KeyError`` if it is missing."""
    words = fields[name].split() if count else []
    if len(words) != count:
        raise ValueError(f"{name} has {len(words)} numbers; expected {count}")
    numbers = np.array([kind(word) for word in words], dtype=np.int64 if kind is int else float)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} holds numbers that are not finite")
    return numbers
