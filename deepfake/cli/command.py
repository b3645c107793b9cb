"""What every command is made of: its parser, its run, its exit code.

Knows no command.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from deepfake.errors import DeepfakeError, UsageError, without_controls
from deepfake.stores.address import hide_secrets, is_url

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INCOMPLETE, EXIT_NO_ANSWER = 0, 1, 2, 3, 4
EXIT_INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """argparse with one dialect for all commands.

    Options have dashes and no abbreviations; every default is shown; a misspelt option is told
    with what it may have meant, before anything that is missing; what a command is about can be
    named by its option or as a bare word.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Help, **options)
        self.register("type", Path, _path)
        self.register("type", int, _whole)
        self.register("type", float, _finite)
        self._subjects: dict[str, Any] = {}

    def add_subject(self, option: str, many: bool = False, **settings: Any) -> None:
        """What the command is about: ``--option VALUE``, or ``VALUE`` as a bare word.

        Args:
            option: Name of the option, without dashes; bare words are taken in the order added.
            many: It takes as many values as there are, and becomes a list; such a subject is the
                last.
            **settings: Of ``add_argument``; without a ``default`` it must be named.
        """
        default = settings.pop("default", None)
        settings.setdefault("metavar", option.upper())
        settings["help"] += f"; the word --{option} may be left out"
        several = {"nargs": "+", "action": "extend"} if many else {}
        self.add_argument(f"--{option}", **settings | several)
        words = {key: value for key, value in settings.items() if key in ("type", "metavar")}
        nargs = "*" if many else "?"
        self.add_argument(f"{option}_word", nargs=nargs, help=argparse.SUPPRESS, **words)
        self._subjects[option] = default

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does; what is wrong with a name is said first."""
        known = [option for action in self._actions for option in action.option_strings]
        words = _mark_bare(list(sys.argv[1:] if args is None else args), known)
        for word in words:
            is_option = word.startswith("--") and not isinstance(word, _BareWord)
            if is_option and word.split("=")[0] not in known:
                self.error(f"unknown option {word!r}{hint(word, known)}")
        parsed, unknown = self.parse_known_intermixed_args(words, namespace)
        if unknown and unknown[0].startswith("-") and not isinstance(unknown[0], _BareWord):
            self.error(f"unknown option {unknown[0]!r}{hint(unknown[0], known)}")
        if unknown:
            self._refuse_surplus(unknown[0])
        self._join_subjects(parsed)
        if getattr(parsed, "quiet", False):
            logging.getLogger("deepfake").setLevel(logging.WARNING)
        return parsed

    def _parse_optional(self, arg_string: str) -> Any:
        # argparse takes whatever begins with a dash for an option, even behind ``--`` once options
        # and bare words are mixed.
        return None if isinstance(arg_string, _BareWord) else super()._parse_optional(arg_string)

    def _print_message(self, message: str, file: Any = None) -> None:
        # Some versions of argparse pass over a reader that has gone, others do not.
        (file or sys.stderr).write(message)

    def _join_subjects(self, parsed: argparse.Namespace) -> None:
        given: list[Any] = []
        for option in self._subjects:
            bare = getattr(parsed, f"{option}_word")
            given += bare if isinstance(bare, list) else [] if bare is None else [bare]
        for option, default in self._subjects.items():
            is_list = isinstance(getattr(parsed, f"{option}_word"), list)
            delattr(parsed, f"{option}_word")
            if is_list and (given or getattr(parsed, option)):
                setattr(parsed, option, [*(getattr(parsed, option) or []), *given])
                given = []
            elif getattr(parsed, option) is None:
                if not given and default is None:
                    self.error(f"--{option} is missing{self._guess_swallowed(option, parsed)}")
                setattr(parsed, option, given.pop(0) if given else default)
        if given:
            self._refuse_surplus(given[0])

    def _refuse_surplus(self, word: object) -> NoReturn:
        names = " ".join(option.upper() for option in self._subjects)
        self.error(f"{str(word)!r} is one word too many: {self.prog} takes {names or 'options'}")

    def _guess_swallowed(self, subject: str, parsed: argparse.Namespace) -> str:
        """What a bare word may have gone to, to be put behind an error; may be empty."""
        for action in self._actions:
            found = getattr(parsed, action.dest, None)
            if action.nargs == "+" and action.option_strings and len(found or ()) > 1:
                return (
                    f"; {action.option_strings[0]} takes all words behind it: put "
                    f"{subject.upper()} before it"
                )
        return ""

    def error(self, message: str) -> NoReturn:
        """Two lines instead of the whole usage."""
        self.exit(EXIT_USAGE, f"error: {hide_secrets(message)}\ntry: {self.prog} --help\n")


def _path(text: str) -> Path:
    """A path, whose slashes would hide that it was an address."""
    if is_url(text):
        raise argparse.ArgumentTypeError(
            f"{hide_secrets(text)} lies in a store, and this is a file or folder of a disk: copy "
            "it there and name the copy; or write to a disk, and copy what was written"
        )
    return Path(text)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number") from None


def _finite(text: str) -> float:
    with suppress(ValueError):
        if math.isfinite(number := float(text)):
            return number
    raise argparse.ArgumentTypeError(f"{text!r}; expected a number")


class _BareWord(str):
    """A word that names a thing, whatever it begins with."""


def _mark_bare(words: list[str], known: Sequence[str]) -> list[str]:
    """Mark what is no option though it begins with a dash: all behind ``--``, and files."""
    end = words.index("--") if "--" in words else len(words)
    return [
        _BareWord(word)
        if n > end or (word[:1] == "-" and word not in known and os.path.lexists(word))
        else word
        for n, word in enumerate(words)
        if n != end
    ]


class _Shown(logging.Formatter):
    """Lines of a log, of which nothing steers the terminal that shows them."""

    def format(self, record: logging.LogRecord) -> str:
        return without_controls(super().format(record))


class _Help(argparse.RawDescriptionHelpFormatter):
    """Examples as they were written, and the default of every option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, argparse.SUPPRESS) or "default" in (action.help or ""):
            return action.help
        shown = " ".join(action.default) if isinstance(action.default, list) else "%(default)s"
        return f"{action.help} (default: {shown})" if shown else action.help


