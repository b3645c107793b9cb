"""The server as a process of its own under load, and killed: nothing is lost, nothing is mixed up.

Short forms of all of this run by default in ``routes`` and ``test_store``.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.client
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.web.made_media import encode_video
from tests.web.made_server import Client, encode_form, wait_until

pytestmark = pytest.mark.slow

PEOPLE, FILES_EACH = 50, 2
LARGE = 2 << 30
MEMORY_KB = 2 << 20  # of the server: torch alone takes a quarter of it


@dataclass
class Process:
    """``deepfake serve`` as people start it."""

    process: subprocess.Popen[str]
    url: str

    @classmethod
    def start(cls, checkpoint: Path, *words: str) -> Process:
        code = "import sys; from deepfake.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", code, "serve", "--checkpoint", str(checkpoint), *words]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), process.communicate(timeout=30)
        return cls(process, url)

    @property
    def port(self) -> int:
        return int(re.findall(r":(\d+)/", self.url)[0])

    @property
    def origin(self) -> str:
        return self.url.split("/?")[0]

    def script(self) -> Client:
        return Client(self.port, {"Authorization": f"Bearer {self.url.split('token=')[1]}"})

    def browser(self) -> Client:
        answer = Client(self.port).get(self.url.removeprefix(self.origin))
        cookie = answer.headers["set-cookie"].partition(";")[0]
        return Client(self.port, {"Cookie": cookie, "Origin": self.origin})

    def memory_kb(self) -> int:
        """The most memory that the server itself ever held."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+)", status)[0])

    def end(self, number: int) -> tuple[int, str]:
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@pytest.fixture
def keep(tmp_path: Path) -> Path:
    return tmp_path / "kept"


def data_of(person: int, number: int) -> bytes:
    return b"<html>%d %d</html>" % (person, number) * 1000


def test_fifty_people_at_once_a_kill_and_a_restart(keep: Path, checkpoint: Path) -> None:
    server = Process.start(checkpoint, "--keep", str(keep), "--workers", "2")
    people = [server.browser() for _ in range(PEOPLE)]

    def upload(person: int) -> list[str]:
        files = [
            (f"{person}-{number}.html", data_of(person, number)) for number in range(FILES_EACH)
        ]
        abort_upload(server.port, people[person])
        answer = people[person].send("/api/files", files)
        assert answer.status == 202
        return [file["id"] for file in answer.json()["files"]]

    with concurrent.futures.ThreadPoolExecutor(PEOPLE) as threads:
        ids = list(threads.map(upload, range(PEOPLE)))
    wait_until(lambda: people[0].get(f"/api/files/{ids[0][0]}").json()["state"] == "done")
    assert server.end(signal.SIGKILL)[0] == -signal.SIGKILL

    again = Process.start(
        checkpoint, "--keep", str(keep), "--workers", "2", "--port", str(server.port)
    )
    assert again.url == server.url  # bookmarks and scripts go on
    for person, browser in enumerate(people):  # with the cookies of before
        for number, file_id in enumerate(ids[person]):
            file = browser.wait(file_id)
            assert file["state"] == "done"
            assert file["path"] == f"{person}-{number}.html"
            assert file["sha256"] == hashlib.sha256(data_of(person, number)).hexdigest()
        assert browser.get("/api/queue").json()["n_files"] == FILES_EACH
        assert people[person - 1].get(f"/api/files/{ids[person][0]}").status == 404
    assert not list((keep / "incoming").iterdir())
    code, errors = again.end(signal.SIGTERM)
    assert code == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert len(list((keep / "files").iterdir())) == PEOPLE * FILES_EACH


def abort_upload(port: int, client: Client) -> None:
    kind, body = encode_form([("lost.jpg", bytes(1 << 20))], {})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("POST", "/api/files")
    for name, value in (client.headers | {"Content-Type": kind}).items():
        connection.putheader(name, value)
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[: len(body) // 2])
    connection.close()


def test_a_video_of_two_gigabytes_is_scored_and_takes_little_memory(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = os.statvfs(tmp_path)
    if free.f_bavail * free.f_frsize < 2 * LARGE:
        pytest.skip("this disk has not enough room for two gigabytes")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    server = Process.start(checkpoint, "--workers", "1")
    video, hole = encode_video(), LARGE
    # A box that players pass over: whole, but large.
    box = (1).to_bytes(4, "big") + b"free" + (hole + 16).to_bytes(8, "big")
    kind, form = encode_form([("large.mp4", b"MIDDLE")], {})
    head, tail = form.split(b"MIDDLE")
    digest = hashlib.sha256()

    def body() -> Iterator[bytes]:
        yield head
        for part in (video, box):
            digest.update(part)
            yield part
        chunk = bytes(1 << 20)
        for _ in range(hole >> 20):
            digest.update(chunk)
            yield chunk
        yield tail

    length = len(head) + len(video) + len(box) + hole + len(tail)
    headers = {"Content-Type": kind, "Content-Length": str(length)}
    answer = server.script().ask("POST", "/api/score", body(), headers)
    assert answer.status == 200
    (file,) = answer.json()["files"]
    assert (file["status"], file["n_people"]) == ("ok", 2)
    assert file["size"] > LARGE
    assert file["sha256"] == digest.hexdigest()
    assert server.memory_kb() < MEMORY_KB
    code, _ = server.end(signal.SIGINT)
    assert code == 130
    assert not list(temporary.glob("deepfake-serve-*"))  # emptied at the end
