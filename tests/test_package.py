"""What `pip install .` puts in place, built as a wheel and used from elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from deepfake.training.presets import read_config
from tests.fakes import portrait, write_photo

REPO = Path(__file__).parents[1]
# Python imports it when it starts; processes of its own, that one starts, do so as well.
NO_NETWORK = """
import socket

_connect = socket.socket.connect

def connect(self, address):
    if self.family != getattr(socket, "AF_UNIX", None):
        raise OSError(f"the network is cut: {address}")
    return _connect(self, address)

def look_up(*arguments, **settings):
    raise OSError(f"the network is cut: {arguments}")

socket.socket.connect = connect
socket.getaddrinfo = look_up
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the wheel, where an interpreter finds them before any other `deepfake`."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    subprocess.run(
        [*command, "--directory", str(folder)], cwd=REPO, check=True, capture_output=True
    )
    (wheel,) = folder.glob("deepfake-*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "site")
    (folder / "site" / "sitecustomize.py").write_text(NO_NETWORK)
    return folder / "site"


def start(site: Path, folder: Path, *words: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"PYTHONPATH": str(site), "XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_it_finds_its_configurations_from_any_folder(site: Path, tmp_path: Path) -> None:
    code = (
        "from deepfake.training import presets\n"
        "print(presets.__file__, presets.find_config('dacon'), *presets.choose_configs(['cpu']))"
    )
    names = ("training/presets.py", "configs/dacon.yaml", "configs/default.yaml")
    wanted = [str(site / "deepfake" / name) for name in (*names, "configs/cpu.yaml")]
    assert start(site, tmp_path, "-c", code).split() == wanted
    assert read_config(site / "deepfake" / "configs" / "dacon.yaml") == read_config("dacon")


def test_it_gives_a_verdict_without_a_checkpoint_and_without_a_network(
    site: Path, tmp_path: Path
) -> None:
    write_photo(tmp_path / "photo.jpg", portrait(1, 0, 256), quality=95)
    said = start(site, tmp_path, "-m", "deepfake", "predict", "photo.jpg", "--output", "scores.csv")
    (row,) = (tmp_path / "scores.csv").read_text().splitlines()[1:]
    assert ",ok," in row
    assert "model default: tf_efficientnet_lite0" in said
    with pytest.raises(AssertionError, match="the network is cut"):
        start(site, tmp_path, "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9')")
