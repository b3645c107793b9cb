"""Commands about a checkpoint itself.

``info`` shows it, ``export`` writes it in another format, ``push`` and ``pull`` pass it on by a
hub. Knows nothing of what is inside one.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deepfake.cli.command import EXIT_OK, Parser, run
from deepfake.cli.options import (
    CHECKPOINT,
    refuse_existing,
    refuse_missing_folder,
    refuse_other_suffix,
)
from deepfake.cli.uploads import add_job_option, place, with_uploads
from deepfake.errors import CheckpointError, UsageError

_SCREEN_WIDTH, _SCREEN_LINES = 80, 24


def info(argv: Sequence[str] | None = None) -> int:
    """Show what a checkpoint holds: ``deepfake info --checkpoint model.ckpt``."""
    parser = Parser(
        prog="deepfake info",
        description="Show what a checkpoint holds, without running anything in it.",
        epilog="examples:\n  deepfake info --checkpoint runs/001/model.ckpt\n"
        "  deepfake info --checkpoint model.ckpt --json | python -m json.tool\n",
    )
    parser.add_subject("checkpoint", **CHECKPOINT)
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--all", action="store_true", help="everything that it remembers, as YAML")
    shown.add_argument("--json", action="store_true", help="the same for machines")
    return run(lambda: _info(parser.parse_args(argv)), "nothing was written")


def _info(options: argparse.Namespace) -> int:
    import yaml

    from deepfake.jobs.folder import hash_file
    from deepfake.learning.checkpoint import read_info, read_verdict
    from deepfake.learning.checkpoint_names import find_checkpoint
    from deepfake.media.discovery import display_name
    from deepfake.tables import format_json

    found = find_checkpoint(options.checkpoint)
    content = read_info(found)
    digest = hash_file(found.path)
    if options.json:
        sys.stdout.write(format_json(content))
        return EXIT_OK
    told: list[str] = []
    if content.get("limits") is not None:
        limits, rates = read_verdict(options.checkpoint, content)
        told = rates.describe(limits)
    if options.all:
        sys.stdout.writelines(f"# {line}\n" for line in (*told, f"SHA-256 of the file: {digest}"))
        order = (
            "limits",
            "error_rates",
            "chosen_for",
            "quality",
            "head",
            "recipe",
            "backbone",
            "n_parameters",
            "metrics",
        )
        first = {key: content[key] for key in order if key in content}
        text = yaml.safe_dump(first | content, sort_keys=False, allow_unicode=True)
        sys.stdout.write(text)
        return EXIT_OK
    try:
        trained, measured, *rest = _list_facts(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{options.checkpoint} does not fit this version of deepfake: {error!r}"
        ) from error
    # What does not fit is at the end: settings rather than what the verdict is worth.
    told = told or ["no head: it was written in mid-training"]
    lines = [trained, measured, *told, f"file: SHA-256 {digest}", *rest]
    wrapped = (textwrap.wrap(line, _SCREEN_WIDTH, subsequent_indent="  ") for line in lines)
    shown = [part for parts in wrapped for part in parts][: _SCREEN_LINES - 1]
    shown.append("all of it: --all, for machines: --json")
    sys.stdout.writelines(f"{display_name(line)}\n" for line in shown)
    return EXIT_OK


def _list_facts(content: Mapping[str, Any]) -> Iterator[str]:
    """What a checkpoint is, in lines for people: first of all what it was trained on."""
    counts = content["counts"]["train"]
    yield f"trained on: {counts['real']:,} real and {counts['fake']:,} fake faces"
    parts = [
        f"{split} AUC {metrics['auc']:.4f}"
        for split, metrics in content["metrics"].items()
        if math.isfinite(metrics.get("auc", math.nan))
    ]
    yield f"measured: {', '.join(parts) or 'nothing'}"
    if (parent := content.get("parent")) is not None:
        yield f"began with: {parent['name']}"
    yield f"network: {content['backbone']}, {content['n_parameters']:,} parameters"
    yield f"head: {content.get('head') or 'none'}"
    recipe = content["recipe"]
    for part in ("crop", "sampling", "aggregation"):
        settings = (f"{k} {v}" for k, v in recipe[part].items() if v is not None)
        yield f"{part}: {', '.join(settings)}"
    yield f"written by: deepfake {content['versions']['deepfake']}"


def export(argv: Sequence[str] | None = None) -> int:
    """Write a checkpoint in another format: ``deepfake export --checkpoint X --format onnx``."""
    parser = Parser(
        prog="deepfake export",
        description="Write a finished checkpoint in another format.\n"
        "onnx: one graph from crops to p_fake, to score without this package. It is compared with\n"
        "torch before it is written; predict uses it where it lies beside its checkpoint, on this\n"
        "machine: elsewhere it is made again.\n"
        "safetensors: the same checkpoint without any pickle; every command takes it.",
        epilog="""\
examples:
  deepfake export --checkpoint runs/001/model.ckpt --format onnx
  deepfake export --checkpoint model.ckpt --format onnx --data crops/ --output detector.onnx
  deepfake export --checkpoint runs/001/model.ckpt --format safetensors --half
