"""New thresholds, sigmoids and heads: the network stays, the numbers hold, the history tells."""

from __future__ import annotations

import inspect
import io
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deepfake import cli
from deepfake.dataset.manifest import JOB_FILE
from deepfake.dataset.rows import CropRow
from deepfake.error_rates import MAX_ERROR_RATE
from deepfake.errors import CheckpointError, JobError, UsageError
from deepfake.evaluation.embeddings import embed_crops
from deepfake.evaluation.refit import calibrate_checkpoint, fit_new_head
from deepfake.evaluation.sets import read_evaluation_set
from deepfake.heads import HEADS, HeadName, make_head, trees
from deepfake.heads import rbf as kernel
from deepfake.heads.calibration import cross_fit, fit_sigmoid
from deepfake.inference.predictor import Predictor
from deepfake.learning.checkpoint import (
    load_checkpoint,
    read_info,
)
from deepfake.learning.checkpoint_copy import to_safetensors
from deepfake.learning.ensemble import combine, load_detector
from deepfake.learning.task import EmbeddingTask
from deepfake.records import Sampling, Verdict
from deepfake.thresholds import choose_limits
from deepfake.training.run import run_training
from tests.evaluation.conftest import CPU, Files, Made, words
from tests.evaluation.made_checkpoint import write_checkpoint
from tests.evaluation.made_refits import LOOSE, scores_of
from tests.made_crops import write_crop_folder

CONFIGS = Path(__file__).parents[2] / "configs"


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


def test_calibrate_holds_both_error_rates(made: Made, tmp_path: Path) -> None:
    output = tmp_path / "new.ckpt"
    result = calibrate_checkpoint(
        made.checkpoint, made.crops, output, origin="crops/", max_fpr=0.25, max_fnr=0.2, options=CPU
    )
    assert_same_network(made.path, output)
    new = load_checkpoint(output)
    assert new.limits == result.limits != made.checkpoint.limits
    # scikit-learn's own way to the same sigmoid, and to scores that no limit was chosen with.
    data = read_evaluation_set(made.crops, new, split="validation")
    rows = embed_crops(made.crops, data.faces, new, CPU).vectors
    decisions = made.checkpoint.head.compute_decisions(rows)
    labels, scores = scores_of(new, made.crops, "validation")
    slope, offset = fit_sigmoid(decisions, labels)
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(slope * decisions + offset)), atol=1e-6)
    held_out = cross_fit(decisions, labels, [row.group for row in data.faces])
    expected = choose_limits(held_out[labels == 0], labels, held_out, 0.25, 0.2)
    assert new.limits == expected.limits
    rates = new.error_rates
    assert rates is not None
    said = np.array([new.limits.judge(p_fake) for p_fake in held_out])
    assert rates.fpr.value == (said[labels == 0] == Verdict.FAKE).mean() <= 0.25
    assert rates.fnr.value == (said[labels == 1] == Verdict.REAL).mean() <= 0.2
    assert rates.unclear.value == (said == Verdict.UNCLEAR).mean()
    assert (rates.n_real, rates.n_fake, rates.n_groups) == (12, 12, 12)
    assert new.chosen_for == new.recipe

    old = read_info(made.path)
    info = read_info(output)
    (event,) = info["history"]
    assert event["what"] == "calibrate"
    assert (event["max_fpr"], event["max_fnr"], event["prevalence"]) == (0.25, 0.2, None)
    assert (event["split"], event["counts"]) == ("validation", {"real": 12, "fake": 12})
    assert event["replaced"]["limits"] == old["limits"] == {"real": 0.5, "fake": [0.5]}
    assert event["replaced"]["error_rates"]["origin"] == "made up"
    assert event["from_sha256"] == made.checkpoint.sha256
    assert info["error_rates"]["origin"] == "crops (validation)"
    assert list(info["metrics"]) == ["calibration"]
    assert "before: real up to 0.5000, fake from 0.5000" in str(result)
    assert "chosen for at most 25.0% false positives and 20.0% false negatives" in str(result)
    changed = {"limits", "error_rates", "chosen_for", "metrics", "history"}
    for key in set(old) - changed:
        assert info[key] == old[key], key


