"""Heads: classifiers on the embedding.

    embeddings (N, D) -> decision values (N,) -> sigmoid -> p_fake (N,)

scikit-learn or LightGBM fits; what they found is kept as tensors, so that a checkpoint holds no
pickle, and so that loading a head and scoring with it imports neither of them.
"""

from deepfake.heads.base import MIN_PER_CLASS as MIN_PER_CLASS
from deepfake.heads.base import Head as Head
from deepfake.heads.factory import HEADS as HEADS
from deepfake.heads.factory import HeadName as HeadName
from deepfake.heads.factory import make_empty_head as make_empty_head
from deepfake.heads.factory import make_head as make_head
from deepfake.heads.linear import LinearSVM as LinearSVM
from deepfake.heads.linear import LogisticHead as LogisticHead
from deepfake.heads.mean import MeanHead as MeanHead
from deepfake.heads.rbf import GaussianSVM as GaussianSVM
from deepfake.heads.trees import BoostedTrees as BoostedTrees
