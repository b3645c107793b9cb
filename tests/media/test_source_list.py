"""A list of sources is what a plain list of them would be, in few bytes."""

from __future__ import annotations

import hashlib
import os
import pickle
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepfake.media import source_list
from deepfake.media.source_list import SourceList
from deepfake.records import Source

NAMES = ["b.jpg", "a/ü.png", "b.jpg", os.fsdecode(b"\xff.jpg"), "", "b.jpg", "x/", "a/ü.png"]


def make_list(names: list[str] = NAMES, prefix: str = "") -> SourceList:
    return SourceList(map(os.fsencode, names), Path("in"), {2: "io_error: none", 6: "x"}, prefix)


def id_of(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()[:16]


def test_holds_what_it_was_given() -> None:
    found = make_list()
    assert [source.name for source in found] == NAMES
    assert [source.path for source in found] == [Path("in") / name for name in NAMES]
    assert {n: source.problem for n, source in enumerate(found) if source.problem} == {
        2: "io_error: none",
        6: "x",
    }
    assert [source.id for source in found[:2]] == [id_of(b"b.jpg"), id_of("a/ü.png".encode())]
    assert [found[n].id for n in (2, 5)] == [id_of(b"b.jpg\x002"), id_of(b"b.jpg\x003")]
    assert found[7].id == id_of("a/ü.png".encode() + b"\x002")


def test_is_a_sequence() -> None:
    found, plain = make_list(), list(make_list())
    assert all(isinstance(source, Source) for source in plain)
    for part in (slice(None), slice(2, 5), slice(-3, None), slice(None, None, -2), slice(9, 12)):
        assert found[part] == tuple(plain[part])
    assert found[-1] == plain[-1]
    assert found == make_list() != make_list(NAMES[:-1])
    assert pickle.loads(pickle.dumps(found)) == found
    assert plain[3] in found
    assert found.index(plain[4]) == 4
    with pytest.raises(IndexError):
        found[8]
    assert len(SourceList([], Path(), {})) == 0


def test_a_prefix_is_no_part_of_the_path() -> None:
    found = make_list(["a.jpg", "d/a.jpg"], prefix="ä/")
    assert [(source.name, source.path) for source in found] == [
        ("ä/a.jpg", Path("in/a.jpg")),
        ("ä/d/a.jpg", Path("in/d/a.jpg")),
    ]
    assert found[0].id == id_of("ä/a.jpg".encode())


def test_names_whose_hashes_meet_have_their_own_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_list, "_hash", lambda data: hashlib.sha1(data).digest()[0])
    found = make_list([f"{n}.jpg" for n in range(100)])
    assert len({source.id for source in found}) == 100


def held_bytes(count: int) -> int:
    def names() -> Iterator[bytes]:
        yield from (b"folder%03d/photo%06d.jpg" % (n // 1000, n) for n in range(count))

    tracemalloc.start()
    try:
        found = SourceList(names(), Path("in"), {})
        peak = tracemalloc.get_traced_memory()[1]
        assert len(found) == count
        return peak
    finally:
        tracemalloc.stop()


def test_each_takes_few_bytes() -> None:
    """While it is made, too: all that counts is what the parent of a job has at its most."""
    growth = (held_bytes(20_000) - held_bytes(2_000)) / 18_000
    assert 26 < growth < 150  # the names alone are 26 bytes each
