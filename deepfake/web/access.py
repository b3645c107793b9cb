"""Who may ask: the secret, sessions, Host and Origin; and the headers of every answer.

A page that the user happens to visit must get nothing out of the server, nor put anything in:
it does not know the secret, the session's cookie is not sent with its requests, and a name that it
lets point here is not one of ours. Knows no file.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepfake.errors import UsageError
from deepfake.web.sessions import SESSION_S, Sessions

API_OWNER = "api"
"""Whom files belong to that come with the secret itself instead of a session."""
LEAST_PASSWORD = 12
_SAFE = ("GET", "HEAD")
_GUESS_S = 1.0  # between two wrong passwords, whoever sends them
_MOST_GUESSES = 16  # that wait for their turn
_LOGIN = "/login"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Access:
    """How one server is reached.

    Args:
        host: Address that it listens on.
        port: Its port.
        secret: The token that it prints, or the password.
        is_password: Whether people type it in; it then never stands in an address.
        proxy: Origin under which a proxy offers it, like ``https://faces.example.org``.

    Raises:
        UsageError: If it would be open to other machines without a password or a proxy, the
            password is too short, or the proxy's origin is none.
    """

    host: str
    port: int
    secret: str
    is_password: bool = False
    proxy: str | None = None

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.is_password and self.proxy is None:
            raise UsageError(
                f"--host {self.host} opens the server to other machines: set a password with "
                "--password-file or DEEPFAKE_PASSWORD, or name the proxy in front with --proxy"
            )
        if self.is_password and len(self.secret) < LEAST_PASSWORD:
            raise UsageError(
                f"the password has {len(self.secret)} characters; use {LEAST_PASSWORD} or more"
            )
        if self.proxy is not None:
            parts = urlsplit(self.proxy)
            if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
                raise UsageError(
                    f"--proxy {self.proxy}; expected its origin, like https://faces.example.org"
                )

    @property
    def origin(self) -> str:
        """How its address begins, as people see it."""
        if self.proxy is not None:
            return self.proxy.rstrip("/")
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def url(self) -> str:
        """What people open."""
        return f"{self.origin}/" if self.is_password else f"{self.origin}/?token={self.secret}"

    @property
    def cookie(self) -> str:
        """Name of the session's cookie: browsers keep those of all ports of a host together."""
        return f"deepfake-{self.port}"

    def knows_host(self, host: str) -> bool:
        """Whether a Host header is one of ours.

        A name that somebody else lets point at this address is not: behind it, a page of theirs
        would count as ours.
        """
        if self.proxy is not None:
            return host.lower() == urlsplit(self.origin).netloc.lower()
        name, port = _split_host(host)
        if port != self.port:
            return False
        if is_loopback(self.host):
            return is_loopback(name)
        # Addresses cannot be pointed elsewhere, only names can.
        return is_loopback(name) or name == self.host or _is_address(name)

    def knows_origin(self, origin: str, host: str) -> bool:
        """Whether an Origin header is that of a page of ours, asked for under this Host."""
        return origin.lower() == (self.origin if self.proxy else f"http://{host}").lower()

    def is_secret(self, given: str) -> bool:
        """Whether a client knows the secret.

        Args:
            given: As it was typed, or as a header brings it: byte by byte, whatever they mean.
        """
        secret, typed = self.secret.encode(), given.encode()
        try:
            brought = given.encode("latin-1")
        except UnicodeEncodeError:
            brought = typed
        return secrets.compare_digest(typed, secret) | secrets.compare_digest(brought, secret)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    return _is_address(host) and ipaddress.ip_address(host).is_loopback


