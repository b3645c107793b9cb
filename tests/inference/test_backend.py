"""The choice is the same for the same command, said aloud, and never worse than torch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from deepfake.errors import JobError, UsageError
from deepfake.inference import backend, export
from deepfake.inference.backend import choose_devices, expect_faces, make_scorers, parse_devices
from deepfake.inference.graphs import cache_folder, is_recorded, record_graph
from deepfake.learning.checkpoint import Checkpoint, load_checkpoint
from deepfake.learning.checkpoint_file import seal
from deepfake.media.discovery import list_sources
from deepfake.records import Sampling
from tests.conftest import Trained

CPU = (torch.device("cpu"),)
MANY = 10_000


@pytest.fixture
def checkpoint(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """A checkpoint in a folder of its own, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "model.ckpt"
    shutil.copy(trained.checkpoint, path)
    return load_checkpoint(path)


@pytest.fixture
def exports(
    checkpoint: Checkpoint, graph: bytes, monkeypatch: pytest.MonkeyPatch
) -> list[Checkpoint]:
    """Counts the graphs that are made."""
    made: list[Checkpoint] = []

    def make(checkpoint: Checkpoint) -> bytes:
        export.require("onnx", "onnxscript", "onnxruntime")
        made.append(checkpoint)
        return graph

    monkeypatch.setattr(backend, "make_graph", make)
    return made


def without(*missing: str) -> Callable[[str], str | None]:
    return lambda name: None if name in missing else name


def scorer_name(checkpoint: Checkpoint, choice: str = "auto", faces: int = 0) -> str:
    (scorer,) = make_scorers(checkpoint, CPU, choice, 32, faces)
    return scorer.backend


# auto


