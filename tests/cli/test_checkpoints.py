from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from deepfake import __version__, cli
from deepfake.records import Aggregation
from tests.conftest import Trained


def test_info_tells_where_everything_comes_from(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert cli.info([str(trained.checkpoint), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["recipe"]["crop"]["size"] == 64
    assert content["labels"] == {"0": "real", "1": "fake"}
    assert content["recipe"]["aggregation"] == Aggregation().to_dict()
    assert content["error_rates"]["origin"].endswith("validation split")
    assert content["versions"]["deepfake"] == __version__
    assert cli.info([str(trained.checkpoint)]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["backbone"].startswith("test_efficientnet")
    assert cli.info([str(trained.run / "config.yaml")]) == 2


def test_export_writes_beside_the_checkpoint_what_the_other_commands_take(
    inbox: Path,
    trained: Trained,
    graph: bytes,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = tmp_path / "model.ckpt"
    checkpoint.write_bytes(trained.checkpoint.read_bytes())
    monkeypatch.setattr("deepfake.inference.export.make_graph", lambda checkpoint: graph)
    assert cli.main(["export", str(checkpoint), "--format", "onnx"]) == 0
    assert (tmp_path / "model.onnx").read_bytes() == graph
    line = capsys.readouterr().out
    assert line.startswith(f"{tmp_path / 'model.onnx'}: equal to torch: at most ")
    assert cli.export([str(checkpoint), "--format", "safetensors"]) == 0
    copy = tmp_path / "model.safetensors"
    capsys.readouterr()
    assert cli.info([str(copy), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["crop"]["size"] == 64
    scores = []
    for path in (checkpoint, copy):
        words = ["--checkpoint", str(path), "--output", "-", "--workers", "0", "--device", "cpu"]
        assert cli.predict([str(inbox), *words, "--backend", "torch", "--quiet"]) == 0
        scores.append(capsys.readouterr().out)
    assert scores[0] == scores[1]
    assert "ok" in scores[0]


def test_export_refuses_before_it_works(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "model.safetensors"
    checkpoint.write_bytes(b"untouched")
    there = tmp_path / "there.onnx"
    there.write_bytes(b"untouched")
    for words, message in (
        (["--format", "safetensors"], "is the checkpoint itself"),
        (["--format", "safetensors", "--data", "c"], "--data is for --format onnx"),
        (["--format", "onnx", "--output", str(there)], "exists; name another file or pass"),
        (["--format", "onnx", "--output", str(tmp_path / "no" / "m.onnx")], "there is no folder"),
        (["--format", "onnx"], "is damaged"),
    ):
        assert cli.export([str(checkpoint), *words]) == 2
        assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [checkpoint, there]
    assert checkpoint.read_bytes() == there.read_bytes() == b"untouched"
