"""Tables and jobs of many rows without their media: most memory, and rows a second, of each stage.

    python benchmarks/tables.py [--rows 10000 100000] [--stages crop train] [--folder DISK]

The commands themselves, each a process of its own, on a CSV of so many photos with label, method,
group (ten photos each) and original, whose names lead to few small files. Made up are only what
media and networks would say: a face a photo, its embedding, its score, how a crop looks. Nothing of
a crop is stored but its place in a tar. Nobody waits for the disk (``fsync`` does nothing), so that
the rates are those of the processor.

    crop            both halves of a crop job (--shard 1/2, 2/2): read, plan, seal, write tables
    merge           the halves become one crop folder
    crop again      the command of the whole job finds that nothing is left to do
    predict         a list of as many photos: plan, answers, a table of files and one of faces
    predict again   the same finds its answers
    train           a training reads the folder, divides it, and draws its first batch
    doctor          all rules, on perceptual hashes that are there
    evaluate        metrics by file, person and face, with intervals from 20 resamples

Memory is the largest anonymous memory of the process, which nothing else can have while it runs
(Linux only; the pages of torch's libraries, which are files, are not in it); its growth is that of
a row since the size before. At the end the checksum of all tables of a size is printed: equal ones
are equal results. Ten million rows take 60 GB on the disk.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np

from deepfake import cli

_POOL = 1000  # files that all names lead to
_METHODS = ("swap", "reenact", "synthetic")
_TABLES = (
    *(f"crops/{name}" for name in ("manifest.csv", "sources.csv", "plan.csv")),
    *("scores.csv", "faces.csv", "batch.txt", "doctor.json"),
    *(f"report/{name}" for name in ("predictions.csv", "faces.csv", "metrics.json")),
)


def main() -> None:
    """Print a line for each stage and number of rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--stages", nargs="+", choices=[*STAGES], default=[*STAGES])
    parser.add_argument("--folder", type=Path, help="where the jobs go for the while")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_stage(options.one[0], Path(options.one[1]))
        return
    before: dict[str, tuple[int, float]] = {}
    print(f"{'stage':<14} {'rows':>10} {'peak MB':>9} {'bytes a row':>12} {'rows/s':>9}")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        make_pool(Path(name) / "pool", max(options.rows))
        for count in options.rows:
            folder = Path(name) / str(count)
            folder.mkdir()
            write_inputs(folder, count)
            for stage in options.stages:
                words = [sys.executable, __file__, "--one", stage, str(folder)]
                told = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
                peak, seconds = map(float, told.split())
                each = ""
                if stage in before:
                    each = f"{(peak - before[stage][1]) / (count - before[stage][0]):,.0f}"
                before[stage] = count, peak
                rate = f"{count / seconds:,.0f}"
                print(
                    f"{stage:<14} {count:>10,} {peak / 1e6:>9,.0f} {each:>12} {rate:>9}",
                    flush=True,
                )
            print(f"tables of {count:,} rows: sha256 {hash_tables(folder)[:16]}", flush=True)
            shutil.rmtree(folder)


