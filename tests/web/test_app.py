"""The application: it answers what it describes, and describes what it answers."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.routing import Route

from deepfake.web.app import Server, make_app
from tests.web.made_server import Running


def test_the_description_says_what_is_answered(served: Running, photo: bytes) -> None:
    script = served.script()
    described = script.get("/openapi.json").json()
    state = Server(served.store, served.engine, served.access, served.limits)
    app = make_app(state)._app
    assert isinstance(app, Starlette)
    routes = {
        (route.path_format, method.lower())
        for route in app.routes
        if isinstance(route, Route)
        for method in (route.methods or ())
        if route.path.startswith("/api/") and method != "HEAD"
    }
    assert routes == {
        (path, method) for path, what in described["paths"].items() for method in what
    }
    answer = described["components"]["schemas"]["Answer"]
    (scored,) = script.send("/api/score", [("a.png", photo)]).json()["files"]
    (queued,) = script.send("/api/files", [("a.png", photo)]).json()["files"]
    file = script.wait(queued["id"])
    assert set(scored) | set(file) | {"progress"} == set(answer["properties"])
    assert set(answer["required"]) <= set(scored) & set(queued)
    script.ask("DELETE", "/api/files")
    page = script.get("/api").body.decode()
    assert all(path in page for path in described["paths"])
