"""Answers of a prediction job under way, kept beside its output, so that a killed job goes on.

One line of JSON per batch of the network: a batch is either whole or was never written, and the job
goes on with the very batches that it would have had, so the result is the same to the last digit.
Knows no model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deepfake.errors import UsageError
from deepfake.media.discovery import path_uri
from deepfake.records import FaceScore, MediaScore, Source, Status
from deepfake.storage import no_space_is_an_error

SUFFIX = ".partial"


class Journal:
    """The answers so far of one job.

    Args:
        output: The table that the job will write; the journal lies beside it.
        settings: Everything that an answer depends on, in plain types.
        sources: The inputs, in order.
    """

    def __init__(self, output: Path, settings: dict[str, Any], sources: Iterable[Source]) -> None:
        self.path = journal_path(output)
        inputs = hashlib.sha256()
        for source in sources:
            inputs.update(f"{path_uri(source.name)} {_size(source.path)}\n".encode())
        self._head = {"inputs_sha256": inputs.hexdigest(), **settings}

    def open(self) -> list[MediaScore]:
        """Begin, or find out what an earlier run has answered.

        Returns:
            The answers that stand, in input order.

        Raises:
            UsageError: If the file is of another job.
            OSError: If it cannot be read or written.
        """
        if not self.path.exists():
            self._write(self._head, "w")
            return []
        *whole, rest = self.path.read_bytes().split(b"\n")
        if rest:  # cut off in the middle of a line, which therefore never counted
            self.path.write_bytes(b"".join(line + b"\n" for line in whole))
        if not whole:
            self._write(self._head, "w")
            return []
        head = json.loads(whole[0])
        for key in sorted(head.keys() | self._head.keys()):
            if head.get(key) != self._head.get(key):
                raise UsageError(
                    f"{self.path} is of another job: it was begun with {key}={head.get(key)!r}, "
                    f"now it is {self._head.get(key)!r}; run the command that began it, or remove "
                    "that file"
                )
        return [_to_score(item) for line in whole[1:] for item in json.loads(line)]

    def append(self, batch: Sequence[MediaScore]) -> None:
        """Keep the answers of one batch.

        Raises:
            JobError: If the disk is full.
        """
        self._write([asdict(score) for score in batch], "a")

    def remove(self) -> None:
        """Forget everything; the tables are written."""
        self.path.unlink(missing_ok=True)

    def _write(self, content: object, mode: str) -> None:
        with no_space_is_an_error(self.path), self.path.open(mode, encoding="utf-8") as file:
            file.write(json.dumps(content) + "\n")


def journal_path(output: Path) -> Path:
    """Where the journal of an output lies."""
    return output.with_name(output.name + SUFFIX)


def read_settings(output: Path) -> dict[str, Any]:
    """What the job of an output was begun with; nothing where no job is under way."""
    try:
        first = journal_path(output).read_bytes().split(b"\n")[:2]
    except FileNotFoundError:
        return {}
    # Without its line break it never counted.
    return dict(json.loads(first[0])) if len(first) > 1 else {}


def _size(path: Path) -> int | str:
    try:
        return path.stat().st_size
    except OSError:
        return ""


def _to_score(item: dict[str, Any]) -> MediaScore:
    item["status"] = Status(item["status"])
    item["box_xyxy"] = None if item["box_xyxy"] is None else tuple(item["box_xyxy"])
    item["faces"] = tuple(
        FaceScore(**face | {"box_xyxy": tuple(face["box_xyxy"])}) for face in item["faces"]
    )
    return MediaScore(**item)