def hint(word: str, known: Sequence[str]) -> str:
    """What a misspelt word may have meant, to be put behind an error; may be empty."""
    close = get_close_matches(word.split("=")[0], known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def command_line(command: str, argv: Sequence[str] | None) -> str:
    """The command as it can be pasted into a shell, for reports; no secrets of addresses."""
    words = sys.argv[1:] if argv is None else argv
    return shlex.join(["deepfake", command, *map(hide_secrets, words)])


def answer_code(answered: int, total: int, strict: bool, is_part: bool = False) -> int:
    """Exit code of a command that answered so many of all its inputs."""
    # Whether nothing at all has an answer is only known of the whole job.
    if answered == 0 and not is_part:
        return EXIT_NO_ANSWER
    return EXIT_INCOMPLETE if strict and answered < total else EXIT_OK


def run(job: Callable[[], int], advice: str) -> int:
    """Run a command, its parsing included; every foreseeable failure is one line and a code.

    Args:
        job: Does everything and returns the exit code.
        advice: What to do after Ctrl-C.
    """
    _open_closed_streams()
    handler = logging.StreamHandler()
    handler.setFormatter(_Shown("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("deepfake").setLevel(logging.INFO)
    try:
        try:
            with _stopped_like_ctrl_c():
                return _attempt(job, advice)
        finally:
            logging.getLogger("deepfake").setLevel(logging.INFO)  # --quiet was of this command
            _flush_output()
    except BrokenPipeError:
        # The reader of our output has gone (``| head``); there is nobody left to tell.
        return EXIT_FAILED
    except OSError as error:
        named = error.filename and error.strerror
        _tell(OSError(f"{error.filename}: {error.strerror}") if named else error)
        return EXIT_FAILED


def _open_closed_streams() -> None:
    """Lead to nowhere what a process was started without, as by ``>&-`` or some daemons.

    Else the next file that is opened would get the number of standard output or error, and what
    a decoder of another package says there would be written into it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # The lowest number that is free, so that of the stream unless somebody has it by now.
            nowhere = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(nowhere, mode, encoding="utf-8"))


@contextmanager
def _stopped_like_ctrl_c() -> Iterator[None]:
    """Let what a system sends before it stops a process end the command as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    former = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _attempt(job: Callable[[], int], advice: str) -> int:
    try:
        return job()
    except UsageError as error:
        _tell(error)
        return EXIT_USAGE
    except DeepfakeError as error:
        _tell(error)
        return EXIT_FAILED
    except KeyboardInterrupt:
        sys.stderr.write(f"\ninterrupted; {advice}\n")
        return EXIT_INTERRUPTED


def _tell(error: Exception) -> None:
    # Whatever names an input may name a signed address.
    sys.stderr.write(f"error: {hide_secrets(without_controls(str(error)))}\n")


def _flush_output() -> None:
    """Learn now whether all output, help included, arrived; Python asks only when it exits."""
    try:
        sys.stdout.flush()
    except OSError:
        # It still asks then, and would complain of what could not be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise
