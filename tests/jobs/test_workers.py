"""Workers that read hostile files: whatever one does, nobody else suffers from it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deepfake.errors import JobError
from deepfake.jobs import workers as pool
from deepfake.jobs.workers import (
    Failure,
    WorkerPool,
    kept_workers,
    read_in_workers,
    spare_worker,
    tell_progress,
)
from deepfake.records import Source, Workers
from tests import fakes
from tests.fakes import CUT_SHORT, HANG, KILL, KILL_ONCE, LINGER, NONE, STOP_SHORT, hostile_source
from tests.web.made_server import wait_until

TIMEOUT_S = 60.0  # never reached by a worker that works


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Choose what new workers run; a spawned process finds it by its name."""
    return lambda function: monkeypatch.setattr(pool, "_serve", function)


def read(sources: Iterable[Source], limits: Workers) -> Generator[tuple[Source, Any]]:
    return read_in_workers(sources, fakes.make_misbehaving, limits)


def no_workers_left() -> bool:
    return not [p for p in multiprocessing.active_children() if p.name == "deepfake-read"]


def test_hostile_files_harm_nobody_else(serve: Callable[[Any], None], tmp_path: Path) -> None:
    serve(fakes.serve_hostile)
    kinds = [NONE, HANG, NONE, KILL, NONE, CUT_SHORT, KILL_ONCE, *[NONE] * 20, KILL]
    sources = [hostile_source(kind, number, tmp_path) for number, kind in enumerate(kinds)]
    results = list(read(sources, Workers(2, 3.0)))
    assert [source for source, _ in results] == sources
    for kind, (source, result) in zip(kinds, results, strict=True):
        if kind == HANG:
            assert isinstance(result, Failure)
            assert result.reason == "timeout: gave no answer within 3 s"
        elif kind in (KILL, CUT_SHORT):
            assert isinstance(result, Failure)
            assert result.reason == "crashed: its worker process ended (-9)"
        else:
            assert result.reason.startswith(f"{source.name} ")
    assert no_workers_left()


def test_a_file_that_kills_once_is_tried_again(
    serve: Callable[[Any], None], tmp_path: Path
) -> None:
    serve(fakes.serve_hostile)
    source = hostile_source(KILL_ONCE, 0, tmp_path)
    ((_, result),) = read([source], Workers(1, TIMEOUT_S))
    assert source.path.exists()  # it did kill
    assert not isinstance(result, Failure)


def test_a_time_limit_is_paid_once_and_a_crash_is_tried_twice(
    serve: Callable[[Any], None], tmp_path: Path
) -> None:
    serve(fakes.serve_hostile)
    sources = [hostile_source(kind, number, tmp_path) for number, kind in enumerate((HANG, KILL))]
    results = list(read(sources, Workers(1, 2.0)))
    assert [result.reason.partition(":")[0] for _, result in results] == ["timeout", "crashed"]
    assert [source.path.read_text().count("tried") for source in sources] == [1, 2]


def test_a_worker_that_stops_in_the_middle_of_its_answer_hangs_nobody(
    serve: Callable[[Any], None], tmp_path: Path
) -> None:
    serve(fakes.serve_hostile)
    kinds = [NONE, STOP_SHORT, NONE, NONE]
    sources = [hostile_source(kind, number, tmp_path) for number, kind in enumerate(kinds)]
    results = [result for _, result in read(sources, Workers(1, 2.0))]
    assert results[1].reason == "timeout: gave no answer within 2 s"
    assert all(result.reason.startswith(NONE) for result in results[2:])
    assert no_workers_left()


