"""How much of a batch's gradient is signal: semi-hard triplets beside cross-entropy.

For each state of the network and each batch size, the gradients of many batches are taken with
respect to the weight of the embedder's head alone, the last layer that both losses share; the
backbone gets none. At the start that head is untrained, on a backbone with the weights given. The
linear classifier of cross-entropy is a new, untrained one in every state, the same for all batches
of a line: its gradients share its direction. Nothing is trained here. Printed is the
*agreement* of two batches, the mean inner product of their gradients over their mean squared
length: 1 if all batches ask for the same step, 0 if what one asks for says nothing about the next.
It is, in expectation, the share of the squared length that the mean gradient has. Both losses see
the same batches, embedded once, dropout and augmentation included. Under "shuffled" the labels of
each batch are shuffled first: what is left then says nothing about the classes.
"Apart" is how far the classes are, ``|mean(fake) - mean(real)|^2`` of unit embeddings, less the
same of shuffled labels.

    python experiments/gradient_noise.py --data CROPS --pretrained WEIGHTS [--checkpoint M.ckpt]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from deepfake.learning.checkpoint import load_checkpoint
from deepfake.learning.crops import Sample
from deepfake.learning.data import CropDataModule
from deepfake.learning.embedder import EmbeddingModel
from deepfake.learning.losses import CrossEntropyOnEmbedding, SemiHardTripletLoss
from deepfake.training.run import read_data_module

REPO = Path(__file__).resolve().parents[1]
CONFIGS = [str(REPO / name) for name in ("configs/dacon.yaml", "experiments/gap.yaml")]
BACKBONE = "mobilenetv2_100"


def main() -> int:
    """Print one line for each state and batch size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="crop folder")
    parser.add_argument("--pretrained", required=True, help=f"weights of {BACKBONE}: the start")
    parser.add_argument("--checkpoint", type=Path, nargs="*", default=[], help="later states")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[24, 96])
    parser.add_argument("--images", type=int, default=4800, help="for each line")
    options = parser.parse_args()
    data = read_data_module(CONFIGS, str(options.data), seed=0)
    print(
        f"{'state':<28}{'batch':>6}{'batches':>9}{'apart':>9}"
        f"{'triplet':>9}{'shuffled':>10}{'cross-entropy':>15}{'shuffled':>10}"
    )
    for checkpoint in [None, *options.checkpoint]:
        for size in options.batch_sizes:
            torch.manual_seed(0)
            embedder = (
                load_checkpoint(checkpoint).embedder
                if checkpoint
                else EmbeddingModel(
                    BACKBONE, data.datasets["train"].size, 512, 0.4, options.pretrained
                )
            )
            batches = take(data, size, options.images)
            apart, (triplet, noise, entropy, chance) = measure(embedder.train(), batches)
            name = str(checkpoint)[-27:] if checkpoint else "start"
            print(
                f"{name:<28}{size:>6}{len(batches):>9}{apart:>9.4f}"
                f"{triplet:>9.3f}{noise:>10.3f}{entropy:>15.3f}{chance:>10.3f}",
                flush=True,
            )
    return 0


def take(data: CropDataModule, size: int, images: int) -> list[Sample]:
    """Augmented training batches of a size, the same crops for every size."""
    data.batch_size = size
    batches: list[Sample] = []
    for batch in data.train_dataloader():
        batches.append(batch)
        if len(batches) * size >= images:
            break
    return batches


def measure(embedder: EmbeddingModel, batches: list[Sample]) -> tuple[float, list[float]]:
    """Distance of the classes; agreement of either loss, with true and with shuffled labels."""
    embedder.backbone.requires_grad_(False)
    embedder.projection.requires_grad_(True)
    weight = embedder.projection.weight
    losses: list[nn.Module] = [
        SemiHardTripletLoss(margin=1.0),
        CrossEntropyOnEmbedding().build(embedder.projection.out_features),
    ]
    sums = [torch.zeros_like(weight) for _ in range(4)]
    squares = [0.0] * 4
    rows, labels = [], []
    order = torch.Generator().manual_seed(0)
    for batch in batches:
        embeddings, truth = embedder(batch["image"]), batch["label"]
        shuffled = truth[torch.randperm(len(truth), generator=order)]
        for place in range(4):
            value: Tensor = losses[place // 2](embeddings, shuffled if place % 2 else truth)
            (gradient,) = torch.autograd.grad(value, weight, retain_graph=True)
            sums[place] += gradient
            squares[place] += float(gradient.square().sum())
        rows.append(embeddings.detach())
        labels.append(truth)
    n = len(batches)
    agreements = [
        (float(total.square().sum()) - square) / (n * (n - 1)) / (square / n)
        for total, square in zip(sums, squares, strict=True)
    ]
    together, truths = torch.cat(rows), torch.cat(labels)
    apart = distance(together, truths) - distance(together, truths[torch.randperm(len(truths))])
    return apart, agreements


def distance(rows: Tensor, labels: Tensor) -> float:
    """Squared distance of the means of both classes."""
    return float((rows[labels == 1].mean(dim=0) - rows[labels == 0].mean(dim=0)).square().sum())


if __name__ == "__main__":
    sys.exit(main())
