"""The API in words for machines: an OpenAPI 3.1 description of what ``app`` answers.

A test holds it against the routes and against real answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from deepfake import __version__
from deepfake.records import Status, Verdict
from deepfake.web.engine import Model
from deepfake.web.store import State
from deepfake.web.uploads import UploadLimits

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
_POSITION = "Where the files are listed; by default behind those that came before."
_UPLOAD = (400, 408, 413, 415, 503, 507)


def make_openapi(
    models: Mapping[str, Model], limits: UploadLimits, has_folders: bool
) -> dict[str, Any]:
    """The description of one server.

    Args:
        models: That requests may name.
        limits: Of what clients may send.
        has_folders: Whether some folders may be named by path.
    """
    one = "/api/files/{file_id}"
    answer = _ref("Answer")
    files = {"type": "object", "properties": {"files": {"type": "array", "items": answer}}}
    queued = _answer("The files, in the order they came, in state queued.", files)
    position = {"type": "integer", "minimum": 0, "description": _POSITION}
    binary = {"type": "string", "format": "binary"}
    paths: dict[str, dict[str, Any]] = {
        "/api/score": {
            "post": _upload(
                "Score files",
                "Answers when all have their answer, in the order they came; nothing is kept.",
                models,
                limits,
                {200: _answer("One object a file.", files)},
            )
        },
        "/api/files": {
            "post": _upload(
                "Queue files",
                "Answers at once; ask for each file, or for the queue, later.",
                models,
                limits,
                {202: queued},
                {"position": position},
            ),
            "delete": _operation("Remove all files", {204: _answer("Nothing is left of them.")}),
        },
        "/api/paths": {
            "post": _operation(
                "Queue a file, or a folder, of the server",
                {202: queued},
                (400, 403, 404, 413),
                "It must lie under a folder given with --allow-folder"
                + ("." if has_folders else "; this server was given none."),
                body=_json(
                    {
                        "type": "object",
                        "required": ["path"],
                        "properties": {"path": {"type": "string"}, "model": _model(models)},
                    }
                ),
            )
        },
        "/api/queue": {
            "get": _operation(
                "What has changed in the queue",
                {
                    200: _answer(
                        "Files that changed since then, or are worked on, without their faces.",
                        {
                            "type": "object",
                            "properties": {
                                "version": {"type": "integer"},
                                "n_files": {"type": "integer"},
                                "n_waiting": {"type": "integer"},
                                "n_ahead": {"type": "integer"},
                                "time_left_s": {"type": ["number", "null"]},
                                "files": {"type": "array", "items": answer},
                            },
                        },
                    )
                },
                (400,),
                parameters=[
                    {
                        "name": "since",
                        "in": "query",
                        "schema": {"type": "integer", "default": -1},
                        "description": "The version of an earlier answer.",
                    }
                ],
            )
        },
        "/api/cancel": {
            "post": _operation(
                "Cancel all files that wait or are worked on",
                {
                    200: _answer(
                        "How many.",
                        {"type": "object", "properties": {"n_cancelled": {"type": "integer"}}},
                    )
                },
            )
        },
        "/api/evidence": {
            "get": _operation(
                "The evidence of all files",
                {200: _answer("Tables, page, crops, hashes.", binary, "application/zip")},
                (409,),
            )
        },
        "/api/models": {
            "get": _operation(
                "The models of this server",
                {
                    200: _answer(
                        "The first is the default.",
                        {
                            "type": "object",
                            "properties": {"models": {"type": "array", "items": _ref("Model")}},
                        },
                    )
                },
            )
        },
        one: {
            "get": _operation("One file", {200: _answer("Its state and answer.", answer)}, (404,)),
            "delete": _operation("Remove one file", {204: _answer("Nothing is left.")}, (404,)),
        },
        f"{one}/cancel": {
            "post": _operation("Cancel one file", {200: _answer("Its state.", answer)}, (404,))
        },
        f"{one}/evidence": {
            "get": _operation(
                "The evidence of one file",
                {200: _answer("Tables, page, crops, hashes.", binary, "application/zip")},
                (404, 409),
            )
        },
        f"{one}/explanation": {
            "post": _operation(
                "Ask for an explanation",
                {202: _answer("Its state; explanation says how far it is.", answer)},
                (404, 409),
                "Saliency maps of the most suspicious faces, and whether they pass their check.",
            ),
            "get": _operation(
                "The page of the explanation",
                {
                    200: _answer(
                        "One page that needs nothing else.", {"type": "string"}, "text/html"
                    )
                },
                (404,),
            ),
        },
        f"{one}/thumbnail": {"get": _image("The face that decided, or the first frame")},
        f"{one}/frames/{{index}}": {
            "get": _image("A frame with a face, upright as it was searched")
        },
        f"{one}/crops/{{index}}/{{face}}": {"get": _image("A face as the network saw it")},
        f"{one}/media": {
            "get": _operation(
                "The video itself",
                {200: _answer("If browsers may play it.", binary, "video/*")},
                (404,),
            )
        },
    }
    for path, methods in paths.items():
        for operation in methods.values():
            names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
            operation.setdefault("parameters", [])[:0] = [_PARAMETERS[name] for name in names]
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


def _operation(
    summary: str,
    answers: Mapping[int, dict[str, Any]],
    errors: tuple[int, ...] = (),
    description: str = "",
    body: dict[str, Any] | None = None,
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    refused = {code: _answer(_ERRORS[code], _ref("Error")) for code in sorted({*errors, 401, 403})}
    operation: dict[str, Any] = {
        "summary": summary,
        "description": description,
        "responses": {str(code): answer for code, answer in (dict(answers) | refused).items()},
    }
    if parameters is not None:
        operation["parameters"] = parameters
    if body is not None:
        operation["requestBody"] = {"required": True, "content": body}
    return operation


def _upload(
    summary: str,
    description: str,
    models: Mapping[str, Model],
    limits: UploadLimits,
    answers: Mapping[int, dict[str, Any]],
    more: Mapping[str, dict[str, Any]] = MappingProxyType({}),
) -> dict[str, Any]:
    fields = {
        "files": {
            "type": "array",
            "maxItems": limits.files,
            "items": {"type": "string", "format": "binary", "maxLength": limits.file_bytes},
        },
        "model": _model(models),
        **more,
    }
    schema = {"type": "object", "required": ["files"], "properties": fields}
    body = {"multipart/form-data": {"schema": schema}}
    return _operation(summary, answers, _UPLOAD, description, body)


def _answer(
    description: str, schema: dict[str, Any] | None = None, kind: str = "application/json"
) -> dict[str, Any]:
    content = {} if schema is None else {"content": {kind: {"schema": schema}}}
    return {"description": description} | content


def _image(summary: str) -> dict[str, Any]:
    picture = _answer("JPEG or PNG.", {"type": "string", "format": "binary"}, "image/*")
    return _operation(summary, {200: picture}, (404,))


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _model(models: Mapping[str, Model]) -> dict[str, Any]:
    return {"type": "string", "enum": list(models), "default": next(iter(models))}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


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
        "n_too_small": _field("Faces that were found and too small to be scored.", **_COUNT),
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
