"""Options that several commands have, and what was chosen with them.

Knows no command.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from deepfake.errors import UsageError
from deepfake.learning.checkpoint_names import DEFAULT
from deepfake.stores.address import is_url

if TYPE_CHECKING:
    from deepfake.jobs.engine import Executor
    from deepfake.jobs.parts import JobPart
    from deepfake.learning.checkpoint_names import NamedCheckpoint
    from deepfake.records import Sampling, Workers


PAGE = ("a page", ".html", ".htm")
"""What ``refuse_other_suffix`` is told of a report."""
Number = TypeVar("Number", int, float)

CHECKPOINT: dict[str, Any] = {
    "default": DEFAULT,
    "metavar": "MODEL",
    "help": "model.ckpt of a run, its .safetensors, the name of a model in the box, "
    "hf://USER/REPO[@REVISION], or the address of a file in a store (s3://bucket/model.ckpt) "
    f"(default: {DEFAULT}, the one in the box)",
}
"""Settings of ``--checkpoint``, the same for all commands."""


def add_detector_options(parser: argparse.ArgumentParser) -> None:
    """Of commands that score with a checkpoint, or with the mean of several."""
    several = {"nargs": "+", "action": "extend", "default": None}
    help_ = f"{CHECKPOINT['help']}; of several, which must cut faces alike, the mean p_fake counts"
    parser.add_argument("--checkpoint", **CHECKPOINT | several | {"help": help_})
    add_tta_option(parser)


def add_tta_option(parser: argparse.ArgumentParser) -> None:
    """How often a detector looks at each face."""
    parser.add_argument(
        "--tta",
        choices=["flip", "none"],
        help="flip: look at each face in a mirror, too, for twice the time; the mean p_fake counts "
        "(default: as the limits of the checkpoint were chosen; of the one in the box, flip)",
    )


def find_detector(options: argparse.Namespace) -> list[NamedCheckpoint]:
    """Where the checkpoints lie that were chosen with ``add_detector_options``."""
    from deepfake.learning.checkpoint_names import find_checkpoint

    return [find_checkpoint(name) for name in options.checkpoint or [DEFAULT]]


def count(text: str) -> int:
    """A whole number above 0; argparse says so before anything is imported."""
    return _parse_number(text, int, "a whole number above 0")


def from_zero(text: str) -> int:
    """A whole number, 0 or above it."""
    return _parse_number(text, int, "a whole number from 0", lowest=0)


def positive(text: str) -> float:
    """A finite number above 0."""
    return _parse_number(text, float, "a number above 0")


def _parse_number(
    text: str, kind: type[Number], expected: str, lowest: float = math.ulp(0)
) -> Number:
    try:
        number = kind(text)
    except ValueError:
        number = kind(-1)
    if not lowest <= number < math.inf:  # false for NaN, too
        raise argparse.ArgumentTypeError(f"{text!r}; expected {expected}")
    return number


def add_media_options(parser: argparse.ArgumentParser) -> None:
    """Of commands that take photos and videos."""
    add_extraction_options(parser)
    clips = parser.add_argument_group("frames of videos and animations")
    rate = clips.add_mutually_exclusive_group()
    rate.add_argument(
        "--frames", type=count, metavar="N", help="N frames, evenly spread over the whole length"
    )
    rate.add_argument("--fps", type=positive, metavar="R", help="R frames per second")
    rate.add_argument("--every", type=count, metavar="K", help="each K-th frame")
    clips.add_argument(
        "--keyframes", action="store_true", help="nearest keyframes instead: faster, other frames"
    )
    clips.add_argument(
        "--max-frames", type=count, metavar="N", help="never more than N of one file (default 1000)"
    )
    clips.add_argument(
        "--detect-every",
        type=count,
        metavar="K",
        help="search each K-th of these frames for faces and put the boxes of the others in "
        "between, where less than a second lies between (default 1: search all)",
    )
    parser.add_argument(
        "--follow-links",
        action="store_true",
        help="follow symbolic links of a folder that stay inside of it",
    )
    parser.add_argument(
        "--follow-all-links",
        action="store_const",
        const="anywhere",
        dest="follow_links",
        help="also those that leave it, as in a linked data set or a snapshot of a hub",
    )
    add_strict_option(parser)
    parser.add_argument(
        "--quiet", action="store_true", help="no progress, only results and warnings"
    )


def add_extraction_options(parser: argparse.ArgumentParser, lists: bool = True) -> None:
    """Of commands that may have to cut faces out of media.

    Args:
        parser: Gets them.
        lists: Whether its inputs may be lists, and lie in stores.
    """
    parser.add_argument(
        "--workers",
        type=int,
        default=default_workers(),
        help="processes that decode and detect; changes nothing but the speed (default: cores)",
    )
    parser.add_argument(
        "--timeout", type=positive, default=60.0, help="seconds for one file (default %(default)s)"
    )
    parser.add_argument(
        "--max-pixels",
        type=count,
        default=100_000_000,
        help="larger photos and frames are unreadable (default %(default)s)",
    )
    parser.add_argument(
        "--detect-device",
        default="cpu",
        metavar="D",
        help="where faces are searched for: cpu, cuda or cuda:N (default %(default)s)",
    )
    if not lists:
        return
    parser.add_argument(
        "--other-stores",
        action="store_true",
        help="names in a list, and redirects of a web server, may lead to other stores (s3://, "
        "https://, ...) than the one that was named; from a list of this disk, to any",
    )


def choose_workers(options: argparse.Namespace) -> Workers:
    """What was chosen with ``add_extraction_options``, for work that is done in this process."""
    from deepfake.records import Workers

    return Workers(
        default_workers() if options.workers is None else options.workers,
        options.timeout,
        options.max_pixels,
        options.detect_device,
        options.other_stores,
    )


def default_workers() -> int:
    """The cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Of commands whose job another engine can do; after ``add_extraction_options``."""
    engine = parser.add_argument_group("where the work is done")
    engine.add_argument(
        "--engine",
        default="local",
        metavar="E",
        help="local; ray:ADDRESS, a Ray cluster (HOST:PORT or auto) whose nodes see the same "
        "files; or ray, one of its own on this machine (default %(default)s)",
    )
    engine.add_argument(
        "--gpus-per-worker",
        type=positive,
        metavar="G",
        help="GPUs of each Ray worker, or a part of one, such as 0.5; it has as many CPUs as "
        "--workers (with Ray 1 by default) and takes one shard after another (default: no GPU)",
    )
    parser.set_defaults(workers=None)  # another default for each engine


@dataclass(frozen=True, slots=True)
class Engine:
    """Who does the work of a job.

    Args:
        execute: Has it done.
        workers: How each who does it reads media.
        device: Where each runs the network.
        is_here: Whether it is done in this process.
    """

    execute: Executor
    workers: Workers
    device: str
    is_here: bool

    def reading(self, roots: Sequence[Path]) -> Engine:
        """The same for work on crop folders, which may be mirrors of some in stores."""
        if self.is_here:
            return self
        from deepfake.dataset.mirrored_work import WithMirrors

        return replace(self, execute=WithMirrors(self.execute, roots))


def choose_engine(options: argparse.Namespace) -> Engine:
    """What was chosen with ``add_engine_options``."""
    kind, colon, address = options.engine.partition(":")
    if options.engine == "local":
        if options.gpus_per_worker is not None:
            raise UsageError("--gpus-per-worker is for --engine ray; --device names a GPU of here")
        from deepfake.jobs.engine import run_here

        device = getattr(options, "device", "cpu")
        return Engine(run_here, choose_workers(options), device, is_here=True)
    if kind != "ray" or bool(colon) != bool(address):
        raise UsageError(f"--engine {options.engine!r}; expected local, ray or ray:ADDRESS")
    if "://" in address:
        raise UsageError(
            f"--engine {options.engine}: Ray's client is not supported; give HOST:PORT of the "
            "cluster, or run the command on one of its nodes with --engine ray:auto"
        )
    return _choose_ray(options, address)


def _choose_ray(options: argparse.Namespace, address: str) -> Engine:
    workers = replace(
        choose_workers(options), processes=1 if options.workers is None else options.workers
    )
    if workers.processes < 1:
        raise UsageError(
            "--workers 0 has no process that may crash; with --engine ray give 1 or more"
        )
    usual = "cpu" if options.gpus_per_worker is None else "cuda"
    for name in ("device", "detect_device"):
        if getattr(options, name, "auto") not in ("auto", "cpu", usual):
            raise UsageError(
                f"--{name.replace('_', '-')} {getattr(options, name)}: with --engine ray it is "
                "cpu, or with --gpus-per-worker cuda, the GPU that Ray gives a worker"
            )
    if getattr(options, "devices", None) is not None:
        raise UsageError("--devices is for --engine local; with ray it is --gpus-per-worker")
    try:
        from deepfake.jobs.ray_engine import RayEngine
    except ImportError as error:
        raise UsageError(
            f"--engine ray needs Ray, not installed here ({error}): pip install 'deepfake[ray]'"
        ) from error
    execute = RayEngine(address or None, workers.processes, options.gpus_per_worker or 0.0)
    device = getattr(options, "device", "auto")
    device = usual if device == "auto" else device
    return Engine(execute, workers, device, is_here=False)


def add_cache_options(parser: argparse.ArgumentParser) -> None:
    """Of commands that read crops, which may lie in a store."""
    cache = parser.add_argument_group("crop folders in a store (s3://bucket/crops)")
    cache.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="where their tables and crops are kept while they are read, and for the next time",
    )
    cache.add_argument(
        "--cache-gb",
        type=positive,
        metavar="N",
        help="billions of bytes of crops in it, at most "
        "(default 100); what finds no room is read crop by crop",
    )


def open_crop_folder(options: argparse.Namespace, data: str, in_order: bool = True) -> Path:
    """Where the crop folder ``data`` lies on this disk, with what ``add_cache_options`` took.

    Raises:
        UsageError: As of ``open_crops``, or if a cache has a size and no place.
        JobError: As of ``open_crops``.
    """
    from deepfake.dataset.crop_mirror import CACHE_GB, open_crops

    _refuse_size_alone(options)
    return open_crops(data, options.cache, options.cache_gb or CACHE_GB, in_order)


def open_crop_folders(options: argparse.Namespace, inputs: Sequence[str]) -> list[Path]:
    """Have those inputs that are crop folders in a store found by ``find_crops``; their mirrors.

    Raises:
        UsageError: If there are none, and yet a cache was named, or if it has a size and no place.
        JobError: As of ``open_crops``.
    """
    _refuse_size_alone(options)
    if options.cache is None:
        return []
    from deepfake.dataset.crop_mirror import is_stored

    found = [name for name in inputs if is_url(name) and is_stored(name)]
    if not found:
        raise UsageError("--cache is for crop folders in a store, and none of the inputs is one")
    return [open_crop_folder(options, name) for name in found]


def _refuse_size_alone(options: argparse.Namespace) -> None:
    if options.cache is None and options.cache_gb is not None:
        raise UsageError("--cache-gb is the size of the cache: name its folder with --cache DIR")


def add_strict_option(parser: argparse.ArgumentParser) -> None:
    """Of commands whose inputs may stay without an answer."""
    parser.add_argument(
        "--strict", action="store_true", help="exit with 3 if some inputs have no answer"
    )


def add_evidence_options(parser: argparse.ArgumentParser) -> None:
    """Of commands that write a page about files."""
    parser.add_argument("--case", metavar="TEXT", help="stands on the page: number or name")
    parser.add_argument("--analyst", metavar="TEXT", help="stands on the page: who asks")


def add_shard_option(parser: argparse.ArgumentParser) -> None:
    """Of commands that several machines can share."""
    parser.add_argument(
        "--shard", metavar="I/N", help="do only the I-th of N parts, for deepfake merge"
    )


def add_aggregation(parser: argparse.ArgumentParser) -> None:
    """Of commands that score files."""
    parser.add_argument(
        "--aggregate",
        choices=["mean", "median", "top", "confident", "max"],
        help="how the frames of a person make their score (default: as the checkpoint says)",
    )


def add_faces_per_frame(parser: argparse.ArgumentParser) -> None:
    """Of commands that score media."""
    parser.add_argument(
        "--faces-per-frame",
        choices=["all", "largest"],
        help="score all faces, by person, or the largest of each frame alone (default: as the "
        "checkpoint says; all unless trained otherwise)",
    )


def choose_sampling(options: argparse.Namespace, default: Sampling) -> Sampling:
    """The default with whatever was asked for instead."""
    rate = {name: getattr(options, name) for name in ("frames", "fps", "every")}
    changes: dict[str, Any] = {}
    if any(value is not None for value in rate.values()):
        changes |= rate
    if options.keyframes:
        changes["mode"] = "keyframes"
    for name in ("max_frames", "detect_every"):
        if getattr(options, name) is not None:
            changes[name] = getattr(options, name)
    return replace(default, **changes)


def choose_part(options: argparse.Namespace) -> JobPart | None:
    """The part of the job that ``--shard`` names; without it there is only the whole."""
    from deepfake.jobs.parts import JobPart

    return None if options.shard is None else JobPart.parse(options.shard)


def refuse_existing(name: str, path: Path, overwrite: bool) -> None:
    """Refuse to replace the file that option ``--name`` names, unless that was asked for."""
    if path.exists() and not overwrite:
        raise UsageError(f"--{name} {path} exists; name another file or pass --overwrite")


def refuse_other_suffix(name: str, path: Path, what: str, *suffixes: str) -> None:
    """Refuse, before any work, a name of option ``--name`` that its content would belie."""
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"--{name} {path}: {what} is written; name it {' or '.join(suffixes)}")


def refuse_missing_folder(name: str, path: Path) -> None:
    """Refuse, before any work, what option ``--name`` names in a folder that is not there."""
    if not path.parent.is_dir():
        raise UsageError(f"--{name} {path}: there is no folder {path.parent}")