def test_calibrate_for_a_mirrored_look(made: Made, files: Files, tmp_path: Path) -> None:
    output = tmp_path / "new.ckpt"
    mirrored = combine([made.checkpoint], "flip")
    calibrate_checkpoint(mirrored, made.crops, output, **LOOSE)
    assert_same_network(made.path, output)
    saved, new = load_checkpoint(output), load_detector(output)
    assert read_info(output)["chosen_for"]["tta"] == "flip"
    assert (saved.tta, saved.chosen_tta, new.tta) == ("none", "flip", "flip")
    assert (new.sha256, new.name, new.limits) == (saved.sha256, saved.name, saved.limits)
    assert new.error_rates == saved.error_rates is not None
    assert saved.info["history"][0]["from_sha256"] == made.checkpoint.sha256

    # Every look is a row of its own for the sigmoid, their mean is the score.
    data = read_evaluation_set(made.crops, new, split="validation")
    vectors = embed_crops(made.crops, data.faces, mirrored, CPU).vectors
    looks = np.split(vectors * np.float32(2**0.5), 2, axis=1)
    assert np.abs(looks[0] - looks[1]).max() > 1e-4
    decisions = made.checkpoint.head.compute_decisions(np.concatenate(looks))
    labels, scores = scores_of(new, made.crops, "validation")
    slope, offset = fit_sigmoid(decisions, np.tile(labels, 2))
    each = 1 / (1 + np.exp(slope * decisions + offset))
    np.testing.assert_allclose(scores, (each[:24] + each[24:]) / 2, atol=1e-6)
    groups = [row.group for row in data.faces] * 2
    held_out = cross_fit(decisions, np.tile(labels, 2), groups).reshape(2, 24).mean(axis=0)
    assert new.limits == choose_limits(held_out[labels == 0], labels, held_out, 0.25, 0.25).limits

    # It looks so wherever nobody says otherwise, and who says otherwise is told.
    usual, once = (Predictor.from_checkpoint(output, "cpu", tta=tta) for tta in (None, "none"))
    assert usual.policy_remark == ""
    assert once.policy_remark.startswith(
        "limits were chosen on files scored otherwise (without a mirrored look)"
    )
    for predictor in (usual, once):
        again = pickle.loads(pickle.dumps(predictor)).checkpoint
        assert (again.tta, again.sha256) == (predictor.checkpoint.tta, predictor.checkpoint.sha256)
    assert usual.checkpoint.sha256 != once.checkpoint.sha256
    p_usual, p_once, p_before = (
        next(iter(one.predict([str(files.photo)]))).p_fake
        for one in (usual, once, Predictor(saved, "cpu"))
    )
    assert p_once == p_before != p_usual
    assert combine([saved, made.checkpoint]).tta == "none"
    third = tmp_path / "third.ckpt"
    fit_new_head(saved, made.crops, third, **LOOSE)
    assert load_checkpoint(third).chosen_tta == "none"


def test_prevalence_moves_scores_and_limits_alike(made: Made, tmp_path: Path) -> None:
    output = tmp_path / "new.ckpt"
    calibrate_checkpoint(made.checkpoint, made.crops, output, prevalence=0.02, **LOOSE)
    new = load_checkpoint(output)
    labels, before = scores_of(made.checkpoint, made.crops, "validation")
    _, after = scores_of(new, made.crops, "validation")
    assert (np.argsort(before) == np.argsort(after)).all()
    # The same calibration at the share of the data, then odds times the ratio of the odds.
    same = tmp_path / "same.ckpt"
    calibrate_checkpoint(made.checkpoint, made.crops, same, **LOOSE)
    plain = load_checkpoint(same)
    _, fitted = scores_of(plain, made.crops, "validation")
    ratio = (0.02 / 0.98) / (labels.mean() / (1 - labels.mean()))
    odds = fitted / (1 - fitted) * ratio
    np.testing.assert_allclose(after, odds / (1 + odds), atol=1e-9)
    # What is said of a file stays.
    said = [[one.limits.judge(p) for p in ps] for one, ps in ((plain, fitted), (new, after))]
    assert said[0] == said[1]


