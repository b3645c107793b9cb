"""Made embeddings, and the way of a head through a file."""

from __future__ import annotations

import io

import numpy as np
import torch
from numpy.typing import NDArray

from deepfake.heads import Head, make_empty_head

Rows = NDArray[np.float64]
Truth = NDArray[np.int64]


def draw(n_real: int, n_fake: int, dim: int = 8, shift: float = 0.4) -> tuple[Rows, Truth]:
    """Two clouds that overlap, shuffled."""
    rng = np.random.default_rng((n_real, n_fake, dim))
    truth = rng.permutation(np.repeat([0, 1], [n_real, n_fake]))
    rows = rng.normal(size=(len(truth), dim))
    rows[:, 0] += shift * (2 * truth - 1)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), truth


def reload(head: Head) -> Head:
    """What a checkpoint does: save the state, read it without trusting it."""
    file = io.BytesIO()
    torch.save(head.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    fresh = make_empty_head(state, head.embedding_dim)
    fresh.load_state_dict(state)
    return fresh
