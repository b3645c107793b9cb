"""Gradient-boosted trees: LightGBM fits them, torch evaluates them, a text keeps them.

LightGBM writes a model as text. That text is what a checkpoint holds; it is read here without
LightGBM and without trusting it: a tree that is none, an index out of range or a number that is
not finite is an error, never a wrong score. Only splits of the form ``number <= threshold`` are
known. Knows no image and no network.

References:
    Ke et al., "LightGBM: A Highly Efficient Gradient Boosting Decision Tree", NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepfake.errors import JobError, UsageError
from deepfake.heads.calibration import (
    Head,
    Rows,
    Truth,
    Vector,
    fit_sigmoid,
    hold_out,
    is_fitted,
)

N_TREES, LEARNING_RATE, MAX_LEAVES = 100, 0.1, 31
"""LightGBM's own defaults; the entry does not say what it took."""
MIN_LEAF_ROWS = 20
"""LightGBM's own default; a tenth of the rows where that is less."""
_MAX_BYTES, _MAX_TREES, _MAX_NODES, _MAX_DEPTH = 2**25, 10_000, 2_000_000, 256
_NEAR_ZERO = float(np.float32(1e-35))  # what LightGBM takes for a zero
_VERSIONS = ("v3", "v4")  # one format
_CATEGORICAL, _DEFAULT_LEFT, _MISSING_IS_ZERO = 1, 2, 4  # of decision_type; 8: missing is NaN
_KNOWN_DECISIONS = 15


class Forest(NamedTuple):
    """Trees as arrays; a leaf is a node that leads to itself.

    Args:
        roots: ``(T,)`` node that each tree begins with.
        feature: ``(K,)`` column that a node asks for.
        threshold: ``(K,)`` numbers up to it go left.
        left: ``(K,)`` next node.
        right: ``(K,)`` next node.
        zero_goes: ``(K,)`` where a zero goes: 1 left, -1 right, 0 as any other number.
        value: ``(K,)`` what a leaf adds; 0 elsewhere.
        depth: Most splits from a root to a leaf.
    """

    roots: Tensor
    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    zero_goes: Tensor
    value: Tensor
    depth: int