def test_calibrate_twice_keeps_both_events(made: Made, tmp_path: Path) -> None:
    first, second = tmp_path / "1.ckpt", tmp_path / "2.ckpt"
    calibrate_checkpoint(made.checkpoint, made.crops, first, **LOOSE)
    one = load_checkpoint(first)
    calibrate_checkpoint(one, made.crops, second, max_fpr=0.5, max_fnr=0.1, options=CPU)
    events = read_info(second)["history"]
    replaced = [event["replaced"]["limits"] for event in events]
    assert replaced == [{"real": 0.5, "fake": [0.5]}, one.limits.to_dict()]
    assert events[1]["from_sha256"] == one.sha256


def test_limits_of_other_frames_say_so(made: Made, tmp_path: Path) -> None:
    # Crops of another sampling: what is chosen on them is no limit for the checkpoint's own.
    crops = write_crop_folder(
        tmp_path / "crops", {"validation": (12, 12), "train": (8, 8)}, size=32, seed=0
    )
    job = json.loads((crops / JOB_FILE).read_text())
    (crops / JOB_FILE).write_text(json.dumps(job | {"sampling": Sampling(frames=3).to_dict()}))
    output = tmp_path / "new.ckpt"
    calibrate_checkpoint(made.checkpoint, crops, output, split="validation", **LOOSE)
    new = load_checkpoint(output)
    assert new.chosen_for.sampling == Sampling(frames=3) != new.recipe.sampling
    remark = Predictor(new, device="cpu").policy_remark
    assert "chosen on files scored otherwise (frames 16 instead of 3)" in remark
    remark = Predictor(new, device="cpu", sampling=Sampling(frames=3)).policy_remark
    assert remark == ""


def test_rows_say_that_the_limits_were_chosen_for_another_policy(made: Made, files: Files) -> None:
    paths = [str(files.clip), str(files.photo)]
    for change, seen in (
        ({"aggregation": "max"}, "policy max instead of mean"),
        ({"sampling": Sampling(frames=2)}, "frames 2 instead of 16"),
        ({"sampling": Sampling(frames=1)}, "frames 1 instead of 16"),  # a clip all the same
    ):
        predictor = Predictor(made.checkpoint, device="cpu", **change)
        clip, photo = predictor.predict(paths)
        assert seen in predictor.policy_remark
        assert predictor.policy_remark in clip.remarks
        assert not any("limits were chosen" in text for text in photo.remarks)  # it is one frame
    usual = Predictor(made.checkpoint, device="cpu")
    assert not any("limits were chosen" in text for r in usual.predict(paths) for text in r.remarks)
    other = Predictor(made.checkpoint, device="cpu", faces_per_frame="largest")
    for result in other.predict(paths):
        assert any("faces_per_frame largest instead of all" in text for text in result.remarks)


def test_calibrate_refuses(made: Made, tmp_path: Path) -> None:
    output = tmp_path / "new.ckpt"
    rate = r"a rate of 0.05 \(--max-fpr\) cannot be measured on 12 real files; it takes 19"
    with pytest.raises(UsageError, match=rate):
        calibrate_checkpoint(made.checkpoint, made.crops, output, options=CPU)
    rate = r"a rate of 0.01 \(--max-fnr\) cannot be measured on 12 fake files; it takes 99"
    with pytest.raises(UsageError, match=rate):
        calibrate_checkpoint(
            made.checkpoint, made.crops, output, max_fpr=0.25, max_fnr=0.01, options=CPU
        )
    with pytest.raises(UsageError, match=r"--max-fpr=0; expected a rate above 0 and up to 0.5"):
        calibrate_checkpoint(made.checkpoint, made.crops, output, max_fpr=0.0, options=CPU)
    with pytest.raises(UsageError, match="prevalence 1; expected a share between 0 and 1"):
        calibrate_checkpoint(made.checkpoint, made.crops, output, prevalence=1.0, options=CPU)
    own = load_checkpoint(write_checkpoint(tmp_path / "own.ckpt", made.crops))
    with pytest.raises(UsageError, match="the checkpoint learnt from split 'train'"):
        calibrate_checkpoint(own, made.crops, output, split="train", options=CPU)
    assert not output.exists()


