"""Runs programs one after another, each under a limit of its own; ``gpu.py`` and ``page.py`` do.

Not a benchmark itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
_KEPT_LINES = 200


@dataclass(frozen=True, slots=True)
class Part:
    """One program.

    Args:
        command: What follows ``python``.
        limit_s: Longest time for it.
        dry: The same in small, for any CPU.
    """

    command: str
    limit_s: float
    dry: str = ""


def run_part(command: list[str], limit_s: float, dry: bool = False) -> dict[str, Any]:
    """Run ``python command`` and kill all that it started when the time is over."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(":"),
        "HF_HUB_OFFLINE": "1",
    }
    if dry:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    started_s = time.monotonic()
    timed_out = False
    # A file, not a pipe: whatever lives on could keep a pipe open, and this would wait for it.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            kill_group(process.pid)
            process.wait()
        printed, complained = _read_lines(output), _read_lines(errors)
    return {
        "command": ["python", *command],
        "rc": process.returncode,
        "timed_out": timed_out,
        "limit_s": limit_s,
        "seconds": round(time.monotonic() - started_s, 1),
        "output": printed,
        "errors": complained,
    }


def _read_lines(file: IO[bytes]) -> list[str]:
    file.seek(0)
    return file.read().decode(errors="replace").splitlines()[-_KEPT_LINES:]


def kill_group(leader: int) -> None:
    """End a process group, also where its leader has gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
