"""Whatever is handed over in Python: a path, many, a folder, a pattern, a picture in memory."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import deepfake
from deepfake import Predictor, cli
from deepfake.dataset.manifest import JOB_FILE
from deepfake.errors import CheckpointError, UsageError
from deepfake.inference import once
from deepfake.inference.inputs import iter_sources
from deepfake.media.discovery import list_sources
from deepfake.media.images import read_image
from deepfake.media.memory import keep_as_file
from deepfake.records import Result, Status, Workers
from tests.conftest import Trained
from tests.stores.made_stores import copy_tree, empty_memory, serve


@pytest.fixture(scope="module")
def photo(trained: Trained) -> Path:
    return sorted(trained.photos.rglob("*.png"))[0]


@pytest.fixture(scope="module")
def predictor(trained: Trained) -> Predictor:
    return Predictor.from_checkpoint(trained.checkpoint, device="cpu")


def find(given: Any, folder: Path) -> list[str]:
    return [source.name for source in iter_sources(given, folder)]


def test_an_opened_scan_is_turned_once(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3)).astype(np.uint8)
    scan = tmp_path / "scan.tif"
    Image.fromarray(pixels).save(scan, exif=exif)
    kept = keep_as_file(Image.open(scan), tmp_path, 1)
    upright = read_image(scan, "scan.tif").image
    assert upright.shape == (40, 30, 3)
    assert np.array_equal(read_image(kept.path, "kept").image, upright)


def test_what_is_in_memory_scores_as_its_file_does(
    photo: Path, predictor: Predictor, tmp_path: Path
) -> None:
    pixels = np.asarray(Image.open(photo).convert("RGB"))
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(pixels)))
    turned.getexif()[0x0112] = 6  # a viewer turns it by a quarter, clockwise
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "BMP")
    content = photo.read_bytes()
    given: list[Any] = [photo, str(photo), content, bytearray(content), memoryview(content), pixels]
    given += [pixels[:, :, ::-1][:, :, ::-1], Image.open(photo), turned, buffer.getvalue()]
    first, *others = predictor.predict(given)
    assert first.p_fake is not None
    names = ["<bytes 3>", "<bytes 4>", "<bytes 5>", "<array 6>", "<array 7>", "<picture 8>"]
    assert [other.path for other in others] == [str(photo), *names, "<picture 9>", "<bytes 10>"]
    for other in others:
        assert replace(other, path=first.path) == first, other.path


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "L", "RGBA", "P", "I;16"])
def test_a_picture_of_any_kind_is_what_its_file_would_be(
    mode: str, photo: Path, predictor: Predictor, tmp_path: Path
) -> None:
    if mode == "I;16":
        grey = np.asarray(Image.open(photo).convert("L"), np.uint16) * 257
        picture = Image.fromarray(grey)
    else:
        picture = Image.open(photo).convert(mode)
    path = tmp_path / "same.tif"
    picture.save(path)
    told, expected = predictor.predict([picture, path])
    assert told.status is Status.OK
    assert told.p_fake == expected.p_fake


def test_a_picture_that_cannot_be_read_is_an_answer(photo: Path, predictor: Predictor) -> None:
    cut = Image.open(io.BytesIO(photo.read_bytes()[:2000]))
    infinite = Image.fromarray(np.full((64, 64), np.inf, np.float32))
    for result in predictor.predict([cut, infinite, b"", b"no photo"]):
        assert (result.status, result.p_fake) == (Status.UNREADABLE, None)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (np.zeros((64, 64), np.uint8), r"shape \(64, 64\) .*RGB pixels \(H, W, 3\) as uint8"),
        (np.zeros((64, 64, 3), np.float32), "type float32"),
        (np.zeros((2, 64, 64, 3), np.uint8), "a list of arrays"),
        (np.zeros((0, 64, 3), np.uint8), "is no photo"),
        (3, "int 3 is no photo and no video"),
        (["a.jpg", 3], "int 3 is no photo"),
        ([["a.jpg"]], "list .* is no photo"),
        (None, "NoneType None is no photo"),
        ("no*such*photo.jpg", "no photo found"),
    ],
)
def test_what_is_no_input_is_refused_with_words(given: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=why):
        find(given, tmp_path)


def test_a_string_is_a_path_and_paths_may_name_many(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a/x.png", "b/x.png", "b/[1].png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(photo.read_bytes())
    Path("list.txt").write_text("a/x.png\ngone.png\n")
    folder = tmp_path / "kept"
    assert find("bbt1.jpg", folder) == ["bbt1.jpg"]  # missing: one answer, not one per letter
    assert find(Path("a"), folder) == ["a/x.png"]
    assert find(["a/", "b"], folder) == ["a/x.png", "b/[1].png", "b/x.png"]
    assert find("*/x.png", folder) == ["a/x.png", "b/x.png"]
    assert find("b/[1].png", folder) == ["b/[1].png"]
    assert find("list.txt", folder) == ["a/x.png", "gone.png"]
    assert find((name for name in ["a/x.png", "b"]), folder) == ["a/x.png", "b/[1].png", "b/x.png"]
    Path("a", JOB_FILE).write_text("{}")
    with pytest.raises(UsageError, match="a is a crop folder"):
        find("a", folder)


def test_inputs_are_taken_one_by_one(photo: Path, tmp_path: Path) -> None:
    def generate() -> Any:
        yield photo
        raise AssertionError("nobody asked for more")

    assert next(iter_sources(generate(), tmp_path)).path == photo


def test_what_was_written_down_goes_with_the_results(
    photo: Path, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    answers = predictor.predict([photo.read_bytes()] * 40)
    next(answers)
    assert len(list(tmp_path.iterdir())) == 1
    answers.close()
    assert not list(tmp_path.iterdir())


def test_worker_processes_read_memory_too(photo: Path, trained: Trained) -> None:
    helped = Predictor.from_checkpoint(trained.checkpoint, device="cpu", workers=Workers(1))
    seen: list[int] = []
    helped.watch = lambda source, n_searched: seen.append(n_searched)
    (result,) = helped.predict(photo.read_bytes())
    assert result.status is Status.OK
    assert seen == [1]


def test_predict_of_the_package(
    photo: Path, trained: Trained, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[object] = []
    load = Predictor.from_checkpoint

    def count(*words: Any, **named: Any) -> Predictor:
        loads.append(words)
        return load(*words, **named)

    monkeypatch.setattr(Predictor, "from_checkpoint", count)
    monkeypatch.setattr(once, "_kept", [])
    assert dir(deepfake) == ["Predictor", "Result", "__version__", "predict"]
    found = deepfake.predict(str(photo), trained.checkpoint, device="cpu")
    (expected,) = predictor.predict(photo)
    assert found == [expected]
    assert isinstance(found[0], deepfake.Result)
    assert found[0].people
    assert found[0].faces
    with pytest.raises(UsageError, match="int 3"):
        deepfake.predict(3, trained.checkpoint)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"no\.ckpt"):
        deepfake.predict(photo, "no.ckpt")
    assert len(loads) == 2, "the first, and the one that there is not"


def test_no_named_model_is_said_in_words(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfake.learning.checkpoint_names.SHIPPED", tmp_path)
    with pytest.raises(CheckpointError, match=r"no checkpoint default.*ships none"):
        deepfake.predict(photo)


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, deepfake; deepfake.Result; dir(deepfake)\n"
        "print(sorted({'torch', 'jinja2', 'cv2', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_sources_of_files_are_named_as_before(tmp_path: Path) -> None:
    (source,) = iter_sources("gone.png", tmp_path)
    assert source == list_sources(["gone.png"], Path())[0]
    assert Result(source.name, Status.UNREADABLE, source.problem or "").reason.startswith("io_er")


def test_an_object_of_a_store_scores_as_its_file_does(
    photo: Path, predictor: Predictor, tmp_path: Path
) -> None:
    (here,) = predictor.predict(photo)
    with empty_memory() as memory, serve() as server:
        memory.pipe_file("/in/a.png", photo.read_bytes())
        server.objects["/b.png"] = photo.read_bytes()
        given = ["memory://in", server.url("/b.png"), "memory://in/gone.png", "memory://in/*.png"]
        # One by one: scores of batches of several differ in their last bits.
        found = [one for name in given for one in predictor.predict(name)]
    there, by_web, gone, matched = found
    assert [one.path for one in found] == ["memory://in/a.png", *given[1:3], "memory://in/a.png"]
    assert replace(there, path=here.path) == replace(by_web, path=here.path) == here
    assert matched == there
    assert (gone.status, gone.reason) == (Status.UNREADABLE, "io_error: no such object")


def test_the_table_of_a_folder_in_a_store_is_that_of_the_folder(
    photo: Path, trained: Trained, tmp_path: Path
) -> None:
    tables: list[bytes] = []
    with empty_memory() as memory:
        copy_tree(photo.parent, memory, "in")
        for source in (str(photo.parent), "memory://in"):
            command = [source, "--checkpoint", str(trained.checkpoint), "--device", "cpu"]
            output = tmp_path / f"{len(tables)}.csv"
            command += ["--output", str(output), "--quiet", "--workers", "0"]
            assert cli.predict(command) == 0
            tables.append(output.read_bytes())
    assert tables[0] == tables[1]
