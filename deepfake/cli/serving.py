"""The command that offers a detector to a browser and to scripts: ``serve``.

Knows its options and what is said when it starts; nothing of HTTP.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from deepfake.cli.command import EXIT_OK, Parser, run
from deepfake.cli.options import (
    CHECKPOINT,
    add_aggregation,
    add_extraction_options,
    choose_workers,
)
from deepfake.errors import UsageError
from deepfake.learning.checkpoint_names import DEFAULT

if TYPE_CHECKING:
    from deepfake.web.access import Access

_PACKAGES = ("starlette", "uvicorn", "python_multipart")
_PASSWORD = "DEEPFAKE_PASSWORD"
_GIB = 1 << 30


def serve(argv: Sequence[str] | None = None) -> int:
    """Open a page that scores photos and videos: ``deepfake serve``."""
    parser = Parser(
        prog="deepfake serve",
        description="Open a page that scores photos and videos, and an HTTP API, on this machine.\n"
        "It prints the address to open; without the token in it nobody gets an answer.\n"
        "Ctrl-C ends it and removes what was uploaded.",
        epilog="""\
Other machines reach it only with --host and a password (or a proxy that people come in by). The
connection itself is not encrypted: put a proxy with TLS in front of it beyond a network you trust.

examples:
  deepfake serve
  deepfake serve --checkpoint default model.ckpt --port 8080 --allow-folder /footage
  deepfake serve --keep /srv/deepfake
  deepfake serve --host 0.0.0.0 --password-file password.txt
  curl -H "Authorization: Bearer TOKEN" -F files=@photo.jpg http://127.0.0.1:8080/api/score
""",
    )
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        action="extend",
        **CHECKPOINT
        | {"default": None, "help": f"{CHECKPOINT['help']}; of several, people choose"},
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    add_aggregation(parser)
    add_extraction_options(parser, lists=False)
    parser.set_defaults(timeout=300.0, other_stores=False)
    reach = parser.add_argument_group("who reaches it")
    reach.add_argument("--port", type=int, default=0, help="port (default: one that is free)")
    reach.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; any but this machine's own needs a password or a proxy",
    )
    reach.add_argument(
        "--password-file",
        type=Path,
        metavar="FILE",
        help=f"its first line is asked for instead of the token; {_PASSWORD} does the same",
    )
    reach.add_argument(
        "--proxy",
        metavar="ORIGIN",
        help="a proxy offers it as https://NAME, and no other Host or Origin is answered",
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "--allow-folder",
        action="append",
        type=Path,
        default=[],
        metavar="DIR",
        help="people may name files under this folder by their path; may be repeated",
    )
    files.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="keep uploads and answers here, and go on with them next time",
    )
    files.add_argument(
        "--max-file-size", type=float, default=4.0, metavar="GIB", help="largest upload"
    )
    files.add_argument(
        "--max-files", type=int, default=1000, help="files that one person may have in the queue"
    )
    return run(lambda: _serve(parser.parse_args(argv)), "what is not kept was removed")


def _serve(options: argparse.Namespace) -> int:
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"serve needs {', '.join(missing)}, not installed here: pip install 'deepfake[web]'"
        )
    _refuse_odd(options)
    password = _read_password(options)
    from deepfake.inference.predictor import Predictor
    from deepfake.reports.model_text import describe_model
    from deepfake.web.access import Access
    from deepfake.web.server import bind, name_models, serve
    from deepfake.web.uploads import UploadLimits

    def make_access(token: str, port: int) -> Access:
        return Access(options.host, port, password or token, bool(password), options.proxy)

    make_access("", options.port)  # refuses before anything is opened or loaded
    with bind(options.host, options.port) as listener:
        sys.stderr.write("loading the model ...\n")
        workers = choose_workers(options)
        predictors = [
            Predictor.from_checkpoint(
                name, device=options.device, workers=workers, aggregation=options.aggregate
            )
            for name in options.checkpoint or [DEFAULT]
        ]
        limits = UploadLimits(round(options.max_file_size * _GIB), options.max_files)
        serve(
            name_models(predictors, lambda predictor: describe_model(predictor.checkpoint)),
            listener,
            make_access,
            limits,
            options.allow_folder,
            options.keep,
            _announce,
        )
    return EXIT_OK


def _refuse_odd(options: argparse.Namespace) -> None:
    if options.workers < 1:
        raise UsageError(f"--workers {options.workers}; serve needs 1 or more, that can be killed")
    if not 0 <= options.port <= 65535:
        raise UsageError(f"--port {options.port}; expected 0 to 65535")
    if options.max_file_size <= 0 or options.max_files < 1:
        raise UsageError("--max-file-size and --max-files must be above 0")
    for folder in options.allow_folder:
        if not folder.is_dir():
            raise UsageError(f"--allow-folder {folder}: there is no such folder")


def _read_password(options: argparse.Namespace) -> str:
    if options.password_file is None:
        return os.environ.get(_PASSWORD, "")
    try:
        password = options.password_file.read_text(encoding="utf-8-sig").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--password-file {options.password_file} cannot be read: {error}"
        ) from error
    if not password:
        raise UsageError(f"--password-file {options.password_file} is empty")
    return str(password)


def _announce(access: Access, folder: Path) -> None:
    from deepfake.web.access import is_loopback

    lines = [access.url, "open this address in a browser; Ctrl-C ends the server"]
    if access.is_password:
        lines.append("it asks for the password")
    if not is_loopback(access.host):
        lines.append(
            f"WARNING: it listens on {access.host}: other machines reach it. Uploads, answers and "
            "the password travel unencrypted unless a proxy with TLS is in front"
        )
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
