"""One file that holds everything a prediction needs, read without trusting it.

A checkpoint is a Lightning ``.ckpt`` of plain types and tensors, loaded with
``weights_only=True``, or its copy as ``.safetensors`` for passing on, where no pickle is involved
at all; classes are built here by name, never from what the file says. Knows no Trainer and no data.
"""

from __future__ import annotations

import hashlib
import io
import logging
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast, get_args

import torch

from deepfake import __version__
from deepfake.dataset.manifest import Manifest
from deepfake.error_rates import ErrorRates
from deepfake.errors import CheckpointError, UsageError
from deepfake.faces.quality import TrainingFaces
from deepfake.heads import Head
from deepfake.learning.checkpoint_copy import encode_safetensors
from deepfake.learning.checkpoint_file import FORMAT as FORMAT
from deepfake.learning.checkpoint_file import KEY as KEY
from deepfake.learning.checkpoint_file import SAFETENSORS_SUFFIX as SAFETENSORS_SUFFIX
from deepfake.learning.checkpoint_file import part_of, read_content, seal
from deepfake.learning.checkpoint_names import DEFAULT, CheckpointName, find_checkpoint
from deepfake.learning.checkpoint_parts import (
    build_embedder,
    build_head,
    check_description,
    load_part,
)
from deepfake.learning.embedder import EmbeddingModel
from deepfake.learning.joined import Tta
from deepfake.records import ALL_UNCLEAR, LABEL_NAMES, Limits, Recipe
from deepfake.storage import write_atomic