@pytest.mark.parametrize("way", ["labels", "head"])
def test_calibrate_refuses_a_detector_at_chance(made: Made, tmp_path: Path, way: str) -> None:
    crops, checkpoint = made.crops, load_checkpoint(made.path)
    problem = r"the detector is not better than chance: AUC 0\.\d+|decisions do not rise with fake"
    if way == "labels":  # that have nothing to do with the pictures

        def shuffle(row: CropRow) -> CropRow:
            return replace(row, label=int(row.source[-1], 16) % 2)

        crops = write_crop_folder(
            tmp_path / "chance", {"train": (4, 4), "validation": (30, 30)}, size=32, edit=shuffle
        )
    else:  # that says the contrary
        checkpoint.head.state_dict()["weight_"].mul_(-1)
        checkpoint.head.state_dict()["intercept_"].mul_(-1)
    with pytest.raises(JobError, match=problem):
        calibrate_checkpoint(checkpoint, crops, tmp_path / "new.ckpt", **LOOSE)
    assert not (tmp_path / "new.ckpt").exists()


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
        ((scores >= 0.5) == (labels == 1)).mean()
    )
    assert new.limits == result.limits
    assert "NOT measured: a false positive rate of 5.0% takes 19 real files with a face" in str(
        result
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
    # The classifier saw the train split alone, the sigmoid validation alone.
    again = make_head(head, 16, 1.0).fit_classifier(embeddings, y_true)
    held = read_evaluation_set(crops, new, split="validation")
    again.calibrate(embed_crops(crops, held.faces, new, options=CPU).vectors, labels)
    torch.testing.assert_close(new.head(queries), again(queries), rtol=0, atol=1e-6)


def test_one_head_leaves_nothing_behind_in_the_next(made: Made, tmp_path: Path) -> None:
    first, sure, second = (tmp_path / f"{number}.ckpt" for number in range(3))
    fit_new_head(made.checkpoint, made.crops, first, head="rbf", options=CPU)
    rbf = load_checkpoint(first)
    calibrate_checkpoint(rbf, made.crops, sure, prevalence=0.1, **LOOSE)
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
    assert content["deepfake"]["limits"] is None
    with pytest.raises(CheckpointError, match=r"or make one with deepfake fit-head --checkpoint"):
        load_checkpoint(last)
    output = tmp_path / "model.ckpt"
    options = ["--checkpoint", str(last), "--data", str(made.crops), "--output", str(output)]
    assert cli.main(["fit-head", *options, "--quiet", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "before" not in shown
    assert "verdict: real up to 0." in shown
    model, whole = torch.load(output, weights_only=True), load_checkpoint(output)
    assert set(content) - set(model) >= {"optimizer_states", "callbacks", "loops"}
    for name, value in content["state_dict"].items():
        if name.startswith("embedder."):
            assert torch.equal(model["state_dict"][name], value), name
    finished = torch.load(run / "model.ckpt", weights_only=True)
    assert set(model) <= set(finished)
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
    rates = ["--max-fpr", "0.25", "--max-fnr", "0.1"]
    assert cli.main(["calibrate", *options, *rates]) == 0
    shown = capsys.readouterr().out
    assert "chosen for at most 25.0% false positives and 10.0% false negatives; there " in shown
    assert cli.main(["info", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "\nverdict: real up to 0." in shown
    assert cli.main(["info", str(output), "--all"]) == 0
    shown = capsys.readouterr().out
    assert "\nlimits:\n  fake:\n" in shown or "\nlimits:\n  real: " in shown
    assert "history:\n- what: calibrate" in shown
    assert "max_fpr: 0.25" in shown.split("history:")[1]
    assert cli.main(["calibrate", *options]) == 2
    assert "exists; name another file or pass --overwrite" in capsys.readouterr().err
    assert cli.main(["calibrate", *options, "--overwrite"]) == 2
    assert "it takes 19" in capsys.readouterr().err
    for name in ("fpr", "fnr"):
        parameter = inspect.signature(calibrate_checkpoint).parameters[f"max_{name}"]
        assert parameter.default == MAX_ERROR_RATE == 0.05  # as its help says


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
        options += ["--max-fpr", "0.25", "--max-fnr", "0.25"]
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