class Guard:
    """Refuses every request that may not be answered; adds the headers to every answer.

    Args:
        app: Answers the others; ``scope["owner"]`` tells it whom it answers.
        access: How the server is reached.
        sessions: Who has come in before.
    """

    def __init__(self, app: ASGIApp, access: Access, sessions: Sessions) -> None:
        self._app, self._access, self._sessions = app, access, sessions
        self._guessing, self._n_guessing = asyncio.Lock(), 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # a WebSocket is closed by the server

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        request = Request(scope, receive)
        response = await self._refuse_or_greet(request)
        await (response or self._app)(scope, receive, send_with_headers)

    async def _refuse_or_greet(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        if not self._access.knows_host(host):
            return _refuse(request, 403, f"this server is not called {host!r}")
        origin = request.headers.get("origin")
        if origin is not None and not self._access.knows_origin(origin, host):
            return _refuse(request, 403, f"requests from pages of {origin!r} are not answered")
        given = request.headers.get("authorization", "")
        guesses = given or (request.url.path == _LOGIN and request.method == "POST")
        if guesses and self._n_guessing >= _MOST_GUESSES:
            return _refuse(request, 429, "too many ask at once; try again in a moment")
        if given:
            scheme, _, secret = given.partition(" ")
            if scheme.lower() == "bearer" and await self._check(secret.strip()):
                request.scope["owner"] = API_OWNER
                return None
            return _refuse(request, 401, "the token is wrong")
        if self._access.is_password and request.url.path == _LOGIN:
            return await self._login(request)
        owner = self._sessions.find_owner(request.cookies.get(self._access.cookie, ""))
        if owner is not None:
            if request.method not in _SAFE and not _is_same_origin(request.headers):
                return _refuse(request, 403, "only the page itself may ask for this")
            request.scope["owner"] = owner
            return None
        token = request.query_params.get("token")
        if token is not None and not self._access.is_password and request.url.path == "/":
            if self._access.is_secret(token):
                key, request.scope["owner"] = self._sessions.open()
                return _Greeting(self._app, self._cookie_of(key))
            return _refuse(request, 401, "the token in the address is wrong")
        if self._access.is_password and request.method == "GET" and request.url.path == "/":
            return RedirectResponse(_LOGIN, 303)
        return _refuse(request, 401, _WAY_IN)

    async def _check(self, secret: str) -> bool:
        if not self._access.is_password:  # a token is too long to be guessed
            return self._access.is_secret(secret)
        self._n_guessing += 1
        try:
            async with self._guessing:
                if self._access.is_secret(secret):
                    return True
                await asyncio.sleep(_GUESS_S)
            return False
        finally:
            self._n_guessing -= 1

    async def _login(self, request: Request) -> Response:
        if request.method == "GET":
            return _door("Password", "", form=True)
        if request.method != "POST":
            return _refuse(request, 405, "expected GET or POST")
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > 4096:
                return _refuse(request, 413, "the form is too long")
        given = parse_qs(body.decode("utf-8", "replace")).get("password", [""])[0]
        if not await self._check(given):
            return _door("Password", "This password is wrong.", form=True, status=401)
        key, _ = self._sessions.open()
        response = RedirectResponse("/", 303)
        response.headers["set-cookie"] = self._cookie_of(key)
        return response

    def _cookie_of(self, key: str) -> str:
        secure = "; Secure" if self._access.origin.startswith("https:") else ""
        return (
            f"{self._access.cookie}={key}; Path=/; Max-Age={SESSION_S}; HttpOnly; "
            f"SameSite=Strict{secure}"
        )


class _Greeting(Response):
    """The page itself, with the cookie of a new session."""

    def __init__(self, app: ASGIApp, cookie: str) -> None:
        self._page, self._cookie = app, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).append("set-cookie", self._cookie)
            await send(message)

        await self._page(scope, receive, send_with_cookie)


_WAY_IN = "open the address that deepfake serve has printed, or send Authorization: Bearer TOKEN"
_DOOR_STYLE = """
:root { color-scheme: light dark; background: Canvas; color: CanvasText; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 32rem; margin: 15vh auto; padding: 0 20px; }
input, button { font: inherit; padding: 8px; width: 100%; box-sizing: border-box; margin: 4px 0; }
"""
_DOOR_HASH = b64encode(sha256(_DOOR_STYLE.encode()).digest()).decode()
_DOOR = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title} - deepfake</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>
<body><main><h1>{title}</h1><p role="status">{text}</p>{form}</main></body></html>
"""
_FORM = """<form method="post" action="/login"><label for="password">Password of this server</label>
<input id="password" name="password" type="password" autocomplete="current-password" required
autofocus><button>Open</button></form>"""


def _door(title: str, text: str, form: bool = False, status: int = 200) -> Response:
    """What people see who are not in; texts are ours or escaped."""
    page = _DOOR.format(title=title, style=_DOOR_STYLE, text=text, form=_FORM if form else "")
    policy = (
        f"default-src 'none'; style-src 'sha256-{_DOOR_HASH}'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
    headers = {"content-security-policy": policy}
    if form:
        # Without any referrer, browsers send the form as if it came from nowhere (Origin: null).
        headers["referrer-policy"] = "same-origin"
    return HTMLResponse(page, status, headers)


def _refuse(request: Request, status: int, problem: str) -> Response:
    if "text/html" in request.headers.get("accept", ""):
        return _door("Not open", escape(problem), status=status)
    headers = {"www-authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"error": problem}, status, headers)


def _is_same_origin(headers: Headers) -> bool:
    # The origin, where there is one, was compared before; browsers send one with every POST.
    return "origin" in headers or headers.get("sec-fetch-site") == "same-origin"


def _split_host(host: str) -> tuple[str, int]:
    """Name and port of a Host header."""
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname or "", parts.port or 80
    except ValueError:
        return "", 0


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
