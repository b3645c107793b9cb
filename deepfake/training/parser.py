"""jsonargparse for people: a mistake is one line, and says what was meant.

Knows no option by name but those that decide which files are read, and the side of the crops.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from pytorch_lightning.cli import LightningArgumentParser

from deepfake.dataset.crop_mirror import peek_job
from deepfake.errors import JobError, UsageError
from deepfake.training.presets import choose_configs, merge_configs


class TrainParser(LightningArgumentParser):
    """jsonargparse that answers a mistake in one line and says what was meant."""

    def refuse_unknown(self, words: Iterable[str]) -> None:
        """Refuse misspelt options before a missing one is complained about.

        Raises:
            UsageError: If there is no such option.
        """
        known = self._known()
        # What takes a class or a list has options of its own: trainer.logger.init_args.project.
        nested = [
            name for name in known if not any(other.startswith(name + ".") for other in known)
        ]
        starts = tuple(name + end for name in nested for end in (".", "+"))
        for word in words:
            name = word.partition("=")[0]
            if name.startswith("--") and name not in known and not name.startswith(starts):
                raise UsageError(f"unknown option {name}{_guess([name], known)} {_HELP}")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuse what jsonargparse cannot read, most of all in configuration files.

        Raises:
            UsageError: Always.
        """
        message = " ".join(message.split())
        inner = re.search(r"[Kk]ey \"([\w.]+)\"", message)
        if inner and _HELP in message:  # said by the parser of a class that is an option's value
            raise UsageError(message.replace("mean --", f"mean --{inner[1]}."))
        # Any quoted word of the message may be the misspelt one.
        words = [f"--{word}" for word in re.findall(r"[\"']([\w.]+)[\"']", message)]
        group = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message)
        if group:
            words = [f"--{group[1]}.{group[2]}"]
        if "Expected a" in message:
            words = []  # the name was right, its value is not
        raise UsageError(f"{message}{_guess(words, self._known())} {_HELP}")

    def _known(self) -> list[str]:
        names = {name for action in self._actions for name in action.option_strings}
        # Whether a file is a preset is said in it.
        return sorted(n for n in names if not n.endswith(".help") and n != "--preset")


_HELP = "(deepfake train --help)"


def _guess(words: Sequence[str], known: Sequence[str]) -> str:
    for word in words:
        close = [] if word in known else get_close_matches(word, known, n=1, cutoff=0.6)
        if close:
            return f"; did you mean {close[0]}?"
    return ""


def resolve_configs(arguments: Sequence[str]) -> list[str]:
    """The same words with the files of every ``--config`` first, a preset before its overlays.

    Options therefore win over files, wherever they stand. The side of the crops follows them where
    no file names it: it comes from the crop folder.

    Raises:
        UsageError: If a file cannot be read.
    """
    names, rest = [], []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option in ("-c", "--config"):
            names.append(value if equals else next(words, ""))
        else:
            rest.append(word)
    files = choose_configs(names)
    size = _read_side(merge_configs(files), rest)
    return [f"--config={file}" for file in files] + size + rest


def _read_side(settings: dict[str, Any], words: Sequence[str]) -> list[str]:
    if "image_size" in (settings.get("model") or {}):
        return []
    pairs = zip(words, [*words[1:], ""], strict=True)
    given = {word.partition("=")[0]: word.partition("=")[2] or after for word, after in pairs}
    data = settings.get("data") or {}
    root, cache = (given.get(f"--data.{key}", data.get(key)) for key in ("root", "cache"))
    try:
        side = peek_job(root or "", cache)["crop_spec"]["size"]
    except (UsageError, JobError):
        return []  # said when everything else is read
    return [f"--model.image_size={side}"]
