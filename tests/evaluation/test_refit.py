"""New thresholds, sigmoids and heads: the network stays, the numbers hold, the history tells."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from deepfake import cli
from deepfake.errors import CheckpointError, JobError, UsageError
from deepfake.evaluation.embeddings import embed_crops
from deepfake.evaluation.predictions import predict_set
from deepfake.evaluation.refit import calibrate_checkpoint, fit_new_head
from deepfake.evaluation.sets import read_evaluation_set
from deepfake.heads import HEADS, HeadName, make_head, trees
from deepfake.heads import rbf as kernel
from deepfake.inference.predictor import Predictor
from deepfake.learning.checkpoint import (
    Checkpoint,
    load_checkpoint,
    read_info,
    to_safetensors,
)
from deepfake.learning.task import EmbeddingTask
from deepfake.records import Aggregation
from deepfake.training.run import run_training
from tests.evaluation.conftest import CPU, Made, words
from tests.evaluation.made_checkpoint import write_checkpoint
from tests.made_crops import write_crop_folder

CONFIGS = Path(__file__).parents[2] / "configs"


def scores_of(checkpoint: Checkpoint, crops: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    data = read_evaluation_set(crops, checkpoint, split=split)
    embeddings = embed_crops(crops, data.faces, checkpoint, CPU)
    scored = predict_set(data, embeddings, checkpoint.head, Aggregation())
    return np.array([row.label for row in data.faces]), scored.p_fake


def assert_same_network(one: Path, other: Path, same_head: bool = True) -> None:
    before, after = (torch.load(path, weights_only=True) for path in (one, other))
    names = [name for name in before["state_dict"] if name.startswith("embedder.")]
    assert names
    for name in names:
        tensors = [content["state_dict"][name] for content in (before, after)]
        assert tensors[0].numpy().tobytes() == tensors[1].numpy().tobytes(), name
    assert set(before) == set(after)
    if same_head:
        assert set(before["state_dict"]) == set(after["state_dict"])
    assert before["hyper_parameters"] == after["hyper_parameters"]


def test_calibrate_holds_the_false_positive_rate(made: Made, tmp_path: Path) -> None:
    output = tmp_path / "new.ckpt"
    result = calibrate_checkpoint(
        made.checkpoint,
        made.crops,
        output,
        origin="crops/",
        max_fpr=0.25,
        options=CPU,
    )
    assert_same_network(made.path, output)
    new = load_checkpoint(output)
    assert new.threshold == result.threshold != made.checkpoint.threshold
    labels, scores = scores_of(new, made.crops, "validation")
    reals = scores[labels == 0]
    assert (reals >= new.threshold).mean() <= 0.25
    # One step lower would be one false positive more.
    assert (reals >= np.sort(reals)[::-1][3]).mean() > 0.25

    old = read_info(made.path)
    info = read_info(output)
    (event,) = info["history"]
    assert event["what"] == "calibrate"
    assert event["false_positive_rate"] == 0.25
    assert (event["split"], event["counts"]) == ("validation", {"real": 12, "fake": 12})
    assert event["replaced"]["threshold"] == old["threshold"] == 0.5
    assert event["replaced"]["threshold_origin"] == "made up"
    assert event["from_sha256"] == made.checkpoint.sha256
    assert info["threshold_origin"] == (
        "false positive rate of at most 0.25 on 24 files of crops (validation)"
    )
    assert list(info["metrics"]) == ["calibration"]
    assert f"threshold 0.5000 -> {result.threshold:.4f}" in str(result)
    for key in set(old) - {"threshold", "threshold_origin", "metrics", "history"}:
        assert info[key] == old[key], key


def test_prediction_uses_the_new_numbers(made: Made, tmp_path: Path) -> None:
    output = tmp_path / "new.ckpt"
    calibrate_checkpoint(made.checkpoint, made.crops, output, prevalence=0.02, options=CPU)
    new = load_checkpoint(output)
    assert new.threshold == 0.5
    labels, before = scores_of(made.checkpoint, made.crops, "validation")
    _, after = scores_of(new, made.crops, "validation")
    assert (np.argsort(before) == np.argsort(after)).all()
    assert Predictor(new, device="cpu").checkpoint.threshold == 0.5
    # The same calibration at the share of the data, then odds times the ratio of the odds.
    same = tmp_path / "same.ckpt"
    calibrate_checkpoint(
        made.checkpoint, made.crops, same, prevalence=float(labels.mean()), options=CPU
    )
    _, fitted = scores_of(load_checkpoint(same), made.crops, "validation")
    odds = fitted / (1 - fitted) * (0.02 / 0.98) / (labels.mean() / (1 - labels.mean()))
    np.testing.assert_allclose(after, odds / (1 + odds), atol=1e-9)


def test_calibrate_twice_keeps_both_events(made: Made, tmp_path: Path) -> None:
    first, second = tmp_path / "1.ckpt", tmp_path / "2.ckpt"
    calibrate_checkpoint(made.checkpoint, made.crops, first, options=CPU)
    one = load_checkpoint(first)
    assert one.info["threshold_origin"].startswith("best balanced accuracy on 24 files of crops")
    calibrate_checkpoint(one, made.crops, second, max_fpr=0.5, options=CPU)
    events = read_info(second)["history"]
    assert [event["replaced"]["threshold"] for event in events] == [0.5, one.threshold]
    assert events[1]["from_sha256"] == one.sha256


def test_calibrate_refuses(made: Made, tmp_path: Path) -> None:
    output = tmp_path / "new.ckpt"
    with pytest.raises(UsageError, match=r"rate of 0.01 cannot be measured on 12 reals; it takes"):
        calibrate_checkpoint(made.checkpoint, made.crops, output, max_fpr=0.01, options=CPU)
    with pytest.raises(UsageError, match="prevalence 1; expected a share between 0 and 1"):
        calibrate_checkpoint(made.checkpoint, made.crops, output, prevalence=1.0, options=CPU)
    own = load_checkpoint(write_checkpoint(tmp_path / "own.ckpt", made.crops))
    with pytest.raises(UsageError, match="the checkpoint learnt from split 'train'"):
        calibrate_checkpoint(own, made.crops, output, split="train", options=CPU)
    own.head.state_dict()["weight_"].mul_(-1)
    with pytest.raises(JobError, match="do not rise with fake; a calibration would turn"):
        calibrate_checkpoint(own, made.crops, output, options=CPU)
    assert not output.exists()


@pytest.mark.parametrize("head", HEADS)
def test_fit_head_learns_new_crops(
    made: Made, tmp_path: Path, head: HeadName, monkeypatch: pytest.MonkeyPatch
) -> None:
    if head == "gbm":
        pytest.importorskip("lightgbm", reason="head gbm is fitted by LightGBM")
        monkeypatch.setattr(trees, "N_TREES", 8)
    crops = write_crop_folder(
        tmp_path / "new", {"train": (16, 16), "validation": (8, 8)}, size=32, seed=7
    )
    output = tmp_path / "new.ckpt"
    result = fit_new_head(
        made.checkpoint,
        crops,
        output,
        head=head,
        C=1.0,
        options=CPU,
    )
    assert_same_network(made.path, output, same_head=head not in ("rbf", "gbm"))
    new = load_checkpoint(output)
    assert list(result.after) == ["train", "validation"]
    labels, scores = scores_of(new, crops, "validation")
    assert result.after["validation"].n_fake == 8
    assert result.after["validation"].accuracy == pytest.approx(
        ((scores >= new.threshold) == (labels == 1)).mean()
    )
    info = read_info(output)
    assert info["head"] == head
    assert info["history"][0]["what"] == "fit-head"
    assert info["history"][0]["counts"] == {"real": 24, "fake": 24}
    assert info["history"][0]["replaced"]["head"] is None
    data = read_evaluation_set(crops, new, split="train")
    embeddings = embed_crops(crops, data.faces, new, options=CPU).vectors
    y_true = np.array([row.label for row in data.faces])
    copy = tmp_path / "new.safetensors"
    copy.write_bytes(to_safetensors(output))
    queries = torch.from_numpy(embeddings)
    assert torch.equal(load_checkpoint(copy).head(queries), new.head(queries))
    assert type(new.head) is type(make_head(head, 16, 1.0)) or head == "logistic"
    if head == "logistic":
        expected = LogisticRegression(C=1.0, max_iter=1000).fit(embeddings.astype(float), y_true)
        np.testing.assert_allclose(
            new.head(queries).numpy(),
            expected.predict_proba(embeddings.astype(float))[:, 1],
            atol=1e-9,
        )


def test_one_head_leaves_nothing_behind_in_the_next(made: Made, tmp_path: Path) -> None:
    first, sure, second = (tmp_path / f"{number}.ckpt" for number in range(3))
    fit_new_head(made.checkpoint, made.crops, first, head="rbf", options=CPU)
    rbf = load_checkpoint(first)
    calibrate_checkpoint(rbf, made.crops, sure, prevalence=0.1, options=CPU)
    changed = load_checkpoint(sure)
    assert torch.equal(changed.head.support_, rbf.head.support_)  # type: ignore[arg-type]
    assert not torch.equal(changed.head.offset_, rbf.head.offset_)
    fit_new_head(changed, made.crops, second, options=CPU)
    names = set(torch.load(second, weights_only=True)["state_dict"])
    assert names == set(torch.load(made.path, weights_only=True)["state_dict"])
    events = read_info(second)["history"]
    assert [event.get("head") for event in events] == ["rbf", None, "svm"]
    assert events[2]["replaced"]["head"] == "rbf"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "MAX_ROWS", 9)
        with pytest.raises(UsageError, match=r"head rbf on \d+ rows would take hours"):
            fit_new_head(made.checkpoint, made.crops, tmp_path / "x.ckpt", head="rbf", options=CPU)


def test_fit_head_refuses(made: Made, tmp_path: Path) -> None:
    output = tmp_path / "new.ckpt"
    with pytest.raises(UsageError, match="C=0; expected an inverse strength"):
        fit_new_head(made.checkpoint, made.crops, output, C=0.0)
    one = write_crop_folder(tmp_path / "one", {"train": (4, 4), "validation": (0, 4)}, size=32)
    with pytest.raises(UsageError, match="the validation split needs both classes"):
        fit_new_head(made.checkpoint, one, output)
    assert not output.exists()


def test_a_checkpoint_of_mid_training_becomes_a_model(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, last = tmp_path / "run", tmp_path / "run" / "checkpoints" / "last.ckpt"
    arguments = ["--config", str(CONFIGS / "default.yaml"), "--config", str(CONFIGS / "smoke.yaml")]
    arguments += ["--data.root", str(made.crops), "--run", str(run), "--model.image_size", "32"]
    arguments += ["--trainer.max_epochs", "1", "--data.num_workers", "0"]
    assert run_training(arguments, io.StringIO()) == 0
    content = torch.load(last, weights_only=True)
    assert content["deepfake"]["threshold"] is None
    with pytest.raises(CheckpointError, match=r"or make one with deepfake fit-head --checkpoint"):
        load_checkpoint(last)
    output = tmp_path / "model.ckpt"
    options = ["--checkpoint", str(last), "--data", str(made.crops), "--output", str(output)]
    assert cli.main(["fit-head", *options, "--quiet", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "threshold n/a -> " in shown
    assert "before" not in shown
    model, whole = torch.load(output, weights_only=True), load_checkpoint(output)
    assert set(content) - set(model) >= {"optimizer_states", "callbacks"}
    for name, value in content["state_dict"].items():
        if name.startswith("embedder."):
            assert torch.equal(model["state_dict"][name], value), name
    finished = torch.load(run / "model.ckpt", weights_only=True)
    assert set(model) == set(finished)
    assert set(finished["deepfake"]) | {"history"} == set(model["deepfake"])
    assert whole.info["weights"] == "epoch 0 (mid-training)"
    assert (whole.recipe.crop, whole.recipe.sampling) == (
        made.checkpoint.recipe.crop,
        made.checkpoint.recipe.sampling,
    )
    evaluated = ["--checkpoint", str(output), "--data", str(made.crops), "--quiet"]
    assert cli.main(["evaluate", *evaluated, "--resamples", "0", "--device", "cpu"]) == 0
    # Calibration needs a head to calibrate.
    assert cli.main(["calibrate", *options, "--overwrite", "--quiet"]) == 2


# The commands


def test_calibrate_command_and_info(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new.ckpt"
    options = words(made, "--data", made.crops, "--output", output)
    assert cli.main(["calibrate", *options, "--false-positive-rate", "0.25"]) == 0
    assert "false positive rate of at most 0.25 on 24 files" in capsys.readouterr().out
    assert cli.main(["info", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "history:\n- what: calibrate" in shown
    assert "threshold: 0.5" in shown.split("history:")[1]
    assert cli.main(["calibrate", *options]) == 2
    assert "exists; name another file or pass --overwrite" in capsys.readouterr().err
    assert cli.main(["calibrate", *options, "--overwrite", "--prevalence", "0.1"]) == 0
    assert load_checkpoint(output).threshold == 0.5
    with pytest.raises(SystemExit):
        cli.main(["calibrate", *options, "--prevalence", "0.1", "--false-positive-rate", "0.1"])


def test_fit_head_command(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new.ckpt"
    options = words(made, "--data", made.crops, "--output", output, "--head", "logistic")
    assert cli.main(["fit-head", *options]) == 0
    assert "test        after" in capsys.readouterr().out
    event = read_info(output)["history"][0]
    assert (event["head"], event["C"], event["data"]) == ("logistic", 2.0, str(made.crops))
    command = ["fit-head", "--checkpoint", str(made.path), "--data", "x", "--output"]
    assert cli.main([*command, str(made.path), "--overwrite"]) == 2
    assert "would replace the checkpoint itself" in capsys.readouterr().err
    assert cli.main([*command, str(tmp_path / "no" / "x.ckpt")]) == 2
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["calibrate", "fit-head"])
def test_what_is_read_and_written_may_be_a_ckpt_or_safetensors(
    command: str, made: Made, tmp_path: Path
) -> None:
    copy = tmp_path / "model.safetensors"
    copy.write_bytes(to_safetensors(made.path))
    written = []
    for source, target in ((made.path, "a.ckpt"), (copy, "b.ckpt"), (copy, "c.safetensors")):
        output = tmp_path / target
        options = [command, "--data", str(made.crops), "--quiet", "--checkpoint", str(source)]
        assert cli.main([*options, "--output", str(output)]) == 0
        written.append(load_checkpoint(output))
    first = written[0]
    queries = torch.nn.functional.normalize(torch.randn(20, 16))
    for other in written[1:]:
        assert torch.equal(other.head(queries), first.head(queries))
        for name, value in first.embedder.state_dict().items():
            assert torch.equal(other.embedder.state_dict()[name], value)
        assert [event["what"] for event in other.info["history"]] == [command]
        assert other.info["history"][0]["from_sha256"] == load_checkpoint(copy).sha256
        assert other.info["labels"] == first.info["labels"]
    # What was safetensors once is a whole checkpoint: it is copied and loaded like any other.
    task = EmbeddingTask.load_from_checkpoint(tmp_path / "b.ckpt")
    assert task.head is not None
    assert (tmp_path / "c.safetensors").read_bytes() == to_safetensors(tmp_path / "b.ckpt")
