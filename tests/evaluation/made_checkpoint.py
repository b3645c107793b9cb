"""A finished checkpoint without a training: a random network, a head fitted on a crop folder."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from deepfake.dataset.manifest import read_manifest
from deepfake.faces.extraction import decode_crop
from deepfake.faces.quality import TrainingFaces
from deepfake.heads import LinearSVM
from deepfake.learning.checkpoint import KEY, make_info
from deepfake.learning.checkpoint_file import seal
from deepfake.learning.embedder import EmbeddingModel
from deepfake.records import Limits, Recipe
from deepfake.storage import write_atomic
from tests.made_limits import ONE_CUT, make_verdict_info
from tests.made_quality import open_ranges

BACKBONE, DIM = "test_efficientnet", 16


def write_checkpoint(
    path: Path,
    crops: Path,
    *,
    limits: Limits = ONE_CUT,
    manifest_sha256: str | None = None,
    configuration: str = "",
    embedder: EmbeddingModel | None = None,
) -> Path:
    """Fit the head on all crops of the folder and write everything as a training does.

    Args:
        path: New file.
        crops: Finished crop folder.
        limits: Written as chosen.
        manifest_sha256: Of the training data; by default that of the folder.
        configuration: As if trained so.
        embedder: Of the crops' size; by default a random one.
    """
    torch.manual_seed(0)
    manifest = read_manifest(crops)
    size = manifest.spec.size
    embedder = (embedder or EmbeddingModel(BACKBONE, size, DIM, dropout=0.0)).eval()
    pictures = [decode_crop((crops / row.crop).read_bytes()) for row in manifest.rows]
    batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        embeddings = embedder(batch)
    labels = [row.label or 0 for row in manifest.rows]
    head = LinearSVM(DIM).fit(embeddings, labels)
    counts = {"train": {"real": 1, "fake": 1}}
    trained_on = replace(manifest, sha256=manifest_sha256 or manifest.sha256)
    info = make_info(trained_on, embedder, counts, seed=0, configuration=configuration)
    faces = TrainingFaces.fit(
        pictures, [row.box_xyxy for row in manifest.rows], [row.group for row in manifest.rows]
    )
    space = faces.space.to_arrays()
    info["quality"] = open_ranges(faces).describe()
    content = {
        "state_dict": {
            **{f"embedder.{name}": value for name, value in embedder.state_dict().items()},
            **{f"head.{name}": value for name, value in head.state_dict().items()},
            **{f"quality.{name}": torch.from_numpy(v) for name, v in space.items()},
        },
        "hyper_parameters": {
            "backbone": embedder.resolved_backbone.split(".")[0],
            "image_size": size,
            "embedding_dim": DIM,
            "dropout": 0.0,
            "drop_path_rate": None,
            "bn_momentum": None,
            "levels": embedder.levels,
        },
        "epoch": 0,
        "global_step": 1,
        KEY: info | make_verdict_info(limits, Recipe(manifest.spec, manifest.sampling)),
    }
    seal(content)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomic(path, buffer.getvalue())
    return path
