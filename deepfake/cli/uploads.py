"""Outputs in a store: a command makes them in a folder of this disk, then they are uploaded.

Knows no command and no format.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from deepfake.errors import JobError, UsageError
from deepfake.stores.address import Address, is_url

logger = logging.getLogger(__name__)
_SIGNALS = 128  # exit codes from here on
_CLAIMS_FILE = ".uploads.json"  # no output is called so


def place(text: str) -> str | Path:
    """A file or folder of this disk as a path, one in a store as its address."""
    return text if is_url(text) else Path(text)


def add_job_option(parser: argparse.ArgumentParser) -> None:
    """Of commands whose outputs may lie in a store."""
    parser.add_argument(
        "--job",
        type=Path,
        metavar="DIR",
        help="where outputs that are named by an address (s3://bucket/...) are made before they "
        "are uploaded: a folder of this disk, with which the same command goes on",
    )


def with_uploads(
    work: Callable[[argparse.Namespace], int],
    options: argparse.Namespace,
    *names: str,
    anew: bool = False,
    leads: bool = True,
    fetches: bool = False,
) -> int:
    """Do the work of a command, and upload what it made for a store.

    Args:
        work: Makes the outputs, and returns the exit code; that of a signal says that it did not.
        options: Of the command; for ``work``, addresses of outputs are paths in ``--job``, and
            ``publish`` uploads files of the one output, which is a folder, before its end.
        names: Of the options that name outputs.
        anew: The work is done from the start each time, and replaces what it left in ``--job``.
        leads: Whether this is the process, of several that do the work together, that uploads.
        fetches: Whether the work copies inputs into ``--job``, so that it wants one for that alone.

    Raises:
        UsageError: If there is no such folder, or somebody else's object would be replaced.
        JobError: If an output cannot be uploaded.
    """
    targets = _find_targets(options, names, fetches)
    options.publish = None
    for name, target in targets.items():
        setattr(options, name, options.job / target.name)
    if not leads or not (targets or fetches):
        return work(options)
    from deepfake.storage import exclusive, no_space_is_an_error

    job: Path = options.job
    if job.exists() and not job.is_dir():
        raise UsageError(f"--job {job} is a file; name a folder, or one that is to be made")
    with no_space_is_an_error(job):
        job.mkdir(parents=True, exist_ok=True)
        with exclusive(job):
            claims = _Claims(job)
            claims.add(targets, getattr(options, "overwrite", False))
            if anew:
                options.overwrite = True
            if len(targets) == 1:
                (target,) = targets.values()
                options.publish = partial(_publish, job / target.name, target, claims)
            code = work(options)
            if code < _SIGNALS:
                for target in targets.values():
                    _upload(job / target.name, target, claims, getattr(options, "quiet", False))
    return code


def _find_targets(
    options: argparse.Namespace, names: Sequence[str], fetches: bool
) -> dict[str, Address]:
    """Outputs in a store, by the options that name them."""
    targets = {}
    for name in names:
        value = getattr(options, name)
        if isinstance(value, str) and is_url(value):
            targets[name] = Address.parse(value.rstrip("/"))
    if targets:
        _check_targets(targets, options.job)
    elif options.job is not None and not fetches:
        raise UsageError(
            "--job is where outputs for a store are made, and none is named: --"
            f"{names[0]} s3://BUCKET/NAME"
        )
    return targets


def _check_targets(targets: dict[str, Address], job: Path | None) -> None:
    from deepfake.stores.uploads import check_target

    for name, target in targets.items():
        check_target(target)
        if job is None:
            raise UsageError(
                f"--{name} {target} lies in a store: name a folder of this disk with --job, where "
                "it is made before it is uploaded"
            )
    if len({target.name for target in targets.values()}) < len(targets):
        raise UsageError("two outputs have the same name; every one needs its own")


class _Claims:
    """Which objects a job has made, or will make: it replaces and removes no others.

    Args:
        job: Its folder.
    """

    def __init__(self, job: Path) -> None:
        from deepfake.storage import Confinement
        from deepfake.tables import parse_json

        self._job, self._path = job, Confinement(job).path_of(_CLAIMS_FILE)
        self._names: dict[str, list[str]] = {}
        try:
            content = parse_json(self._path.read_text(encoding="utf-8"))
            self._names = {str(target): list(map(str, names)) for target, names in content.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            pass  # nobody has claimed anything

    def add(self, targets: dict[str, Address], overwrite: bool) -> None:
        """Claim the outputs of options, unless they are somebody else's.

        Raises:
            UsageError: If one is.
        """
        from deepfake.stores.objects import look

        for target in targets.values():
            found = None if str(target) in self._names else look(target)
            if found is not None and (found.is_folder or not overwrite):
                advice = "" if found.is_folder else " or pass --overwrite"
                raise UsageError(
                    f"{target} exists, and {self._job} has not made it; name another one{advice}"
                )
        for target in targets.values():
            self.note(target, self.names_below(target))

    def names_below(self, folder: Address) -> list[str]:
        """What was, or may have been, sent below an address."""
        return self._names.get(str(folder), [])

    def note(self, target: Address, names: Sequence[str]) -> None:
        """Remember what is sent below an address; nothing where it is a file."""
        from deepfake.storage import write_atomic

        self._names[str(target)] = sorted(names)
        write_atomic(self._path, json.dumps(self._names, indent=1, sort_keys=True) + "\n")


def _upload(path: Path, target: Address, claims: _Claims, quiet: bool) -> None:
    from deepfake.progress import Progress
    from deepfake.stores.uploads import upload_file, upload_folder

    if not path.is_dir():
        n_files, n_sent = 1, int(upload_file(path, target))
    else:
        names, old = _list_files(path), claims.names_below(target)
        claims.note(target, list({*old, *names}))
        with Progress(len(names), quiet=quiet) as progress:
            n_sent = upload_folder(path, target, names, old, progress.advance)
        claims.note(target, names)
        n_files = len(names)
    there = f", {n_files - n_sent:,} lay there already" if n_sent < n_files else ""
    sys.stderr.write(f"uploaded: {target} ({n_sent:,} files sent{there})\n")


def _publish(folder: Path, target: Address, claims: _Claims, names: Sequence[str]) -> None:
    """Upload some files of a folder; those that it had below the same folder and has no more go."""
    from deepfake.stores.uploads import upload_folder

    places = {PurePosixPath(name).parent for name in names}
    old = claims.names_below(target)
    gone = {one for one in old if PurePosixPath(one).parent in places} - set(names)
    claims.note(target, list({*old, *names}))
    try:
        upload_folder(folder, target, names, gone)
    except JobError as error:
        logger.warning("%s", error)  # there will be another time, at the latest the end
        return
    claims.note(target, list({*old, *names} - gone))


def _list_files(folder: Path) -> list[str]:
    """What lies in the folder of a job, its seal last: who sees that sees all of it."""
    from deepfake.jobs.folder import JOB_FILE, OUTPUTS_FILE, TIMES_FILE
    from deepfake.storage import LOCK_NAMES, TEMPORARY_PREFIX

    found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    names = [
        path.as_posix()
        for path in found
        if path.name not in LOCK_NAMES
        and path.as_posix() not in (OUTPUTS_FILE, TIMES_FILE)
        and not any(part.startswith(TEMPORARY_PREFIX) for part in path.parts)
    ]
    return sorted(names, key=lambda name: (name == JOB_FILE, "/" not in name, name))
