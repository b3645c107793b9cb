"""Answers of a prediction job, kept beside its output: what a killed job goes on with.

One line of JSON per batch of the network: a batch is either whole or was never written, and the job
goes on with the very batches that it would have had, so the result is the same to the last digit.
All tables are written from here, so no job holds its answers in memory. Knows no model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from deepfake import __version__
from deepfake.dataset.parts import WHOLE, JobPart, choose_block_size, find_difference
from deepfake.errors import UsageError
from deepfake.media.discovery import path_uri
from deepfake.records import FaceScore, MediaScore, Source, Status
from deepfake.storage import no_space_is_an_error

SUFFIX = ".partial"
_HEAD_KEYS = {"part", "inputs", "block_size", "inputs_sha256", "prior"}
_PACKAGES = ("facenet-pytorch", "torch", "numpy", "pillow", "av", "opencv-python-headless")


class Journal:
    """The answers so far of one job, or of one part of it.

    Args:
        output: The table that the job will write; the journal lies beside it.
        settings: Everything that an answer depends on, in plain types.
        sources: All inputs, in order.
        part: The part of them that is answered here.
    """

    def __init__(
        self,
        output: Path,
        settings: dict[str, Any],
        sources: Sequence[Source],
        part: JobPart | None = None,
    ) -> None:
        self.path = journal_path(output)
        self.block_size = choose_block_size(len(sources))
        self.inputs = (part or WHOLE).inputs(len(sources), self.block_size)
        inputs = hashlib.sha256()
        for source in sources:
            inputs.update(f"{path_uri(source.name)} {_size(source.path)}\n".encode())
        self._head = {
            **settings,
            "versions": {"deepfake": __version__} | {name: version(name) for name in _PACKAGES},
            "part": None if part is None else str(part),
            "inputs": len(sources),
            "block_size": self.block_size,
            "inputs_sha256": inputs.hexdigest(),
        }

    def open(self) -> int:
        """Begin, or find out what an earlier run has answered.

        Returns:
            How many inputs, from the first on, have an answer.

        Raises:
            UsageError: If the file is of another job.
            JobError: If the disk is full.
            OSError: If it cannot be read or written.
        """
        if self.path.exists():
            with self.path.open("rb+") as file:
                line = file.readline()
                if line.endswith(b"\n"):
                    self._check_same_job(json.loads(line))
                    answered, end = _count(file, len(line))
                    file.truncate(end)  # a line that was cut off never counted
                    return answered
        self._write(self._head, "w")
        return 0

    def _check_same_job(self, head: dict[str, Any]) -> None:
        difference = find_difference(head, self._head)
        if difference is not None:
            name, before, now = difference
            raise UsageError(
                f"{self.path} is of another job: it was begun with {name}={before!r}, now it is "
                f"{now!r}; run the command that began it, or remove that file"
            )

    def append(self, batch: Sequence[MediaScore]) -> None:
        """Keep the answers of one batch.

        Raises:
            JobError: If the disk is full.
        """
        self._write([asdict(score) for score in batch], "a")

    def scores(self) -> Iterator[MediaScore]:
        """The answers that are kept, in input order, one batch at a time in memory."""
        return iter_scores(self.path)

    def remove(self) -> None:
        """Forget everything; the tables are written."""
        self.path.unlink(missing_ok=True)

    def _write(self, content: object, mode: str) -> None:
        with no_space_is_an_error(self.path), self.path.open(mode, encoding="utf-8") as file:
            file.write(json.dumps(content) + "\n")


def journal_path(output: Path) -> Path:
    """Where the journal of an output lies."""
    return output.with_name(output.name + SUFFIX)


def read_head(path: Path) -> dict[str, Any]:
    """What the answers of a journal depend on.

    Raises:
        UsageError: If the file does not start with that.
    """
    with path.open("rb") as file:
        line = file.readline()
    try:
        head = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{path} does not start like answers of predict: {error}") from error
    if not isinstance(head, dict) or _HEAD_KEYS - set(head):
        raise UsageError(f"{path} does not start like answers of predict; was it edited?")
    return head


def read_settings(output: Path) -> dict[str, Any]:
    """What the job of an output was begun with; nothing where no job is under way.

    Raises:
        UsageError: If the journal beside the output does not start with that.
    """
    path = journal_path(output)
    try:
        with path.open("rb") as file:
            begun = file.readline().endswith(b"\n")  # without its line break it never counted
    except FileNotFoundError:
        return {}
    return read_head(path) if begun else {}


def count_scores(path: Path) -> int:
    """How many answers a journal holds."""
    with path.open("rb") as file:
        return _count(file, len(file.readline()))[0]


def iter_scores(path: Path) -> Iterator[MediaScore]:
    """The answers of a journal, in order, one batch at a time in memory."""
    with path.open("rb") as file:
        file.readline()
        for line in file:
            for item in json.loads(line):
                yield _to_score(item)


def _count(file: Any, end: int) -> tuple[int, int]:
    """Answers in the whole lines from here on, and where the last of these lines ends."""
    answered = 0
    for line in file:
        try:
            batch = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:  # a power cut may leave a hole where a line should be
            batch = None
        if batch is None:
            break
        answered += len(batch)
        end += len(line)
    return answered, end


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