def test_few_faces_are_scored_by_torch_whatever_the_cache_holds(
    checkpoint: Checkpoint, exports: list[Checkpoint], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert scorer_name(checkpoint) == scorer_name(checkpoint, faces=20) == "torch"
    assert not exports
    assert not cache_folder().exists()
    assert f"torch {torch.__version__} scores on cpu" in caplog.messages
    assert scorer_name(checkpoint, faces=MANY) == "onnx"
    assert scorer_name(checkpoint, faces=20) == "torch"


def test_the_more_threads_the_later_a_graph_pays(
    checkpoint: Checkpoint, exports: list[Checkpoint]
) -> None:
    assert scorer_name(checkpoint, faces=200) == "onnx"
    torch.set_num_threads(2)
    try:
        assert scorer_name(checkpoint, faces=200) == "torch"
        assert scorer_name(checkpoint, faces=400) == "onnx"
    finally:
        torch.set_num_threads(1)


def test_many_faces_are_worth_a_graph_which_is_made_once(
    checkpoint: Checkpoint, exports: list[Checkpoint], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert scorer_name(checkpoint, faces=MANY) == "onnx"
    assert len(exports) == 1
    (kept,) = cache_folder().glob("*.onnx")
    assert "making a graph" in caplog.text
    assert scorer_name(checkpoint, faces=MANY) == scorer_name(checkpoint, "onnx") == "onnx"
    assert len(exports) == 1
    assert list(cache_folder().glob("*.onnx")) == [kept]
    assert sum("ONNX Runtime" in line and "scores on cpu" in line for line in caplog.messages) == 3


def test_a_graph_beside_the_checkpoint_is_used(
    checkpoint: Checkpoint,
    graph: bytes,
    exports: list[Checkpoint],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    beside = checkpoint.path.with_suffix(".onnx")
    beside.write_bytes(graph)
    record_graph(graph, checkpoint.sha256)
    assert scorer_name(checkpoint) == "onnx"
    assert f", with {beside}" in caplog.text
    assert not exports
    assert scorer_name(checkpoint, "torch") == "torch"


def test_a_graph_of_another_checkpoint_is_not_used(
    checkpoint: Checkpoint,
    graph: bytes,
    exports: list[Checkpoint],
    caplog: pytest.LogCaptureFixture,
) -> None:
    content = torch.load(checkpoint.path, weights_only=True)
    content["deepfake"]["limits"]["real"] = 0.0
    seal(content)
    torch.save(content, checkpoint.path)
    changed = load_checkpoint(checkpoint.path)
    beside = checkpoint.path.with_suffix(".onnx")
    beside.write_bytes(graph)
    record_graph(graph, checkpoint.sha256)
    assert scorer_name(changed) == "torch"
    assert "model.onnx is not used: it is not as you have made it of this checkpoint" in caplog.text
    record_graph(graph, changed.sha256)
    assert scorer_name(changed) == "torch"
    assert "model.onnx is not used: it was made from another checkpoint" in caplog.text
    assert "--format onnx --overwrite makes it anew; remove it" in caplog.text


def test_a_graph_that_answers_alike_on_a_few_crops_is_not_used_unless_it_was_made_here(
    checkpoint: Checkpoint,
    graph: bytes,
    exports: list[Checkpoint],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is of this checkpoint, says so, and has one more word in it, as a back door would."""
    import onnx

    record_graph(graph, checkpoint.sha256)
    model = onnx.load_from_string(graph)
    model.doc_string = "forged"
    forged = model.SerializeToString()
    for place in (checkpoint.path.with_suffix(".onnx"), cache_folder()):
        if place == cache_folder():
            scorer_name(checkpoint, "onnx")
            (place,) = place.glob("*.onnx")
        place.write_bytes(forged)
        assert scorer_name(checkpoint, "onnx") == "onnx"
        assert "onnx is not used: it is not as you have made it" in caplog.text
        assert "deepfake export --checkpoint" in caplog.text
        caplog.clear()
        place.unlink(missing_ok=True)
    assert len(exports) == 2


def test_a_damaged_graph_is_not_used(
    checkpoint: Checkpoint,
    graph: bytes,
    exports: list[Checkpoint],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Even one that was made here must still compute the same, and be a graph."""
    import onnx

    beside = checkpoint.path.with_suffix(".onnx")
    model = onnx.load_from_string(graph)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.DOUBLE and len(tensor.dims):
            tensor.raw_data = bytes(len(tensor.raw_data))
    for data, reason in (
        (model.SerializeToString(), "the graph is not equal to torch"),
        (b"nonsense", "this is no graph of deepfake"),
    ):
        beside.write_bytes(data)
        record_graph(data, checkpoint.sha256)
        assert scorer_name(checkpoint) == "torch"
        assert f"model.onnx is not used: {reason}" in caplog.text
    for make in (Path.mkdir, os.mkfifo):
        beside.unlink() if beside.is_file() else beside.rmdir()
        make(beside)
        caplog.clear()
        assert scorer_name(checkpoint) == "torch"
        assert "model.onnx cannot be read" in caplog.text


def test_a_record_that_others_could_have_written_counts_for_nothing(
    checkpoint: Checkpoint, graph: bytes
) -> None:
    record_graph(graph, checkpoint.sha256)
    assert is_recorded(graph, checkpoint.sha256)
    assert not is_recorded(graph, "0" * 64)
    assert not is_recorded(graph + b"x", checkpoint.sha256)
    (folder,) = (path for path in cache_folder().iterdir() if path.is_dir())
    (record,) = folder.iterdir()
    for path in (folder, record):
        mode = path.stat().st_mode
        path.chmod(mode | 0o022)
        assert not is_recorded(graph, checkpoint.sha256)
        path.chmod(mode)
    moved = folder.rename(folder.with_name("moved"))
    folder.symlink_to(moved)
    assert not is_recorded(graph, checkpoint.sha256)


def test_a_damaged_cache_is_made_again(checkpoint: Checkpoint, exports: list[Checkpoint]) -> None:
    assert scorer_name(checkpoint, "onnx") == "onnx"
    (kept,) = cache_folder().glob("*.onnx")
    good = kept.read_bytes()
    kept.write_bytes(good[:1000])
    assert scorer_name(checkpoint, "onnx") == "onnx"
    assert len(exports) == 2
    assert kept.read_bytes() == good


def test_a_cache_that_cannot_be_written_costs_time_only(
    checkpoint: Checkpoint,
    exports: list[Checkpoint],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    (tmp_path / "cache").write_text("a file in the way")
    assert scorer_name(checkpoint, "onnx") == scorer_name(checkpoint, faces=MANY) == "onnx"
    assert len(exports) == 2
    assert "the graph is not kept for next time" in caplog.text


def test_the_cache_keeps_the_graphs_that_were_used_last(
    checkpoint: Checkpoint, exports: list[Checkpoint]
) -> None:
    cache_folder().mkdir(parents=True)
    for number in range(9):
        (cache_folder() / f"{number}.onnx").write_bytes(b"old")
    assert scorer_name(checkpoint, "onnx") == "onnx"
    assert len(list(cache_folder().glob("*.onnx"))) == 4
    assert scorer_name(checkpoint, "onnx") == "onnx"
    assert len(exports) == 1


def test_the_cache_is_by_default_in_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "deepfake"


def test_a_user_without_a_home_is_told(
    checkpoint: Checkpoint, exports: list[Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert scorer_name(checkpoint, faces=MANY) == "torch"
    with pytest.raises(JobError, match="no home folder to keep a graph in; set XDG_CACHE_HOME"):
        make_scorers(checkpoint, CPU, "onnx", 32)


# What is not there


def test_without_the_extra_torch_scores_and_onnx_is_refused(
    checkpoint: Checkpoint, exports: list[Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "find_spec", without("onnxruntime"))
    assert scorer_name(checkpoint, faces=MANY) == "torch"
    with pytest.raises(UsageError, match=r"needs onnxruntime, .*pip install 'deepfake\[onnx\]'"):
        make_scorers(checkpoint, CPU, "onnx", 32)
    monkeypatch.setattr(export, "find_spec", without("onnxscript"))
    assert scorer_name(checkpoint, faces=MANY) == "torch"
    with pytest.raises(UsageError, match="needs onnxscript"):
        make_scorers(checkpoint, CPU, "onnx", 32)


def test_a_network_that_cannot_be_exported_is_scored_by_torch(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(checkpoint: Checkpoint) -> bytes:
        raise JobError("torch cannot export this network")

    monkeypatch.setattr(backend, "make_graph", fail)
    assert scorer_name(checkpoint, faces=MANY) == "torch"
    assert "torch cannot export this network" in caplog.text
    with pytest.raises(JobError, match="torch cannot export this network"):
        make_scorers(checkpoint, CPU, "onnx", 32)


def test_onnx_is_for_the_cpu_and_nothing_else_has_a_backend_of_another_name(
    checkpoint: Checkpoint,
) -> None:
    with pytest.raises(UsageError, match="onnx scores on the CPU, not on meta; pass device cpu"):
        make_scorers(checkpoint, (torch.device("meta"),), "onnx", 32)
    with pytest.raises(UsageError, match="no backend 'openvino'; there are auto, torch, onnx"):
        make_scorers(checkpoint, CPU, "openvino", 32)


# Devices


def test_a_scorer_for_every_device(checkpoint: Checkpoint, exports: list[Checkpoint]) -> None:
    for choice in ("torch", "onnx"):
        scorers = make_scorers(checkpoint, choose_devices(["cpu", "cpu"]), choice, 32)
        assert [scorer.backend for scorer in scorers] == [choice, choice]
        assert scorers[0] is not scorers[1]


def test_auto_takes_the_best_device_there_is() -> None:
    best = "cuda" if torch.cuda.is_available() else "cpu"
    if torch.backends.mps.is_available():
        best = "mps"
    assert [device.type for device in choose_devices("auto")] == [best]


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="device 'gpu' is not usable here"):
        choose_devices("gpu")
    with pytest.raises(UsageError, match="device 'cuda:99' is not usable here"):
        choose_devices(["cpu", "cuda:99"])
    with pytest.raises(UsageError, match="cpu, meta are of different kinds"):
        choose_devices(["cpu", "meta"])
    with pytest.raises(UsageError, match="no device is named"):
        choose_devices([])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match="devices=2: this machine has 0 CUDA devices; use"):
        parse_devices("2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    for wanted in (0, 4):
        with pytest.raises(UsageError, match=f"devices={wanted}: this machine has 3 CUDA devices"):
            parse_devices(str(wanted))
    assert parse_devices("2") == ["cuda:0", "cuda:1"]
    assert parse_devices("cuda:0, cuda:2") == ["cuda:0", "cuda:2"]


def test_expected_faces_count_the_frames_of_videos(tmp_path: Path) -> None:
    sources = list_sources(["a.jpg", "b.MP4", "c.png"], tmp_path)
    assert expect_faces(sources, Sampling(frames=10)) == 12
    assert expect_faces(sources, Sampling(frames=10, max_frames=3)) == 5
    assert expect_faces(sources, Sampling(frames=None, fps=2)) == 18
    assert expect_faces([], Sampling()) == 0
