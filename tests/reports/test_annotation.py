"""Annotated media: boxes lie where the faces are, names never meet, a killed job goes on."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from deepfake import cli
from deepfake.errors import UsageError
from deepfake.media.decoding import open_media
from deepfake.media.discovery import list_sources
from deepfake.records import (
    FaceScore,
    Frame,
    PersonScore,
    Result,
    Sampling,
    Source,
    Status,
    Verdict,
    Workers,
)
from deepfake.reports import annotation
from deepfake.reports.annotation import COLOURS, Marker, annotate_files, draw_marks, refuse_folder
from deepfake.tables import read_csv
from tests.evaluation.conftest import Made
from tests.fakes import portrait, run_and_die
from tests.media.drawn_videos import read_video, write_video

HERE = Workers(processes=0)
BOX = (100.0, 60.0, 300.0, 200.0)
GREY = np.full((400, 700, 3), 128, dtype=np.uint8)


def make_face(index: int = 0, time_s: float = 0.0, **more: Any) -> FaceScore:
    values: dict[str, Any] = {"box_xyxy": BOX, "p_fake": 0.9} | more
    return FaceScore(index, time_s, 0, confidence=1.0, **values)


def make_result(*faces: FaceScore, **more: Any) -> Result:
    known: dict[str, Any] = {"p_fake": 0.9, "verdict": Verdict.FAKE, "limits": (0.2, 0.8)} | more
    return Result("a.jpg", Status.OK, faces=faces or (make_face(),), **known)


def is_colour(image: NDArray[np.uint8], x: int, y: int, verdict: Verdict | None) -> bool:
    return bool(np.abs(image[y, x].astype(int) - COLOURS[verdict]).max() <= 40)


def count_colour(image: NDArray[np.uint8], verdict: Verdict | None) -> int:
    near = np.abs(image.astype(int) - COLOURS[verdict]).max(axis=2) <= 40
    return int(near.sum())


def photo(folder: Path, name: str, image: NDArray[np.uint8] = GREY) -> Source:
    cv2.imwrite(str(folder / name), image)
    return list_sources([name], folder)[0]


def read(path: Path) -> NDArray[np.uint8]:
    with open_media(path, path.name, Sampling()) as clip:
        return next(clip).image


def test_a_photo_has_its_box_where_the_face_is(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name, suffix in (("a.png", ".png"), ("b.jpg", ".jpg")):
        source = photo(tmp_path, name)
        ((found, path),) = annotate_files([(source, make_result())], out, HERE)
        assert found.name == source.name
        assert isinstance(path, Path)
        assert path.suffix == suffix
        image = read(path)
        assert image.shape[1] == 700
        assert image.shape[0] > 400  # words below
        for x, y in ((200, 60), (200, 200), (100, 130), (300, 130)):
            assert is_colour(image, x, y, Verdict.FAKE)
        assert np.abs(image[130, 200].astype(int) - 128).max() < 10
        assert np.abs(image[380, 600].astype(int) - 128).max() < 10
        assert count_colour(image, Verdict.REAL) == 0


def test_a_video_is_whole_and_its_boxes_move_between_scored_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", 26, size=(640, 360), pixel_aspect=Fraction(4, 3))
    boxes = [(100.0, 60.0, 300.0, 160.0), (240.0, 60.0, 440.0, 160.0)]
    faces = [make_face(0, 0.0, box_xyxy=boxes[0]), make_face(20, 0.8, box_xyxy=boxes[1])]
    (source,) = list_sources([path.name], tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    ((_, made),) = annotate_files([(source, make_result(*faces))], out, HERE)
    assert isinstance(made, Path)
    frames, note = read_video(made)
    assert (len(frames), note) == (26, "")
    assert [frame.time_s for frame in frames] == pytest.approx(
        [n / 25 for n in range(26)], abs=1e-3
    )
    # Pixels are square: 640 x 360 of 4:3 are shown as 853 x 360.
    assert frames[0].image.shape[1] == 854
    for number, left in ((0, 100), (10, 170), (20, 240), (25, 240)):
        column = [is_colour(frames[number].image, left, y, Verdict.FAKE) for y in range(70, 150)]
        share = sum(column) / len(column)
        assert share > 0.95 if number in (0, 20) else 0.3 < share < 0.8  # dashed


def test_a_turned_face_is_marked_where_it_is() -> None:
    marker = Marker(make_result(make_face(rotation=180)))
    (mark,) = marker.list_marks(Frame(0, 0.0, GREY))
    assert mark.box_xyxy == (400.0, 200.0, 600.0, 340.0)


def test_people_have_numbers_scores_and_their_own_verdict() -> None:
    faces = [make_face(person=n, p_fake=p) for n, p in enumerate((0.9, 0.5, 0.1, 0.95))]
    people = [
        PersonScore(n, p, 1, 0.0, 0.0, 99.0, counts=n < 3)
        for n, p in enumerate((0.88, 0.5, 0.1, 0.95))
    ]
    marks = Marker(make_result(*faces, people=tuple(people))).list_marks(Frame(0, 0.0, GREY))
    shown = [(mark.label, mark.verdict) for mark in marks]
    assert shown == [
        ("3: 0.10 real", Verdict.REAL),
        ("2: 0.50 unclear", Verdict.UNCLEAR),
        ("1: 0.88 fake", Verdict.FAKE),
        ("4: 0.95 not counted", None),
    ]


def test_a_face_unlike_all_training_faces_is_unclear_as_its_file_is() -> None:
    faces = [make_face(person=n, p_fake=p) for n, p in enumerate((0.97, 0.93, 0.1))]
    people = tuple(
        PersonScore(n, p, 1, 0.0, 0.0, 99.0, counts=True) for n, p in enumerate((0.97, 0.93, 0.1))
    )
    result = replace(make_result(*faces, people=people), p_fake=0.97, verdict=Verdict.UNCLEAR)
    marks = Marker(result).list_marks(Frame(0, 0.0, GREY))
    assert [mark.label for mark in marks] == ["3: 0.10 real", "2: 0.93 unclear", "1: 0.97 unclear"]


def test_boxes_do_not_bridge_long_gaps_nor_linger() -> None:
    faces = [make_face(10 * n, float(n)) for n in range(4)] + [make_face(130, 13.0)]
    marker = Marker(make_result(*faces))

    def has_box(index: int) -> bool:
        return bool(marker.list_marks(Frame(index, index / 10, GREY)))

    assert [has_box(index) for index in (5, 30, 34, 40, 80, 126, 134, 140)] == [
        *(True, True, True, False, False, True, True, False)
    ]
    # The largest face of each frame may be another person.
    far = Marker(
        make_result(make_face(0), make_face(10, 1.0, box_xyxy=(400.0, 60.0, 600.0, 200.0)))
    )
    assert far.list_marks(Frame(3, 0.3, GREY))[0].box_xyxy == BOX
    assert [mark.box_xyxy[0] for mark in far.list_marks(Frame(6, 0.6, GREY))] == [400.0]
    # Pages of a TIFF have no times.
    pages = Marker(make_result(make_face(0), make_face(2)))
    assert [bool(pages.list_marks(Frame(n, 0.0, GREY))) for n in range(4)] == [
        *(True, False, True, False)
    ]


@pytest.mark.parametrize("size", [(20, 30), (640, 64), (3000, 200), (2000, 3000)], ids=str)
def test_words_and_boxes_fit_any_size(size: tuple[int, int]) -> None:
    width, height = size
    image = np.full((height, width, 3), 128, dtype=np.uint8)
    boxes = [(-50.0, -50.0, width + 50.0, height + 50.0), (0.0, 0.0, 10.0, 10.0)]
    boxes.append((width - 5.0, height - 5.0, width + 5.0, height + 5.0))
    faces = [make_face(box_xyxy=box, person=n) for n, box in enumerate(boxes)]
    result = make_result(*faces)
    drawn = draw_marks(image, Marker(result).list_marks(Frame(0, 0.0, image)), result)
    assert drawn.shape[1] % width == 0
    assert max(drawn.shape[:2]) >= annotation.LEAST_PX
    assert (drawn == 255).all(axis=2).any()  # words are white


def test_names_never_meet_and_never_leave_the_folder(tmp_path: Path) -> None:
    names = ["a.jpg", "a.png", "sub/a.png", "..a.png", "-" * 200 + ".png", "\u202e\n'\".png"]
    (tmp_path / "in" / "sub").mkdir(parents=True)
    out = tmp_path / "out"
    out.mkdir()
    sources = [photo(tmp_path / "in", name) for name in names]
    sources.append(replace(sources[0], id="f" * 16, name="../../../etc/passwd.png"))
    made = list(annotate_files([(source, make_result()) for source in sources], out, HERE))
    paths = {path for _, path in made if isinstance(path, Path)}
    assert len(paths) == len(sources)
    assert set(out.iterdir()) == paths
    assert all(path.name.isascii() and path.name.isprintable() for path in paths)


def test_a_killed_job_goes_on_and_touches_nothing_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    foreign = out / "a.png"
    foreign.write_text("precious")
    answers = [(photo(tmp_path, f"{n}.png"), make_result()) for n in range(3)]
    list(annotate_files(answers[:1], out, HERE))
    (first,) = set(out.iterdir()) - {foreign}
    theirs = out / ".tmp-not-ours"
    theirs.write_text("precious, too")
    (out / f".tmp-a-{'0' * 16}.mp4").write_bytes(b"half")
    before = first.stat()
    again = [path for _, path in annotate_files(answers, out, HERE)]
    assert (first.stat().st_mtime_ns, first.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert set(out.iterdir()) == {foreign, theirs, *again}
    assert foreign.read_text() == "precious"
    # Another score, or another content, is another copy.
    other = make_result(p_fake=0.5, verdict=Verdict.UNCLEAR)
    ((_, second),) = annotate_files([(answers[0][0], other)], out, HERE)
    cv2.imwrite(str(tmp_path / "0.png"), GREY // 2)
    ((_, third),) = annotate_files(answers[:1], out, HERE)
    assert len({first, second, third}) == 3


def test_killed_before_any_change_it_goes_on_to_the_same_end(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", 4)
    sources = [photo(tmp_path, "a.png"), *list_sources([video.name], tmp_path)]
    answers = [(source, make_result(make_face(box_xyxy=(5, 5, 30, 30)))) for source in sources]

    def annotate(out: Path) -> None:
        list(annotate_files(answers, out, HERE))

    def content(out: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in out.iterdir()}

    clean = tmp_path / "clean"
    clean.mkdir()
    annotate(clean)
    event, has_died = 0, True
    while has_died:
        out = tmp_path / str(event)
        out.mkdir()
        has_died = run_and_die(partial(annotate, out), event)
        annotate(out)
        assert content(out) == content(clean)
        event += 1
    assert event > 3


def test_predict_annotates(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inbox, out = tmp_path / "in", tmp_path / "out"
    inbox.mkdir()
    photo(inbox, "face.png", portrait(1)[..., ::-1])
    photo(inbox, "wall.png")
    words = ["predict", str(inbox), "--checkpoint", str(made.path), "--quiet", "--workers", "0"]
    words += ["--output", str(tmp_path / "s.csv"), "--device", "cpu", "--annotate"]
    assert cli.main([*words, str(out)]) == 0
    assert f"annotated: 1 files -> {out}" in capsys.readouterr().out
    (path,) = out.iterdir()
    kept = path.read_bytes()
    image = read(path)
    row = read_csv(tmp_path / "s.csv", ["path", "verdict", "x0", "y0", "y1"])[0]
    factor = image.shape[1] / 160
    x, top, bottom = (round(factor * float(row[name])) for name in ("x0", "y0", "y1"))
    assert is_colour(image, x, (top + bottom) // 2, Verdict(row["verdict"]))
    assert cli.main([*words, str(out)]) == 0
    assert [p.read_bytes() for p in out.iterdir()] == [kept]
    assert cli.main([*words, str(inbox / "out")]) == 2
    assert "would be inputs the next time" in capsys.readouterr().err
    assert cli.main([*words, str(tmp_path / "no" / "out")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_what_cannot_be_drawn_is_told(tmp_path: Path) -> None:
    (tmp_path / "gone.png").write_bytes(b"no picture")
    sources = [photo(tmp_path, "a.png"), *list_sources(["gone.png"], tmp_path)]
    out = tmp_path / "out"
    out.mkdir()
    nobody = Result("a.png", Status.NO_FACE, "no_face: none")
    answers = [(sources[0], nobody), (sources[1], make_result())]
    ((source, why),) = annotate_files(answers, out, HERE)
    assert source.name == "gone.png"
    assert isinstance(why, str)
    assert why.startswith("decode_error")
    assert not list(out.iterdir())


def test_workers_draw_the_same(tmp_path: Path) -> None:
    source = photo(tmp_path, "a.png")
    drawn = []
    for workers in (HERE, Workers(1)):
        out = tmp_path / str(workers.processes)
        out.mkdir()
        ((_, path),) = annotate_files([(source, make_result())], out, workers)
        assert isinstance(path, Path)
        drawn.append(path.read_bytes())
    assert drawn[0] == drawn[1]


def test_a_folder_among_the_inputs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in (tmp_path, tmp_path / "out", tmp_path / "link" / "out"):
        with pytest.raises(UsageError, match="would be inputs the next time"):
            refuse_folder(folder, tmp_path)
    refuse_folder(tmp_path.parent / "elsewhere", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is no folder"):
        refuse_folder(tmp_path / "file", tmp_path / "x")
