"""jsonargparse for people: a mistake is one line, and says what was meant.

Knows no option by name but those that decide which files are read, and the side of the crops.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser

from deepfake.dataset.crop_mirror import peek_job
from deepfake.errors import JobError, UsageError
from deepfake.stores.address import is_url
from deepfake.training.folder import CONFIG
from deepfake.training.presets import choose_configs, merge_configs, read_config


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

    def refuse_emptied(self, config: Namespace) -> None:
        """Refuse a group of settings that a file gives a value of its own, or none at all.

        Raises:
            UsageError: If there is one.
        """
        for name in (action.dest for action in self._actions):
            group = name.rpartition(".")[0]
            if group in (self.groups or ()) and not name.endswith(".help") and name not in config:
                raise UsageError(
                    f"configuration: {group} holds no settings; give it some, as {name}, or leave "
                    f"it out {_HELP}"
                )

    def refuse_null(self, config: Namespace) -> None:
        """Refuse ``null`` where a setting takes none: jsonargparse holds it for not given.

        Raises:
            UsageError: If there is one.
        """
        try:
            self.validate(config, skip_unset=False)
        except TypeError as error:
            self.error(str(error), error)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuse what jsonargparse cannot read, most of all in configuration files.

        Raises:
            UsageError: Always.
        """
        message = " ".join(message.split())
        if value := _explain_value(message):
            raise UsageError(f"{value} {_HELP}")
        inner = re.search(r"[Kk]ey \"([\w.]+)\"", message)
        if inner and _HELP in message:  # said by the parser of a class that is an option's value
            raise UsageError(message.replace("mean --", f"mean --{inner[1]}."))
        # Any quoted word of the message may be the misspelt one.
        words = [f"--{word}" for word in re.findall(r"[\"']([\w.]+)[\"']", message)]
        group = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message)
        if group:
            words = [f"--{group[1]}.{group[2]}"]
        raise UsageError(f"{message}{_guess(words, self._known())} {_HELP}")

    def _known(self) -> list[str]:
        names = {name for action in self._actions for name in action.option_strings}
        # Whether a file is a preset is said in it.
        return sorted(n for n in names if not n.endswith(".help") and n != "--preset")


_HELP = "(deepfake train --help)"
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "dict": "names with values, as {name: value}",
    "list": "a list, as [one, two]",
    "tuple": "a list, as [one, two]",
    "collections.abc.Iterable": "a list, as [one, two]",
    "NoneType": "null",
}
"""Types of Python, as they are called where a setting is written."""
_EXPECTED = (
    r"Expected an? typing\.Literal\[(.*?)\]|Expected (?:an? )?<class '([\w.]+)'>"
    r"|Not a valid subclass of (\w+)|Expected an? (?:dot )?import path"
    r"|callable class: (module .*?)\. "
)
"""How jsonargparse says what it wants: choices, a type, or a class; and which there is not."""


def _explain_value(message: str) -> str:
    """Which value jsonargparse refuses, and what it wants there; empty where it says neither.

    Of a setting that takes several types it tells them all, with an error each; where one of them
    is a class, that error may be what this parser said of a setting of the class.
    """
    where = re.search(r'Parser key "([\w.]+)": (.*)', message)
    if where is None:
        return ""
    key, said = where.groups()
    if inner := re.search(rf"([\w.]+=\S*; expected .*?) {re.escape(_HELP)}", said):
        return f"{key}.{inner[1]}"
    if (name := re.search(r"Option '([\w.]+)' is not accepted(?!; did you)", said)) is not None:
        return f"{key}.{name[1]}: the class that {key} names has no such setting"
    refused = re.search(r"Got value: ?(.*)|Given value: ?(.*)", said)
    refused = refused or re.search("path but (.*?) either not", said)
    kinds = dict.fromkeys(map(_name_kind, re.finditer(_EXPECTED, said)))
    if refused is None or not kinds:
        return ""
    value = next(part for part in refused.groups() if part is not None) or "''"
    if nested := re.match(r"Namespace\(class_path='([^']+)'", value):
        value = nested[1]
    return f"{key}={value}; expected {' or '.join(kinds)}"


def _name_kind(match: re.Match[str]) -> str:
    choices, name, base, module = match.groups()
    if choices:
        choices = choices.replace("'", "")
        return f"one of {choices}" if "," in choices else choices
    if base:
        return f"a class of kind {base}"
    return _KINDS.get(name, name) or f"a class by its name{f' ({module})' * bool(module)}"


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
    settings = merge_configs(files)
    pairs = pairwise([*rest, ""])
    given = {word.partition("=")[0]: word.partition("=")[2] or after for word, after in pairs}
    data = settings.get("data") or {}
    root, cache = (given.get(f"--data.{key}", data.get(key)) for key in ("root", "cache"))
    found = [] if root else _find_crops_of(given)
    if "image_size" not in (settings.get("model") or {}):
        found += _read_side(found[0].partition("=")[2] if found else root, cache)
    return [f"--config={file}" for file in files] + found + rest


def _find_crops_of(given: Mapping[str, str]) -> list[str]:
    """The crops of the run that goes on, where none are named; of its settings no others.

    Whoever made its folder could have classes imported by them.
    """
    resume = given.get("--resume", "")
    run = given.get("--run", "") if resume == "auto" else resume
    if not run:
        return []  # else it would be the folder in which the command was given
    try:
        root = (read_config(Path(run) / CONFIG).get("data") or {}).get("root")
    except UsageError:
        return []  # said when everything else is read
    return [f"--data.root={root}"] if isinstance(root, str) and not is_url(root) else []


def _read_side(root: str | None, cache: str | None) -> list[str]:
    try:
        side = peek_job(root or "", cache)["crop_spec"]["size"]
    except (UsageError, JobError):
        return []  # said when everything else is read
    return [f"--model.image_size={side}"]
