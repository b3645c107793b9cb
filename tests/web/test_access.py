"""Nobody gets in who has not been let in: each test is an attack that must fail."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from deepfake.errors import UsageError
from deepfake.web.access import Access, Guard
from deepfake.web.store import Store
from tests.web.made_server import TOKEN, Client, Running, encode_form, running

ROUTES = [
    ("GET", "/"),
    ("GET", "/file/0"),
    ("GET", "/api"),
    ("GET", "/openapi.json"),
    ("GET", "/static/queue.js"),
    ("GET", "/static/style.css"),
    ("GET", "/api/models"),
    ("POST", "/api/score"),
    ("GET", "/api/queue"),
    ("POST", "/api/files"),
    ("DELETE", "/api/files"),
    ("GET", "/api/files/0/media"),
    ("GET", "/nothing"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_request_without_the_secret_is_refused(
    served: Running, method: str, path: str
) -> None:
    for client in (
        served.nobody(),
        Client(served.port, {"Authorization": "Bearer wrong"}),
        Client(served.port, {"Authorization": f"Basic {TOKEN}"}),
        Client(served.port, {"Cookie": f"{served.access.cookie}={TOKEN}"}),
    ):
        answer = client.ask(method, path)
        assert answer.status == 401
        assert TOKEN.encode() not in answer.body
    assert served.nobody().ask(method, f"{path}?token=wrong").status == 401


def test_the_token_in_the_address_opens_the_page_and_nothing_else(served: Running) -> None:
    answer = served.nobody().get(f"/?token={TOKEN}")
    assert answer.status == 200
    cookie = answer.headers["set-cookie"]
    assert re.fullmatch(
        rf"{served.access.cookie}=[\w-]{{43}}; Path=/; Max-Age=\d+; HttpOnly; SameSite=Strict",
        cookie,
    )
    assert TOKEN not in cookie
    assert served.nobody().get(f"/api/queue?token={TOKEN}").status == 401


def test_a_page_elsewhere_gets_nothing(served: Running) -> None:
    browser = served.browser()
    assert browser.get("/api/queue").status == 200
    for origin in (
        "http://evil.example",
        "null",
        f"http://127.0.0.1:{served.port + 1}",
        "https://x",
    ):
        assert browser.get("/api/queue", Origin=origin).status == 403
        assert served.script().get("/api/queue", Origin=origin).status == 403


def test_a_forged_form_is_refused(served: Running) -> None:
    browser = served.browser()
    without = Client(served.port, {"Cookie": browser.headers["Cookie"]})
    kind, body = encode_form([("a.png", b"x")], {})
    for headers in ({}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}):
        answer = without.ask("POST", "/api/files", body, {"Content-Type": kind, **headers})
        assert answer.status == 403
        assert without.ask("DELETE", "/api/files", None, headers).status == 403
    assert browser.get("/api/queue").json()["n_files"] == 0
    same = {"Sec-Fetch-Site": "same-origin"}
    assert without.ask("POST", "/api/cancel", None, same).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "", "[::1", "10.0.0.1"]
)
def test_another_name_for_this_address_is_refused(served: Running, host: str) -> None:
    # What DNS rebinding needs: a name of somebody else that leads here.
    name = host if host in ("127.0.0.1", "127.0.0.1:1", "", "[::1") else f"{host}:{served.port}"
    assert served.script().get("/api/queue", Host=name).status == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_the_names_of_this_machine_are_answered(served: Running, host: str) -> None:
    name = f"{host}:{served.port}"
    assert served.script().get("/api/queue", Host=name, Origin=f"http://{name}").status == 200


def test_every_answer_has_the_headers(served: Running) -> None:
    script = served.script()
    for answer in (
        script.get("/"),
        script.get("/nothing"),
        served.nobody().get("/"),
        served.nobody().get("/", Accept="text/html"),
        script.get("/", Host="evil"),
    ):
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/api"])
def test_the_pages_hold_nothing_that_the_policy_forbids(served: Running, path: str) -> None:
    page = served.script().get(path).body.decode()
    assert "<script" not in re.sub(r'<script src="/static/\w+\.js" defer></script>', "", page)
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|https?://(?!127\.0\.0\.1)", page)


def test_nobody_sees_what_belongs_to_somebody_else(served: Running, photo: bytes) -> None:
    mine, other = served.browser(), served.browser()
    (file,) = mine.send("/api/files", [("mine.png", photo)]).json()["files"]
    for client in (other, served.script()):
        assert file["id"] not in client.get("/api/queue").body.decode()
        for path in (
            "",
            "/evidence",
            "/explanation",
            "/thumbnail",
            "/media",
            "/frames/0",
            "/crops/0/0",
        ):
            assert client.get(f"/api/files/{file['id']}{path}").status == 404
        for path in ("", "/cancel", "/explanation"):
            method = "POST" if path else "DELETE"
            assert client.ask(method, f"/api/files/{file['id']}{path}").status == 404
        assert client.get(f"/file/{file['id']}").status == 404
        assert client.ask("DELETE", "/api/files").status == 204
    assert mine.get(f"/api/files/{file['id']}").status == 200
    assert mine.ask("DELETE", "/api/files").status == 204


# Other machines


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "faces.example"])
def test_other_machines_need_a_password_or_a_proxy(host: str) -> None:
    with pytest.raises(UsageError, match=f"--host {re.escape(host)} opens the server to other"):
        Access(host, 80, "token")
    with pytest.raises(UsageError, match="the password has 5 characters; use 12"):
        Access(host, 80, "12345", is_password=True)
    with pytest.raises(UsageError, match="expected its origin"):
        Access(host, 80, "token", proxy="faces.example.org")
    assert Access(host, 80, "long enough a password", is_password=True).url.endswith(":80/")


def test_a_password_of_any_letters_is_known_however_it_comes() -> None:
    password = "p\u00e4ssw\u00f6rter-sind-lang"
    access = Access("127.0.0.1", 80, password, is_password=True)
    header = password.encode().decode("latin-1")  # as servers hand on what a terminal has sent
    assert access.is_secret(password)
    assert access.is_secret(header)
    assert not access.is_secret(password[1:])
    assert not access.is_secret("\u4e2d" * 20)


def test_behind_a_proxy_only_its_name_counts() -> None:
    access = Access("0.0.0.0", 80, "token", proxy="https://faces.example.org")
    assert access.url == "https://faces.example.org/?token=token"
    assert access.knows_host("faces.example.org")
    assert not access.knows_host("127.0.0.1:80")
    assert access.knows_origin("https://faces.example.org", "faces.example.org")
    assert not access.knows_origin("http://faces.example.org", "faces.example.org")


def test_open_to_others_names_are_refused_and_addresses_are_not() -> None:
    access = Access("0.0.0.0", 80, "long enough a password", is_password=True)
    assert access.knows_host("10.1.2.3")
    assert access.knows_host("[fe80::1]:80")
    assert not access.knows_host("rebound.example")
    assert not access.knows_host("10.1.2.3:81")


@pytest.mark.usefixtures("inline")
def test_a_password_is_asked_for_and_never_stands_in_an_address(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfake.web.access._GUESS_S", 0.0)
    password = "correct+horse"
    secret: dict[str, Any] = {"secret": password, "is_password": True}
    with running(tmp_path / "private", [checkpoint], **secret) as server:
        assert password not in server.access.url
        nobody = server.nobody()
        assert nobody.get(f"/?token={password}").status == 303
        door = nobody.get("/login")
        assert 'type="password"' in door.body.decode()
        assert "unsafe" not in door.headers["content-security-policy"]
        form = {"Content-Type": "application/x-www-form-urlencoded", "Origin": server.access.origin}
        wrong = nobody.ask("POST", "/login", "password=guess", form)
        assert wrong.status == 401
        assert "set-cookie" not in wrong.headers
        evil = form | {"Origin": "http://evil.example"}
        assert nobody.ask("POST", "/login", f"password={password}", evil).status == 403
        assert nobody.ask("POST", "/login", "password=" + "x" * 9999, form).status == 413
        right = nobody.ask("POST", "/login", "password=correct%2Bhorse", form)
        assert right.status == 303
        inside = Client(server.port, {"Cookie": right.headers["set-cookie"].partition(";")[0]})
        assert inside.get("/api/queue").status == 200
        assert server.script().get("/api/queue").status == 200


def test_wrong_passwords_are_answered_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    waits: list[float] = []
    together = 0

    async def sleep(seconds: float) -> None:
        nonlocal together
        together += 1
        assert together == 1
        waits.append(seconds)
        await asyncio.get_running_loop().run_in_executor(None, lambda: None)
        together -= 1

    (tmp_path / "private").mkdir()
    store = Store(tmp_path / "private")
    access = Access("0.0.0.0", 80, "long enough a password", is_password=True)

    async def guess() -> None:
        # In that room alone: a server of other tests sleeps, too.
        ours = SimpleNamespace(sleep=sleep, Lock=asyncio.Lock)
        monkeypatch.setattr("deepfake.web.access.asyncio", ours)
        guard = Guard(None, access, store.sessions)  # type: ignore[arg-type]
        assert not any(await asyncio.gather(*(guard._check(f"guess {n}") for n in range(5))))

    asyncio.run(guess())
    store.close()
    assert waits == [1.0] * 5


def test_the_right_password_waits_among_wrong_ones_and_few_may_wait(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    store = Store(tmp_path / "private")
    access = Access("0.0.0.0", 80, "long enough a password", is_password=True)

    async def guess() -> tuple[list[str], int]:
        guard, ended = Guard(None, access, store.sessions), []  # type: ignore[arg-type]

        async def ask(secret: str) -> None:
            await guard._check(secret)
            ended.append(secret)

        await asyncio.gather(ask("wrong"), ask("long enough a password"))
        guard._n_guessing = 16
        request = Request(
            {
                "type": "http",
                "method": "GET",
                "path": "/api/queue",
                "query_string": b"",
                "headers": [(b"host", b"127.0.0.1"), (b"authorization", b"Bearer x")],
            }
        )
        refused = await guard._refuse_or_greet(request)
        assert refused is not None
        return ended, refused.status_code

    assert asyncio.run(guess()) == (["wrong", "long enough a password"], 429)
    store.close()


def test_a_session_ends_with_its_password_and_with_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "private").mkdir()
    keys = {}
    for password in ("", "one password", "another password"):
        store = Store(tmp_path / "private", password)
        keys[password], owner = store.sessions.open()
        found = [store.sessions.find_owner(key) for key in keys.values()]
        assert found == [None] * (len(keys) - 1) + [owner]
        monkeypatch.setattr("time.time", lambda: 1e12)
        assert store.sessions.find_owner(keys[password]) is None
        monkeypatch.undo()
        store.close()


def test_a_refusal_escapes_what_it_repeats(served: Running) -> None:
    answer = served.script().get("/", Host="<script>alert(1)</script>", Accept="text/html")
    assert answer.status in (400, 403)
    assert b"<script>" not in answer.body
    asked = {"path": "<b>x</b>"}
    told = served.script().ask(
        "POST", "/api/paths", json.dumps(asked), {"Content-Type": "application/json"}
    )
    assert told.headers["content-type"] == "application/json"
