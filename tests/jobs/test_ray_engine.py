"""Ray makes the very bytes that this process makes, whatever comes and goes meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from deepfake import cli
from deepfake.errors import JobError, UsageError
from deepfake.jobs.engine import Block, Executor, Job, Work, run_here
from deepfake.jobs.folder import JobFolder
from deepfake.media.discovery import list_sources
from tests.conftest import Trained
from tests.fakes import tree_hashes, write_portraits

ROOT = Path(__file__).parents[2]
NAMES = [f"{number}.txt" for number in range(12)]
pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra deepfake[ray]")


@pytest.fixture
def nodes() -> Iterator[Any]:
    from tests.jobs.made_ray import start_nodes

    with start_nodes() as started:
        yield started


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_text(f"content of {name}")
    return folder


def connect(nodes: Any) -> Executor:
    from deepfake.jobs.ray_engine import RayEngine

    return RayEngine(nodes.engine.removeprefix("ray:"))


def run(
    root: Path, inputs: Path, work: Work, execute: Executor, names: Sequence[str] = NAMES
) -> None:
    root.mkdir(exist_ok=True)
    job = Job(JobFolder(root, "test"), list_sources(list(names), inputs), 2)
    job.begin([], {})
    for _ in job.run(job.find_todo(), work, execute):
        pass


def wait_until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 240
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def run_beside(job: Callable[[], None], tasks: Callable[[], None]) -> None:
    """Run a job while something happens to it; the job in a thread, as nodes start in none."""
    done = ThreadPoolExecutor(1).submit(job)  # not waited for where the tasks fail
    tasks()
    done.result()


def make_expected(tmp_path: Path, inputs: Path) -> dict[str, str]:
    """What the work makes in this process."""
    from tests.jobs.made_ray import Upper

    gate = tmp_path / "gate-here"
    gate.mkdir()
    (gate / "open").touch()
    run(tmp_path / "here", inputs, Upper(gate), run_here)
    return tree_hashes(tmp_path / "here")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_any_number_of_nodes_makes_the_bytes_of_this_process(
    nodes: Any, trained: Trained, tmp_path: Path
) -> None:
    photos = write_portraits(tmp_path / "photos", 11)
    (photos / "real" / "broken.jpg").write_bytes(b"\xff\xd8 broken")
    detector = ["--checkpoint", str(trained.checkpoint), "--device", "cpu", "--quiet"]

    def crop(folder: Path, engine: list[str]) -> dict[str, str]:
        words = [str(photos), "--output", str(folder), "--size", "64", "--quiet"]
        assert cli.crop([*words, "--shard-size", "3", *engine]) == 0
        return tree_hashes(folder)

    def score(folder: Path, engine: list[str]) -> dict[str, str]:
        folder.mkdir()
        words = [str(photos), "--output", str(folder / "scores.csv"), *detector]
        assert cli.predict([*words, "--faces", str(folder / "faces.csv"), *engine]) == 0
        words = ["--data", str(trained.crops), "--output", str(folder / "report"), *detector]
        assert cli.main(["evaluate", *words, "--resamples", "0", *engine]) == 0
        # When a job began, where, and by which command.
        notes = ("scores.csv.job/times.json", "scores.csv.job/outputs.json")
        for name in (*notes, "report/report.html", "report/metrics.json"):
            (folder / name).unlink()
        return tree_hashes(folder)

    crops = crop(tmp_path / "crops", ["--workers", "0"])
    scores = score(tmp_path / "scores", ["--workers", "0"])
    assert len(list((tmp_path / "scores" / "scores.csv.job" / "shards").iterdir())) == 12
    by_ray = ["--engine", nodes.engine]
    for n_nodes in (1, 2, 4):
        while len(nodes.cluster.list_all_nodes()) < n_nodes:
            nodes.add()
        if n_nodes == 2:
            assert score(tmp_path / "scores-2", by_ray) == scores
        else:
            assert crop(tmp_path / f"crops-{n_nodes}", by_ray) == crops


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_node_killed_costs_its_blocks_a_second_run_and_nothing_else(
    nodes: Any, inputs: Path, tmp_path: Path
) -> None:
    from tests.jobs.made_ray import Upper, find_nodes

    expected = make_expected(tmp_path, inputs)
    gate = tmp_path / "gate"
    gate.mkdir()
    doomed = nodes.add()

    def kill_a_node() -> None:
        wait_until(lambda: len(find_nodes(gate)) == 2)
        (raylet,) = doomed.all_processes["raylet"]
        os.kill(raylet.process.pid, signal.SIGKILL)
        (gate / "open").touch()

    job = tmp_path / "job"
    run_beside(lambda: run(job, inputs, Upper(gate), connect(nodes)), kill_a_node)
    assert tree_hashes(job) == expected
    found = find_nodes(gate)
    lost = [block for block, places in found.items() if places[0] == doomed.node_id]
    assert lost
    assert {block: len(places) for block, places in found.items()} == {
        block: 2 if block in lost else 1 for block in range(6)
    }


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_node_that_comes_gets_blocks_and_no_more_are_open_than_there_is_room_for(
    nodes: Any, inputs: Path, tmp_path: Path
) -> None:
    from tests.jobs.made_ray import Upper, find_nodes

    expected = make_expected(tmp_path, inputs)
    gate = tmp_path / "gate"
    gate.mkdir()
    most_open = 0

    def count(work: Work, blocks: Iterator[Block]) -> Iterator[Block]:
        n_open = 0

        def opened() -> Iterator[Block]:
            nonlocal n_open, most_open
            for block in blocks:
                n_open += 1
                most_open = max(most_open, n_open)
                yield block

        for block in connect(nodes)(work, opened()):
            n_open -= 1
            yield block

    def add_a_node() -> None:
        wait_until(lambda: len(find_nodes(gate)) == 1)
        nodes.add()
        wait_until(lambda: len({place[0] for place in find_nodes(gate).values() if place}) == 2)
        (gate / "open").touch()

    job = tmp_path / "job"
    run_beside(lambda: run(job, inputs, Upper(gate), count), add_a_node)
    assert tree_hashes(job) == expected
    assert all(len(places) == 1 for places in find_nodes(gate).values())
    assert most_open == 4  # of two workers, one that waits for room, one that is being written


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_as_many_workers_share_a_gpu_as_was_asked_for(
    nodes: Any, inputs: Path, tmp_path: Path
) -> None:
    from deepfake.jobs.ray_engine import RayEngine
    from tests.jobs.made_ray import ShowGPUs

    nodes.add(num_cpus=5, num_gpus=2)  # which Ray takes our word for
    gate = tmp_path / "gate"
    gate.mkdir()
    engine = RayEngine(nodes.engine.removeprefix("ray:"), gpus=0.5)
    run(tmp_path / "job", inputs, ShowGPUs(gate), engine)
    given = [path.read_text() for path in (tmp_path / "job").rglob("gpus")]
    assert len(given) == 6
    assert set(given) == {"0", "1"}
    assert len(list(gate.iterdir())) == 4


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_command_of_a_killed_process_goes_on(nodes: Any, tmp_path: Path) -> None:
    photos = write_portraits(tmp_path / "photos", 24)
    words = ["--size", "64", "--quiet", "--shard-size", "1", "--store", "tar"]
    assert cli.crop([str(photos), str(tmp_path / "here"), *words, "--workers", "1"]) == 0
    root = tmp_path / "there"
    line = [str(photos), str(root), *words, "--engine", nodes.engine]
    code = "import sys; from deepfake import cli; sys.exit(cli.crop(sys.argv[1:]))"
    child = subprocess.Popen([sys.executable, "-c", code, *line], env=os.environ)
    shards = root / "shards"
    wait_until(lambda: child.poll() is not None or len(list(shards.glob("*"))) >= 2)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    before = {shard: shard.stat().st_ino for shard in shards.iterdir()}
    assert 2 <= len(before) < 24
    assert cli.crop(line) == 0
    assert tree_hashes(root) == tree_hashes(tmp_path / "here")
    assert {shard: shard.stat().st_ino for shard in before} == before


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_file_that_crashes_its_reader_is_a_row_and_one_that_ends_the_ray_worker_is_named(
    nodes: Any, inputs: Path, tmp_path: Path
) -> None:
    from tests.jobs.made_ray import Deadly, Reading

    names = [*NAMES[:3], "deadly", *NAMES[3:]]
    (inputs / "deadly").touch()
    run(tmp_path / "here", inputs, Reading(), run_here, names)
    run(tmp_path / "there", inputs, Reading(), connect(nodes), names)
    assert tree_hashes(tmp_path / "there") == tree_hashes(tmp_path / "here")
    reasons = [path.read_text() for path in (tmp_path / "there" / "shards" / "00001").iterdir()]
    assert "crashed: its worker process ended (-9)" in reasons
    (tmp_path / "job").mkdir()
    sources = list_sources(["0.txt", "deadly"], inputs)
    job = Job(JobFolder(tmp_path / "job", "test"), sources, 1)
    job.begin([], {})
    with pytest.raises(JobError, match="Ray worker that had deadly in hand ended 4 times"):
        list(job.run(job.find_todo(), Deadly(), connect(nodes)))
    assert job.find_todo() == [1]


_OWN_RAY = """
import os, re, signal, sys
from pathlib import Path
from deepfake.jobs.ray_engine import RayEngine
from tests.jobs.test_engine import Upper
from tests.jobs.test_ray_engine import run
before = signal.getsignal(signal.SIGTERM)
run(Path(sys.argv[1]), Path(sys.argv[2]), Upper(), RayEngine())
assert signal.getsignal(signal.SIGTERM) == before
children = [os.getpid()]
for pid in sorted(int(path.name) for path in Path("/proc").glob("[0-9]*")):
    try:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        continue
    if parent in children:
        children.append(pid)
