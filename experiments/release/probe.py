r"""What networks know before they learn from forgeries: a linear classifier on what they hold.

    python experiments/release/probe.py --data $DEEPFAKE_DATA --output release/

Mean and standard deviation of every channel of some stages, of ImageNet networks as they come and
of the detector in the box, under a logistic regression (C = 0.1, features standardised). Columns:
the half of gan140k that training may see, in ten folds of pairs (not of the detector in the box,
which has seen it); its 50 pictures of the validation split, from the other 200; ciplab_dev in ten
folds, which is how well it can be told by who trains on it; and ciplab_dev from the self-blends
that runs are chosen by. No test set is opened. The crops are those that ``run.py`` makes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from deepfake.dataset.manifest import read_manifest
from deepfake.evaluation.bootstrap import bootstrap_metrics
from deepfake.learning.crops import CropDataset
from deepfake.learning.embedder import EmbeddingModel
from deepfake.records import EVEN_ODDS
from experiments.release.run import REPO, SIZE, WEIGHTS, Study

FOLDS, BATCH = 10, 16
Stages: TypeAlias = dict[str, NDArray[np.float32]]
"""Features ``(N, 2 C)`` by the name of their stage."""
NETWORKS = {
    "EfficientNet-Lite0": ("tf_efficientnet_lite0", (2, 3, 4)),
    "EfficientNet-Lite2": ("tf_efficientnet_lite2", (2, 3, 4)),
    "DINOv2 ViT-S/14": ("vit_small_patch14_dinov2", (5, 8, 11)),
    "the detector in the box": ("tf_efficientnet_lite0", (2, 3, 4)),
}


def main() -> None:
    """Print the table."""
    here = os.environ.get("DEEPFAKE_DATA", REPO.parent / "shared" / "data")
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=Path(here), help="folder of shared data")
    parser.add_argument("--output", type=Path, required=True, help="folder of run.py")
    options = parser.parse_args()
    study = Study(options.data.resolve(), options.output.resolve())
    crops = {name: study.crop(name, []) for name in ("train", "ciplab_dev", "self-blends")}
    sets = {name: choose(root, name) for name, root in crops.items()}
    synthesis, splices, blends = (Labels(sets[name]) for name in sets)
    print(
        "| network | stage | synthesis, folds | synthesis, 50 | ciplab_dev, folds | from blends |"
    )
    print("|---|---|---|---|---|---|")
    for title, (backbone, stages) in NETWORKS.items():
        shipped = title == "the detector in the box"
        start = "default" if shipped else str(options.data / "weights" / WEIGHTS[backbone])
        model = EmbeddingModel(backbone, SIZE, pretrained=start).eval()
        found = {name: extract(model, dataset, stages) for name, dataset in sets.items()}
        joined = " + ".join(found["train"])
        for some in found.values():
            some[joined] = np.concatenate(list(some.values()), axis=1)
        for stage in found["train"]:
            own, foreign, made = (found[name][stage] for name in sets)
            cells = [
                "seen" if shipped else synthesis.cross_validate(own),
                synthesis.validate(own),
                splices.cross_validate(foreign),
                splices.measure(fit(made, blends.y).predict_proba(foreign)[:, 1]),
            ]
            print(f"| {title} | {stage} | " + " | ".join(cells) + " |", flush=True)


def choose(root: Path, name: str) -> CropDataset:
    """The crops of one set; of ``train`` the synthetic ones and the reals beside them."""
    manifest = read_manifest(root)
    rows = [row for row in manifest.rows if name != "train" or row.method == "stylegan"]
    return CropDataset(root, rows, manifest.spec.size)


class Labels:
    """Labels ``(N,)``, groups and splits of a set, and how scores of it are measured."""

    def __init__(self, dataset: CropDataset) -> None:
        self.y = dataset.labels
        self.groups = [row.group for row in dataset.rows]
        self.validation = np.array([row.split == "validation" for row in dataset.rows])

    def measure(self, scores: NDArray[np.float64], chosen: NDArray[np.bool_] | None = None) -> str:
        """AUC with its interval, from drawing whole groups."""
        taken = np.flatnonzero(np.ones(len(self.y), bool) if chosen is None else chosen)
        groups = [self.groups[number] for number in taken]
        auc = bootstrap_metrics(self.y[taken], scores, groups, EVEN_ODDS)["auc"]
        return f"{auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}]"

    def cross_validate(self, features: NDArray[np.float32]) -> str:
        """From folds that share no group."""
        scores = cross_val_predict(
            make_classifier(),
            features,
            self.y,
            groups=self.groups,
            cv=GroupKFold(FOLDS),
            method="predict_proba",
        )
        return self.measure(scores[:, 1])

    def validate(self, features: NDArray[np.float32]) -> str:
        """The validation split, from the others."""
        there = self.validation
        model = fit(features[~there], self.y[~there])
        return self.measure(model.predict_proba(features[there])[:, 1], there)


def make_classifier() -> Pipeline:
    """A linear classifier on features of any scale."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))


def fit(features: NDArray[np.float32], labels: NDArray[np.int64]) -> Pipeline:
    """The same, fitted."""
    return make_classifier().fit(features, labels)


@torch.inference_mode()
def extract(model: EmbeddingModel, dataset: CropDataset, stages: tuple[int, ...]) -> Stages:
    """Mean and standard deviation over all places of some stages' channels."""
    backbone: nn.Module = model.backbone.to(memory_format=torch.channels_last)
    look: Callable[..., list[Tensor]] = backbone.forward_intermediates  # type: ignore[assignment]
    found: dict[str, list[NDArray[np.float32]]] = {}
    for images in _batches(dataset):
        inputs = (images.float() / 255 - model.mean) / model.std
        maps = look(inputs, indices=list(stages), intermediates_only=True)
        for stage, features in zip(stages, maps, strict=True):  # (B, C, H, W)
            both = torch.cat([features.mean((2, 3)), features.std((2, 3))], dim=1)
            found.setdefault(str(stage), []).append(both.numpy())
    return {stage: np.concatenate(parts) for stage, parts in found.items()}


def _batches(dataset: CropDataset) -> Iterator[Tensor]:
    rows = dataset.rows
    for start in range(0, len(rows), BATCH):
        crops = [dataset.read(rows[i]) for i in range(start, min(start + BATCH, len(rows)))]
        yield torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)


if __name__ == "__main__":
    main()
