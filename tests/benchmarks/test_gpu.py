"""The one script for a GPU: its parts run in small here, and none outlives its limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from benchmarks.parts import Part


def run(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    output = tmp_path / "gpu.json"
    code = gpu.main(["--dry-run", "--output", str(output), *arguments])
    written: dict[str, Any] = json.loads(output.read_text())
    return code, written


@pytest.mark.slow
def test_a_dry_run_writes_every_part_down(tmp_path: Path) -> None:
    code, written = run(tmp_path, "--parts", "mining")
    parts = written["parts"]
    assert [*parts] == [*gpu.PARTS]
    assert code == 0, parts
    assert (written["dry_run"], written["device"]) == (True, {"name": "cpu"})
    assert written["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert any(line.startswith("batch    64") for line in parts["mining"]["output"])
    assert parts["faces"] == {"not_run": "was not asked for"}
    page = (tmp_path / "gpu.md").read_text()
    assert page.startswith("# Tried in small on a CPU: no figures\n")
    assert "\n".join(parts["mining"]["output"]) in page
    assert "## faces\n\nNot run: was not asked for.\n" in page


@pytest.mark.slow
def test_a_dry_run_of_all_parts(tmp_path: Path) -> None:
    code, written = run(tmp_path)
    assert code == 0, written
    assert {part["rc"] for part in written["parts"].values()} == {0}
    collected = written["parts"]["tests"]["output"]
    assert any("test_a_gpu_scores_like_the_cpu" in line for line in collected)


def test_a_part_that_fails_is_told_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = Part(command="", dry="-c raise(SystemExit(3))", limit_s=60)
    good = Part(command="", dry="-c print(7)", limit_s=60)
    monkeypatch.setattr(gpu, "PARTS", {"one": failing, "two": good})
    code, written = run(tmp_path)
    assert code == 1
    assert written["parts"]["one"]["rc"] == 3
    assert written["parts"]["two"]["output"] == ["7"]
    assert "one: exit code 3 after" in capsys.readouterr().out


def test_without_a_gpu_it_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--output", str(tmp_path / "gpu.json")]) == 2
    assert "no CUDA device: torch" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
