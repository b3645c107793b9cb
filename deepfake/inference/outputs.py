"""The files that a job writes beside its folder: which are its own, and what they hold.

A job may replace its own files and no others. Knows no format.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from deepfake.errors import UsageError
from deepfake.jobs.engine import copy_path
from deepfake.jobs.folder import OUTPUTS_FILE, hash_file
from deepfake.storage import Confinement, write_atomic, write_stream
from deepfake.tables import parse_json


class Outputs:
    """The output files of one job.

    Args:
        paths: By option that names them.
        root: The job's folder, which remembers what was written.

    Raises:
        UsageError: If that memory is no file of this folder.
    """

    def __init__(self, paths: Mapping[str, Path], root: Path) -> None:
        self.paths, self._record = dict(paths), Confinement(root).path_of(OUTPUTS_FILE)

    def refuse_foreign(self, overwrite: bool = False) -> None:
        """Refuse, before any work, to replace somebody else's file.

        Raises:
            UsageError: If a file exists that this job has not written.
        """
        own = self._read()
        for name, path in self.paths.items():
            if path.exists() and str(path.resolve()) not in own and not overwrite:
                raise UsageError(f"--{name} {path} exists; name another file or pass --overwrite")

    def claim(self) -> None:
        """Remember, before they are written, which files are this job's."""
        names = {str(path.resolve()): "" for path in self.paths.values()}
        self._write(names | self._read())

    def hash_files(self) -> dict[Path, str]:
        """What every file holds now; empty where there is none."""
        return {path: hash_file(path) for path in self.paths.values()}

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write one of the files, whole or not at all."""
        path = self.paths[name]
        write_stream(path, chunks)
        self._write(self._read() | {str(path.resolve()): hash_file(path)})

    def _read(self) -> dict[str, str]:
        try:
            content = parse_json(self._record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _write(self, content: dict[str, str]) -> None:
        write_atomic(self._record, json.dumps(content, indent=1, sort_keys=True) + "\n")


def refuse_destroying(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse an output that is an input, by whatever name: another spelling, a link, a hard link.

    Raises:
        UsageError: If one is.
    """
    standing = {}
    for path in outputs:
        if path.exists():
            about = path.stat()
            standing[about.st_dev, about.st_ino] = path
    for path in inputs if standing else ():
        try:
            about = copy_path(path).stat()
        except OSError:
            continue
        output = standing.get((about.st_dev, about.st_ino))
        if output is not None:
            raise UsageError(
                f"writing {output} would destroy the input {path}; name another file to write"
            )
