from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from deepfake import __version__, cli
from deepfake.learning import checkpoint_names
from deepfake.learning.checkpoint import load_checkpoint
from deepfake.learning.checkpoint_copy import to_safetensors
from deepfake.learning.checkpoint_file import KEY, seal
from deepfake.records import Aggregation
from tests.conftest import Trained
from tests.made_hub import TOKEN, Hub, Repository, running_hub, use_hub

CARD = "---\nlicense: cc-by-nc-4.0\n---\n# A detector\n"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with running_hub() as server:
        use_hub(monkeypatch, server.url, tmp_path / "home")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


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
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "trained on: 16 real and 16 fake faces"
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("verdict: real up to") for line in lines)
    assert lines[-1] == "all of it: --all, for machines: --json"
    assert cli.info([str(trained.checkpoint), "--all"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["backbone"].startswith("test_efficientnet")
    assert cli.info([str(trained.run / "config.yaml")]) == 2


@pytest.mark.parametrize("odd", [{"counts": None}, {"metrics": None}, {"recipe": {}}], ids=str)
def test_info_on_an_odd_checkpoint_is_one_line(
    odd: dict[str, object], trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(trained.checkpoint, weights_only=True)
    content[KEY] |= odd
    seal(content)
    torch.save(content, tmp_path / "odd.ckpt")
    assert cli.info([str(tmp_path / "odd.ckpt")]) == 2
    told = capsys.readouterr().err
    assert "odd.ckpt does not fit this version of deepfake" in told
    assert told.count("\n") == 1


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
        (["--format", "onnx", "--output", "m.txt"], "m.txt: onnx is written; name it .onnx"),
        (["--format", "onnx"], "is damaged"),
    ):
        assert cli.export([str(checkpoint), *words]) == 2
        assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [checkpoint, there]
    assert checkpoint.read_bytes() == there.read_bytes() == b"untouched"


def test_export_of_a_model_in_the_box_writes_here(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = tmp_path / "box"
    box.mkdir()
    monkeypatch.setattr(checkpoint_names, "SHIPPED", box)
    (box / "default.safetensors").write_bytes(to_safetensors(trained.checkpoint))
    monkeypatch.chdir(tmp_path)
    assert cli.export(["--format", "safetensors", "--half"]) == 0
    assert list(box.iterdir()) == [box / "default.safetensors"]
    written = Path("default.safetensors")
    assert written.stat().st_size < (box / "default.safetensors").stat().st_size
    assert load_checkpoint(written).info == load_checkpoint("default").info
    assert cli.export(["default", "--format", "onnx", "--half"]) == 2


def test_commands_without_a_model_in_the_box_say_how_to_name_one(
    inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkpoint_names, "SHIPPED", tmp_path / "empty")
    output, crops = ["--output", str(tmp_path / "x.ckpt")], ["--data", str(inbox)]
    for command in (
        ["info"],
        ["export", "--format", "onnx"],
        ["predict", str(inbox), *output[:1], str(tmp_path / "x.csv")],
        ["explain", str(inbox / "p0.png"), "--output", str(tmp_path / "x.html")],
        ["evaluate", *crops],
        ["calibrate", *crops, *output],
        ["fit-head", *crops, *output],
    ):
        assert cli.main(command) == 2, command
        message = capsys.readouterr().err
        assert "no checkpoint default: this build of deepfake ships none; name the" in message


def test_push_and_pull(
    hub: Hub, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card, output = tmp_path / "CARD.md", tmp_path / "pulled.safetensors"
    card.write_text(f"\ufeff{CARD}", encoding="utf-8")  # as some editors begin a text
    words = [str(trained.checkpoint), "hf://ann/mine", "--card", str(card), "--half"]
    capsys.readouterr()
    assert cli.main(["push", *words]) == 0
    pushed = capsys.readouterr().out.splitlines()
    commit = hub.repositories["ann/mine"].branches["main"]
    address = f"hf://ann/mine@{commit}"
    assert pushed[0] == f"published: {address}"
    assert cli.main(["pull", "hf://ann/mine", "--output", str(output)]) == 0
    pulled = capsys.readouterr().out
    assert pulled.startswith(f"{address}\n{pushed[1]}\nlicence: cc-by-nc-4.0\n")
    assert "# A detector" in pulled
    assert pulled.endswith(f"file: {output}\n")
    assert output.read_bytes() == to_safetensors(trained.checkpoint, half=True)

    # The address is a checkpoint, whose licence was read; its model tells where it is from.
    assert cli.main(["info", "hf://ann/mine", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["recipe"]["crop"]["size"] == 64
    assert "licence" not in shown.err
    assert load_checkpoint("hf://ann/mine").name == address
    assert cli.main(["pull", "hf://ann/mine", "--output", str(output)]) == 2
    assert "exists; name another file" in capsys.readouterr().err


def test_push_and_pull_refuse_before_anything_is_sent(
    hub: Hub, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = tmp_path / "CARD.md"
    card.write_text("# A detector\n")
    model, to = str(trained.checkpoint), "hf://ann/mine"
    for command, message in (
        (["push", model, to, "--card", str(card)], "names no licence: begin it with three lines"),
        (["push", model, to, "--card", str(tmp_path / "no.md")], "no.md: "),
        (["push", model, "ann/mine", "--card", str(card)], "ann/mine is no address"),
        (["pull", to, "--output", str(tmp_path / "m.ckpt")], "name it .safetensors"),
        (["pull", to, "--output", str(tmp_path / "no" / "m.safetensors")], "there is no folder"),
    ):
        assert cli.main(command) == 2, command
        assert message in capsys.readouterr().err
    card.write_text(CARD)
    last = trained.run / "checkpoints" / "last.ckpt"
    assert cli.main(["push", str(last), to, "--card", str(card)]) == 2
    assert "holds no head" in capsys.readouterr().err
    assert hub.asked == []
    strange = hub.repositories["ann/strange"] = Repository()
    strange.commit({"model.safetensors": b"no tensors"})
    assert cli.main(["pull", "hf://ann/strange"]) == 2
    assert "is damaged" in capsys.readouterr().err


def start(
    server: Hub, home: Path, folder: Path, *words: object, **more: str
) -> subprocess.CompletedProcess[str]:
    """Our program in a process of its own, which the client's own variables tell of the hub."""
    own = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    environment = own | {"PYTHONPATH": str(ROOT), "HF_HOME": str(home)}
    environment |= {"HF_ENDPOINT": server.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    return subprocess.run(
        [sys.executable, "-m", "deepfake", *map(str, words)],
        env=environment | more,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_pull_asks_the_hub_that_the_variables_of_its_client_name(
    trained: Trained, tmp_path: Path
) -> None:
    with running_hub() as server:
        repository = server.repositories["ann/mine"] = Repository()
        model = to_safetensors(trained.checkpoint)
        commit = repository.commit({"model.safetensors": model, "README.md": CARD.encode()})
        done = start(server, tmp_path / "home", tmp_path, "pull", "hf://ann/mine")
    assert done.returncode == 0, done.stderr
    assert commit in done.stdout
    kept = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert any(path.read_bytes() == model for path in kept)


@pytest.mark.slow
def test_a_detector_travels_between_two_machines(
    trained: Trained, inbox: Path, tmp_path: Path
) -> None:
    """Whole processes and the client's own variables; a token is found in nothing they write."""
    card = tmp_path / "CARD.md"
    card.write_text(CARD)

    def deepfake(home: str, *words: object, **more: str) -> subprocess.CompletedProcess[str]:
        return start(server, tmp_path / home, tmp_path, *words, **more)

    said = []
    with running_hub() as server:
        words = ("push", trained.checkpoint, "hf://ann/mine", "--card", card)
        said.append(deepfake("ann", *words, HF_TOKEN=TOKEN))
        assert said[-1].returncode == 0, said[-1].stderr
        how = ("--device", "cpu", "--workers", "0", "--quiet")
        predict = ("predict", inbox, "--checkpoint", "hf://ann/mine", *how)
        first, again, own = (
            (*predict, "--output", tmp_path / f"{name}.csv", "--report", tmp_path / f"{name}.html")
            for name in ("first", "again", "own")
        )
        assert deepfake("bob", *first).returncode == 2  # it is private
        said.append(deepfake("bob", *first, HF_TOKEN=TOKEN))
        assert said[-1].returncode == 0, said[-1].stderr
        assert said[-1].stderr.count("licence: cc-by-nc-4.0") == 1
        said.append(deepfake("bob", *again, HF_TOKEN=TOKEN, HF_HUB_OFFLINE="1"))
        assert said[-1].returncode == 0, said[-1].stderr
        assert "licence" not in said[-1].stderr
        said.append(deepfake("eve", *first[:2], "--checkpoint", "hf://ann/none", *first[4:]))
        assert said[-1].returncode == 2
        assert said[-1].stderr.count("\n") == 1
    by_file = [trained.checkpoint if word == "hf://ann/mine" else word for word in own]
    assert deepfake("bob", *by_file).returncode == 0
    tables = [(tmp_path / f"{name}.csv").read_bytes() for name in ("first", "again", "own")]
    assert tables[0] == tables[1] == tables[2]
    commit = server.repositories["ann/mine"].branches["main"]
    assert f"hf://ann/mine@{commit}" in (tmp_path / "first.html").read_text()
    assert all(TOKEN not in done.stdout + done.stderr for done in said)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(".job" in str(path) for path in written)
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
