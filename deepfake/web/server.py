"""One server: models in, a folder held, a socket bound, until somebody stops it."""

from __future__ import annotations

import logging
import secrets
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from deepfake.errors import JobError, UsageError
from deepfake.inference.predictor import Predictor
from deepfake.storage import write_atomic
from deepfake.web.access import Access
from deepfake.web.app import Server, make_app
from deepfake.web.engine import Engine, Model
from deepfake.web.folder import private_folder
from deepfake.web.store import Store
from deepfake.web.uploads import UploadLimits

_TOKEN_FILE = "token"
_END_S = 3  # that open connections have when the server stops
_IDLE_S = 20  # that a connection may wait for its next request


def name_models(
    predictors: Sequence[Predictor], describe: Callable[[Predictor], str]
) -> dict[str, Model]:
    """Models by key, the first of them the default.

    Args:
        predictors: Loaded.
        describe: What one was trained on, and what was measured, in a sentence.

    Raises:
        UsageError: If two are the same.
    """
    models: dict[str, Model] = {}
    for predictor in predictors:
        checkpoint = predictor.checkpoint
        key = checkpoint.sha256[:12]
        if key in models:
            raise UsageError(f"{checkpoint.name} is the same model as {models[key].name}")
        models[key] = Model(key, checkpoint.name, describe(predictor), predictor)
    return models


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens, so that the port is known before anybody is told.

    Raises:
        UsageError: If the address is not of this machine, or the port is taken.
    """
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host} port {port} ({error.strerror}); name another --port, or "
            "leave it out"
        ) from error
    return listener


def serve(
    models: dict[str, Model],
    listener: socket.socket,
    access: Callable[[str, int], Access],
    limits: UploadLimits,
    allowed: Sequence[Path],
    keep: Path | None,
    announce: Callable[[Access, Path], None],
) -> None:
    """Answer until the process is told to stop.

    Args:
        models: What is offered.
        listener: Where requests come in.
        access: Makes the rules of access from the token of this folder and the port.
        limits: Of uploads.
        allowed: Folders whose files may be named by path.
        keep: Folder that is gone on with and left; by default a new one that is removed.
        announce: Told the rules and the folder when the server answers.
    """
    with ExitStack() as stack:
        stack.enter_context(listener)
        folder = stack.enter_context(private_folder(keep))
        rules = access(_read_token(folder), listener.getsockname()[1])
        store = Store(folder, rules.secret if rules.is_password else "")
        stack.callback(store.close)
        engine = Engine(store, models)
        app = make_app(
            Server(store, engine, rules, limits, tuple(path.resolve() for path in allowed))
        )
        server = HttpServer(app, lambda: announce(rules, folder))
        server.run(sockets=[listener])
        if not server.started:
            raise JobError("the server did not start; see the messages above")


class HttpServer(uvicorn.Server):
    """Answers on a socket until it is told to stop.

    Args:
        app: Answers.
        on_started: Called when it does.
    """

    def __init__(self, app: ASGIApp, on_started: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            log_level=logging.WARNING,
            access_log=False,  # addresses hold the token
            lifespan="on",
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_IDLE_S,
            timeout_graceful_shutdown=_END_S,
            http="h11",
            ws="none",
            loop="asyncio",
        )
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and say so."""
        await super().startup(sockets)
        if self.started:
            self._on_started()


def _read_token(folder: Path) -> str:
    """The token of a folder: whoever goes on with a kept one has the same addresses."""
    path = folder / _TOKEN_FILE
    if path.is_file():
        return path.read_text(encoding="ascii").strip()
    token = secrets.token_urlsafe(32)
    write_atomic(path, token)
    path.chmod(0o600)
    return token