class BoostedTrees(Head):
    """LightGBM's boosted trees, ``(N, D)`` embeddings to ``(N,)`` probabilities of fake.

    A decision value is LightGBM's raw score, the log-odds on training rows; trees learn those by
    heart, so that the sigmoid is fitted on held-out rows as for any other machine. An embedding
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
    _zero_goes: Tensor
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

    def decide(self, embeddings: Tensor) -> Tensor:
        """Decision values: the sum of the leaves that a row falls into."""
        rows = embeddings.double()
        node = self._roots.expand(rows.shape[0], -1)  # a traced graph has no len
        for _ in range(self._depth):
            number = rows.gather(1, self._feature[node])
            goes_left = number <= self._threshold[node]
            if self._asks_for_zero:
                zero_goes = self._zero_goes[node]
                special = (zero_goes != 0) & (number.abs() <= _NEAR_ZERO)
                goes_left = torch.where(special, zero_goes > 0, goes_left)
            node = torch.where(goes_left, self._left[node], self._right[node])
        total = self._value[node].sum(1)
        return torch.where(rows.isnan().any(1), torch.nan, total)

    def _learn(self, rows: Rows, truth: Truth, groups: Sequence[str] | None) -> tuple[float, float]:
        def decide(train: NDArray[np.int64], test: NDArray[np.int64]) -> Vector:
            decisions: Vector = _boost(rows[train], truth[train], self.C).predict(
                rows[test], raw_score=True, num_threads=1
            )
            return decisions

        text = _boost(rows, truth, self.C).model_to_string()
        forest = read_forest(text, self.embedding_dim)
        if forest.depth == 0:
            raise JobError(
                f"LightGBM finds nothing in {len(rows)} embeddings that tells real from fake; "
                "they are too few or too alike: train the network longer, or choose head svm"
            )
        held_out = hold_out(truth, groups, decide)
        self.model_ = torch.frombuffer(bytearray(text, "ascii"), dtype=torch.uint8)
        self._plant(forest)
        return fit_sigmoid(held_out, truth)

    def _numbers_a_row(self) -> int:
        return max(1, len(self._roots))

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
            forest = Forest(none, none, nothing, none, none, none, nothing, 0)
        for name, array in zip(Forest._fields[:-1], forest[:-1], strict=True):
            self.register_buffer(f"_{name}", array, persistent=False)
        self._depth = forest.depth
        self._asks_for_zero = bool(forest.zero_goes.any())


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
    n_leaves = int(_of(fields, "num_leaves"))
    if not 1 <= n_leaves <= _MAX_NODES:
        raise ValueError(f"num_leaves is {n_leaves}; expected 1 to {_MAX_NODES}")
    for name, what in (("num_cat", "categorical splits"), ("is_linear", "linear leaves")):
        if fields.get(name, "0") != "0":
            raise ValueError(f"it has {what}, which are not known here")
    n_splits = n_leaves - 1
    value = _floats(fields, "leaf_value", n_leaves)
    threshold = _floats(fields, "threshold", n_splits)
    names = ("split_feature", "decision_type", "left_child", "right_child")
    feature, decision, left, right = (_ints(fields, name, n_splits) for name in names)
    if n_splits and not (feature.min() >= 0 and feature.max() < n_features):
        raise ValueError(f"it asks for features outside of 0 to {n_features - 1}")
    if ((decision < 0) | (decision > _KNOWN_DECISIONS) | (decision & _CATEGORICAL != 0)).any():
        raise ValueError("its decision_type holds more than numbers and missing numbers")
    children = np.stack([left, right])
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
    nothing = np.zeros(n_leaves, dtype=np.int64)
    to_left = np.where(decision & _DEFAULT_LEFT, 1, -1)
    is_special = (decision & _MISSING_IS_ZERO) != 0
    arrays = {
        "feature": np.concatenate([feature, nothing]),
        "threshold": np.concatenate([threshold, np.zeros(n_leaves)]),
        "left": np.concatenate([children[0], leaves]),
        "right": np.concatenate([children[1], leaves]),
        "zero_goes": np.concatenate([np.where(is_special, to_left, 0), nothing]),
        "value": np.concatenate([np.zeros(n_splits), value]),
    }
    return arrays, max(depth_of)


def _of(fields: dict[str, str], name: str) -> str:
    if name not in fields:
        raise ValueError(f"it has no {name}")
    return fields[name]


def _words(fields: dict[str, str], name: str, count: int) -> list[str]:
    words = _of(fields, name).split() if count else []
    if len(words) != count:
        raise ValueError(f"{name} has {len(words)} numbers; expected {count}")
    return words


def _ints(fields: dict[str, str], name: str, count: int) -> NDArray[np.int64]:
    return np.array([int(word) for word in _words(fields, name, count)], dtype=np.int64)


def _floats(fields: dict[str, str], name: str, count: int) -> Vector:
    numbers = np.array([float(word) for word in _words(fields, name, count)], dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} holds numbers that are not finite")
    return numbers


def _boost(rows: Rows, truth: Truth, c: float) -> Any:
    """LightGBM's booster; one thread and one seed, so that any machine gives the same trees."""
    try:
        import lightgbm
    except OSError as error:
        raise UsageError(f"LightGBM is installed but does not start: {error}") from error
    settings = {
        "objective": "binary",
        "learning_rate": LEARNING_RATE,
        "num_leaves": MAX_LEAVES,
        "min_data_in_leaf": max(1, min(MIN_LEAF_ROWS, len(rows) // 10)),
        "lambda_l2": 1 / c,
        "seed": 0,
        "deterministic": True,
        "force_col_wise": True,
        "num_threads": 1,
        "verbosity": -1,
    }
    return lightgbm.train(settings, lightgbm.Dataset(rows, truth), N_TREES)
