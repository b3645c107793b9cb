"""The crop recipe: presets, limits and the way through JSON."""

from __future__ import annotations

import json
import pickle
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from deepfake.errors import UsageError
from deepfake.records import LABEL_NAMES, PRESETS, Aggregation, CropSpec, Sampling, Status


def test_label_one_is_fake() -> None:
    assert LABEL_NAMES.index("fake") == 1
    assert LABEL_NAMES.index("real") == 0


def test_statuses_are_the_four_words() -> None:
    assert [str(status) for status in Status] == ["ok", "no_face", "too_small", "unreadable"]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_name_themselves_and_survive_json(name: str) -> None:
    spec = CropSpec.from_preset(name)
    assert spec.preset == name
    assert CropSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    # On its way into a worker process.
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_dacon_presets_have_the_numbers_of_the_entry() -> None:
    dacon, train = PRESETS["dacon"], PRESETS["dacon-train"]
    assert (dacon.geometry, dacon.margins, dacon.size) == ("entry", (0.135, 0.10), 380)
    assert (dacon.min_face, dacon.factor, dacon.thresholds) == (100, 0.7, (0.6, 0.7, 0.8))
    assert (train.min_face, train.factor, train.thresholds) == (160, 0.3, (0.98, 0.98, 0.98))
    assert (train.geometry, train.margins) == (dacon.geometry, dacon.margins)


def test_preset_with_changes() -> None:
    spec = CropSpec.from_preset("dacon", size=96, jpeg_quality=None)
    assert spec == replace(PRESETS["dacon"], size=96, jpeg_quality=None)
    assert (spec.suffix, PRESETS["dacon"].suffix) == (".png", ".jpg")


def test_unknown_preset() -> None:
    with pytest.raises(UsageError, match="no crop preset 'best'; there are square, aligned, whole"):
        CropSpec.from_preset("best")


def test_records_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError, match="size"):
        CropSpec().size = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    "setting",
    [
        {"size": 15},
        {"size": 2049},
        {"geometry": "round"},
        {"margins": (0.1,)},
        {"margins": (-0.1, -0.1)},
        {"margins": (2.1, 2.1)},
        {"margins": (0.1, 0.2)},
        {"interpolation": "cubic"},
        {"min_face": 11},
        {"min_face_ratio": 1.0},
        {"min_face_ratio": -0.1},
        {"factor": 0.05},
        {"factor": 0.99},
        {"thresholds": (0.5, 0.5)},
        {"thresholds": (0.5, 0.5, 1.0)},
        {"faces": "some"},
        {"search": "fast"},
        {"jpeg_quality": 0},
        {"jpeg_quality": 101},
    ],
    ids=str,
)
def test_refuses_settings_out_of_range(setting: dict[str, Any]) -> None:
    (name,) = setting
    with pytest.raises(UsageError, match=f"crop setting {name}=.*; expected "):
        CropSpec(**setting)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"zoom": 2}, r"unknown \['zoom'\], missing \[\]", id="unknown"),
        pytest.param({"size": 5}, "size=5; expected 16 to 2048", id="range"),
        pytest.param({7: 1}, r"unknown \['7'\]", id="no name"),
        pytest.param({"size": "380"}, "wrong kind: size='380'; expected int", id="text"),
        pytest.param({"size": 380.5}, "wrong kind: size=380.5", id="fraction"),
        pytest.param({"min_face": True}, "wrong kind: min_face=True; expected int", id="bool"),
        pytest.param({"rotate_retry": 1}, "rotate_retry=1; expected bool", id="number"),
        pytest.param({"min_face": 10**9999}, r"min_face=\(Exceeds", id="huge"),
        pytest.param({"factor": 10**400}, "wrong kind: factor=1000", id="huge factor"),
        pytest.param({"factor": float("nan")}, "wrong kind: factor=nan; expected float", id="nan"),
        pytest.param({"margins": [0.2, float("inf")]}, "wrong kind: margins", id="infinite"),
        pytest.param({"margins": None}, "wrong kind: margins=None", id="nothing"),
        pytest.param({"thresholds": ["a", "b", "c"]}, "wrong kind: thresholds", id="words"),
        pytest.param({"thresholds": [0.5, 0.5]}, "wrong kind: thresholds", id="few"),
        pytest.param({"search": ["main"]}, "wrong kind: search=", id="list"),
        pytest.param({"search": "fast"}, "search='fast'; expected 'main'", id="word"),
    ],
)
def test_refuses_edited_settings(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CropSpec.from_dict(CropSpec().to_dict() | change)


def test_refuses_missing_settings() -> None:
    values = CropSpec().to_dict()
    del values["faces"], values["size"]
    with pytest.raises(UsageError, match=r"unknown \[\], missing \['faces', 'size'\]"):
        CropSpec.from_dict(values)


@pytest.mark.parametrize("every", [0, -1, 31])
def test_limits_of_detect_every(every: int) -> None:
    with pytest.raises(UsageError, match=f"detect_every={every}; expected 1"):
        Sampling(detect_every=every)


def test_aggregation_survives_json() -> None:
    how = Aggregation("confident", sure_fake=0.7, enough_frames=3)
    assert Aggregation.from_dict(json.loads(json.dumps(how.to_dict()))) == how


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"policy": "best"}, "no aggregation 'best'; there are mean, median, top"),
        ({"top_share": 1.5}, "top_share=1.5; expected 0 to 1"),
        ({"sure_real": float("nan")}, "sure_real=nan; expected float"),
        ({"nearly_all": -0.1}, "nearly_all=-0.1; expected 0 to 1"),
        ({"enough_frames": -1}, "enough_frames=-1; expected 0 or more"),
        ({"share": 1}, r"unknown \['share'\], missing \[\]"),
    ],
)
def test_limits_of_aggregation(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        Aggregation.from_dict(Aggregation().to_dict() | values)
