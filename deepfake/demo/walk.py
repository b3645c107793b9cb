"""Walks the whole path once, offline: draw portraits, score, crop, train, evaluate, predict.

Runs the very functions behind ``deepfake predict``, ``crop``, ``train`` and ``evaluate`` and shows
the command that would do the same.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np

from deepfake.dataset.cropping import crop_media
from deepfake.dataset.layouts.labelling import list_inputs
from deepfake.demo.portraits import write_dataset
from deepfake.errors import JobError, UsageError
from deepfake.evaluation.embeddings import EmbedOptions
from deepfake.evaluation.job import REPORT_FILE, run_evaluation
from deepfake.inference.predictor import Predictor
from deepfake.inference.results import count, describe_results, format_scores
from deepfake.learning.checkpoint import load_checkpoint
from deepfake.records import CropSpec, Workers
from deepfake.reports.evaluation_page import format_report
from deepfake.reports.evaluation_text import describe
from deepfake.storage import write_atomic
from deepfake.training.callbacks.head import MODEL_FILE
from deepfake.training.run import run_training

_SIZE = 112
_SHOWN = ("real/id000/00.png", "fake/id000/00.png")


def walk(output: Path, workers: int, terminal: TextIO) -> None:
    """Run the demo in a new folder.

    Args:
        output: Folder to make; everything lands in it.
        workers: Processes that crop.
        terminal: Where the story is told.

    Raises:
        UsageError: If the folder exists and is not empty.
        JobError: If the trained detector is no better than chance on new portraits.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} exists and is not empty; name a new folder with --output")
    photos, crops, run = (output / name for name in ("photos", "crops", "run"))
    config, scores_path = output / "demo.yaml", output / "scores.csv"
    labels = photos / "labels.csv"

    def tell(text: str) -> None:
        terminal.write(text + "\n")
        terminal.flush()

    tell("1. Draw portraits of 24 people, and swap faces between them")
    photos.mkdir(parents=True)
    tell(f"   {write_dataset(photos, identities=24, shots=5)} photos in {photos}")

    tell("\n2. The detector in the box on one of them and on its swap")
    tell("   (it learnt photographs: what it says of drawings shows how it answers, and no more)")
    pair = [photos / name for name in _SHOWN]
    tell(f"   $ deepfake predict {' '.join(map(str, pair))}")
    detector = Predictor.from_checkpoint(device="cpu")
    for line in describe_results(detector.predict(pair)):
        tell(f"   {line.rstrip()}")

    tell(f"\n3. $ deepfake crop {labels} --output {crops} --size {_SIZE}")
    spec = CropSpec.from_preset("square", size=_SIZE)
    tell(f"   {crop_media(str(labels), crops, spec, workers=Workers(workers), quiet=True)}")

    tell(f"\n4. $ deepfake train --config {config} --data {crops} --run {run}")
    write_atomic(config, Path(__file__).with_name("demo.yaml").read_text())
    words = ["--config", str(config), "--data.root", str(crops), "--run", str(run)]
    if run_training(words, terminal):
        raise KeyboardInterrupt  # the training has heard it, and stopped between two steps

    model, report = run / MODEL_FILE, output / "report"
    auc = _score_new_people(output, model, workers, tell)
    tell(
        f"\ncheckpoint  {model}\nscores      {scores_path}\nreport      {report / REPORT_FILE}\n"
        f"metrics     {run / 'metrics.json'}"
    )
    tell(
        "\nYour own photos and videos next:\n"
        "  deepfake predict YOUR_PHOTOS                 # the detector in the box answers\n"
        "To train one on your own data (the one of this demo only knows drawings):\n"
        "  deepfake crop YOUR_PHOTOS --output crops/    # with real/ and fake/ folders\n"
        "  deepfake train --data crops/"
    )
    if not auc > 0.7:
        raise JobError(f"the demo learnt nothing: AUC {auc:.3f} on new portraits")


def _score_new_people(
    output: Path, model: Path, workers: int, tell: Callable[[str], None]
) -> float:
    """Draw people that training has not seen and score them, with labels and without: the AUC."""
    new, report, scores_path = output / "new", output / "report", output / "scores.csv"
    new.mkdir()
    write_dataset(new, identities=12, shots=4, seed=1)
    known = new / "labels.csv"
    tell("\n5. People that nobody has seen yet, with labels")
    command = f"deepfake evaluate --checkpoint {model} --data {known} --output {report}"
    tell(f"   $ {command}\n")
    evaluation = run_evaluation(
        load_checkpoint(model),
        [str(known)],
        report,
        embed_options=EmbedOptions(device="cpu"),
        render=format_report,
        command=command,
    )
    tell(describe(evaluation))

    tell("6. The same without labels, a wall without a face and a broken file among them")
    write_atomic(new / "broken.jpg", b"\xff\xd8 this is no photo")
    wall = np.full((240, 320, 3), 200, np.uint8)
    wall[::24], wall[:, ::48] = 150, 150
    cv2.imwrite(str(new / "wall.png"), wall)
    tell(f"   $ deepfake predict {new} --checkpoint {model} --output {scores_path}")
    sources, _ = list_inputs(new)
    predictor = Predictor.from_checkpoint(model, device="cpu", workers=Workers(workers))
    scores = list(predictor.score(sources))
    write_atomic(scores_path, "".join(format_scores(scores)))
    tell(f"   {count(scores)}")
    return evaluation.levels["file"].overall.metrics["auc"].value