def test_a_worker_that_will_not_end_hangs_nobody(
    serve: Callable[[Any], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(fakes.serve_hostile)
    monkeypatch.setattr(pool, "_END_TIMEOUT_S", 0.5)
    sources = [hostile_source(kind, n, tmp_path) for n, kind in enumerate((LINGER, NONE))]
    results = [result for _, result in read(sources, Workers(1, TIMEOUT_S))]
    assert results[0].reason == "crashed: its worker process ended (-9)"
    assert results[1].reason.startswith(NONE)
    assert no_workers_left()


def test_a_worker_that_is_stopped_from_outside_hangs_nobody(
    serve: Callable[[Any], None],
) -> None:
    serve(fakes.serve_hostile)
    results = read(endless([]), Workers(1, 2.0))
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
    ((_, result),) = read([hostile_source(NONE, 0)], Workers(1, TIMEOUT_S))
    assert (tmp_path / "mark").exists()
    assert result.reason.startswith(NONE)


def test_no_more_workers_start_than_there_are_sources(serve: Callable[[Any], None]) -> None:
    serve(fakes.serve_hostile)
    results = read([hostile_source(NONE, n) for n in range(2)], Workers(5))
    next(results)
    alive = [p for p in multiprocessing.active_children() if p.name == "deepfake-read"]
    assert len(alive) <= 2
    results.close()


def test_killed_workers_are_replaced_by_real_ones() -> None:
    sources = [hostile_source(NONE, 0), hostile_source(NONE, 1), hostile_source(KILL, 2)]
    results = read(sources, Workers(1, TIMEOUT_S))
    _, first = next(results)
    # The only worker is idle now: it gets its next source after this one was taken.
    idle = next(p for p in multiprocessing.active_children() if p.pid == first)
    os.kill(first, signal.SIGKILL)
    idle.join()
    (_, second), (_, third) = results
    assert second != first
    assert isinstance(third, Failure)
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
    results = read(endless(taken), Workers(workers, TIMEOUT_S))
    window = pool._WINDOW_PER_WORKER * workers
    for number in range(3 * window):
        source, _ = next(results)
        assert source == hostile_source(NONE, number)
        assert len(taken) <= number + window
    results.close()
    assert len(taken) <= 4 * window
    assert no_workers_left()


def test_idle_workers_are_kept_for_the_next_sources_of_their_kind(
    serve: Callable[[Any], None], tmp_path: Path
) -> None:
    serve(fakes.serve_hostile)

    def find_process(limits: Workers) -> str:
        ((_, result),) = read([hostile_source(NONE, 0)], limits)
        return str(result.reason.split()[1])

    with kept_workers():
        first = find_process(Workers(1, TIMEOUT_S))
        results = read(endless([]), Workers(1, TIMEOUT_S))
        assert next(results)[1].reason.split()[1] == first
        results.close()  # with a source in hand: nobody else shall get its answer
        assert no_workers_left()
        second = find_process(Workers(1, TIMEOUT_S))
        assert find_process(Workers(1, TIMEOUT_S + 1)) not in (first, second)
        assert find_process(Workers(1, TIMEOUT_S)) == second != first
    assert no_workers_left()
    assert find_process(Workers(1, TIMEOUT_S)) != second


def test_no_sources_no_results(serve: Callable[[Any], None]) -> None:
    serve(fakes.serve_hostile)
    assert list(read([], Workers(1))) == []
    assert no_workers_left()


def test_an_error_in_the_sources_ends_the_workers(serve: Callable[[Any], None]) -> None:
    serve(fakes.serve_hostile)

    def broken() -> Iterator[Source]:
        yield hostile_source(NONE, 0)
        raise KeyError("list")

    with pytest.raises(KeyError, match="list"):
        list(read(broken(), Workers(1, TIMEOUT_S)))
    assert no_workers_left()


def test_workers_that_never_start_are_an_error(serve: Callable[[Any], None]) -> None:
    serve(fakes.serve_never)
    with pytest.raises(JobError, match=r"a worker process did not start \(crashed: .*ended \(0\)"):
        list(read([hostile_source(NONE, 0)], Workers(2)))
    assert no_workers_left()


def test_workers_that_do_not_get_ready_in_time_are_an_error(
    serve: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(fakes.serve_hostile)
    monkeypatch.setattr(pool, "_START_TIMEOUT_S", 0.0)
    with pytest.raises(JobError, match=r"did not start \(timeout: gave no answer within 0 s"):
        list(read([hostile_source(NONE, 0)], Workers(1)))
    assert no_workers_left()


@pytest.mark.parametrize("kind", [HANG, STOP_SHORT])
def test_a_cancelled_source_ends_at_once_and_only_it(
    serve: Callable[[Any], None], kind: str
) -> None:
    serve(fakes.serve_hostile)
    sources = [hostile_source(kind, 0), hostile_source(NONE, 1), hostile_source(HANG, 2)]
    cancelled: WorkerPool[Any] = WorkerPool(fakes.make_misbehaving, Workers(1, 3600.0))
    try:
        cancelled.cancel(sources[2].id)  # before any worker has it
        threading.Timer(1.0, cancelled.cancel, [sources[0].id]).start()
        results = [result for _, result in cancelled.run(iter(sources))]
        ((_, again),) = cancelled.run(iter([replace(hostile_source(NONE, 1), id=sources[2].id)]))
    finally:
        cancelled.close()
    assert results[0] == results[2] == Failure("cancelled: nobody waits for it any more")
    assert again.reason.startswith(NONE), "what was cancelled once may be asked for again"
    assert results[1].reason.startswith(NONE)
    assert no_workers_left()


def test_a_pool_keeps_its_worker_and_hears_how_far_it_is() -> None:
    stays: WorkerPool[int] = WorkerPool(fakes.make_telling, Workers(1, TIMEOUT_S))
    heard: list[tuple[str, object]] = []
    try:
        answers = [
            answer
            for number in range(2)
            for _, answer in stays.run(
                iter([hostile_source(NONE, number)]),
                lambda source, progress: heard.append((source.name, progress)),
            )
        ]
    finally:
        stays.close()
    assert answers[0] == answers[1]  # the number of the process
    assert heard == [(f"{NONE}-{number}", step) for number in range(2) for step in ("a", "b")]
    assert no_workers_left()


def test_progress_told_outside_of_a_worker_is_heard_by_nobody() -> None:
    tell_progress("unheard")


def test_a_spare_worker_is_the_first_of_a_pool_even_if_it_died_meanwhile() -> None:
    def read_one() -> Any:
        ((_, answer),) = read_in_workers(sources, fakes.make_telling, Workers(1, TIMEOUT_S))
        return answer

    sources = [hostile_source(NONE, 0)]
    with spare_worker("tests.fakes"):
        (spare,) = multiprocessing.active_children()
        assert read_one() == spare.pid
        assert read_one() != spare.pid  # one pool has taken it
    with spare_worker("tests.fakes"):
        (spare,) = multiprocessing.active_children()
        spare.kill()
        spare.join(TIMEOUT_S)
        assert read_one() not in (spare.pid, None)
    assert no_workers_left()


@pytest.mark.parametrize("unread", [False, True], ids=["closed", "reset"])
def test_a_worker_whose_parent_was_killed_ends_without_a_traceback(
    unread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_mute_c_libraries", lambda: None)
    monkeypatch.setattr(pool, "_parent", None)
    ours, theirs = multiprocessing.Pipe()
    if unread:
        theirs.send("said to nobody")
    ours.close()
    pool._serve(theirs, pickle.dumps(fakes.make_telling))


def test_a_spare_worker_that_nobody_takes_ends() -> None:
    with spare_worker("tests.fakes"):
        assert not no_workers_left()
    assert no_workers_left()
    with spare_worker("deepfake.no_such_room"):
        ((_, answer),) = read_in_workers(
            [hostile_source(NONE, 0)], fakes.make_telling, Workers(1, TIMEOUT_S)
        )
    assert isinstance(answer, int)


_ORPHANS = """
from deepfake.jobs.workers import read_in_workers
from deepfake.records import Workers
from tests import fakes

if __name__ == "__main__":
    hanging = fakes.hostile_source(fakes.HANG, 0)
    list(read_in_workers([hanging], fakes.make_misbehaving, Workers(1, 600.0)))
"""


def find_worker(parent: int) -> int | None:
    """The worker process of a process."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            above = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if above == str(parent) and b"spawn_main" in (folder / "cmdline").read_bytes():
                return int(folder.name)
    return None


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_worker_whose_parent_was_killed_ends_in_the_middle_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "orphans.py").write_text(_ORPHANS)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "orphans.py")], env=environment)
    try:
        worker = wait_until(lambda: find_worker(parent.pid))
        time.sleep(2.0)  # it may still be importing; either way nobody is left to stop it
        assert Path(f"/proc/{worker}").exists()
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not Path(f"/proc/{worker}").exists())


def test_a_time_limit_of_ages_is_none() -> None:
    ((_, answer),) = read_in_workers(
        [hostile_source(NONE, 0)], fakes.make_telling, Workers(1, 1e12)
    )
    assert isinstance(answer, int)
