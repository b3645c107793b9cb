"""Training faces that everything is alike, for tests that are about other things."""

from __future__ import annotations

from dataclasses import replace

from deepfake.faces.quality import TrainingFaces
from deepfake.learning.checkpoint import Checkpoint


def open_ranges(faces: TrainingFaces) -> TrainingFaces:
    """The same faces, as if they had been of every kind: nothing is remarked."""
    ranges = {name: (0.0, values[1], 1e9) for name, values in faces.percentiles.items()}
    return replace(faces, percentiles=ranges)


def without_remarks(checkpoint: Checkpoint) -> Checkpoint:
    assert checkpoint.training_faces is not None
    return replace(checkpoint, training_faces=open_ranges(checkpoint.training_faces))
