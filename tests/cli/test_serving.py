"""The command that serves: what it refuses before it loads anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deepfake import cli
from deepfake.cli import serving


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--workers", "0"], "--workers 0; serve needs 1 or more, that can be killed"),
        (["--port", "70000"], "--port 70000; expected 0 to 65535"),
        (["--max-file-size", "0"], "--max-file-size and --max-files must be above 0"),
        (["--max-files", "0"], "--max-file-size and --max-files must be above 0"),
        (["--allow-folder", "/nowhere/at/all"], "there is no such folder"),
        (["--host", "0.0.0.0"], "--host 0.0.0.0 opens the server to other machines"),
        (["--host", "0.0.0.0", "--proxy", "x"], "--proxy x; expected its origin"),
        (["--password-file", "/nowhere"], "--password-file /nowhere cannot be read"),
        (["--checkpoint", "missing.ckpt"], "missing.ckpt"),
        (["--checkpoint", "missing.ckpt", "--checkpoint", "default"], "missing.ckpt"),
    ],
)
def test_what_it_refuses(
    words: list[str],
    problem: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPFAKE_PASSWORD", raising=False)
    assert cli.serve(words) == cli.EXIT_USAGE
    assert problem in capsys.readouterr().err


def test_short_or_empty_passwords_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "password"
    file.write_text("\ufeff\n", encoding="utf-8")  # as some editors begin a text
    assert cli.serve(["--password-file", str(file)]) == cli.EXIT_USAGE
    assert "is empty" in capsys.readouterr().err
    monkeypatch.setenv("DEEPFAKE_PASSWORD", "short")
    assert cli.serve(["--host", "0.0.0.0"]) == cli.EXIT_USAGE
    assert "the password has 5 characters; use 12 or more" in capsys.readouterr().err


def test_without_its_extra_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_spec(name: str) -> Any:
        return None if name == "uvicorn" else object()

    monkeypatch.setattr(serving, "find_spec", find_spec)
    assert cli.serve([]) == cli.EXIT_USAGE
    message = "serve needs uvicorn, not installed here: pip install 'deepfake[web]'"
    assert message in capsys.readouterr().err


def test_what_it_cannot_use_is_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.serve(["--other-stores"])
    assert "--other-stores" in capsys.readouterr().err
