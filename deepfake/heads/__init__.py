"""Heads: classifiers on the embedding.

    embeddings (N, D) -> decision values (N,) -> sigmoid -> p_fake (N,)

scikit-learn or LightGBM fits; what they found is kept as tensors, so that a checkpoint holds no
pickle, and so that loading a head and scoring with it imports neither of them.
"""

from deepfake.heads.base import Head
from deepfake.heads.factory import HEADS, HeadName, make_empty_head, make_head
from deepfake.heads.linear import LinearSVM, LogisticHead
from deepfake.heads.rbf import GaussianSVM
from deepfake.heads.trees import BoostedTrees

__all__ = [
    "HEADS",
    "BoostedTrees",
    "GaussianSVM",
    "Head",
    "HeadName",
    "LinearSVM",
    "LogisticHead",
    "make_empty_head",
    "make_head",
]