sockets = set()
for pid in children:
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            sockets |= set(re.findall(r"socket:.([0-9]+).", os.readlink(link)))
        except OSError:
            pass
for table in ("tcp", "tcp6"):
    for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == "0A" and words[9] in sockets:
            print(words[1].partition(":")[0])
"""


# The one that starts Ray and is not slow: without it `make check` would compare no bytes with Ray.
@pytest.mark.timeout(300)
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads the sockets in /proc")
def test_ray_of_its_own_makes_the_same_bytes_and_listens_on_the_loopback_alone(
    inputs: Path, tmp_path: Path
) -> None:
    expected = make_expected(tmp_path, inputs)
    words = [sys.executable, "-c", _OWN_RAY, str(tmp_path / "job"), str(inputs)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    assert tree_hashes(tmp_path / "job") == expected
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert done.stdout.split()
    assert set(done.stdout.split()) <= loopback


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1", "127.0.0.1:99999"])
def test_a_cluster_that_is_not_there_is_named(address: str) -> None:
    from deepfake.jobs.ray_engine import RayEngine

    with pytest.raises(
        UsageError, match=rf"Ray cluster at {address} cannot be joined: .*HOST:PORT"
    ):
        next(RayEngine(address)(KeepNotes(), iter(())))


def test_an_evaluation_by_ray_needs_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "--data", "crops", "--engine", "ray"]) == 2
    assert "--engine ray needs --output" in capsys.readouterr().err


def test_what_a_node_lacks_is_named(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pickle

    from deepfake.jobs import ray_engine
    from deepfake.jobs.ray_engine import Filler

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    sources = list_sources(["0.txt", "none.txt"], inputs)
    block = Block(0, 0, sources, tmp_path / "out", {sources[0].id: tmp_path / "old"})
    here = ray_engine._find_versions(["deepfake", "torch"])
    work = pickle.dumps(KeepNotes())

    def fill(seen: list[bool], folder: Path = tmp_path, **versions: str) -> list[str]:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        (tmp_path / "out").mkdir()
        filler = Filler(work, folder, here | versions, 1)
        return (filler.fill_in(block, seen) / "kept").read_text().split()

    assert fill([True, False]) == []
    (tmp_path / "old").mkdir()
    assert fill([True, False]) == [sources[0].id]
    with pytest.raises(UsageError, match=r"does not see .*none\.txt"):
        fill([True, True])
    with pytest.raises(UsageError, match=r"has no folder .*elsewhere; run the command in one"):
        fill([True, False], tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"has torch .*, the machine of the command 1\.0"):
        fill([True, False], torch="1.0")
    with pytest.raises(UsageError, match=r"has nothing not at all, the machine of the command 2"):
        fill([True, False], nothing="2")


class KeepNotes:
    """Work that writes down for which inputs it was given an old shard."""

    def __call__(self, blocks: Iterable[Block]) -> Iterator[Block]:
        for block in blocks:
            (block.folder / "kept").write_text("\n".join(block.kept))
            yield block
