"""Runs a tutorial: its ``sh`` and ``python`` blocks, in their order, in the working folder.

    mkdir try && cd try
    python ../docs/tutorials/run.py ../docs/tutorials/train.md MEDIA=/data/my.csv CONFIG=cpu

A word ``NAME=value`` takes the place of what the page says on its line ``NAME=...`` (in a Python
block ``NAME = ...``). Each block is shown before it runs; the first command that fails ends it all.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

_BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def main() -> int:
    """Run one page; the exit code of its blocks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("settings", nargs="*", metavar="NAME=value")
    options = parser.parse_args()
    script = make_script(options.page.read_text(encoding="utf-8"), options.settings)
    # The commands and the Python of the environment that this runs in.
    here = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(["bash", "-c", script], env=here, check=False).returncode


def make_script(text: str, settings: list[str]) -> str:
    """One script of all blocks of a page."""
    lines = ["set -euo pipefail"]
    for language, block in _BLOCK.findall(replace_settings(text, settings)):
        lines.append(f"printf '%s\\n' {shlex.quote(f'--- {language}')} {shlex.quote(block)}")
        lines.append(f"python - <<'THE_END'\n{block}THE_END" if language == "python" else block)
    return "\n".join(lines)


def replace_settings(text: str, settings: list[str]) -> str:
    """The page with other values; a name that it does not set is refused."""
    for setting in settings:
        name, equals, value = setting.partition("=")
        places = {
            rf"^{re.escape(name)}=\S*": f"{name}={shlex.quote(value)}",
            rf"^{re.escape(name)} = \S+": f"{name} = {value!r}",
        }
        found = 0
        for pattern, line in places.items():
            text, count = re.subn(pattern, lambda _, line=line: line, text, flags=re.MULTILINE)
            found += count
        if not (equals and found):
            sys.exit(f"{setting}: the page has no line {name}=...")
    return text


if __name__ == "__main__":
    sys.exit(main())
