"""What training makes smaller, one objective a file; any of them is chosen by its class path."""

from deepfake.learning.losses.alignment_uniformity import Alignment as Alignment
from deepfake.learning.losses.alignment_uniformity import Uniformity as Uniformity
from deepfake.learning.losses.cross_entropy import (
    CrossEntropyOnEmbedding as CrossEntropyOnEmbedding,
)
from deepfake.learning.losses.metric_learning import MetricLearningLoss as MetricLearningLoss
from deepfake.learning.losses.objective import Metrics as Metrics
from deepfake.learning.losses.objective import Objective as Objective
from deepfake.learning.losses.semi_hard_triplet import SemiHardTripletLoss as SemiHardTripletLoss
from deepfake.learning.losses.semi_hard_triplet import TripletOutcome as TripletOutcome
from deepfake.learning.losses.semi_hard_triplet import choose_negatives as choose_negatives
from deepfake.learning.losses.weighted_sum import Term as Term
from deepfake.learning.losses.weighted_sum import WeightedSum as WeightedSum
