"""A table of inputs: every row with its label, or an error that names the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deepfake.dataset.layouts.facts import LABEL_WORDS, SPLIT_WORDS
from deepfake.dataset.layouts.labelling import label_sources
from deepfake.errors import UsageError
from deepfake.media.listed import list_sources
from tests.dataset.layouts.made_trees import facts, originals, touch, write_table
from tests.stores.made_stores import copy_tree, empty_memory


def test_reads_a_table(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "d/b.dat")
    table = write_table(
        tmp_path,
        "path,label,group,split,method,more\r\n"
        "a.jpg,real,p1,train,,x\r\n"
        f"{tmp_path}/d/b.dat, FAKE , p2 ,Val,faceswap,y\r\n"
        "\r\n"
        "gone.jpg,1,,,,\r\n",
    )
    labelled = label_sources(table, require_labels=True)
    assert facts(labelled) == {
        "a.jpg": (0, "p1", "train"),
        f"{tmp_path}/d/b.dat": (1, "p2", "validation"),
        "gone.jpg": (1, None, None),
    }
    assert [source.method for source in labelled.sources] == [None, "faceswap", None]
    assert [source.problem for source in labelled.sources] == [None, None, "io_error: no such file"]
    assert labelled.sources[0].path == tmp_path / "a.jpg"
    assert (labelled.skipped, labelled.duplicates) == ({}, 0)
    assert len({source.id for source in labelled.sources}) == 3


def test_a_table_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_table(tmp_path, "path,label\na.jpg,real\nb.jpg,fake\n")

    def change(*words: Any) -> Any:
        path.write_text("path,label\nb.jpg,fake\na.jpg,real\nc.jpg,fake\n")
        return list_sources(*words)

    monkeypatch.setattr("deepfake.dataset.layouts.table.list_sources", change)
    with pytest.raises(UsageError, match="has changed while it was read; run the same command"):
        label_sources(path, require_labels=True)


def test_paths_may_leave_the_folder_of_the_table(tmp_path: Path) -> None:
    touch(tmp_path, "photos/a.jpg", "t/x")
    table = write_table(tmp_path / "t", "path,label\n../photos/a.jpg,0\n")
    assert label_sources(table).sources[0].problem is None


@pytest.mark.parametrize(("word", "label"), LABEL_WORDS.items())
def test_maps_labels_in_any_case(tmp_path: Path, word: str, label: int) -> None:
    table = write_table(tmp_path, f"path,label\na,{word}\nb,{word.upper()}\nc, {word.title()}\n")
    assert [source.label for source in label_sources(table).sources] == [label] * 3


def test_label_words_point_the_right_way() -> None:
    assert {word for word, label in LABEL_WORDS.items() if label == 1} == {
        "fake",
        "1",
        "1.0",
        "true",
        "manipulated",
        "synthetic",
        "deepfake",
    }
    assert LABEL_WORDS["real"] == LABEL_WORDS["0"] == 0


@pytest.mark.parametrize(("word", "split"), SPLIT_WORDS.items())
def test_maps_splits_in_any_case(tmp_path: Path, word: str, split: str) -> None:
    table = write_table(tmp_path, f"path,label,split\na,0,{word}\nb,0,{word.upper()}\n")
    assert [source.split for source in label_sources(table).sources] == [split] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "path,label\na,real\n\nb,maybe\n",
            r"data\.csv:4: label 'maybe'; expected real \(real, 0, 0.0, false, genuine, original,"
            r" pristine\) or fake \(fake, 1, 1.0, true, manipulated, synthetic, deepfake\)",
            id="label",
        ),
        pytest.param("path,label\na,0.5\n", r":2: label '0\.5'", id="half-label"),
        pytest.param("path,label\na,nan\n", r":2: label 'nan'", id="nan-label"),
        pytest.param("path,label\na,\n", r":2: label ''; expected real", id="no-label"),
        pytest.param(
            "path,label,split\na,0,holdout\n", ":2: split 'holdout'; expected", id="split"
        ),
        pytest.param("path,label\n ,0\n", ":2: empty path", id="empty-path"),
        pytest.param("path,label\n", "no rows below the header", id="no-rows"),
        pytest.param("path\na\n", "no column 'label'", id="no-label-column"),
        pytest.param("name,label\na,0\n", "no column 'path'", id="no-path-column"),
        pytest.param("path,label\na,0,9\n", ":2: 3 fields where the header has 2", id="shifted"),
        pytest.param(
            "path,label\na,real\nb,0\n./a,fake\n",
            r":4: './a' is listed twice with another label: line 2 says 'real' and line 4 says"
            r" 'fake'",
            id="conflict",
        ),
        pytest.param(
            "path,label,split\na,0,train\na,0,test\n",
            "listed twice with another split: line 2 says 'train' and line 3 says 'test'",
            id="split-conflict",
        ),
        pytest.param(
            "path,label,original\na,0,\nb,0,\nf,1,a\nf,1,b\n",
            "'f' is listed twice with another original: line 4 says 'a' and line 5 says 'b'",
            id="original-conflict",
        ),
        pytest.param(
            "path,label,group\na,0,g\na,0,\n",
            "another group: line 2 says 'g' and line 3 says 'nothing'",
            id="group-conflict",
        ),
    ],
)
def test_refuses_a_table(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        label_sources(write_table(tmp_path, text), require_labels=True)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("filename,label\na,0\nb,1\n", [0, 1]),
        ("image_path,label\na,0.0\nb,1.0\n", [0, 1]),
        ("File_Path,Label\na,FALSE\nb,TRUE\n", [0, 1]),
        # The first known name counts, wherever it stands; the exact one before all.
        ("image_path,filename,label\nx,a,0\ny,b,1\n", [0, 1]),
        ("filename,path,LABEL\nx,a,0\ny,b,1\n", [0, 1]),
    ],
)
def test_reads_the_tables_of_others(tmp_path: Path, text: str, labels: list[int]) -> None:
    sources = label_sources(write_table(tmp_path, text), require_labels=True).sources
    assert [(source.name, source.label) for source in sources] == list(
        zip("ab", labels, strict=True)
    )


def test_a_table_for_prediction_needs_no_labels(tmp_path: Path) -> None:
    table = write_table(tmp_path, "path,label\na,\nb,fake\n")
    assert [source.label for source in label_sources(table).sources] == [None, 1]
    table = write_table(tmp_path, "path\na\nb\n")
    assert [source.label for source in label_sources(table).sources] == [None, None]


def test_a_missing_table(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.CSV: no such file"):
        label_sources(tmp_path / "none.CSV")


def test_repeated_rows_count_once_unless_each_needs_an_answer(tmp_path: Path) -> None:
    table = write_table(tmp_path, f"path,label\na,0\nb,1\n./a,real\n{tmp_path}/a,0\na,0\n")
    labelled = label_sources(table)
    assert [source.name for source in labelled.sources] == ["a", "b"]
    assert labelled.duplicates == 3
    kept = label_sources(table, keep_duplicates=True)
    assert [source.name for source in kept.sources] == ["a", "b", "./a", f"{tmp_path}/a", "a"]
    assert len({source.id for source in kept.sources}) == 5
    assert kept.duplicates == 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("real/a.jpg", (0, None, None), id="real"),
        pytest.param("fake/a.jpg", (1, None, None), id="fake"),
        pytest.param("FAKE/a.jpg", (1, None, None), id="case"),
        pytest.param("x/y/real/a.jpg", (0, None, None), id="any-depth"),
        pytest.param("real/id1/a.jpg", (0, "id1", None), id="group"),
        pytest.param("fake/id1/a.jpg", (1, "id1", None), id="group-shared"),
        pytest.param("fake/m/id1/a.jpg", (1, "m/id1", None), id="group-path"),
        pytest.param("set/real/id1/a.jpg", (0, "set/id1", None), id="group-around"),
        pytest.param("train/real/a.jpg", (0, None, "train"), id="train"),
        pytest.param("Val/fake/id1/a.jpg", (1, "id1", "validation"), id="val"),
        pytest.param("valid/fake/a.jpg", (1, None, "validation"), id="valid"),
        pytest.param("validation/fake/a.jpg", (1, None, "validation"), id="validation"),
        pytest.param("s/test/x/fake/id1/a.jpg", (1, "s/x/id1", "test"), id="test"),
        pytest.param("Training/real/id1/a.jpg", (0, "id1", "train"), id="training"),
        pytest.param("testing/fake/a.jpg", (1, None, "test"), id="testing"),
        pytest.param("real/train/a.jpg", (0, None, "train"), id="split-below"),
        pytest.param("fake/TEST/id1/a.jpg", (1, "id1", "test"), id="split-below-and-group"),
        pytest.param("set/real/testing/x/a.jpg", (0, "set/x", "test"), id="split-below-around"),
        pytest.param("fake/fake/valid/a.jpg", (1, None, "validation"), id="split-below-twice"),
        pytest.param("train/fake/Train/a.jpg", (1, None, "train"), id="split-said-twice"),
        pytest.param("real/id1/train/a.jpg", (0, "id1/train", None), id="split-further-down"),
        pytest.param("dev/real/a.jpg", (0, None, None), id="dev-is-no-split"),
        pytest.param("real/real/a.jpg", (0, None, None), id="twice"),
        pytest.param("real/fakes/a.jpg", (0, "fakes", None), id="whole-words"),
        pytest.param("real/fake.jpg", (0, None, None), id="file-names-do-not-count"),
    ],
)
def test_labels_a_tree(
    tmp_path: Path, name: str, expected: tuple[int | None, str | None, str | None]
) -> None:
    labelled = label_sources(touch(tmp_path / "fake", name), require_labels=True)
    assert facts(labelled) == {name: expected}


# Originals


def test_a_fake_of_a_table_names_its_original_by_path_or_stem(tmp_path: Path) -> None:
    table = write_table(
        tmp_path,
        "path,label,original\n"
        "real/a.jpg,real,a\n"
        "real/b.jpg,real,\n"
        "fake/c.jpg,fake,a\n"
        f"fake/d.jpg,fake,{tmp_path}/real/b.jpg\n"
        "fake/e.jpg,fake,./real/b.jpg\n"
        "fake/f.jpg,fake,gone\n"
        "fake/g.jpg,fake,\n"
        "fake/h.jpg,fake,c\n",
    )
    labelled = label_sources(table)
    assert originals(labelled) == {
        "fake/c.jpg": "real/a.jpg",
        "fake/d.jpg": "real/b.jpg",
        "fake/e.jpg": "real/b.jpg",
    }
    assert labelled.layout == "csv"
    assert labelled.notes == ("2 fakes name an original that is not among the inputs",)


def test_a_fake_of_a_table_without_a_group_takes_that_of_its_original(tmp_path: Path) -> None:
    table = write_table(
        tmp_path,
        "path,label,group,original\n"
        "a.jpg,real,ann,\nb.jpg,real,,\n"
        "c.jpg,fake,,a\nd.jpg,fake,,b\ne.jpg,fake,eve,a\nf.jpg,fake,,gone\ng.jpg,fake,,\n"
        "h.jpg,fake,,gone\n",
    )
    sources = {source.name: source for source in label_sources(table).sources}
    found = {name: source.group or source.id for name, source in sources.items()}
    assert found["c.jpg"] == "ann"
    assert found["d.jpg"] == found["b.jpg"] == sources["b.jpg"].id
    assert found["e.jpg"] == "eve"
    assert found["f.jpg"] == found["h.jpg"]  # what both were made from is not there, and is one
    assert len(set(found.values())) == 5


def test_a_stem_that_several_reals_have_is_no_name(tmp_path: Path) -> None:
    table = write_table(tmp_path, "path,label,original\n1/a.jpg,0,\n2/a.jpg,0,\nc.jpg,1,a\n")
    with pytest.raises(UsageError, match=r":4: original 'a' could be any of 2 real files"):
        label_sources(table)


def test_a_table_in_a_store_says_of_objects_what_it_says_of_files(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "d/b.jpg", "c.jpg")
    rows = "d/b.jpg,fake,,a\na.jpg,real,p1,\n./a.jpg,real,p1,\nc.jpg,fake,,d/../a.jpg\n"
    table = write_table(tmp_path, f"path,label,group,original\n{rows}gone.jpg,1,,\n")
    here = label_sources(table)
    with empty_memory() as memory:
        copy_tree(tmp_path, memory, "in")
        there = label_sources(f"memory://in/{table.name}")
        memory.pipe_file("/in/bad.csv", b"path,label\na.jpg,2\n")
        with pytest.raises(UsageError, match=r"memory://in/bad.csv:2: label '2'"):
            label_sources("memory://in/bad.csv")
        memory.pipe_file("/in/other.csv", b"path,label\ns3://bucket/a.jpg,1\n")
        with pytest.raises(UsageError, match=r"names s3://bucket/a.jpg, which lies in another"):
            label_sources("memory://in/other.csv")
        with pytest.raises(UsageError, match=r"memory://in/none.csv: no such object"):
            label_sources("memory://in/none.csv")
    assert facts(there) == facts(here)
    assert originals(there) == originals(here)
    assert (there.duplicates, there.notes, there.layout) == (1, here.notes, "csv")
    assert [one.stored is not None for one in there.sources] == [True] * 4
    assert there.sources[-1].problem == "io_error: no such object"