""",
    )
    parser.add_subject("checkpoint", **CHECKPOINT)
    parser.add_argument("--format", choices=["onnx", "safetensors"], required=True)
    parser.add_argument(
        "--output",
        type=place,
        help="file to write (default: beside a checkpoint that is named by its path, else here)",
    )
    parser.add_argument(
        "--data", type=Path, help="crop folder; the graph is compared on some of its crops, too"
    )
    parser.add_argument(
        "--half",
        action="store_true",
        help="safetensors with the network's weights in half precision: half the size, for passing "
        "on; scores move in the fourth digit",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    add_job_option(parser)
    return run(
        lambda: with_uploads(_export, parser.parse_args(argv), "output", anew=True),
        "nothing was written",
    )


def _export(options: argparse.Namespace) -> int:
    from deepfake.learning.checkpoint_names import find_checkpoint

    found = find_checkpoint(options.checkpoint)
    output = options.output or found.suggest_output(f".{options.format}")
    if options.half and options.format != "safetensors":
        raise UsageError("--half is for --format safetensors; a graph computes in float32")
    if options.data is not None and options.format != "onnx":
        raise UsageError("--data is for --format onnx; other formats compute nothing")
    refuse_other_suffix("output", output, options.format, f".{options.format}")
    refuse_missing_folder("output", output)
    if output.resolve() == found.path.resolve():
        raise UsageError(f"{output} is the checkpoint itself; name another file with --output")
    refuse_existing("output", output, options.overwrite)
    from deepfake.inference.export import export_checkpoint

    report = export_checkpoint(found.path, options.format, output, options.data, options.half)
    sys.stdout.write(f"{output}: {report}\n")
    return EXIT_OK


def push(argv: Sequence[str] | None = None) -> int:
    """Publish a checkpoint: ``deepfake push model.ckpt hf://USER/REPO --card CARD.md``."""
    parser = Parser(
        prog="deepfake push",
        description="Publish a finished checkpoint on a hub, as safetensors with its card.\n"
        "A repository that does not exist is made, private unless --public is given. Log in\n"
        "before (hf auth login), or set HF_TOKEN.",
        epilog="""\
examples:
  deepfake push runs/001/model.ckpt hf://me/my-detector --card CARD.md
  deepfake push --checkpoint model.ckpt --to hf://me/my-detector@candidate --card CARD.md --half
""",
    )
    parser.add_subject("checkpoint", **CHECKPOINT | {"default": None, "help": "what to publish"})
    parser.add_subject("to", metavar="ADDRESS", help="hf://USER/REPO[@BRANCH]")
    parser.add_argument(
        "--card",
        type=Path,
        required=True,
        help="Markdown file that says what it was trained on and who may use it for what; its "
        "head between two lines --- names the license:",
    )
    parser.add_argument("--half", action="store_true", help="weights in half precision")
    parser.add_argument("--public", action="store_true", help="a new repository is open to all")
    return run(lambda: _push(parser.parse_args(argv)), "run the same command again")


def _push(options: argparse.Namespace) -> int:
    from deepfake.learning.hub import Address, publish, read_licence

    address = Address.parse(options.to)
    try:
        card = options.card.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--card {options.card}: {error}") from error
    if read_licence(card) is None:
        raise UsageError(
            f"--card {options.card} names no licence: begin it with three lines, ---, license: "
            "NAME and ---, so that whoever fetches the model knows what they may do"
        )
    from deepfake.learning.checkpoint import load_checkpoint
    from deepfake.learning.checkpoint_copy import to_safetensors

    data = to_safetensors(load_checkpoint(options.checkpoint).path, options.half)
    published = publish(address, data, card, options.public)
    sha256 = hashlib.sha256(data).hexdigest()
    sys.stdout.write(f"published: {published}\nsha256: {sha256}\n")
    return EXIT_OK


def pull(argv: Sequence[str] | None = None) -> int:
    """Fetch a checkpoint: ``deepfake pull hf://USER/REPO``."""
    parser = Parser(
        prog="deepfake pull",
        description="Fetch a checkpoint from a hub into the cache of its client, and show commit,\n"
        "checksum, licence and card. Every command takes the address as --checkpoint, too.",
        epilog="""\
examples:
  deepfake pull hf://me/my-detector
  deepfake pull hf://me/my-detector@v1 --output detector.safetensors
  HF_HUB_OFFLINE=1 deepfake predict photos/ --checkpoint hf://me/my-detector --output scores.csv
""",
    )
    parser.add_subject("from", metavar="ADDRESS", help="hf://USER/REPO[@REVISION]")
    parser.add_argument("--output", type=Path, help="also write the file here: NAME.safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    return run(lambda: _pull(parser.parse_args(argv)), "run the same command again")


def _pull(options: argparse.Namespace) -> int:
    from deepfake.learning.hub import Address, fetch

    address = Address.parse(getattr(options, "from"))
    output: Path | None = options.output
    if output is not None:
        refuse_other_suffix("output", output, "safetensors", ".safetensors")
        refuse_existing("output", output, options.overwrite)
        refuse_missing_folder("output", output)
    fetched = fetch(address)
    from deepfake.learning.checkpoint import read_info
    from deepfake.storage import write_atomic

    read_info(fetched.path)  # that it is whole, and ours
    if output is not None:
        write_atomic(output, fetched.path.read_bytes())
    sys.stdout.write(f"{fetched.describe()}\nfile: {output or fetched.path}\n")
    return EXIT_OK
