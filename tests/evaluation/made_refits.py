"""What tests of a refitted checkpoint share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from deepfake.evaluation.embeddings import embed_crops
from deepfake.evaluation.predictions import predict_set
from deepfake.evaluation.sets import read_evaluation_set
from deepfake.learning.checkpoint import Checkpoint
from deepfake.records import Aggregation
from tests.evaluation.conftest import CPU

LOOSE: dict[str, Any] = {"max_fpr": 0.25, "max_fnr": 0.25, "options": CPU}
"""What a dozen files of a class can measure."""


def scores_of(checkpoint: Checkpoint, crops: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    data = read_evaluation_set(crops, checkpoint, split=split)
    embeddings = embed_crops(crops, data.faces, checkpoint, CPU)
    scored = predict_set(data, [embeddings], checkpoint.head, Aggregation())
    return np.array([row.label for row in data.faces]), scored.p_fake
