"""What every command is made of: its parser, its run, its exit code.

Knows no command.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from deepfake.errors import DeepfakeError, UsageError

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INCOMPLETE, EXIT_NO_ANSWER = 0, 1, 2, 3, 4
EXIT_INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """argparse that takes no abbreviations and says what a misspelt option meant."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, but with a guess at what an unknown option meant."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            known = [option for action in self._actions for option in action.option_strings]
            self.error(f"unknown option {unknown[0]!r}{hint(unknown[0], known)}")
        return parsed

    def error(self, message: str) -> NoReturn:
        """Two lines instead of the whole usage."""
        self.exit(EXIT_USAGE, f"error: {message}\ntry: {self.prog} --help\n")


def hint(word: str, known: Sequence[str]) -> str:
    """What a misspelt word may have meant, to be put behind an error; may be empty."""
    close = get_close_matches(word.split("=")[0], known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def command_line(command: str, argv: Sequence[str] | None) -> str:
    """The command as it can be pasted into a shell, for reports."""
    words = sys.argv[1:] if argv is None else argv
    return shlex.join(["deepfake", command, *words])


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
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.getLogger("deepfake").setLevel(logging.INFO)
    try:
        try:
            return _attempt(job, advice)
        finally:
            _flush_output()
    except BrokenPipeError:
        # The reader of our output has gone (``| head``); there is nobody left to tell.
        return EXIT_FAILED
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_FAILED


def _attempt(job: Callable[[], int], advice: str) -> int:
    try:
        return job()
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_USAGE
    except DeepfakeError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_FAILED
    except KeyboardInterrupt:
        sys.stderr.write(f"\ninterrupted; {advice}\n")
        return EXIT_INTERRUPTED


def _flush_output() -> None:
    """Learn now whether all output, help included, arrived; Python asks only when it exits."""
    try:
        sys.stdout.flush()
    except OSError:
        # It still asks then, and would complain of what could not be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise
