"""Several networks side by side, or two looks of one: their embeddings joined to one.

Knows no head, no file and no Trainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Tta = Literal["flip", "none"]
"""Test-time augmentation: ``flip`` looks at every face in a mirror, too."""


def count_looks(tta: Tta) -> int:
    """How often a face passes a network."""
    return 2 if tta == "flip" else 1


class EnsembleEmbedder(nn.Module):
    """Embeddings of several networks side by side, of unit norm again.

    Args:
        members: The networks, for crops of one size.
        tta: ``flip`` puts that of the mirrored crop behind each.
    """

    def __init__(self, members: Sequence[nn.Module], tta: Tta = "none") -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.tta = tta
        # Kept in the state: the same networks with other looks are another network.
        self.register_buffer("n_looks", torch.tensor(count_looks(tta)))

    def forward(self, images: Tensor) -> Tensor:
        """Embed a batch, ``(B, 3, S, S)`` to ``(B, looks * sum of D)``."""
        looks = [images] if self.tta == "none" else [images, images.flip(-1)]
        vectors = [member(look) for member in self.members for look in looks]
        joined: Tensor = torch.cat(vectors, dim=1) / len(vectors) ** 0.5
        return joined
