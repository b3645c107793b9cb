"""The copy of a checkpoint as safetensors: equal, no pickle, and every damage has its message."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml

from deepfake.errors import CheckpointError
from deepfake.learning.checkpoint import (
    KEY,
    load_checkpoint,
    read_info,
)
from deepfake.learning.checkpoint_copy import to_safetensors
from tests.learning.made_checkpoints import (
    Content,
    Run,
    altered,
    make_run,
    put,
    remove,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("checkpoint"))


def copied(run: Run, folder: Path) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(to_safetensors(run.model))
    return path


def reheaded(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Edit our part of the header, as somebody with an editor could."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    sealed = json.loads(header["__metadata__"][KEY])
    change(sealed)
    header["__metadata__"][KEY] = json.dumps(sealed)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    return path


def test_the_copy_is_the_same_checkpoint(run: Run, tmp_path: Path) -> None:
    path = copied(run, tmp_path)
    original, copy = load_checkpoint(run.model), load_checkpoint(path)
    for part in ("embedder", "head"):
        expected, found = (getattr(side, part).state_dict() for side in (original, copy))
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert found[name].dtype == value.dtype
            assert torch.equal(found[name], value)
    assert copy.info == original.info
    assert list(copy.info) == list(original.info)
    assert copy.recipe == original.recipe
    assert copy.limits == original.limits
    assert copy.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert to_safetensors(path) == path.read_bytes() == to_safetensors(run.model)


def test_the_copy_names_no_folder_of_its_maker(run: Run, tmp_path: Path) -> None:
    configuration = (
        "model:\n  pretrained: /home/ada/w/lite0.safetensors\n"
        "data:\n  root:\n  - C:\\Users\\ada\\crops\n  - \\\\nas\\ada\n"
        "  - s3://bucket/crops\n  - crops/one\n"
    )

    def place(content: Content) -> None:
        content[KEY] |= {
            "configuration": configuration,
            "initial_weights": "/home/ada/w/lite0.safetensors",
            "history": [{"what": "calibrate", "data": "/home/ada/crops", "unset": "/"}],
        }

    source = altered(run, tmp_path / "model.ckpt", place)
    copy = tmp_path / "model.safetensors"
    copy.write_bytes(to_safetensors(source))
    assert b"/ada/" in source.read_bytes()
    assert b"/ada/" not in copy.read_bytes()
    info = read_info(copy)
    assert info["initial_weights"] == "lite0.safetensors"
    assert info["history"] == [{"what": "calibrate", "data": "crops", "unset": "/"}]
    settings = yaml.safe_load(info["configuration"])
    assert settings["model"]["pretrained"] == "lite0.safetensors"
    assert settings["data"]["root"] == ["crops", "ada", "s3://bucket/crops", "crops/one"]
    assert to_safetensors(copy) == copy.read_bytes()
    unreadable = altered(run, tmp_path / "odd.ckpt", put(KEY, "configuration", "{"))
    with pytest.raises(CheckpointError, match="the configuration in the checkpoint is no YAML"):
        to_safetensors(unreadable)


def test_the_copy_leaves_behind_what_only_training_needs(run: Run, tmp_path: Path) -> None:
    def add(content: Content) -> None:
        content["state_dict"]["cross_entropy.weight"] = torch.zeros(2, 16)

    path = tmp_path / "model.safetensors"
    path.write_bytes(to_safetensors(altered(run, tmp_path / "m.ckpt", add)))
    assert load_checkpoint(path).info == load_checkpoint(run.model).info


def test_no_pickle_is_touched_for_the_copy(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copied(run, tmp_path)
    monkeypatch.setattr(torch, "load", None)
    monkeypatch.setattr(pickle, "Unpickler", None)
    assert load_checkpoint(path).info["hyper_parameters"]["embedding_dim"] == 16


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_refuses_a_truncated_copy(run: Run, tmp_path: Path, share: float) -> None:
    path = copied(run, tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load_checkpoint(path)


def test_one_flipped_bit_anywhere_in_the_copy_is_noticed(run: Run, tmp_path: Path) -> None:
    path = copied(run, tmp_path)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(data), 60):
        broken = bytearray(data)
        broken[place] ^= 1 << int(rng.integers(0, 7))
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(
            lambda sealed: sealed.update(
                content=sealed["content"].replace('"real": 0.', '"real": 0.0')
            ),
            "is damaged: its digest is another one",
            id="limit",
        ),
        pytest.param(lambda sealed: sealed.pop("sha256"), "is damaged", id="no-digest"),
        pytest.param(lambda sealed: sealed.update(content=3), "is damaged", id="no-text"),
        pytest.param(lambda sealed: sealed.clear(), "is damaged", id="empty"),
    ],
)
def test_refuses_a_copy_whose_values_were_changed(
    run: Run, tmp_path: Path, change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    with pytest.raises(CheckpointError, match=problem):
        load_checkpoint(reheaded(copied(run, tmp_path), change))


def test_refuses_safetensors_of_somebody_else(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(safetensors.torch.save({"w": torch.zeros(3)}))
    with pytest.raises(CheckpointError, match="was not written by deepfake"):
        read_info(path)
    for metadata in ("[]", "{", "7"):
        path.write_bytes(safetensors.torch.save({"w": torch.zeros(3)}, {KEY: metadata}))
        with pytest.raises(CheckpointError, match=r"weights\.safetensors is damaged"):
            read_info(path)
    with pytest.raises(CheckpointError, match="there is no such file"):
        read_info(tmp_path / "no.safetensors")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(put(KEY, "format", 99), "has format 99", id="format"),
        pytest.param(put(KEY, "limits", None), "in mid-training", id="mid"),
        pytest.param(put("hyper_parameters", "backbone", "no"), "knows no backbone", id="backbone"),
        pytest.param(
            remove("state_dict", "embedder.projection.bias"),
            r"embedder does not .*projection\.bias",
            id="bias",
        ),
    ],
)
def test_a_copy_is_validated_like_a_checkpoint(
    run: Run, tmp_path: Path, change: Callable[[Content], object], problem: str
) -> None:
    source = altered(run, tmp_path / "m.ckpt", change)
    if "format" in problem:
        with pytest.raises(CheckpointError, match=problem):
            to_safetensors(source)
        return
    path = tmp_path / "m.safetensors"
    path.write_bytes(to_safetensors(source))
    with pytest.raises(CheckpointError, match=problem):
        load_checkpoint(path)


def test_half_precision_is_stored_and_float32_is_loaded(run: Run, tmp_path: Path) -> None:
    whole, half = copied(run, tmp_path), tmp_path / "half.safetensors"
    half.write_bytes(to_safetensors(run.model, half=True))
    assert half.stat().st_size < 0.65 * whole.stat().st_size
    stored, exact = safetensors.torch.load_file(half), safetensors.torch.load_file(whole)
    rounded = {name for name, value in stored.items() if value.dtype == torch.float16}
    assert rounded == {
        name
        for name, value in exact.items()
        if value.ndim >= 2 and name.startswith(("embedder.backbone.", "embedder.projection."))
    }
    loaded = load_checkpoint(half)
    assert loaded.info == load_checkpoint(run.model).info
    for part in ("embedder", "head"):
        for name, value in getattr(loaded, part).state_dict().items():
            expected = exact[f"{part}.{name}"]
            assert value.dtype == expected.dtype
            if f"{part}.{name}" in rounded:
                expected = expected.half().float()
            assert torch.equal(value, expected), name
    # The checksum is over what is stored: a copy of the copy is the same bytes.
    assert to_safetensors(half) == half.read_bytes()
    data = bytearray(half.read_bytes())
    data[-1] ^= 1
    half.write_bytes(data)
    with pytest.raises(CheckpointError, match="its digest is another one"):
        load_checkpoint(half)


def test_a_number_too_large_for_half_precision_is_refused(run: Run, tmp_path: Path) -> None:
    def grow(content: Content) -> None:
        content["state_dict"]["embedder.projection.weight"][0, 0] = 70_000.0

    source = altered(run, tmp_path / "m.ckpt", grow)
    with pytest.raises(CheckpointError, match=r"projection\.weight does not fit into half"):
        to_safetensors(source, half=True)


def test_a_few_lines_that_stand_for_many_cost_no_time(run: Run, tmp_path: Path) -> None:
    lines = ["a0: &a0 [/home/ada/x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]

    def place(content: Content) -> None:
        content[KEY] |= {"configuration": "\n".join(lines)}

    copy = tmp_path / "model.safetensors"
    copy.write_bytes(to_safetensors(altered(run, tmp_path / "model.ckpt", place)))
    assert copy.stat().st_size < 2 * run.model.stat().st_size
    assert yaml.safe_load(read_info(copy)["configuration"])["a0"] == ["x"]
