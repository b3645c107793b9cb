"""Hashes that survive what changes a picture little, and pairs equal to brute force."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepfake.dataset.duplicates import (
    MAX_DISTANCE,
    MIN_CORRELATION,
    correlate,
    find_pairs,
    hash_thumbnail,
    shrink_for_hash,
)
from tests.fakes import portrait

Grey = NDArray[np.uint8]


def grey(identity: int, shot: int = 0) -> Grey:
    return cv2.cvtColor(portrait(identity, shot), cv2.COLOR_RGB2GRAY)  # type: ignore[return-value]


def look(picture: Grey) -> int:
    hashed = hash_thumbnail(shrink_for_hash(picture))
    assert hashed is not None
    return hashed


def jpeg(picture: Grey, quality: int) -> Grey:
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)  # type: ignore[return-value]


@pytest.mark.parametrize("identity", range(4))
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda one: jpeg(one, 20), id="jpeg"),
        pytest.param(lambda one: cv2.resize(one, None, fx=0.5, fy=0.5), id="half"),
        pytest.param(lambda one: cv2.GaussianBlur(one, (0, 0), 1.5), id="blur"),
        pytest.param(lambda one: cv2.convertScaleAbs(one, alpha=0.8, beta=10), id="darker"),
    ],
)
def test_a_picture_that_changed_little_is_found(
    identity: int, change: Callable[[Grey], Grey]
) -> None:
    before = grey(identity)
    after = change(before)
    assert (look(before) ^ look(after)).bit_count() <= MAX_DISTANCE
    assert correlate(shrink_for_hash(before), shrink_for_hash(after)) >= MIN_CORRELATION


def test_other_people_are_no_duplicates() -> None:
    hashes = [look(grey(identity)) for identity in range(8)]
    distances = [
        (one ^ other).bit_count() for i, one in enumerate(hashes) for other in hashes[i + 1 :]
    ]
    assert min(distances) > MAX_DISTANCE


def test_half_of_the_bits_are_set_and_brightness_is_none_of_them() -> None:
    thumbnail = shrink_for_hash(grey(0))
    hashed = hash_thumbnail(thumbnail)
    assert hashed is not None
    assert hashed.bit_count() == 32
    assert hash_thumbnail(thumbnail * 0.5 + 20) == hashed


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_flat_picture_has_no_look(level: int) -> None:
    picture = np.full((64, 64), level, np.uint8)
    assert hash_thumbnail(shrink_for_hash(picture)) is None


# Pairs


def brute_force(hashes: list[int], parts: list[int], distance: int) -> list[tuple[int, int]]:
    """All pairs across parts, of rows that are the first with their hash in their part."""
    first: dict[tuple[int, int], int] = {}
    for row, known in enumerate(zip(hashes, parts, strict=True)):
        first.setdefault(known, row)
    rows = sorted(first.values())
    return [
        (one, other)
        for i, one in enumerate(rows)
        for other in rows[i + 1 :]
        if parts[one] != parts[other] and (hashes[one] ^ hashes[other]).bit_count() <= distance
    ]


def find(hashes: list[int], parts: list[int], distance: int) -> list[tuple[int, int]]:
    pairs, stopped = find_pairs(
        np.array(hashes, np.uint64), np.array(parts, np.int64), distance, limit=10**6
    )
    assert not stopped
    return [(one, other) for one, other in pairs.tolist()]


words = st.integers(0, 2**64 - 1)


@given(
    st.lists(words, min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), st.sets(st.integers(0, 63), max_size=6)), max_size=40),
    st.integers(0, 5),
    st.randoms(use_true_random=False),
)
def test_finds_what_brute_force_finds(
    seeds: list[int], changes: list[tuple[int, set[int]]], distance: int, rng: object
) -> None:
    hashes = [seeds[part % len(seeds)] ^ sum(1 << bit for bit in bits) for part, bits in changes]
    parts = [index % 3 for index in range(len(hashes))]
    assert find(hashes, parts, distance) == brute_force(hashes, parts, distance)


@pytest.mark.parametrize("distance", range(6))
def test_finds_each_number_of_bits_wherever_they_are(distance: int) -> None:
    rng = np.random.default_rng(distance)
    hashes, parts = [], []
    for _ in range(300):
        one = int(rng.integers(0, 2**63))
        bits = rng.choice(64, distance, replace=False)
        hashes += [one, one ^ sum(1 << int(bit) for bit in bits)]
        parts += [0, 1]
    assert len(find(hashes, parts, distance)) >= 300
    assert find(hashes, parts, distance) == brute_force(hashes, parts, distance)


def test_a_crowd_in_one_bucket_is_divided_again() -> None:
    rng = np.random.default_rng(0)
    # 20 low bits vary, so that all rows agree in two bands at least.
    hashes = (rng.integers(0, 2**20, 1500) | (0xABC << 40)).tolist()
    parts = rng.integers(0, 2, 1500).tolist()
    found = find(hashes, parts, 3)
    assert found == brute_force(hashes, parts, 3)
    assert len(found) > 10


def test_stops_at_the_limit() -> None:
    hashes = np.arange(600, dtype=np.uint64)  # many differ in a few bits
    pairs, stopped = find_pairs(hashes, np.arange(600) % 2, 4, limit=50)
    assert (pairs.shape, stopped) == ((50, 2), True)
    assert len({tuple(pair) for pair in pairs.tolist()}) == 50


def test_a_pair_that_is_found_many_times_counts_once_toward_the_limit() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 100, dtype=np.uint64)
    pairs, stopped = find_pairs(np.tile(hashes, 2), np.repeat([0, 1], 100), limit=150)
    assert (len(pairs), stopped) == (100, False)


def test_many_parts_may_share_the_few_hashes_of_a_bucket() -> None:
    hashes = list(range(16)) * 20
    parts = [number // 16 for number in range(320)]
    assert find(hashes, parts, 1) == brute_force(hashes, parts, 1)


def test_a_part_is_not_compared_with_itself() -> None:
    hashes = np.zeros(5000, np.uint64)
    assert find_pairs(hashes, np.zeros(5000, np.int64))[0].shape == (0, 2)
    assert find_pairs(hashes[:0], np.zeros(0, np.int64))[0].shape == (0, 2)
    parts = np.arange(5000) // 2500
    assert find_pairs(hashes, parts)[0].tolist() == [[0, 2500]]
