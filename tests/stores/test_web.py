"""A web server as a store: faults in passing, servers without ranges, and where redirects lead."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from deepfake import cli
from deepfake.errors import MediaError, UsageError
from deepfake.media.listed import list_sources
from deepfake.media.objects import discover_objects
from deepfake.records import Source
from deepfake.stores import objects
from deepfake.stores.address import Address, RedirectError
from deepfake.stores.objects import fetched, look
from deepfake.stores.web import _Resolver
from tests.stores.made_stores import BUSY, CUT, REDIRECT_PATH, SLOW, SWAP, Server, serve

CONTENT = bytes(range(256)) * 400


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "PAUSE_S", 0.0)


@pytest.fixture(scope="module", params=[True, False], ids=["ranges", "no-ranges"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serve(knows_ranges=request.param) as running:
        yield running


@pytest.fixture
def source(server: Server) -> Source:
    server.objects = {"/a.jpg": CONTENT}
    server.faults.clear()
    server.target = ""
    url = server.url("/a.jpg")
    found = list_sources([url], Address.parse(url))[0]
    server.log.clear()
    return found


def read(source: Source) -> bytes:
    with fetched(source) as file:
        return file.path.read_bytes()


def test_an_object_is_read_once_and_looked_at_once(server: Server, source: Source) -> None:
    assert source.stored is not None
    assert source.stored.size == len(CONTENT)
    assert read(source) == CONTENT
    assert server.log == ["GET /a.jpg", "HEAD /a.jpg"]


def test_what_fails_in_passing_costs_a_read(server: Server, source: Source) -> None:
    server.faults = [BUSY, CUT, SLOW]
    assert read(source) == CONTENT
    assert not server.faults
    asked = [line for line in server.log if line.startswith("GET")]
    # After half of it, only the rest is asked for.
    assert asked == ["GET /a.jpg", "GET /a.jpg", f"GET /a.jpg bytes={len(CONTENT) // 2}-"]


def test_what_stays_broken_is_a_reason(server: Server, source: Source) -> None:
    server.faults = [BUSY] * objects.TRIES
    with pytest.raises(MediaError, match=r"io_error: 503.*; 5 tries failed"):
        read(source)


def test_a_change_between_two_reads_is_told(server: Server, source: Source) -> None:
    server.faults = [SWAP]
    with pytest.raises(MediaError, match="changed: it is not what it was when the job was planned"):
        read(source)


def test_a_list_names_objects_of_its_server(server: Server, source: Source) -> None:
    server.objects |= {"/in/b.jpg": b"b", "/list.txt": b"a.jpg\r\nin/b.jpg\n/in/b.jpg\ngone.jpg\n"}
    found = discover_objects(server.url("/list.txt"))
    assert [(one.name, one.problem) for one in found.sources] == [
        ("a.jpg", None),
        ("in/b.jpg", None),
        ("/in/b.jpg", None),
        ("gone.jpg", "io_error: no such object"),
    ]
    assert [read(one) for one in found.sources[:3]] == [CONTENT, b"b", b"b"]
    assert found.sources[0].id == list_sources(["a.jpg"], Address.parse(server.url("/x")))[0].id


def test_a_web_server_has_no_folders(server: Server, source: Source) -> None:
    for path in ("/", "/*.jpg", "/gone.jpg"):
        with pytest.raises(UsageError, match="a web server has no folders or patterns"):
            discover_objects(server.url(path))


def test_a_redirect_on_the_same_server_is_followed(server: Server, source: Source) -> None:
    server.target = "/a.jpg"
    url = server.url(REDIRECT_PATH)
    moved = list_sources([url], Address.parse(url))[0]
    assert moved.problem is None
    assert read(moved) == CONTENT


@pytest.mark.parametrize(
    ("target", "other_stores", "problem"),
    [
        ("http://127.0.0.2/a.jpg", False, r"redirects to http://127.0.0.2, another server"),
        ("https://192.0.2.1:1/", False, "--other-stores allows that"),
        ("http://127.0.0.2/a.jpg", True, "redirects to 127.0.0.2, which is in the local network"),
        ("http://[::ffff:10.0.0.1]/", True, "which is in the local network"),
        ("http://169.254.169.254/latest/meta-data", True, "which is in the local network"),
        ("http://[64:ff9b::7f00:1]/", True, "which is in the local network"),
        ("http://[2002:a00:1::]/", True, "which is in the local network"),
        ("http://[::7f00:1]/", True, "which is in the local network"),
        ("http://127.1/a.jpg", True, "redirects to 127.1, which is no name of a host"),
        ("http://2130706433/a.jpg", True, "which is no name of a host"),
        ("http://localhost/a.jpg", True, "redirects to localhost, which is in the local network"),
        ("ftp://127.0.0.1/a.jpg", True, "redirects to ftp://"),
    ],
)
def test_a_redirect_leads_neither_elsewhere_nor_into_the_local_network(
    target: str, other_stores: bool, problem: str, server: Server, source: Source
) -> None:
    server.target = target
    with pytest.raises(MediaError, match=f"io_error: .*{problem}"):
        look(Address.parse(server.url(REDIRECT_PATH)), other_stores)


def test_a_redirect_by_another_header_is_looked_at_as_well(server: Server, source: Source) -> None:
    server.target, server.redirects_by = "http://127.0.0.2/a.jpg", "URI"
    with pytest.raises(MediaError, match=r"redirects to http://127.0.0.2, another server"):
        look(Address.parse(server.url(REDIRECT_PATH)))


def test_of_what_a_redirect_leads_to_every_address_must_be_public(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = ["93.184.216.34", "10.1.2.3"]

    async def resolve(self: Any, host: str, port: int = 0, family: Any = None) -> Any:
        return [{"host": number} for number in found]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)

    async def ask(host: str) -> Any:
        resolver = _Resolver()
        resolver.guard("Evil.example.")
        return await resolver.resolve(host)

    assert len(asyncio.run(ask("named.example"))) == 2
    with pytest.raises(RedirectError, match="which is in the local network"):
        asyncio.run(ask("evil.example"))
    found.pop()
    assert len(asyncio.run(ask("evil.example"))) == 1
    assert ipaddress.ip_address(found[0]).is_global


def test_what_addresses_were_signed_with_is_written_nowhere(
    server: Server, source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = []
    for secret in ("first0", "second"):
        names = [f"/a.jpg?v=1&X-Amz-Signature={secret}", f"gone.jpg?sig={secret}"]
        url = f"/list.txt?token={secret}"
        server.objects = {names[0]: CONTENT, url: "\n".join(names).encode()}
        found = discover_objects(server.url(url)).sources
        assert [one.name for one in found] == [
            "/a.jpg?v=1&X-Amz-Signature=...",
            "gone.jpg?sig=...",
        ]
        assert read(found[0]) == CONTENT
        assert secret not in repr(found[0])
        ids.append([one.id for one in found])
        server.faults = [BUSY] * objects.TRIES
        with pytest.raises(MediaError) as caught:
            read(found[0])
        assert secret not in str(caught.value)
    assert ids[0] == ids[1]

    command = [server.url(url), str(tmp_path / "crops"), "--workers", "0"]
    assert cli.crop(command) == 4
    assert cli.crop([server.url(f"/gone.txt?token={secret}"), str(tmp_path / "none")]) == 2
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert any("X-Amz-Signature" in text for text in written)
    assert not [text for text in [*written, *capsys.readouterr()] if secret in text]
