"""The release runs: every one parses, and held-out people are in no training."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml

from deepfake.learning.checkpoint_file import read_content
from deepfake.learning.checkpoint_names import DEFAULT, list_shipped
from deepfake.learning.data import CropDataModule
from deepfake.learning.embedder import EmbeddingModel
from deepfake.learning.task import EmbeddingTask
from deepfake.training.parser import TrainParser
from deepfake.training.presets import choose_configs, merge_configs
from tests.made_crops import write_crop_folder

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "release"
PLAN = yaml.safe_load((FOLDER / "runs.yaml").read_text(encoding="utf-8"))


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"release_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def parser() -> TrainParser:
    parser = TrainParser()
    parser.add_lightning_class_args(EmbeddingTask, "model")
    parser.add_class_arguments(CropDataModule, "data")
    return parser


@pytest.mark.parametrize("run", PLAN["runs"], ids=lambda run: run["name"])
def test_every_run_parses(run: dict[str, Any], parser: TrainParser, tmp_path: Path) -> None:
    overlay, length = tmp_path / "overlay.yaml", tmp_path / "length.yaml"
    overlay.write_text(yaml.safe_dump(run.get("settings", {})))
    length.write_text(yaml.safe_dump(PLAN["lengths"][run.get("length", "short")]))
    base = run.get("base", FOLDER / "base.yaml")
    settings = merge_configs(choose_configs([base, length, overlay]))
    parts = {name: settings[name] for name in ("model", "data")}
    parsed = parser.parse_object(parts | {"data": parts["data"] | {"root": "crops"}})
    assert timm.is_model(parsed.model.backbone)
    assert parsed.model.backbone in load("run").WEIGHTS
    known = {"name", "factor", "length", "crops", "crop", "start", "settings", "calibrate"}
    assert set(run) <= known | {"members", "base"}
    names = [one["name"] for one in PLAN["runs"]]
    for before in run.get("members", [run.get("start", names[0])]):
        assert names.index(before) <= names.index(run["name"])


def test_names_differ_and_lists_exist() -> None:
    names = Counter(run["name"] for run in PLAN["runs"])
    assert max(names.values()) == 1
    lists = {run.get("crops", "train") for run in PLAN["runs"]}
    assert lists <= {"train", "swaps", "no-synthesis", "synthesis", "portraits"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Names alone, in the folders that the lists are made of."""

    def write(path: Path, columns: str, lines: list[str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([columns, *lines]) + "\n")

    root = tmp_path / "data"
    swaps = [f"dfdc224/{n}.jpg,fake,dfdc,c{n},{s},o{n}" for n, s in enumerate(["train", "test"])]
    write(root / "labelled" / "dfdc224.csv", "path,label,method,group,split,original", swaps)
    portraits = [f"a/{n}.jpg,real,p{n}" for n in range(400)]
    write(root / "faces_pd" / "faces_pd.csv", "path,label,group", portraits)
    photos = [f"lfw_reals/real/lfw_{n:04d}.jpg" for n in range(600)]
    photos += [
        f"gan140k_ffhq_stylegan1_256/{label}/{n:03d}.jpg"
        for label in ("real", "fake")
        for n in range(130)
    ]
    for name in photos:
        (root / "labelled" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "labelled" / name).touch()
    return root


def test_held_out_people_are_in_no_training(data: Path) -> None:
    lists = load("lists").make_lists(data)
    splits = Counter((row["method"], row["split"]) for row in lists["train"])
    assert splits["faces_pd", "test"] == 200
    assert splits["faces_pd", "validation"] == 100
    assert splits["lfw_reals", "test"] == 300
    assert splits["lfw_reals", "validation"] == 200
    assert splits["lfw_reals", "train"] == splits["faces_pd", "train"] == 100
    trained = {row["path"] for row in lists["train"] if row["split"] == "train"}
    tested = {row["path"] for row in [*lists["reals-test"], *lists["swaps-test"]]}
    chosen = {row["path"] for row in lists["reals-validation"]}
    assert len(tested) == 501
    assert not trained & (tested | chosen)
    assert not tested & chosen
    plain = {row["path"] for row in lists["no-synthesis"]}
    synthesis = {row["path"]: row for row in lists["train"] if row["path"] not in plain}
    assert len(synthesis) == 250
    assert not synthesis.keys() & {row["path"] for row in lists["gan140k-test"]}
    # Sorted by name, the first of each class are trained on, the last 25 of them choose.
    places = {(Path(path).stem, row["split"]) for path, row in synthesis.items()}
    assert places == {(f"{n:03d}", "train" if n < 100 else "validation") for n in range(125)}
    validation = {row["path"] for row in lists["synthesis-validation"]}
    assert validation == {path for path, row in synthesis.items() if row["split"] == "validation"}
    fakes = [row for row in synthesis.values() if row["label"] == "fake"]
    assert all(synthesis[row["original"]]["split"] == row["split"] for row in fakes)


def test_the_lists_are_files(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["lists.py", "--data", str(data), "--output", str(tmp_path / "lists")]
    monkeypatch.setattr(sys, "argv", words)
    load("lists").main()
    with (tmp_path / "lists" / "train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1252
    assert {row["label"] for row in rows} == {"real", "fake"}


def test_the_table_tells_what_was_not_run(tmp_path: Path) -> None:
    run = load("run")
    estimate = {"auc": {"value": 0.8, "low": 0.75, "high": 0.85}}
    report = {
        "datasets": [{"name": name} for name in ("a", "b")],
        "levels": {"file": {"datasets": {name: {"metrics": estimate} for name in ("a", "b")}}},
    }
    assert run.read_cells(report) == ["0.800 [0.750, 0.850]"] * 2
    table = run.Study(tmp_path, tmp_path).table()
    assert table.count("not run | not run | not run | not run") == len(PLAN["runs"])


def test_what_ships_names_no_folder_of_a_machine() -> None:
    content = read_content(list_shipped()[DEFAULT])
    text = json.dumps({key: value for key, value in content.items() if key != "state_dict"})
    assert not re.findall(r"(?<![\w.:/$}])/[\w.-]+/[\w./-]+", text)


def test_the_probe_tells_drawn_fakes_and_no_coins(tmp_path: Path) -> None:
    probe = load("probe")
    root = write_crop_folder(tmp_path / "crops", {"train": (20, 20), "validation": (10, 10)})
    dataset = probe.choose(root, "self-blends")
    model = EmbeddingModel("mobilenetv2_050", dataset.size).eval()
    found = probe.extract(model, dataset, (1, 3))
    with torch.no_grad():
        crop = torch.from_numpy(dataset.read(dataset.rows[7])).permute(2, 0, 1)[None].float() / 255
        maps = model.backbone.forward_intermediates(  # type: ignore[operator]
            (crop - model.mean) / model.std, indices=[3], intermediates_only=True
        )[0]
    wanted = [*maps[0].flatten(1).mean(1).tolist(), *maps[0].flatten(1).std(1).tolist()]
    assert found["3"][7].tolist() == pytest.approx(wanted, abs=1e-4)
    labels = probe.Labels(dataset)
    assert float(labels.cross_validate(found["1"]).split()[0]) > 0.85
    assert float(labels.validate(found["1"]).split()[0]) > 0.85
    labels.y = np.random.default_rng(0).permutation(labels.y)
    assert 0.2 < float(labels.cross_validate(found["1"]).split()[0]) < 0.8
