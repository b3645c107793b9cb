"""Crops of a folder in a store, read through the cache, against the same folder on the disk.

    python benchmarks/streaming.py [--crops 4000] [--size 224] [--rounds 3] [--folder DISK]

The store is moto's S3 server in a process of its own on this machine: it is written in Python, so a
real one answers faster, and over a network later. Crops a second of one thread, which reads the
bytes of each crop and checks them, in a random order: from the disk; through a new cache, as the
first epoch of a training does, so that each shard is fetched when the first of its crops is read;
through the same cache again, as the epochs after it do; and, of 500 crops, through a cache without
room, where each crop is asked for by itself. Gated on the same bytes of every crop. Opening, which
copies tables and checksums, is not in the rates; a line of each kind of folder tells how long it
took, the first time and again, and what lies in the store.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.crop_store import draw, measure, write
from deepfake.dataset.crop_mirror import open_crops
from deepfake.dataset.crop_store import CropStore, StoreKind
from deepfake.dataset.manifest import read_manifest
from deepfake.jobs.folder import JOB_FILE
from deepfake.stores import objects
from deepfake.stores.address import Address
from deepfake.stores.uploads import upload_folder

_KINDS: tuple[StoreKind, ...] = ("tar", "folder")
_BUCKET = "crops"
_AMPLE_GB, _NO_ROOM_GB, _N_ALONE = 100.0, 1e-9, 500
_WAIT_S = 60.0


def main() -> None:
    """Print the rates and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crops", type=int, default=4_000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where crops and caches go for the while")
    options = parser.parse_args()
    encoded = draw(options.size)
    with tempfile.TemporaryDirectory(dir=options.folder) as name, running_s3():
        objects.open_store("s3", False).mkdir(_BUCKET)
        for kind in _KINDS:
            root = Path(name) / kind
            write(root, kind, options.crops, options.size, encoded)
            address = Address.parse(f"s3://{_BUCKET}/{kind}")
            paths = [path for path in root.rglob("*") if path.is_file()]
            names = sorted(path.relative_to(root).as_posix() for path in paths)
            upload_folder(root, address, sorted(names, key=lambda one: one == JOB_FILE))
            compare(kind, root, address, Path(name), options.rounds)


@contextmanager
def running_s3() -> Iterator[None]:
    """An S3 server for as long, which this process takes for the one of AWS."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "made",
        "AWS_SECRET_ACCESS_KEY": "up",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port, server)
        yield
    finally:
        server.terminate()
        server.wait()


def wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    """Until the server listens."""
    until_s = time.monotonic() + _WAIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if server.poll() is not None or time.monotonic() > until_s:
                raise SystemExit("moto's server did not start; the extra dev has it") from None
            time.sleep(0.1)


def make_reader(store: CropStore, names: Sequence[str]) -> Callable[[int], bytes]:
    """Reads a crop by its number."""
    return lambda number: store.read(names[number])


def compare(kind: StoreKind, root: Path, address: Address, folder: Path, n_rounds: int) -> None:
    """The lines of one kind of folder."""
    names = [row.crop for row in read_manifest(root).rows]
    disk = CropStore(root, names)
    rates: dict[str, list[float]] = {"disk": [], "first": [], "again": [], "alone": []}
    opened_s: dict[str, list[float]] = {"first": [], "again": []}
    for number in range(n_rounds):
        order = random.Random(number).sample(range(len(names)), len(names))
        rates["disk"].append(measure(make_reader(disk, names), order))
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            for epoch in ("first", "again"):
                began_s = time.perf_counter()
                store = CropStore(open_crops(str(address), cache, _AMPLE_GB), names)
                opened_s[epoch].append(time.perf_counter() - began_s)
                rates[epoch].append(measure(make_reader(store, names), order))
            if any(store.read(name) != disk.read(name) for name in names):
                raise SystemExit(f"not equal: a crop of {address} has other bytes")
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            store = CropStore(open_crops(str(address), cache, _NO_ROOM_GB), names)
            rates["alone"].append(measure(make_reader(store, names), order[:_N_ALONE]))
    there = [seen.size or 0 for _, seen in objects.list_folder(address)]
    medians = {name: statistics.median(found) for name, found in rates.items()}
    ratios = sorted(a / b for a, b in zip(rates["again"], rates["disk"], strict=True))
    print(
        f"{kind:<6}  {len(there):>7,} objects  {sum(there) / 1e6:7,.0f} MB  opened in "
        f"{statistics.median(opened_s['first']):.2f} s, again in "
        f"{statistics.median(opened_s['again']):.2f} s"
    )
    print(
        f"{kind:<6}  disk {medians['disk']:7,.0f}/s  first epoch {medians['first']:7,.0f}/s  "
        f"others {medians['again']:7,.0f}/s  without room {medians['alone']:7,.0f}/s  "
        f"others against disk x{ratios[len(ratios) // 2]:.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})",
        flush=True,
    )


if __name__ == "__main__":
    main()
