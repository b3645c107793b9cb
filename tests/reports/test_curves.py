"""The picture of a training."""

from __future__ import annotations

import math
from xml.etree import ElementTree

from deepfake.reports.curves import draw_curves

SVG = "{http://www.w3.org/2000/svg}"


def panels(history: list[dict[str, float]]) -> dict[str, ElementTree.Element]:
    """The panels of a picture by their titles."""
    root = ElementTree.fromstring(draw_curves(history))
    found = [group for group in root.iter(f"{SVG}g") if "transform" in group.attrib]
    return {group.findtext(f"{SVG}text") or "": group for group in found}


def count_lines(panel: ElementTree.Element) -> int:
    chart = panel.find(f"{SVG}svg")
    assert chart is not None
    return sum("line" in path.attrib["class"].split() for path in chart.iter(f"{SVG}path"))


def test_draws_what_is_there() -> None:
    history = [
        {"epoch": e, "lr": 0.1 / (e + 1), "train_loss": 1 - e / 10, "val_loss": 1.0}
        for e in range(4)
    ]
    found = panels(history)
    assert {title: count_lines(panel) for title, panel in found.items()} == {
        "loss": 2,
        "validation": 0,
        "squared distance": 0,
        "share of active triplets": 0,
        "norm of the projection": 0,
        "learning rate": 1,
    }
    chart = found["loss"].find(f"{SVG}svg")
    assert chart is not None
    assert chart.attrib["aria-label"] == "loss. Last: training 0.7, validation 1."


def test_values_that_are_no_numbers_are_left_out() -> None:
    history = [{"epoch": 0, "val_auc": math.nan}, {"epoch": 1, "val_auc": 0.5}]
    assert "nan" not in draw_curves(history)
    assert count_lines(panels(history)["validation"]) == 1


def test_is_the_same_twice_and_needs_no_epoch() -> None:
    row = {"epoch": 0, "lr": 0.1, "val_auc": 0.7}
    assert draw_curves([row]) == draw_curves([row])
    assert len(panels([])) == 6
