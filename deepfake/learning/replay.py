"""Embeddings of a large batch with the memory of a small one.

A triplet loss needs all embeddings at once, the network's activations need not exist at once: all
chunks are embedded without a graph, the loss gives the gradient of each embedding, then each chunk
is embedded again with a graph and takes its part of that gradient. The gradient is that of the
whole batch, for the price of one more forward. Knows no loss, no label and no Trainer.

References:
    Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
    RepL4NLP 2021 (GradCache).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Forward = Callable[[Tensor], Tensor]


class Replay:
    """One batch, embedded in chunks.

    Batch normalisation sees a chunk at a time, in both passes the same; its running statistics
    take each chunk in once, in the first pass.

    Args:
        forward: Embeds ``(b, 3, S, S)`` images.
        network: Module that ``forward`` runs, for its batch normalisation.
        images: ``(B, 3, S, S)``.
        chunk_size: Most images that are embedded at a time; chunks are of equal size, give or take
            one.
        seeds: A seed for the random numbers (dropout) of each chunk, ``count_chunks`` of them.
    """

    def __init__(
        self,
        forward: Forward,
        network: nn.Module,
        images: Tensor,
        chunk_size: int,
        seeds: Sequence[int],
    ) -> None:
        self._forward, self._network, self._seeds = forward, network, list(seeds)
        self._chunks = images.tensor_split(count_chunks(len(images), chunk_size))
        with torch.no_grad():
            parts = [self._embed(i).clone() for i in range(len(self._chunks))]
        self.embeddings = torch.cat(parts).requires_grad_()

    def backward(self, context: Callable[[], AbstractContextManager[None]]) -> None:
        """Hand the gradient of ``embeddings`` on to the network's weights.

        Args:
            context: Makes the context that the first pass ran in (autocast).
        """
        gradient = self.embeddings.grad
        if gradient is None:
            return
        with _frozen_statistics(self._network):
            for i, part in enumerate(gradient.tensor_split(len(self._chunks))):
                with context():
                    embeddings = self._embed(i)
                embeddings.backward(part)  # type: ignore[no-untyped-call]

    def _embed(self, chunk: int) -> Tensor:
        torch.manual_seed(self._seeds[chunk])
        return self._forward(self._chunks[chunk])


def count_chunks(batch_size: int, chunk_size: int) -> int:
    """In how many chunks a batch is embedded."""
    return -(-batch_size // chunk_size)


@contextmanager
def _frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Normalise by the batch as in training, but leave the running statistics alone."""
    tracking = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True