def make_pool(folder: Path, count: int) -> None:
    """Few files, to which as many names lead."""
    (folder / "files").mkdir(parents=True)
    for number in range(_POOL):
        (folder / "files" / f"{number:03d}.jpg").write_bytes(b"no photo: nobody looks at it")
    for number in range(-(-count // _POOL)):
        (folder / f"{number:05d}").symlink_to("files")


def write_inputs(folder: Path, count: int) -> None:
    """The CSV of the crop job and the list of the prediction."""
    with (folder / "photos.csv").open("w") as table, (folder / "photos.txt").open("w") as listing:
        table.write("path,label,method,group,original\n")
        for number in range(count):
            path = f"../pool/{name_file(number)}"
            # Groups of five reals and a fake of each of them.
            group, place = divmod(number, 10)
            listing.write(f"{path}\n")
            if place < 5:
                table.write(f"{path},real,,person {group},\n")
            else:
                method, original = _METHODS[group % 3], f"../pool/{name_file(number - 5)}"
                table.write(f"{path},fake,{method},person {group},{original}\n")


def name_file(number: int) -> str:
    """One of the names that lead to the pool."""
    return f"{number // _POOL:05d}/{number % _POOL:03d}.jpg"


def hash_tables(folder: Path) -> str:
    """SHA-256 over all tables that stages have left, and their names."""
    digest = hashlib.sha256()
    for name in _TABLES:
        if (folder / name).exists():
            with (folder / name).open("rb") as file:
                digest.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    return digest.hexdigest()


# In the process of a stage


def run_stage(stage: str, folder: Path) -> None:
    """Prints the most bytes that the process had, and seconds."""
    os.chdir(folder)
    os.fsync = lambda fd: None
    peak, ended = 0, Event()

    def look() -> None:
        nonlocal peak
        while not ended.wait(0.02):
            peak = max(peak, anonymous_bytes())

    looker = Thread(target=look)
    looker.start()
    start = time.monotonic()
    try:
        with redirect_stdout(sys.stderr):
            STAGES[stage]()
    finally:
        ended.set()
        looker.join()
    print(peak, time.monotonic() - start)


def anonymous_bytes() -> int:
    """Bytes of this process that are of no file (Linux only)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def command(run: Callable[[Sequence[str]], int], words: str, *codes: int) -> None:
    """Run a command of the package, which must end well, or with one of these codes."""
    code = run([*words.split(), "--quiet"])
    if code not in (cli.EXIT_OK, *codes):
        raise SystemExit(f"{words} ended with {code}")


def crop() -> None:
    """Two halves of a crop job."""
    make_up_crops()
    for half in ("1/2", "2/2"):
        command(
            cli.crop, f"photos.csv half{half[0]} --size 224 --store tar --workers 0 --shard {half}"
        )


def merge() -> None:
    """The halves as one folder."""
    command_line = ["half1", "half2", "--output", "crops"]
    if cli.merge(command_line):
        raise SystemExit("merge failed")


def crop_again() -> None:
    """The whole job, which is done."""
    command(cli.crop, "photos.csv crops --size 224 --store tar --workers 0")


def predict() -> None:
    """A prediction, or the same again."""
    from deepfake.inference.predictor import Predictor
    from deepfake.records import FaceScore, Result, Source, Status

    def score(
        predictor: object, blocks: Iterator[Sequence[Source]], keep: object
    ) -> Iterator[list[Result]]:
        box = (1.0, 2.0, 30.0, 40.0)
        faces = (FaceScore(0, 0.0, 0, box, 0.99, 0.25),)
        for block in blocks:
            yield [
                Result(source.name, Status.OK, p_fake=0.25, n_faces=1, box_xyxy=box, faces=faces)
                for source in block
            ]

    Predictor.score_blocks = score  # type: ignore[method-assign, assignment]
    command(
        cli.predict,
        "photos.txt --output scores.csv --faces faces.csv --workers 0 --backend torch --device cpu",
    )


def train() -> None:
    """What a training does before its first step."""
    from deepfake.learning.data import BatchSettings, CropDataModule

    data = CropDataModule("crops", batches=BatchSettings(paired="auto"))
    data.setup()
    batch = next(iter(data.train_dataloader().sampler))  # names of crops: none is read
    Path("batch.txt").write_text(str(batch))


def doctor() -> None:
    """All rules."""
    from deepfake.dataset import doctor as rules
    from deepfake.dataset import perceptual_hashes

    def look(store: object, scale: int, size: int, file: str) -> Any:
        digest = hashlib.sha1(file.encode(), usedforsecurity=False).digest()
        hashed = int.from_bytes(digest[:8], "big")
        return perceptual_hashes._ReadCrop(digest, 10_000 + digest[0], hashed, "")

    perceptual_hashes._read_crop = look
    report = rules.examine(Path("crops"), quiet=True)
    Path("doctor.json").write_text(str(report.to_dict()))


def evaluate() -> None:
    """A report without its page."""
    from deepfake.evaluation import embeddings, job
    from deepfake.learning.ensemble import load_detector

    def embed(
        dataset: Any, blocks: Iterable[Sequence[int]], checkpoint: Any, options: Any
    ) -> Iterator[embeddings.Embeddings]:
        width = checkpoint.head.embedding_dim
        for block in blocks:
            places = np.asarray(block)
            vectors = np.zeros((len(block), width), np.float32)
            vectors[np.arange(len(block)), places % width] = 1
            yield embeddings.Embeddings(vectors, (places % 997).astype(np.float32))

    embeddings._iter_embeddings = embed
    job.run_evaluation(
        load_detector("default"),
        ["crops"],
        Path("report"),
        job.EvaluationOptions(split="all", n_resamples=20),
    )


def make_up_crops() -> None:
    """One face a photo, and a tar that holds places alone."""
    from deepfake.dataset import crop_store, cropping
    from deepfake.records import Extraction, Face, FaceCrop, Source, Status

    def extract(sources: Iterable[Source], *_: object) -> Iterator[tuple[Source, Extraction]]:
        for source in sources:
            x, y, side = (int(source.id[place : place + 2], 16) for place in (0, 2, 4))
            box = np.array([x, y, x + 60 + side, y + 80 + side], np.float32)
            landmarks = np.array(
                [
                    [x + 20, y + 30],
                    [x + 45, y + 30],
                    [x + 31.5, y + 50.25],
                    [x + 22, y + 65],
                    [x + 43, y + 65],
                ],
                np.float32,
            )
            window = (x - 9, y - 9, x + side + 89, y + side + 89)
            crop = FaceCrop(0, 0.0, 0, Face(box, 0.999, landmarks), 0, b"", window)
            yield source, Extraction(Status.OK, "", (crop,), 1)

    cropping.iter_extractions = extract  # type: ignore[attr-defined, assignment]
    crop_store._TarWriter._append = lambda self, name, data: 0  # type: ignore[method-assign]


STAGES: dict[str, Callable[[], None]] = {
    "crop": crop,
    "merge": merge,
    "crop again": crop_again,
    "predict": predict,
    "predict again": predict,
    "train": train,
    "doctor": doctor,
    "evaluate": evaluate,
}

if __name__ == "__main__":
    main()
