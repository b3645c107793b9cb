"""The API in words for machines: an OpenAPI 3.1 description, made of what is answered.

An ``Operation`` is one method of one path, with what answers it. Routes and description are both
made of the same operations; a test holds the description against real answers. Knows no queue.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deepfake import __version__
from deepfake.records import Status, Verdict
from deepfake.web.queue import State

ANSWER = {"$ref": "#/components/schemas/Answer"}
"""One file."""
MODEL = {"$ref": "#/components/schemas/Model"}
"""One model."""
BINARY = {"type": "string", "format": "binary"}
"""Bytes of a file."""

_ERRORS = {
    400: "The request is not as it must be; error says what was expected.",
    401: "The token is missing or wrong.",
    403: "Host, origin or path is not one that may ask, or be asked for.",
    404: "There is no such file, or nothing of that kind.",
    408: "The upload paused or took too long.",
    409: "There is no answer yet.",
    413: "A file, or the number of files, is over the limit.",
    415: "The body is no multipart/form-data.",
    503: "Too many uploads at once; try again in a moment.",
    507: "The server's disk is too full.",
}
_OF_THE_GUARD = (401, 403)


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path: what answers it, and how the API describes it.

    Args:
        method: Of HTTP.
        path: As Starlette reads it; the description has its parameters by name.
        handler: Answers it.
        summary: What it does, in a few words.
        responses: By status, made by ``response``.
        errors: Statuses of refusals, besides those of the guard.
        description: What else a caller must know.
        body: Content of the request, by media type.
        query: Parameters of the query.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    handler: Callable[[Request], Awaitable[Response]]
    summary: str
    responses: Mapping[int, dict[str, Any]]
    errors: tuple[int, ...] = ()
    description: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    query: tuple[dict[str, Any], ...] = ()

    def make_route(self) -> Route:
        """What Starlette answers it by."""
        return Route(self.path, self.handler, methods=[self.method])

    def describe(self) -> dict[str, Any]:
        """The operation object of OpenAPI."""
        codes = sorted({*self.errors, *_OF_THE_GUARD})
        error = {"$ref": "#/components/schemas/Error"}
        refused = {code: response(_ERRORS[code], error) for code in codes}
        responses = dict(self.responses) | refused
        in_path = [_PARAMETERS[name] for name in self.make_route().param_convertors]
        return {
            "summary": self.summary,
            "description": self.description,
            "responses": {str(code): answer for code, answer in responses.items()},
            **({"requestBody": {"required": True, "content": self.body}} if self.body else {}),
            "parameters": [*in_path, *self.query],
        }


def response(
    description: str, schema: dict[str, Any] | None = None, kind: str = "application/json"
) -> dict[str, Any]:
    """A response object of OpenAPI.

    Args:
        description: What comes back.
        schema: Of its body; ``None`` where it has none.
        kind: Media type of the body.
    """
    content = {} if schema is None else {"content": {kind: {"schema": schema}}}
    return {"description": description} | content


def make_openapi(operations: Iterable[Operation]) -> dict[str, Any]:
    """The description of one server.

    Args:
        operations: All of them, in the order in which they are described.
    """
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = operation.make_route().path_format
        paths.setdefault(path, {})[operation.method.lower()] = operation.describe()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "deepfake",
            "version": __version__,
            "description": "Scores faces in photos and videos: real, unclear or fake.",
        },
        "paths": paths,
        "security": [{"token": []}],
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token that deepfake serve prints, or its password.",
                }
            },
            "schemas": {"Answer": _ANSWER, "Model": _MODEL, "Error": _ERROR},
        },
    }


def _path_parameter(name: str, kind: str, description: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": kind},
        "description": description,
    }


_PARAMETERS = {
    "file_id": _path_parameter("file_id", "string", "Id of the file, from when it was queued."),
    "index": _path_parameter("index", "integer", "Number of the frame."),
    "face": _path_parameter("face", "integer", "0 = largest face of the frame."),
}
_NUMBER_OR_NULL = {"type": ["number", "null"]}


def _field(description: str, **schema: Any) -> dict[str, Any]:
    return schema | {"description": description}


_COUNT = {"type": "integer", "minimum": 0}
_ANSWER = {
    "type": "object",
    "required": ["path", "sha256", "size"],
    "properties": {
        "path": _field("What the client called the file.", type="string"),
        "sha256": _field("Of its bytes.", type="string"),
        "size": _field("In bytes.", **_COUNT),
        "status": _field(
            "Why there is a score, or none.", type="string", enum=[s.value for s in Status]
        ),
        "reason": _field("Why there is no score; else empty.", type="string"),
        "remarks": _field(
            "What a reader of the answer must know.", type="array", items={"type": "string"}
        ),
        "p_fake": _field(
            "Probability of fake from 0 to 1; null without a score.", **_NUMBER_OR_NULL
        ),
        "verdict": _field(
            "What the limits make of the score; null without one.",
            enum=[*(v.value for v in Verdict), None],
        ),
        "limits": _field(
            "Two numbers: real up to the first, fake from the second, unclear between.",
            type=["array", "null"],
            items={"type": "number"},
        ),
        "n_found": _field("Faces that were found.", **_COUNT),
        "n_faces": _field("Faces that were scored.", **_COUNT),
        "n_too_small": _field("Faces that were found and are too small to count.", **_COUNT),
        "n_people": _field("People who count.", **_COUNT),
        "box_xyxy": _field(
            "Box of the face that decided, in pixels of its frame.", type=["array", "null"]
        ),
        "quality": _field(
            "Of that face: size in pixels, sharpness, brightness, distance from training faces.",
            type=["object", "null"],
        ),
        "people": _field(
            "Score of each person, when they are seen, and whether they may decide the file.",
            type="array",
            items={"type": "object"},
        ),
        "faces": _field(
            "Every scored face: frame, time, box, person, score.",
            type="array",
            items={"type": "object"},
        ),
        "facts": _field(
            "What the file says of itself: container, tags of its making, content credentials. It "
            "stands beside the score and changes none.",
            type="object",
        ),
        "id": _field("Of a queued file.", type="string"),
        "model": _field("Model of a queued file.", type="string"),
        "position": _field("Of a queued file: where it is listed.", type="integer"),
        "state": _field("Of a queued file.", type="string", enum=[s.value for s in State]),
        "error": _field("Why a queued file has failed.", type="string"),
        "progress": _field(
            "Of a file that is worked on: frames decoded, searched and, where known, expected.",
            type="object",
        ),
        "explanation": _field(
            "State of its explanation.", type="string", enum=[s.value for s in State]
        ),
        "explanation_error": _field("Why its explanation has failed.", type="string"),
        "has_thumbnail": _field("Whether there is a thumbnail.", type="boolean"),
    },
}
_MODEL = {
    "type": "object",
    "properties": {
        "model": _field("The word that requests use.", type="string"),
        "name": _field("For people.", type="string"),
        "about": _field("What it was trained on, and what was measured.", type="string"),
    },
}
_ERROR = {
    "type": "object",
    "properties": {"error": _field("What was wrong, and what to do.", type="string")},
}
