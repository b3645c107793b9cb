"""Commands about a checkpoint itself: ``info`` shows it, ``export`` writes it in another format.

Knows nothing of what is inside one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from deepfake.cli.command import EXIT_OK, Parser, run
from deepfake.cli.options import refuse_missing_folder
from deepfake.errors import UsageError


def info(argv: Sequence[str] | None = None) -> int:
    """Show what a checkpoint holds: ``deepfake info --checkpoint model.ckpt``."""
    parser = Parser(
        prog="deepfake info",
        description="Show what a checkpoint holds, without running anything in it.",
        epilog="examples:\n  deepfake info --checkpoint runs/001/model.ckpt\n"
        "  deepfake info --checkpoint model.ckpt --json | python -m json.tool\n",
    )
    parser.add_subject("checkpoint", type=Path, help="model.ckpt of a run, or its .safetensors")
    parser.add_argument("--json", action="store_true", help="for machines")
    return run(lambda: _info(parser.parse_args(argv)), "nothing was written")


def _info(options: argparse.Namespace) -> int:
    import yaml

    from deepfake.learning.checkpoint import read_info, read_verdict

    content = read_info(options.checkpoint)
    if options.json:
        sys.stdout.write(json.dumps(content, indent=2) + "\n")
    else:
        if content["limits"] is not None:
            limits, rates = read_verdict(options.checkpoint, content)
            sys.stdout.writelines(f"# {line}\n" for line in rates.describe(limits))
        order = (
            "limits",
            "error_rates",
            "chosen_for",
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
  deepfake export --checkpoint runs/001/model.ckpt --format safetensors
""",
    )
    parser.add_subject("checkpoint", type=Path, help="model.ckpt of a run, or its .safetensors")
    parser.add_argument("--format", choices=["onnx", "safetensors"], required=True)
    parser.add_argument(
        "--output", type=Path, help="file to write (default: beside the checkpoint)"
    )
    parser.add_argument(
        "--data", type=Path, help="crop folder; the graph is compared on some of its crops, too"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    return run(lambda: _export(parser.parse_args(argv)), "nothing was written")


def _export(options: argparse.Namespace) -> int:
    output = options.output or options.checkpoint.with_suffix(f".{options.format}")
    if options.data is not None and options.format != "onnx":
        raise UsageError("--data is for --format onnx; other formats compute nothing")
    refuse_missing_folder("output", output)
    if output.resolve() == options.checkpoint.resolve():
        raise UsageError(f"{output} is the checkpoint itself; name another file with --output")
    if output.exists() and not options.overwrite:
        raise UsageError(f"{output} exists; name another file or pass --overwrite")
    from deepfake.inference.export import export_checkpoint

    report = export_checkpoint(options.checkpoint, options.format, output, options.data)
    sys.stdout.write(f"{output}: {report}\n")
    return EXIT_OK
