"""Meso4 and MesoInception-4 of 2018 on crops of ours: the peers of the comparison table.

    python experiments/release/peers.py CROPS [CROPS ...] --data $DEEPFAKE_DATA

AUC of every crop folder by every set of published weights, with intervals from drawing whole
groups, as Markdown. Both networks saw faces of 256 px cut out of videos; they get our crops
resized to that. Their output is the probability of *real*. Needs ``pip install h5py``.

References:
    Afchar, Nozick, Yamagishi, Echizen: MesoNet, a compact facial video forgery detection network,
    WIFS 2018; weights of github.com/DariusAf/MesoNet.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from deepfake.dataset.manifest import read_manifest
from deepfake.evaluation.bootstrap import bootstrap_metrics
from deepfake.learning.crops import CropDataset

REPO = Path(__file__).resolve().parents[2]
SIZE = 256
PEERS = ("Meso4_DF", "Meso4_F2F", "MesoInception_DF", "MesoInception_F2F")


class Convolution(nn.Sequential):
    """A convolution with a ReLU; the side of the image stays."""

    def __init__(self, n_in: int, n_out: int, side: int, dilation: int = 1) -> None:
        padding = side // 2 * dilation
        super().__init__(
            nn.Conv2d(n_in, n_out, side, padding=padding, dilation=dilation), nn.ReLU()
        )


class Inception(nn.Module):
    """Four views of the image, the last two of them dilated, one beside the other."""

    def __init__(self, n_in: int, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        one, *others = widths
        self.views = nn.ModuleList([Convolution(n_in, one, 1)])
        for dilation, width in enumerate(others, start=1):
            first = Convolution(n_in, width, 1)
            self.views.append(nn.Sequential(first, Convolution(width, width, 3, dilation)))

    def forward(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, sum of widths, H, W)``."""
        return torch.cat([view(images) for view in self.views], dim=1)


class MesoNet(nn.Module):
    """Meso4, or MesoInception-4.

    Args:
        weights: The authors' file of Keras.
    """

    def __init__(self, weights: Path) -> None:
        super().__init__()
        if weights.stem.startswith("Meso4"):
            layers: list[nn.Module] = [Convolution(3, 8, 3), Convolution(8, 8, 5)]
            widths = (8, 8)
        else:
            layers = [Inception(3, (1, 4, 4, 2)), Inception(11, (2, 4, 4, 2))]
            widths = (11, 12)
        layers += [Convolution(widths[1], 16, 5), Convolution(16, 16, 5)]
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(nn.BatchNorm2d(n, eps=1e-3) for n in (*widths, 16, 16))
        self.hidden, self.last = nn.Linear(1024, 16), nn.Linear(16, 1)
        self._load(weights)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Log-odds of fake, ``(B,)``, of ``(B, 3, 256, 256)`` RGB in [0, 1]."""
        for layer, norm, pool in zip(self.layers, self.norms, (2, 2, 2, 4), strict=True):
            images = functional.max_pool2d(norm(layer(images)), pool)
        # Keras flattens with the channels last.
        features = self.hidden(images.permute(0, 2, 3, 1).flatten(1))
        odds: Tensor = -self.last(functional.leaky_relu(features, 0.1))[:, 0]
        return odds

    def _load(self, path: Path) -> None:
        with h5py.File(path) as file:
            layers = {name: dict(_arrays(file[name])) for name in file if len(file[name])}
        order = sorted(layers, key=lambda name: int(name.rsplit("_", 1)[1]))
        kinds: dict[str, list[nn.Module]] = {
            "conv2d": [m for m in self.layers.modules() if isinstance(m, nn.Conv2d)],
            "batch": list(self.norms),
            "dense": [self.hidden, self.last],
        }
        for kind, modules in kinds.items():
            names = [name for name in order if name.startswith(kind)]
            for name, module in zip(names, modules, strict=True):
                own = layers[name]
                state = {"bias": own.get("bias", own.get("beta"))}
                if kind == "conv2d":
                    state["weight"] = own["kernel"].transpose(3, 2, 0, 1)
                elif kind == "dense":
                    state["weight"] = own["kernel"].T
                else:
                    state["weight"] = own["gamma"]
                    state["running_mean"] = own["moving_mean"]
                    state["running_var"] = own["moving_variance"]
                    state["num_batches_tracked"] = np.array(0)
                module.load_state_dict(
                    {key: torch.from_numpy(np.ascontiguousarray(v)) for key, v in state.items()}
                )


def _arrays(group: h5py.Group) -> Iterator[tuple[str, NDArray[np.float32]]]:
    found: list[tuple[str, NDArray[np.float32]]] = []
    group.visititems(
        lambda name, item: (
            found.append((name.rsplit("/", 1)[-1].split(":")[0], item[()]))
            if isinstance(item, h5py.Dataset)
            else None
        )
    )
    return iter(found)


@torch.inference_mode()
def measure(network: MesoNet, root: Path) -> str:
    """AUC of one crop folder, by file (the mean of its crops), as a cell."""
    manifest = read_manifest(root)
    dataset = CropDataset(root, manifest.rows, manifest.spec.size)
    scores: dict[str, list[float]] = {}
    for start in range(0, len(dataset), 64):
        rows = manifest.rows[start : start + 64]
        images = np.stack([cv2.resize(dataset.read(row), (SIZE, SIZE)) for row in rows])
        odds = network(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
        for row, score in zip(rows, torch.sigmoid(odds.double()).tolist(), strict=True):
            scores.setdefault(row.source, []).append(score)
    by_source = {row.source: row for row in manifest.rows}
    labels = np.array([by_source[source].label for source in scores], dtype=np.int64)
    groups = [by_source[source].group for source in scores]
    values = np.array([np.mean(own) for own in scores.values()])
    auc = bootstrap_metrics(labels, values, groups, threshold=0.5)["auc"]
    return f"{auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}]"


def main() -> None:
    """Print the table."""
    here = os.environ.get("DEEPFAKE_DATA", REPO.parent / "shared" / "data")
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("crops", type=Path, nargs="+", help="crop folders")
    parser.add_argument("--data", type=Path, default=Path(here), help="folder of shared data")
    options = parser.parse_args()
    print("| network | " + " | ".join(root.name for root in options.crops) + " |")
    print("|---" * (1 + len(options.crops)) + "|")
    for name in PEERS:
        network = MesoNet(options.data / "weights" / "mesonet" / f"{name}.h5")
        cells = [measure(network, root) for root in options.crops]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
