"""Extraction in worker processes: same results, and a status for what a worker fails to read."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deepfake.errors import UsageError
from deepfake.faces import pipeline
from deepfake.faces.extraction import FaceExtractor
from deepfake.faces.pipeline import check_detect_device, iter_extractions
from deepfake.jobs import workers as pool
from deepfake.media.discovery import discover
from deepfake.records import CropSpec, Sampling, Source, Status, Workers
from tests import fakes
from tests.fakes import HANG, KILL, NONE, hostile_source, write_photo

SPEC = CropSpec(size=64)
TIMEOUT_S = 60.0  # never reached by a worker that works


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    fakes.write_portraits(tmp_path, 9)
    write_photo(tmp_path / "montage.jpg", fakes.montage())
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 broken")
    write_photo(tmp_path / "tiny.png", fakes.portrait()[:10])
    write_photo(tmp_path / "plain.png", fakes.portrait() // 200)
    os.mkfifo(tmp_path / "fifo.jpg")
    sources = discover(tmp_path).sources
    found = {}
    for workers in (0, 2):
        results = list(iter_extractions(sources, SPEC, Workers(workers, TIMEOUT_S)))
        assert [source for source, _ in results] == list(sources)
        found[workers] = [
            (result.status, result.reason, [crop.encoded for crop in result.crops])
            for _, result in results
        ]
    assert found[0] == found[2]
    assert {status for status, _, _ in found[0]} == set(Status)


def test_what_a_worker_fails_to_read_has_a_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_serve", fakes.serve_hostile)
    sources = [hostile_source(kind, n, tmp_path) for n, kind in enumerate((HANG, KILL, NONE))]
    results = [result for _, result in iter_extractions(sources, SPEC, Workers(1, 2.0))]
    assert [result.status for result in results] == [
        Status.UNREADABLE,
        Status.UNREADABLE,
        Status.NO_FACE,
    ]
    assert results[0].reason == "timeout: gave no answer within 2 s"
    assert results[1].reason == "crashed: its worker process ended (-9)"


def test_without_workers_one_source_is_read_at_a_time(tmp_path: Path) -> None:
    taken: list[int] = []

    def sources() -> Iterator[Source]:
        for number in range(9):
            taken.append(number)
            yield hostile_source(NONE, number)

    results = iter_extractions(sources(), SPEC, Workers(0))
    assert next(results)[1].reason == "io_error: no such file"
    assert taken == [0]


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
        def __init__(self, spec: CropSpec, *settings: Any) -> None:
            detector, max_pixels, sampling, device, *more = settings
            devices.append(device)
            super().__init__(spec, detector, max_pixels, sampling, "cpu", *more)

    monkeypatch.setattr("deepfake.faces.extraction.FaceExtractor", Noted)
    list(iter_extractions([], SPEC, Workers(0, detect_device="cuda:1")))
    monkeypatch.setattr(pool, "_mute_c_libraries", lambda: None)
    monkeypatch.setattr(pool, "_parent", None)
    ours, theirs = multiprocessing.Pipe()
    ours.close()
    settings = (SPEC, 10**6, Sampling(), "cuda:0", "five", 0)
    extractor = partial(pipeline.make_worker_extractor, *settings)  # type: ignore[arg-type]
    make = partial(pipeline._make_reader, extractor, None)
    pool._serve(theirs, pickle.dumps(make))
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
