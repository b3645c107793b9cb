"""The ladder: every rung parses over the entry's configuration, some train, the table adds up."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from deepfake.learning.checkpoint import read_info
from deepfake.learning.data import CropDataModule
from deepfake.learning.task import EmbeddingTask
from deepfake.metrics import compute_auc
from deepfake.training.parser import TrainParser
from deepfake.training.run import run_training
from experiments import ladder
from tests.made_crops import write_crop_folder

REPO = Path(__file__).resolve().parents[2]
RUNGS = ladder.choose_rungs(None)
SCORED = ["10-frozen-backbone", "18-lightgbm"]
LARGE = [rung for rung in RUNGS if rung.split("-")[0] in ("02", "03", "04", "13", "14")]
# Every rung is parsed; these few take their step in the default run.
TRIED = ["00-no-augmentation", "15-margin-0.2", "18-lightgbm", "20-self-blend"]
SMOKE = REPO / "configs" / "smoke.yaml"
GAP = REPO / "experiments" / "gap"


def make_crops(tmp_path_factory: pytest.TempPathFactory, size: int) -> Path:
    counts = {"train": (12, 12), "validation": (6, 6), "test": (6, 6)}
    folder = tmp_path_factory.mktemp("ladder") / f"crops{size}"
    return write_crop_folder(folder, counts, size=size)


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_crops(tmp_path_factory, 64)


@pytest.fixture(scope="module")
def larger_crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_crops(tmp_path_factory, 96)  # InceptionResNetV2 takes nothing below 75


@pytest.mark.parametrize("rung", RUNGS)
def test_every_rung_is_a_valid_configuration_and_changes_something(rung: str) -> None:
    settings, plain = (
        ladder.merged(None, ladder.ABLATIONS / f"{name}.yaml") for name in (rung, "06-head-l2")
    )
    assert (settings != plain) == (rung not in ("06-head-l2",))
    parser = TrainParser()
    parser.add_lightning_class_args(EmbeddingTask, "model")
    parser.add_class_arguments(CropDataModule, "data")
    parts = {name: settings[name] for name in ("model", "data")}
    parts["data"]["root"] = "crops"
    parsed = parser.parse_object(parts)
    assert parsed.data.batches.steps_per_epoch == 300
    assert timm.is_model(parsed.model.backbone)
    assert timm.is_model_pretrained(parsed.model.backbone)


def take_a_step(crops: Path, run: Path, rung: str, *more: str) -> None:
    if rung == "18-lightgbm":
        pytest.importorskip("lightgbm", reason="head gbm is fitted by LightGBM")
    overlay = ladder.ABLATIONS / f"{rung}.yaml"
    words = [w for path in ladder.configs_of(SMOKE, overlay) for w in ("--config", str(path))]
    words += ["--data.root", str(crops), "--run", str(run), *more]
    assert run_training([*words, "--trainer.limit_train_batches", "1"], io.StringIO()) == 0
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 1
    assert read_info(run / "model.ckpt")["limits"] is not None


@pytest.mark.parametrize(
    "rung",
    [
        rung if rung in TRIED else pytest.param(rung, marks=pytest.mark.slow)
        for rung in RUNGS
        if rung not in LARGE
    ],
)
def test_every_rung_takes_a_step(
    crops: Path, tmp_path: Path, rung: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DEEPFAKE_RUN_FOLDER", raising=False)
    take_a_step(crops, tmp_path / "run", rung)
    if rung in SCORED:
        scored = ladder.score(tmp_path / "run", crops, 0)
        assert scored.labels.tolist() == [0] * 6 + [1] * 6
        again = ladder.score(tmp_path / "run", crops, 0)
        assert again.p_fake.tolist() == scored.p_fake.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("rung", LARGE)
def test_every_rung_with_a_large_network_takes_a_step_with_it(
    larger_crops: Path, tmp_path: Path, rung: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DEEPFAKE_RUN_FOLDER", raising=False)
    run = tmp_path / "run"
    take_a_step(larger_crops, run, rung, "--model.image_size", "96", "--data.batch_size", "4")
    wanted = ladder.merged(None, ladder.ABLATIONS / f"{rung}.yaml")["model"]["backbone"]
    assert read_info(run / "model.ckpt")["backbone"].split(".")[0] == wanted.split(".")[0]


def scored(seed: int, n_groups: int = 30, per_group: int = 4) -> ladder.TestPredictions:
    rng = np.random.default_rng(seed)
    labels = np.tile([0, 1], n_groups * per_group // 2)
    groups = np.repeat([f"g{n}" for n in range(n_groups)], per_group)
    noise = np.repeat(rng.normal(0, 1, n_groups), per_group) + rng.normal(0, 1, len(labels))
    return ladder.TestPredictions(groups, labels, 1 / (1 + np.exp(-(2 * labels - 1 + noise))))


def test_intervals_hold_the_value_and_shrink_with_groups() -> None:
    few, many = [scored(0, 10)], [scored(0, 160)]
    spans = []
    for runs in (few, many):
        resampled = ladder.resample(runs, 200)
        assert resampled is not None
        spans.append(np.nanquantile(resampled, [0.025, 0.975], axis=0).T)
    for value, (low, high) in zip(ladder.compute_metrics(many[0]), spans[1], strict=True):
        assert low < value < high
    assert np.ptp(spans[1][0]) < np.ptp(spans[0][0])
    assert ladder.resample([scored(0, 4)], 50) is None


def test_several_runs_share_their_resamples() -> None:
    one, other = (ladder.resample([scored(seed)], 50) for seed in (0, 1))
    both = ladder.resample([scored(0), scored(1)], 50)
    assert one is not None
    assert other is not None
    assert both is not None
    np.testing.assert_allclose(both, (one + other) / 2, rtol=0, atol=1e-12)


def test_the_table_has_means_and_intervals() -> None:
    runs = [scored(1), scored(2)]
    aucs = [compute_auc(run.labels, run.p_fake) for run in runs]
    line, few = ladder.describe_all({"05-triplet": runs, "20-self-blend": [scored(3, 4)]}, [], 50)
    assert line["AUC"] == f"{np.mean(aucs):.4f}"
    assert line["AUC of the seeds"] == f"{min(aucs):.4f} to {max(aucs):.4f}"
    text = ladder.as_markdown([line, few])
    assert f"| 05-triplet | 90-92 % | {line['AUC']} [{line['AUC from']}, " in text
    assert f"| 20-self-blend | not tried | {few['AUC']} | " in text
    assert ladder.as_csv([line]).splitlines()[0].startswith("rung,the entry reports,AUC,AUC from")


def test_a_difference_is_surer_than_its_sides() -> None:
    plain = scored(1, 40)
    better = ladder.TestPredictions(plain.groups, plain.labels, plain.p_fake + 0.2 * plain.labels)
    first, second = ladder.describe_all({"a": [plain], "b": [better]}, ["a", "b"], 200)
    assert "the entry reports" not in first
    assert first["AUC against a"] == first["AUC against a from"] == "+0.0000"
    gain = compute_auc(better.labels, better.p_fake) - compute_auc(plain.labels, plain.p_fake)
    assert second["AUC against a"] == f"{gain:+.4f}"
    assert first["AUC against b"] == f"{-gain:+.4f}"
    low, high = (float(second[f"AUC against a {end}"]) for end in ("from", "to"))
    assert 0 < low < gain < high
    assert high - low < float(first["AUC to"]) - float(first["AUC from"])


def test_rungs_by_name_or_number() -> None:
    assert ladder.choose_rungs(["05", "00-no-augmentation"]) == ["00-no-augmentation", "05-triplet"]
    with pytest.raises(SystemExit, match="no rung '99'; there are 00-no-augmentation"):
        ladder.choose_rungs(["99"])
    assert set(ladder.ENTRY) <= set(RUNGS)


@pytest.mark.parametrize("arm", ladder.choose_rungs(None, GAP))
def test_every_arm_of_the_gap_has_the_same_budget(arm: str) -> None:
    settings = ladder.merged(GAP.with_suffix(".yaml"), GAP / f"{arm}.yaml")
    parser = TrainParser()
    parser.add_lightning_class_args(EmbeddingTask, "model")
    parser.add_class_arguments(CropDataModule, "data")
    parts = {name: settings[name] for name in ("model", "data")}
    parts["data"]["root"] = "crops"
    parser.parse_object(parts)
    kept = ("backbone", "image_size", "optimizer", "schedule", "network", "training")
    shared = ladder.merged(GAP.with_suffix(".yaml"), GAP / "02-triplet.yaml")
    assert {name: settings["model"][name] for name in kept} == {
        name: shared["model"][name] for name in kept
    }
    assert settings["trainer"] == shared["trainer"]
    assert settings["data"]["augmentation"]["recipe"] == "light"


def test_rungs_that_differ_from_the_entry_in_their_head_alone(tmp_path: Path) -> None:
    overlays = {rung: ladder.ABLATIONS / f"{rung}.yaml" for rung in RUNGS}
    found = [rung for rung in RUNGS if ladder.differs_in_head_alone(SMOKE, overlays[rung])]
    assert found == ["18-lightgbm", "21-rbf-svm", "22-logistic"]
    base = tmp_path / "base.yaml"
    base.write_text("head:\n  name: rbf\n")  # so that 06 and 21 are the same
    assert not ladder.differs_in_head_alone(base, overlays["21-rbf-svm"])
    assert not ladder.differs_in_head_alone(SMOKE, GAP / "02-triplet.yaml")
    table = ladder.describe_all({"21-rbf-svm": [scored(1)]}, [], 20)
    text = ladder.as_markdown(table, ["21-rbf-svm"])
    assert text.endswith("\n\nOf the network of 06-head-l2, with another head: 21-rbf-svm.\n")


@pytest.mark.slow
def test_a_head_on_the_entrys_network_is_what_training_with_it_gives(
    crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = argparse.Namespace(
        base=SMOKE, data=crops, output=tmp_path / "shared", overlays=ladder.ABLATIONS, more=[]
    )
    run = options.output / "21-rbf-svm" / "seed-0"
    assert ladder.train(options, "21-rbf-svm", 0, run)  # trains 06 first
    assert (options.output / "06-head-l2" / "seed-0" / "model.ckpt").exists()
    assert not (run / "metrics.csv").exists() or "loss" not in (run / "metrics.csv").read_text()
    monkeypatch.setattr(ladder, "differs_in_head_alone", lambda base, rung: False)
    own = tmp_path / "own" / "seed-0"
    assert ladder.train(options, "21-rbf-svm", 0, own)
    contents = [torch.load(folder / "model.ckpt", weights_only=True) for folder in (run, own)]
    for name, value in contents[0]["state_dict"].items():
        torch.testing.assert_close(value, contents[1]["state_dict"][name], rtol=0, atol=1e-6)
    for name in ("limits", "error_rates", "head", "weights", "counts"):
        assert contents[0]["deepfake"][name] == contents[1]["deepfake"][name], name
    assert contents[0]["deepfake"]["head"] == "rbf"


def test_a_folder_is_for_one_base_and_one_set_of_crops(crops: Path, tmp_path: Path) -> None:
    options = argparse.Namespace(output=tmp_path / "out", data=crops, base=SMOKE, more=[])
    ladder.claim(options)
    ladder.claim(options)
    for change in ({"base": None}, {"more": ["--model.optimizer.lr", "1"]}):
        other = argparse.Namespace(**(vars(options) | change))
        with pytest.raises(SystemExit, match="holds runs of other crops, another --base or other"):
            ladder.claim(other)


def test_finished_runs_make_the_table_of_a_call_until_an_overlay_changes(
    crops: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("DEEPFAKE_RUN_FOLDER", raising=False)
    output, overlays = tmp_path / "out", tmp_path / "overlays"
    overlays.mkdir()
    for rung in ("05-triplet", "06-head-l2"):
        take_a_step(crops, output / rung / "seed-0", rung)
        (overlays / f"{rung}.yaml").write_text((ladder.ABLATIONS / f"{rung}.yaml").read_text())
    words = ["ladder.py", "--data", str(crops), "--base", str(SMOKE), "--output", str(output)]
    words += ["--overlays", str(overlays), "--rungs", "06", "--against", "05", "--resamples", "20"]
    monkeypatch.setattr("sys.argv", [*words, "--trainer.limit_train_batches", "1"])
    assert ladder.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert "AUC against 05-triplet" in lines[0]
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| 05-triplet", "| 06-head-l2"]
    with (overlays / "06-head-l2.yaml").open("a") as file:
        file.write("\nfreeze:\n  epochs: 3\n")
    with pytest.raises(SystemExit, match=r"trained with freeze.epochs 0, the overlays now say 3"):
        ladder.main()


def test_a_failed_run_is_said(
    crops: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What a training says of a wrong setting is tried elsewhere.
    stub = (
        "import sys\nsys.stderr.write('so much\\nerror: timm knows no backbone\\n')\nsys.exit(2)\n"
    )
    (tmp_path / "train.py").write_text(stub)
    monkeypatch.setattr(ladder, "REPO", tmp_path)
    options = argparse.Namespace(base=None, data=crops, overlays=ladder.ABLATIONS, more=[])
    assert not ladder.train(options, "05-triplet", 0, tmp_path / "out" / "seed-0")
    assert "failed with exit code 2: error: timm knows no backbone" in capsys.readouterr().out
