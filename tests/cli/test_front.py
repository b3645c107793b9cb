from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from deepfake import __version__, cli

ROOT = Path(__file__).parents[2]


def run(*words: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


COMMANDS = (
    *("crop", "doctor", "train", "predict", "serve", "explain", "evaluate", "calibrate"),
    *("fit-head", "merge", "info", "export", "push", "pull", "demo", "show-augmentations"),
)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_examples_and_imports_nothing_heavy(command: str) -> None:
    words = [command] if command else []
    code = (
        "import sys\nfrom deepfake.cli import main\n"
        f"try:\n    code = main({[*words, '--help']!r})\n"
        "except SystemExit as stop:\n    code = stop.code\n"
        "heavy = {'torch', 'numpy', 'cv2', 'PIL', 'pytorch_lightning'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy), 'CODE', code)\n"
    )
    done = run("-c", code)
    assert "HEAVY [] CODE 0" in done.stdout.replace("CODE None", "CODE 0")
    assert f"deepfake {command}".strip() in done.stdout
    assert "example" in done.stdout


def test_help_names_every_command_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    named = re.findall(r"^  ([a-z-]+)(?:  |$)", capsys.readouterr().out, re.MULTILINE)
    assert sorted(named) == sorted(COMMANDS)


@pytest.mark.parametrize("script", ["crop.py", "train.py", "predict.py"])
def test_scripts_are_a_docstring_an_import_and_a_guard(script: str) -> None:
    assert len((ROOT / script).read_text().splitlines()) <= 8
    done = run(script, "--help")
    assert done.returncode == 0
    assert f"deepfake {script.removesuffix('.py')}" in done.stdout


def test_version_and_bare_command(capsys: pytest.CaptureFixture[str]) -> None:
    done = run("-m", "deepfake", "--version")
    assert (done.returncode, done.stdout) == (0, f"deepfake {__version__}\n")
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"deepfake {__version__}\n"
    assert cli.main([]) == 2


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["trian"], "did you mean train"),
        (["crop", "a", "b", "--presett", "dacon"], "did you mean --preset"),
        (["predict", "a", "--chekpoint", "b"], "--checkpoint"),
        (["merge", "a", "b", "--face", "c"], "did you mean --faces"),
        (["info", "a", "--jsn"], "did you mean --json"),
        (["demo", "--outptu", "x"], "did you mean --output"),
        (["train", "--data.rot", "x"], r"did you mean --data\.root"),
        (["train", "--data.root", "x", "--model.bakbone", "x"], r"did you mean --model\.backbone"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_misspelt_words_are_understood(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = cli.main(words)
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    error = capsys.readouterr().err
    assert re.search(hint, error)
    assert len(error.splitlines()) <= 3


def test_a_demo_ends_where_its_training_is_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepfake.demo import walk

    for name in ("write_dataset", "describe_results", "crop_media", "Predictor"):
        monkeypatch.setattr(walk, name, MagicMock())
    monkeypatch.setattr(walk, "run_training", lambda *_: 130)  # as after Ctrl-C
    assert cli.main(["demo", "--output", str(tmp_path / "demo")]) == 130
    told = capsys.readouterr()
    assert told.err.startswith("\ninterrupted; what is in")
    assert "4. $ deepfake train" in told.out
    assert "5. " not in told.out


def test_an_interrupted_demo_says_what_it_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("deepfake.demo.walk.walk", stop)
    assert cli.main(["demo", "--output", "some/where"]) == 130
    assert capsys.readouterr().err == "\ninterrupted; what is in some/where can be removed\n"