logger = logging.getLogger(__name__)
_KEPT = ("state_dict", "hyper_parameters", KEY, "epoch", "global_step", "pytorch-lightning_version")
"""Of a checkpoint of mid-training; the rest is what that training needed to go on."""
_PACKAGES = ("torch", "torchvision", "timm", "pytorch-lightning", "pytorch-metric-learning")
_MORE_PACKAGES = ("scikit-learn", "facenet-pytorch", "albumentations", "numpy")
_OPTIONAL_PACKAGES = ("lightgbm",)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A trained detector, ready to score.

    Args:
        path: File that it came from.
        name: What to call it: that file, a model in the box, or an address with its commit.
        embedder: Crops to embeddings, in evaluation mode.
        head: Embeddings to probabilities.
        recipe: How crops must be cut for it; which frames of videos it was trained on, and how
            faces make the score of a file, both the default for prediction.
        limits: What ``p_fake`` means for the verdict; without a head everything is unclear.
        error_rates: What the limits were chosen for, and reach; ``None`` without a head.
        chosen_for: The recipe of the files that the limits were chosen on; scores of files that
            were sampled or aggregated otherwise have other error rates.
        training_faces: What faces it has learnt from; ``None`` without a head.
        info: Everything else that it remembers: provenance, counts, versions, configuration.
        sha256: Of the file.
        chosen_tta: How often each face was looked at when the limits were chosen: ``flip``, also
            in a mirror; ``none``, once.
        members: Those that this one is the mean of, where it is (``learning.ensemble``).
        tta: How often this one looks. A file gives a network that looks once: ``load_detector``
            makes it look as its limits want.
    """

    path: Path
    name: str
    embedder: EmbeddingModel
    head: Head
    recipe: Recipe
    limits: Limits
    error_rates: ErrorRates | None
    chosen_for: Recipe
    training_faces: TrainingFaces | None
    info: dict[str, Any]
    sha256: str
    chosen_tta: Tta = "none"
    members: tuple[Checkpoint, ...] = ()
    tta: Tta = "none"

    @property
    def differences(self) -> list[str]:
        """In what its looks differ from those that its limits were chosen for, in words."""
        several = len(self.members) > 1
        found = [f"averaged over {len(self.members)} checkpoints"] if several else []
        if self.tta != self.chosen_tta:
            found.append(f"{'averaged over' if self.tta == 'flip' else 'without'} a mirrored look")
        return found


def check_tta(tta: str) -> Tta:
    """The same, if it is one.

    Raises:
        UsageError: If it is none.
    """
    if tta not in get_args(Tta):
        raise UsageError(f"tta={tta!r}; expected {' or '.join(get_args(Tta))}")
    return cast(Tta, tta)


def describe_versions() -> dict[str, str]:
    """Versions of the packages that shape a result."""
    optional = [name for name in _OPTIONAL_PACKAGES if find_spec(name)]
    return {"deepfake": __version__} | {
        name: version(name) for name in (*_PACKAGES, *_MORE_PACKAGES, *optional)
    }


def read_info(name: CheckpointName) -> dict[str, Any]:
    """Read what a checkpoint remembers, without building the network.

    Args:
        name: As of ``find_checkpoint``.

    Returns:
        Our part of the file, with ``hyper_parameters``, ``epoch``, ``global_step`` and
        ``n_parameters`` added.

    Raises:
        CheckpointError: If the file is missing, damaged, not ours, or tries to run code.
    """
    return _info_of(read_content(find_checkpoint(name).path))


def load_checkpoint(name: CheckpointName | None = None, require_head: bool = True) -> Checkpoint:
    """Load a finished checkpoint for scoring, or one of mid-training for fitting its head.

    Args:
        name: As of ``find_checkpoint``; ``None`` is the ``default`` of the box. What no file names
            is told in one line.
        require_head: Refuse a checkpoint of mid-training; else its head is not fitted.

    Raises:
        CheckpointError: If the file is missing, damaged, not ours, unfinished, or its parts do
            not fit each other.
    """
    found = find_checkpoint(DEFAULT if name is None else name)
    path = found.path
    content = read_content(path)
    info = _info_of(content)
    unfinished = info.get("limits") is None
    if unfinished and require_head:
        raise CheckpointError(
            f"{path} holds no head: it was written in mid-training; use the model.ckpt of its run, "
            f"or make one with deepfake fit-head --checkpoint {path} --data CROPS --output FILE"
        )
    hyper = info["hyper_parameters"]
    try:
        recipe = Recipe.from_dict(info["recipe"])
        check_description(hyper, info, recipe.crop.size)
        state = content["state_dict"]
        embedder = build_embedder(hyper, part_of(state, "embedder"))
        head = build_head(hyper, part_of(state, "head"))
        limits, error_rates, chosen_for, faces = ALL_UNCLEAR, None, recipe, None
        chosen_tta: Tta = "none"
        if not unfinished:
            limits, error_rates = read_verdict(path, info)
            scored = dict(info["chosen_for"])
            chosen_tta = check_tta(scored.pop("tta", "none"))
            chosen_for = Recipe.from_dict({"crop": info["recipe"]["crop"], **scored})
            arrays = part_of(content["state_dict"], "quality").items()
            faces = TrainingFaces.from_parts(
                {name: tensor.numpy() for name, tensor in arrays}, info["quality"]
            )
    except (UsageError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} does not fit this version of deepfake: {error}") from error
    load_part(path, content["state_dict"], "embedder", embedder)
    if not unfinished:
        load_part(path, content["state_dict"], "head", head)
    checkpoint = Checkpoint(
        path=path,
        name=found.name,
        embedder=embedder.eval(),
        head=head.eval(),
        recipe=recipe,
        limits=limits,
        error_rates=error_rates,
        chosen_for=chosen_for,
        chosen_tta=chosen_tta,
        training_faces=faces,
        info=info,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    if not found.is_own_file:
        # Nobody asked for this one: a choice that is made for a person is said aloud.
        level = logging.WARNING if name is None else logging.INFO
        logger.log(
            level,
            "model %s: %s on faces of %d px, sha256 %s",
            *(found.name, info["backbone"], recipe.crop.size, checkpoint.sha256),
        )
    return checkpoint


def read_verdict(path: CheckpointName, info: dict[str, Any]) -> tuple[Limits, ErrorRates]:
    """The limits of a finished checkpoint, and what they rest on.

    Args:
        path: The file, for the message.
        info: As ``read_info`` gave it.

    Raises:
        CheckpointError: If one is missing, of the wrong kind or out of range.
    """
    try:
        return Limits.from_dict(info["limits"]), ErrorRates.from_dict(info["error_rates"])
    except (UsageError, KeyError) as error:
        raise CheckpointError(f"{path} does not fit this version of deepfake: {error}") from error


def derive_checkpoint(
    checkpoint: Checkpoint,
    output: Path,
    head: Head,
    changes: dict[str, Any],
    event: dict[str, Any],
    training_faces: TrainingFaces | None = None,
) -> None:
    """Write a checkpoint with the same network, or networks, and another head or other limits.

    What only the training needed to go on (optimiser, schedule, callbacks, averages) is left out.

    Args:
        checkpoint: Where everything else comes from; its file is read again and stays as it is.
        output: New file, ``.ckpt`` or ``.safetensors``; it appears whole or not at all.
        head: Replaces the old one; of several checkpoints it is the one for their mean.
        changes: Replaces what ``info`` remembers under these names, the limits among them.
        event: What was done, in plain types; it is added to ``info["history"]``, together with
            what it replaces.
        training_faces: Replaces what was remembered of them; ``None`` leaves it.
    """
    content = _join(checkpoint) if len(checkpoint.members) > 1 else read_content(checkpoint.path)
    content = {name: content[name] for name in _KEPT if name in content}
    ours, state = content[KEY], content["state_dict"]
    if training_faces is not None:
        changes = changes | {"quality": training_faces.describe()}
        for name, array in training_faces.space.to_arrays().items():
            state[f"quality.{name}"] = torch.from_numpy(array)
    replaced = {name: ours.get(name) for name in changes}
    entry = event | {
        "replaced": replaced,
        "from_sha256": checkpoint.sha256,
        "deepfake": __version__,
    }
    content[KEY] = ours | changes | {"history": [*ours.get("history", []), entry]}
    for name in part_of(state, "head"):
        del state[f"head.{name}"]
    for name, value in head.state_dict().items():
        state[f"head.{name}"] = value.clone()
    if output.suffix.lower() == SAFETENSORS_SUFFIX:
        write_atomic(output, encode_safetensors(content))
        return
    seal(content)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomic(output, buffer.getvalue())


def _join(checkpoint: Checkpoint) -> dict[str, Any]:
    """The content of a file that holds several, as ``read_content`` would give it.

    What is known of each stands under ``members``; what they are together is the first's, but for
    backbones, heads, counts and crops.
    """
    contents = [read_content(one.path) for one in checkpoint.members]
    first = contents[0]
    state: dict[str, Any] = {"embedder.n_looks": torch.tensor(1)}
    for number, content in enumerate(contents):
        parts = part_of(content["state_dict"], "embedder")
        state |= {f"embedder.members.{number}.{name}": value for name, value in parts.items()}
    quality = part_of(first["state_dict"], "quality")
    state |= {f"quality.{name}": value for name, value in quality.items()}
    together = ("backbone", "head", "manifest_sha256", "counts", "limits", "error_rates")
    joined = {name: checkpoint.info[name] for name in together}
    # Of each of them, and of the whole none.
    joined |= {"seed": None, "configuration": "", "normalisation": None}
    members = [
        {"name": one.name, "file_sha256": one.sha256, **content[KEY]}
        for one, content in zip(checkpoint.members, contents, strict=True)
    ]
    hyper = {"members": [content["hyper_parameters"] for content in contents]}
    ours = first[KEY] | joined | {"members": members, "history": []}
    return {
        "state_dict": state,
        "hyper_parameters": hyper,
        KEY: {name: value for name, value in ours.items() if name != "sha256"},
        **{name: first.get(name) for name in ("epoch", "global_step")},
    }


def _info_of(content: dict[str, Any]) -> dict[str, Any]:
    state = content["state_dict"]
    ours: dict[str, Any] = {k: v for k, v in content[KEY].items() if k != "sha256"}
    return ours | {
        "hyper_parameters": content["hyper_parameters"],
        "epoch": content.get("epoch"),
        "global_step": content.get("global_step"),
        # Bytes are text, and the training faces are no part of the network.
        "n_parameters": sum(
            value.numel()
            for name, value in state.items()
            if value.dtype != torch.uint8 and not name.startswith("quality.")
        ),
    }


def make_info(
    manifest: Manifest,
    embedder: EmbeddingModel,
    counts: dict[str, dict[str, int]],
    seed: int,
    configuration: str,
) -> dict[str, Any]:
    """Our part of a checkpoint, in plain types; ``FitHead`` fills in what decides.

    Args:
        manifest: Of the crops that are trained on.
        embedder: Tells its backbone and normalisation.
        counts: Crops per split and class name.
        seed: Of the data.
        configuration: Text of the run's configuration.
    """
    return {
        "format": FORMAT,
        "recipe": Recipe(manifest.spec, manifest.sampling).to_dict(),
        "backbone": embedder.resolved_backbone,
        "normalisation": {
            "mean": embedder.mean.flatten().tolist(),
            "std": embedder.std.flatten().tolist(),
        },
        "labels": dict(enumerate(LABEL_NAMES)),
        "counts": counts,
        "manifest_sha256": manifest.sha256,
        "crop_versions": manifest.versions,
        "versions": describe_versions(),
        "seed": seed,
        "configuration": configuration,
        "parent": embedder.parent,
        "limits": None,
        "error_rates": None,
        "chosen_for": None,
        "quality": None,
        "metrics": {},
    }
