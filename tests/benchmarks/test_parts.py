"""No part outlives its limit, nor does what it started."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks.parts import run_part


def test_at_its_limit_a_part_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    note = tmp_path / "child"
    program = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\n"
        "print('a row', flush=True); time.sleep(600)"
    )
    result = run_part(["-c", program], limit_s=3.0)
    assert result["timed_out"]
    assert result["rc"] != 0
    assert result["output"] == ["a row"]
    child = int(note.read_text())
    for _ in range(100):
        if not is_running(child):
            break
        time.sleep(0.05)
    assert not is_running(child)


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
