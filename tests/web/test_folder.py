"""The private folder: nobody else's, one server's, gone at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from deepfake.errors import UsageError
from deepfake.web.folder import private_folder

KILLED = """
import os, signal
from deepfake.web.folder import private_folder
with private_folder() as folder:
    (folder / "upload").write_bytes(b"private")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def _own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_the_folder_is_private_and_removed(tmp_path: Path) -> None:
    with private_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "upload").write_bytes(b"private")
        with private_folder() as other:
            assert other != folder  # two servers, two folders
        assert (folder / "upload").exists()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_server_left_is_removed_by_the_next(tmp_path: Path) -> None:
    words = [sys.executable, "-c", KILLED]
    killed = subprocess.run(words, env=os.environ | {"TMPDIR": str(tmp_path)}, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    trap = tmp_path / "deepfake-serve-link"
    trap.symlink_to(tmp_path.parent)
    with private_folder():
        assert not left.exists()
        assert trap.is_symlink()


def test_a_kept_folder_stays_and_is_one_servers(tmp_path: Path) -> None:
    keep = tmp_path / "a" / "kept"
    with private_folder(keep) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "upload").write_bytes(b"kept")
        with pytest.raises(UsageError, match="is in use by process"), private_folder(keep):
            pass
    assert (keep / "upload").exists()
    keep.chmod(0o755)
    with (
        pytest.raises(UsageError, match=r"can be entered by others \(mode 755\)"),
        private_folder(keep),
    ):
        pass
