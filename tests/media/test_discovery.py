"""Every input file becomes exactly one source, however it is called and whatever it is."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfake.errors import UsageError
from deepfake.media.discovery import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    Discovery,
    FollowLinks,
    count_passed_over,
    discover,
    list_sources,
)
from tests.media.drawn_videos import write_video


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(found: Discovery) -> list[str]:
    return [source.name for source in found.sources]


def problems(found: Discovery) -> dict[str, str | None]:
    return {source.name: source.problem for source in found.sources}


def test_searches_a_folder_in_the_order_of_bytes(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a/z.PNG", "a.jpg", "B.jpeg", "a/b/c.webp", "é.tif")
    found = discover(tmp_path)
    assert names(found) == ["B.jpeg", "a.jpg", "a/b/c.webp", "a/z.PNG", "b.jpg", "é.tif"]
    assert found.root == tmp_path
    assert all(source.path == tmp_path / source.name for source in found.sources)
    assert all(source.problem is None and len(source.id) == 16 for source in found.sources)
    assert discover(str(tmp_path)) == found


def test_counts_what_it_passes_over(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "x.txt", "d/y.TXT", "README", ".DS_Store", "._a.jpg", ".git/b.jpg")
    found = discover(tmp_path)
    assert names(found) == ["a.jpg"]
    assert found.skipped == {".txt": 2, "(no suffix)": 1, "(hidden)": 3}


@pytest.mark.parametrize(
    "suffix",
    [s[1:] for s in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)] + ["JPG", "Jpeg", "HEIC", "MOV", "Mp4"],
)
def test_knows_the_suffix(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path, f"a.{suffix}")
    assert names(discover(tmp_path)) == [f"a.{suffix}"]


def test_similar_names_have_their_own_ids(tmp_path: Path) -> None:
    nfc, nfd = (unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD"))
    odd = [
        "a\nb.jpg",
        "-rf.jpg",
        "x" * 251 + ".jpg",
        " .jpg",
        "a;b,c.jpg",
        os.fsdecode(b"\xff.jpg"),
    ]
    touch(tmp_path, "a.jpg", "a.png", "d/a.jpg", "e/a.jpg", nfc, nfd, *odd)
    found = discover(tmp_path)
    assert len(found.sources) == 12
    assert len({source.id for source in found.sources}) == 12


def test_ids_depend_on_the_name_alone(tmp_path: Path) -> None:
    touch(tmp_path, "one/a/x.jpg", "two/a/x.jpg", "two/b.jpg")
    one, two = discover(tmp_path / "one"), discover(tmp_path / "two")
    assert one.sources[0].id == two.sources[0].id
    assert one.sources[0].id == hashlib.sha1(b"a/x.jpg").hexdigest()[:16]


component = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8
).filter(lambda text: text not in (".", ".."))
surrogates = st.sampled_from(["\udcff", "\udc80a", "é", "e\u0301", "-x", "a\nb", "\x1b[2J"])


@settings(deadline=None)  # the disk may be busy
@given(
    paths=st.sets(
        st.tuples(
            st.lists(st.sampled_from(["d", "real", "x.jpg.d"]), max_size=2),
            component | surrogates,
            st.sampled_from([".jpg", ".PNG", ".txt", ""]),
        ).map(lambda parts: "/".join([*parts[0], parts[1] + parts[2]])),
        min_size=1,
        max_size=12,
    )
)
def test_a_random_tree_loses_no_file(
    tmp_path_factory: pytest.TempPathFactory, paths: set[str]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for name in paths | {"one.jpg"}:
        try:
            touch(root, name)
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            continue
    files = [name for _, _, below in os.walk(root) for name in below]
    found = discover(root)
    assert len(found.sources) + sum(found.skipped.values()) == len(files)
    assert len({source.id for source in found.sources}) == len(found.sources)
    assert all(source.path.is_file() for source in found.sources)
    assert discover(root) == found


def make_weird(root: Path) -> None:
    touch(root, "good.jpg", "folder.jpg/inside.jpg")
    touch(root.parent, "outside/o.jpg")
    os.mkfifo(root / "fifo.jpg")
    os.mkfifo(root / "fifo")
    (root / "broken.jpg").symlink_to("nowhere.jpg")
    (root / "loop.jpg").symlink_to("loop.jpg")
    (root / "link.jpg").symlink_to("good.jpg")
    (root / "out.jpg").symlink_to(root.parent / "outside" / "o.jpg")
    (root / "device.jpg").symlink_to("/dev/null")
    (root / "linked").symlink_to("folder.jpg")
    (root / "away").symlink_to(root.parent / "outside")
    (root / "folder.jpg" / "up").symlink_to("..")


@pytest.mark.timeout(20)
def test_weird_things_have_a_row_each(tmp_path: Path) -> None:
    root = tmp_path / "root"
    make_weird(root)
    found = discover(root)
    no_link = "not_regular_file: a symbolic link (links are not followed by default)"
    assert problems(found) == {
        "away/": f"{no_link}; it leads to a folder",
        "broken.jpg": no_link,
        "device.jpg": no_link,
        "fifo.jpg": "not_regular_file: a fifo (named pipe)",
        "folder.jpg": "not_regular_file: a folder",
        "folder.jpg/inside.jpg": None,
        "folder.jpg/up/": f"{no_link}; it leads to a folder",
        "good.jpg": None,
        "link.jpg": no_link,
        "linked/": f"{no_link}; it leads to a folder",
        "loop.jpg": no_link,
        "out.jpg": no_link,
    }
    assert found.skipped == {"(no suffix)": 1}


@pytest.mark.timeout(20)
def test_follows_links_that_stay_inside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    make_weird(root)
    found = discover(root, follow_links=True)
    leads_out = "not_regular_file: a link that leads out of the input folder"
    assert problems(found) == {
        "away/": f"{leads_out}; it leads to a folder",
        "broken.jpg": "not_regular_file: broken link",
        "device.jpg": "not_regular_file: a link that leads out of the input folder",
        "fifo.jpg": "not_regular_file: a fifo (named pipe)",
        "folder.jpg": "not_regular_file: a folder",
        "folder.jpg/inside.jpg": None,
        "good.jpg": None,
        "link.jpg": None,
        "linked/inside.jpg": None,
        "loop.jpg": "not_regular_file: broken link",
        "out.jpg": "not_regular_file: a link that leads out of the input folder",
    }
    # Two ways up to the root.
    assert found.skipped == {"(link to folder)": 2, "(no suffix)": 1}


@pytest.mark.timeout(20)
def test_follows_links_anywhere_if_told_so(tmp_path: Path) -> None:
    root = tmp_path / "root"
    make_weird(root)
    found = problems(discover(root, follow_links="anywhere"))
    assert found["away/o.jpg"] is found["out.jpg"] is found["linked/inside.jpg"] is None
    assert found["device.jpg"] == "not_regular_file: a character device"
    assert found["loop.jpg"] == found["broken.jpg"] == "not_regular_file: broken link"
    assert "away/" not in found


@pytest.mark.parametrize("follow_links", [False, True, "anywhere"])
def test_a_linked_class_is_read_or_missed_aloud(tmp_path: Path, follow_links: FollowLinks) -> None:
    touch(tmp_path, "data/real/a.jpg", "data/real/b.jpg", "elsewhere/c.jpg")
    (tmp_path / "data" / "fake").symlink_to(tmp_path / "elsewhere")
    found = problems(discover(tmp_path / "data", follow_links=follow_links))
    if follow_links == "anywhere":
        assert found == {"fake/c.jpg": None, "real/a.jpg": None, "real/b.jpg": None}
    else:
        assert str(found.pop("fake/")).endswith("; it leads to a folder")
        assert found == {"real/a.jpg": None, "real/b.jpg": None}


def test_a_snapshot_of_a_hub_is_read(tmp_path: Path) -> None:
    touch(tmp_path, "blobs/0a1b", "blobs/2c3d")
    snapshot = tmp_path / "snapshots" / "main" / "real"
    snapshot.mkdir(parents=True)
    for name, blob in (("a.jpg", "0a1b"), ("b.png", "2c3d")):
        (snapshot / name).symlink_to(f"../../../blobs/{blob}")
    root = tmp_path / "snapshots" / "main"
    assert list(problems(discover(root, follow_links="anywhere")).values()) == [None, None]
    for follow_links in (False, True):
        problem = problems(discover(root, follow_links=follow_links))["real/a.jpg"]
        assert str(problem).startswith("not_regular_file: ")


def test_media_of_another_name_are_counted_apart(tmp_path: Path) -> None:
    photo = b"II*\0" + bytes(60)
    for name, data in (
        ("a.nef", photo),
        ("b", b"\xff\xd8\xff\xe0"),
        ("c.txt", b"BMW\n"),
        ("d.xyz", b""),
    ):
        (tmp_path / name).write_bytes(data)
    write_video(tmp_path / "film.mp4", 2).rename(tmp_path / "e.part")
    touch(tmp_path, "z.jpg")
    found = discover(tmp_path)
    assert names(found) == ["z.jpg"]
    assert found.skipped == {
        "(no suffix) (media)": 1,
        ".nef (media)": 1,
        ".part (media)": 1,
        ".txt": 1,
        ".xyz": 1,
    }
    assert count_passed_over(found.skipped) == 3


@pytest.mark.data
def test_the_folder_of_odd_suffixes(shared_media: Path) -> None:
    found = discover(shared_media / "cases" / "suffixes")
    assert names(found) == ["00012.MTS", "portrait.mpo"]
    assert found.skipped == {}


def test_a_folder_that_cannot_be_listed_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.jpg", "closed/b.jpg", "shut.jpg/c.jpg")
    scandir = os.scandir

    def deny(path: Path) -> Any:
        if Path(path).name in ("closed", "shut.jpg"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    found = discover(tmp_path)
    assert problems(found) == {
        "a.jpg": None,
        "closed/": "io_error: cannot list folder (Permission denied)",
        "shut.jpg": "not_regular_file: a folder",
        "shut.jpg/": "io_error: cannot list folder (Permission denied)",
    }
    assert len({source.id for source in found.sources}) == 4
    with pytest.raises(UsageError, match=r"cannot list folder \(Permission denied\)"):
        discover(tmp_path / "closed")


def test_entries_without_status_keep_their_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.jpg", "d/b.jpg")
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    exists = Path.exists

    def deny(path: Path) -> bool:
        if path.name in ("d", "link.jpg"):
            raise PermissionError(13, "Permission denied")
        return exists(path)

    monkeypatch.setattr(Path, "exists", deny)
    assert problems(discover(tmp_path)) == {
        "a.jpg": None,
        "d/": "io_error: Permission denied",
        "link.jpg": "io_error: Permission denied",
    }


def test_does_not_search_the_output(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.jpg", "in/out/b.jpg", "in/c/out/d.jpg")
    assert names(discover(tmp_path / "in", exclude=tmp_path / "in" / "c" / ".." / "out")) == [
        "a.jpg",
        "c/out/d.jpg",
    ]
    assert len(discover(tmp_path / "in", exclude=tmp_path / "not-yet").sources) == 3
    with pytest.raises(UsageError, match="the input folder is also the output folder"):
        discover(tmp_path / "in", exclude=tmp_path / "in")


def test_very_deep_trees(tmp_path: Path) -> None:
    touch(tmp_path, "d/" * 400 + "a.jpg")
    assert len(discover(tmp_path).sources) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            [], r"no photo found, and no video; looked for \.jpg .* \.mp4 .*list file", id="empty"
        ),
        pytest.param(["a.txt", "b.csv"], r"passed over 1 \.csv, 1 \.txt", id="other-suffixes"),
    ],
)
def test_nothing_found(tmp_path: Path, make: list[str], message: str) -> None:
    touch(tmp_path, *make)
    with pytest.raises(UsageError, match=message):
        discover(tmp_path)


@pytest.mark.parametrize("text", ["none", "none.jpg", "none.txt", "no/*.jpg", "a\0.jpg"])
def test_no_such_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no such file or folder"):
        discover(text)


def test_empty_input() -> None:
    with pytest.raises(UsageError, match="the input is empty"):
        discover("")


def test_a_single_file_is_an_input_whatever_its_suffix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "d/a.dat", "a[1]*.jpg")
    (tmp_path / "broken.jpg").symlink_to("nowhere")
    (tmp_path / "link.jpg").symlink_to("d/a.dat")
    assert problems(discover("d/a.dat")) == {"d/a.dat": None}
    assert problems(discover("a[1]*.jpg")) == {"a[1]*.jpg": None}
    assert problems(discover("link.jpg")) == {"link.jpg": None}
    assert problems(discover("broken.jpg")) == {"broken.jpg": "not_regular_file: broken link"}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        pytest.param("p/*.jpg", ["p/a.jpg", "p/b.jpg"], id="star"),
        pytest.param("p/?.png", ["p/c.png"], id="question"),
        pytest.param("p/[ab].jpg", ["p/a.jpg", "p/b.jpg"], id="set"),
        pytest.param("p/*", ["p/a.jpg", "p/b.jpg", "p/c.png"], id="all"),
        pytest.param("p/*/x*.jpg", ["p/d/x1.jpg"], id="folder"),
        pytest.param("p/**/x*.jpg", ["p/d/e/x2.jpg", "p/d/x1.jpg"], id="any-depth"),
        pytest.param("**/e/*", ["p/d/e/x2.jpg"], id="from-here"),
        pytest.param("p/**", None, id="everything"),
    ],
)
def test_patterns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, expected: list[str] | None
) -> None:
    monkeypatch.chdir(tmp_path)
    everything = ["p/a.jpg", "p/b.jpg", "p/c.png", "p/d/e/x2.jpg", "p/d/x1.jpg"]
    touch(tmp_path, *everything, "p/n.txt")
    found = discover(pattern)
    assert names(found) == (expected or everything)
    assert all(source.path.is_file() for source in found.sources)
    absolute = discover(str(tmp_path / pattern))
    assert names(absolute) == [f"{tmp_path}/{name}" for name in names(found)]


def test_a_pattern_without_match(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.txt", "d/c.jpg")
    with pytest.raises(UsageError, match=r"\*\.png': no photo found"):
        discover(tmp_path / "*.png")
    with pytest.raises(UsageError, match=r"passed over 1 \.txt"):
        discover(tmp_path / "*.txt")


def test_a_list_keeps_its_order_and_every_line(tmp_path: Path) -> None:
    touch(tmp_path, "l/b.jpg", "l/a.png", "c", "l/d/x.jpg")
    lines = ["b.jpg", "", "a.png", f"{tmp_path}/c", "gone.jpg", "  ", "../c", "d", "b.jpg", "b.jpg"]
    lines.append("a.png/")  # is opened as the path a.png
    (tmp_path / "l" / "list.TXT").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    found = discover(tmp_path / "l" / "list.TXT")
    assert names(found) == [line for line in lines if line.strip()]
    assert len({source.id for source in found.sources}) == 9
    assert {name: problem for name, problem in problems(found).items() if problem} == {
        "gone.jpg": "io_error: no such file",
        "d": "not_regular_file: a folder",
    }
    assert found.sources[2].path == tmp_path / "c"
    assert found.root == tmp_path / "l"


def test_a_list_of_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xe4.jpg")
    touch(tmp_path, name)
    (tmp_path / "a.lst").write_bytes(b"\xff\xe4.jpg\n")
    assert problems(discover(tmp_path / "a.lst")) == {name: None}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"\n \r\n", "list file is empty", id="blank"),
        pytest.param("a.jpg\n".encode("utf-16"), "list file is UTF-16 or not text", id="utf-16"),
        pytest.param(b"a\0.jpg\n", "list file is UTF-16 or not text", id="nul"),
    ],
)
def test_a_list_that_is_none(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(UsageError, match=message):
        discover(tmp_path / "a.txt")


def test_a_list_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    touch(tmp_path, "a.txt")
    monkeypatch.setattr(Path, "read_bytes", deny)
    with pytest.raises(UsageError, match="list file cannot be read"):
        discover(tmp_path / "a.txt")


def test_listed_names_may_be_too_long(tmp_path: Path) -> None:
    (source,) = list_sources(["x" * 5000], tmp_path)
    assert source.problem == "io_error: File name too long"


def test_ids_of_repeated_names_do_not_meet_other_names(tmp_path: Path) -> None:
    listed = list_sources(iter(["a", "a", "a2", "a 2", "a"]), tmp_path)
    assert len({source.id for source in listed}) == 5
    assert listed[0].id == list_sources(["a"], tmp_path)[0].id
