"""What training makes smaller, one objective a file; any of them is chosen by its class path."""

from deepfake.learning.losses.cross_entropy import CrossEntropyOnEmbedding
from deepfake.learning.losses.metric_learning import MetricLearningLoss
from deepfake.learning.losses.objective import Metrics, Objective
from deepfake.learning.losses.semi_hard_triplet import (
    SemiHardTripletLoss,
    TripletOutcome,
    choose_negatives,
)
from deepfake.learning.losses.weighted_sum import Term, WeightedSum

__all__ = [
    "CrossEntropyOnEmbedding",
    "MetricLearningLoss",
    "Metrics",
    "Objective",
    "SemiHardTripletLoss",
    "Term",
    "TripletOutcome",
    "WeightedSum",
    "choose_negatives",
]
