"""Extraction in worker processes: same results, and nobody else suffers from a hostile file."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deepfake.errors import JobError, UsageError
from deepfake.faces import pipeline
from deepfake.faces.extraction import FaceExtractor
from deepfake.faces.pipeline import check_detect_device, iter_extractions
from deepfake.media.discovery import discover
from deepfake.records import CropSpec, Sampling, Source, Status, Workers
from tests import fakes
from tests.fakes import (
    CUT_SHORT,
    HANG,
    KILL,
    KILL_ONCE,
    LINGER,
    NONE,
    STOP_SHORT,
    hostile_source,
    write_photo,
)

SPEC = CropSpec(size=64)
TIMEOUT_S = 60.0  # never reached by a worker that works


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Choose what new workers run; a spawned process finds it by its name."""
    return lambda function: monkeypatch.setattr(pipeline, "_serve", function)


def no_workers_left() -> bool:
    return not [p for p in multiprocessing.active_children() if p.name == "deepfake-extract"]


def test_results_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    fakes.write_portraits(tmp_path, 9)
    write_photo(tmp_path / "montage.jpg", fakes.montage())
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 broken")
    write_photo(tmp_path / "tiny.png", fakes.portrait()[:10])
    write_photo(tmp_path / "plain.png", fakes.portrait() // 200)
    os.mkfifo(tmp_path / "fifo.jpg")
    sources = discover(tmp_path).sources
    found = {}
    for workers in (0, 1, 2):
        results = list(iter_extractions(sources, SPEC, Workers(workers, TIMEOUT_S)))
        assert [source for source, _ in results] == list(sources)
        found[workers] = [
            (result.status, result.reason, [crop.encoded for crop in result.crops])
            for _, result in results
        ]
    assert found[0] == found[1] == found[2]
    assert {status for status, _, _ in found[0]} == set(Status)
    assert no_workers_left()


def test_hostile_files_harm_nobody_else(serve: Callable[[Any], None], tmp_path: Path) -> None:
    serve(fakes.serve_hostile)
    kinds = [NONE, HANG, NONE, KILL, NONE, CUT_SHORT, KILL_ONCE, *[NONE] * 20, KILL]
    sources = [hostile_source(kind, number, tmp_path) for number, kind in enumerate(kinds)]
    results = list(iter_extractions(sources, SPEC, Workers(2, 3.0)))
    assert [source for source, _ in results] == sources
    for kind, (source, result) in zip(kinds, results, strict=True):
        if kind == HANG:
            assert result.status == Status.UNREADABLE
            assert result.reason == "timeout: gave no answer within 3 s"
        elif kind in (KILL, CUT_SHORT):
            assert result.status == Status.UNREADABLE
            assert result.reason == "crashed: its worker process ended (-9)"
        else:
            assert result.reason.startswith(f"{source.name} ")
    assert no_workers_left()


def test_a_file_that_kills_once_is_tried_again(
    serve: Callable[[Any], None], tmp_path: Path
) -> None:
    serve(fakes.serve_hostile)
    source = hostile_source(KILL_ONCE, 0, tmp_path)
    ((_, result),) = iter_extractions([source], SPEC, Workers(1, TIMEOUT_S))
    assert source.path.exists()  # it did kill
    assert result.status == Status.NO_FACE


def test_a_time_limit_is_paid_once_and_a_crash_is_tried_twice(
    serve: Callable[[Any], None], tmp_path: Path
) -> None:
    serve(fakes.serve_hostile)
    sources = [hostile_source(kind, number, tmp_path) for number, kind in enumerate((HANG, KILL))]
    results = list(iter_extractions(sources, SPEC, Workers(1, 2.0)))
    assert [result.reason.partition(":")[0] for _, result in results] == ["timeout", "crashed"]
    assert [source.path.read_text().count("tried") for source in sources] == [1, 2]


def test_a_worker_that_stops_in_the_middle_of_its_answer_hangs_nobody(
    serve: Callable[[Any], None], tmp_path: Path
) -> None:
    serve(fakes.serve_hostile)
    kinds = [NONE, STOP_SHORT, NONE, NONE]
    sources = [hostile_source(kind, number, tmp_path) for number, kind in enumerate(kinds)]
    results = [result for _, result in iter_extractions(sources, SPEC, Workers(1, 2.0))]
    assert results[1].reason == "timeout: gave no answer within 2 s"
    assert [result.status for result in results[2:]] == [Status.NO_FACE] * 2
    assert no_workers_left()


def test_a_worker_that_will_not_end_hangs_nobody(
    serve: Callable[[Any], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(fakes.serve_hostile)
    monkeypatch.setattr(pipeline, "_END_TIMEOUT_S", 0.5)
    sources = [hostile_source(kind, n, tmp_path) for n, kind in enumerate((LINGER, NONE))]
    results = [result for _, result in iter_extractions(sources, SPEC, Workers(1, TIMEOUT_S))]
    assert results[0].reason == "crashed: its worker process ended (-9)"
    assert results[1].status == Status.NO_FACE
    assert no_workers_left()


def test_a_worker_that_is_stopped_from_outside_hangs_nobody(
    serve: Callable[[Any], None],
) -> None:
    serve(fakes.serve_hostile)
    results = iter_extractions(endless([]), SPEC, Workers(1, 2.0))
    _, first = next(results)
    os.kill(int(first.reason.split()[1]), signal.SIGSTOP)
    reasons = [next(results)[1].reason for _ in range(20)]
    assert sum(reason.startswith("timeout") for reason in reasons) <= 1
    results.close()
    assert no_workers_left()


def test_a_worker_that_dies_while_it_starts_is_started_once_more(
    serve: Callable[[Any], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(fakes.serve_at_the_second_try)
    monkeypatch.setenv("FIRST_TRY", str(tmp_path / "mark"))
    ((_, result),) = iter_extractions([hostile_source(NONE, 0)], SPEC, Workers(1, TIMEOUT_S))
    assert (tmp_path / "mark").exists()
    assert result.status == Status.NO_FACE


def test_no_more_workers_start_than_there_are_sources(serve: Callable[[Any], None]) -> None:
    serve(fakes.serve_hostile)
    results = iter_extractions([hostile_source(NONE, n) for n in range(2)], SPEC, Workers(5))
    next(results)
    alive = [p for p in multiprocessing.active_children() if p.name == "deepfake-extract"]
    assert len(alive) <= 2
    results.close()


def test_killed_workers_are_replaced_by_real_ones(
    serve: Callable[[Any], None], tmp_path: Path
) -> None:
    serve(fakes.serve_real_hostile)
    photo = write_photo(tmp_path / "photo-1.png", fakes.portrait(0, 0, 128))
    sources = [hostile_source(NONE, 0), fakes.make_source(photo), hostile_source(KILL, 2)]
    results = iter_extractions(sources, SPEC, Workers(1, TIMEOUT_S))
    _, first = next(results)
    # The only worker is idle now: it gets its next source after this one was taken.
    idle = next(p for p in multiprocessing.active_children() if p.pid == int(first.reason))
    os.kill(int(first.reason), signal.SIGKILL)
    idle.join()
    (_, second), (_, third) = results
    (alone,) = FaceExtractor(SPEC).extract(sources[1]).crops
    assert (second.status, second.crops[0].encoded) == (Status.OK, alone.encoded)
    assert third.reason == "crashed: its worker process ended (-9)"


def endless(taken: list[int]) -> Iterator[Source]:
    number = 0
    while True:
        taken.append(number)
        yield hostile_source(NONE, number)
        number += 1


@pytest.mark.parametrize("workers", [1, 2])
def test_looks_a_bounded_way_ahead(serve: Callable[[Any], None], workers: int) -> None:
    serve(fakes.serve_hostile)
    taken: list[int] = []
    results = iter_extractions(endless(taken), SPEC, Workers(workers, TIMEOUT_S))
    window = pipeline._WINDOW_PER_WORKER * workers
    for number in range(3 * window):
        source, _ = next(results)
        assert source == hostile_source(NONE, number)
        assert len(taken) <= number + window
    results.close()
    assert len(taken) <= 4 * window
    assert no_workers_left()


def test_without_workers_one_source_is_read_at_a_time(tmp_path: Path) -> None:
    taken: list[int] = []
    results = iter_extractions(endless(taken), SPEC, Workers(0))
    assert next(results)[1].reason == "io_error: no such file"
    assert taken == [0]


def test_no_sources_no_results(serve: Callable[[Any], None]) -> None:
    serve(fakes.serve_hostile)
    assert list(iter_extractions([], SPEC, Workers(1))) == []
    assert no_workers_left()


def test_an_error_in_the_sources_ends_the_workers(serve: Callable[[Any], None]) -> None:
    serve(fakes.serve_hostile)

    def broken() -> Iterator[Source]:
        yield hostile_source(NONE, 0)
        raise KeyError("list")

    with pytest.raises(KeyError, match="list"):
        list(iter_extractions(broken(), SPEC, Workers(1, TIMEOUT_S)))
    assert no_workers_left()


def test_workers_that_never_start_are_an_error(serve: Callable[[Any], None]) -> None:
    serve(fakes.serve_never)
    with pytest.raises(JobError, match=r"a worker process did not start \(crashed: .*ended \(0\)"):
        list(iter_extractions([hostile_source(NONE, 0)], SPEC, Workers(2)))
    assert no_workers_left()


def test_workers_that_do_not_get_ready_in_time_are_an_error(
    serve: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(fakes.serve_hostile)
    monkeypatch.setattr(pipeline, "_START_TIMEOUT_S", 0.0)
    with pytest.raises(JobError, match=r"did not start \(timeout"):
        list(iter_extractions([hostile_source(NONE, 0)], SPEC, Workers(1)))
    assert no_workers_left()


def test_refuses_a_negative_number_of_workers() -> None:
    with pytest.raises(UsageError, match="workers=-1; expected 0 or more"):
        list(iter_extractions([], SPEC, Workers(-1)))


def test_the_detector_runs_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for device in ("cpu", "cuda", "cuda:0", "cuda:1"):
        check_detect_device(device)
    with pytest.raises(UsageError, match=r"'cuda:2': this machine has 2 CUDA devices"):
        next(iter_extractions([], SPEC, Workers(0, detect_device="cuda:2")))
    devices = []

    class Noted(FaceExtractor):
        def __init__(self, *args: Any, device: str = "cpu", **kwargs: Any) -> None:
            devices.append(device)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(pipeline, "FaceExtractor", Noted)
    list(iter_extractions([], SPEC, Workers(0, detect_device="cuda:1")))
    monkeypatch.setattr(pipeline, "_mute_c_libraries", lambda: None)
    ours, theirs = multiprocessing.Pipe()
    ours.close()
    with pytest.raises(BrokenPipeError):
        pipeline._serve(theirs, (SPEC, 10**6, Sampling(), "cuda:0"))
    assert devices == ["cuda:1", "cuda:0"]


@pytest.mark.gpu
def test_a_gpu_cuts_the_same_crops(tmp_path: Path) -> None:
    fakes.write_portraits(tmp_path, 9)
    sources = discover(tmp_path).sources
    cut = {
        device: [
            (crop.face.box_xyxy.tolist(), crop.rotation)
            for _, result in iter_extractions(
                sources, SPEC, Workers(2, TIMEOUT_S, detect_device=device)
            )
            for crop in result.crops
        ]
        for device in ("cpu", "cuda")
    }
    assert len(cut["cpu"]) == len(cut["cuda"]) >= 8
    for (one, turned), (other, also_turned) in zip(cut["cpu"], cut["cuda"], strict=True):
        assert one == pytest.approx(other, abs=0.02)
        assert turned == also_turned
