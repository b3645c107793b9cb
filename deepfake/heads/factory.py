"""The heads by name, and by the tensors that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Literal, get_args

from deepfake.heads.base import Head
from deepfake.heads.linear import LinearSVM, LogisticHead
from deepfake.heads.rbf import GaussianSVM
from deepfake.heads.trees import BoostedTrees

HeadName = Literal["svm", "svm-hinge", "logistic", "rbf", "gbm"]
HEADS: tuple[HeadName, ...] = get_args(HeadName)


def make_head(head: HeadName, embedding_dim: int, C: float) -> Head:  # noqa: N803
    """An unfitted head.

    Args:
        head: Its name, one of ``HEADS``.
        embedding_dim: Width D of the embeddings.
        C: Inverse strength of regularisation.
    """
    kinds: dict[HeadName, Callable[[int, float], Head]] = {
        "svm": LinearSVM,
        "svm-hinge": partial(LinearSVM, loss="hinge"),
        "logistic": LogisticHead,
        "rbf": GaussianSVM,
        "gbm": BoostedTrees,
    }
    return kinds[head](embedding_dim, C)


def make_empty_head(names: Collection[str], embedding_dim: int) -> Head:
    """An unfitted head that can load a state: what it is, its tensors tell.

    Args:
        names: Of the tensors.
        embedding_dim: Width D of the embeddings.
    """
    if "support_" in names:
        return GaussianSVM(embedding_dim)
    if "roots_" in names:
        return BoostedTrees(embedding_dim)
    return LinearSVM(embedding_dim)  # a logistic regression is kept alike
