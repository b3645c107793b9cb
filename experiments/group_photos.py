"""How often a photo of several real people is called fake, with and without correction.

Contact photos of different real people are composed of single photographs, and scored as any photo
is. A person who alone is called fake at a rate of 5 % makes 1 - 0.95^6 = 26 % of the photos of six
fake, unless the limit knows how many they are.

    python experiments/group_photos.py PEOPLE --checkpoint model.ckpt
    python experiments/group_photos.py PEOPLE --checkpoint model.ckpt --groups FOLDER_OF_GROUPS
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from deepfake.evaluation.bootstrap import bootstrap_share
from deepfake.inference.predictor import Predictor
from deepfake.media.discovery import discover
from deepfake.media.images import read_image
from deepfake.records import FaceQuality, Limits, Result, Source, Verdict

SIDE_PX, COLUMNS = 250, 3


def compose(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Photographs beside and below each other, ``(H, W, 3)``, each ``SIDE_PX`` wide and high."""
    tiles = [
        cv2.resize(picture, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
        for picture in pictures
    ]
    blank = np.zeros_like(tiles[0])
    columns = min(COLUMNS, len(tiles))
    tiles += [blank] * (-len(tiles) % columns)
    rows = [
        np.concatenate(tiles[at : at + columns], axis=1) for at in range(0, len(tiles), columns)
    ]
    return np.asarray(np.concatenate(rows), dtype=np.uint8)


def write_groups(
    sources: Sequence[Source], n_people: int, n_photos: int, folder: Path, seed: int
) -> list[Path]:
    """Write photos of so many different people each; nobody is in two of them."""
    order = np.random.default_rng(seed).permutation(len(sources))
    paths = []
    for number in range(min(n_photos, len(sources) // n_people)):
        chosen = order[number * n_people : (number + 1) * n_people]
        pictures = [read_image(sources[i].path, sources[i].name).image for i in chosen]
        path = folder / f"{n_people}-{number:05d}.png"
        cv2.imwrite(str(path), cv2.cvtColor(compose(pictures), cv2.COLOR_RGB2BGR))
        paths.append(path)
    return paths


def judge_alike(
    results: Sequence[Result], limits: Limits, is_far: Callable[[FaceQuality], bool]
) -> Iterator[Result]:
    """The same scores, judged as if every file showed one person; unlike faces stay unclear."""
    for result in results:
        far = result.quality is not None and is_far(result.quality)
        if result.p_fake is not None and result.n_people and not far:
            yield replace(result, verdict=limits.judge(result.p_fake))
        else:
            yield result


def describe(
    results: Sequence[Result], limits: Limits, is_far: Callable[[FaceQuality], bool]
) -> Iterator[str]:
    """Share of the photos that are called fake and left unclear, with and without correction."""
    scored = [result for result in results if result.p_fake is not None]
    n_people = np.mean([result.n_people for result in scored]) if scored else float("nan")
    yield f"  {len(scored)} of {len(results)} photos scored, {n_people:.2f} people each"
    for name, judged in (
        ("limit for the number of people", scored),
        ("one limit for all files", list(judge_alike(scored, limits, is_far))),
    ):
        shares = []
        for verdict in (Verdict.FAKE, Verdict.UNCLEAR):
            hits = np.array([result.verdict is verdict for result in judged])
            share = bootstrap_share(hits, [str(n) for n in range(len(hits))])
            shares.append(
                f"{verdict.value} {100 * share.value:.1f} % "
                f"({100 * share.low:.1f}-{100 * share.high:.1f})"
            )
        yield f"  {name}: {', '.join(shares)}"


def main(argv: Sequence[str] | None = None) -> None:
    """Compose, score, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("people", type=Path, help="photographs of real people, one person each")
    parser.add_argument("--checkpoint", type=Path, help="by default the one in the box")
    parser.add_argument("--groups", type=Path, help="also real photos of groups of real people")
    parser.add_argument("--photos", type=int, default=200, help="of each size of group")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 6], help="people in a photo")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    predictor = Predictor.from_checkpoint(options.checkpoint, device="cpu")
    judge = predictor.judge
    people = discover(options.people).sources
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            paths = write_groups(people, size, options.photos, Path(folder), options.seed)
            print(f"{len(paths)} photos of {size}:")
            results = list(predictor.predict(paths))
            print("\n".join(describe(results, judge.limits, judge.faces.is_far)), flush=True)
    if options.groups is not None:
        results = list(predictor.score(discover(options.groups).sources))
        several = [result for result in results if result.n_people > 1]
        print(f"{len(several)} of {len(results)} files of {options.groups} show several people:")
        print("\n".join(describe(several, judge.limits, judge.faces.is_far)))


if __name__ == "__main__":
    main()
