"""What every test stands on: no network, one thread, fixed seeds, a place for shared media."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

# Before any test imports torch or a library that asks a server for something.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import cv2
import numpy as np
import pytest
import torch

torch.set_num_threads(1)
cv2.setNumThreads(1)


# Few tests, but long ones: they start programs.
LONGEST = (
    "test_processes.py",
    "test_resume.py",
    "test_run.py",
    "test_ladder.py",
    "test_cropping.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: at the end one of two workers would wait for the other."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to look up a host or to connect beyond this machine fails the test."""

    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise AssertionError(f"network access in a test: {args}")

    real_connect = socket.socket.connect

    def connect(self: socket.socket, address: object) -> None:
        if self.family == socket.AF_UNIX or (
            isinstance(address, tuple) and address[0] in ("127.0.0.1", "::1", "localhost")
        ):
            return real_connect(self, address)  # type: ignore[arg-type]
        refuse(address)

    real_getaddrinfo = socket.getaddrinfo

    def getaddrinfo(host: object, *args: object, **kwargs: object) -> object:
        if host in ("127.0.0.1", "::1", "localhost", socket.gethostname()):
            return real_getaddrinfo(host, *args, **kwargs)  # type: ignore[arg-type]
        refuse(host)

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or fills the cache of whoever runs it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def shared_media() -> Path:
    """The folder of real media, or a skip that says how to name it."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("DEEPFAKE_DATA", default))
    if not (folder / "README.md").is_file():
        pytest.skip(f"no shared media in {folder}; name their folder with DEEPFAKE_DATA")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(options, capture_output=True).returncode:
        pytest.skip("this process may not mount a tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@dataclass(frozen=True)
class Trained:
    """A small detector that went the whole way through the commands, and what it was made of."""

    photos: Path
    crops: Path
    run: Path

    @property
    def checkpoint(self) -> Path:
        return self.run / "model.ckpt"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Draw portraits, then crop and train with the commands and shipped configurations."""
    from deepfake import cli
    from deepfake.demo.portraits import write_dataset

    folder = tmp_path_factory.mktemp("trained")
    result = Trained(folder / "photos", folder / "crops", folder / "run")
    result.photos.mkdir()
    write_dataset(result.photos, identities=12, shots=2)
    table, crops = str(result.photos / "labels.csv"), str(result.crops)
    assert cli.crop([table, crops, "--size", "64", "--workers", "1", "--quiet"]) == 0
    configs = Path(__file__).parents[1] / "configs"
    options = ["--config", str(configs / "default.yaml"), "--config", str(configs / "smoke.yaml")]
    options += ["--data.root", crops, "--run", str(result.run)]
    assert cli.train(options) == 0
    return result


@pytest.fixture(scope="session")
def graph(trained: Trained) -> bytes:
    """The trained detector as an ONNX graph; making one takes seconds."""
    from deepfake.inference.export import make_graph
    from deepfake.learning.checkpoint import load_checkpoint

    return make_graph(load_checkpoint(trained.checkpoint))
