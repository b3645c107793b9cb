"""The words of evaluate, explain, calibrate and fit-head; their room tests what they do."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake import cli


@pytest.mark.parametrize("command", ["evaluate", "explain", "calibrate", "fit-head"])
def test_one_dialect(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for option in ("--checkpoint", "--data", "--output", "--device", "--workers", "--quiet"):
        assert option in shown
    assert "auto, cpu, cuda, cuda:1 or mps (default: auto)" in shown


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["explain", "--train-crops", "crops/"], "unknown option '--train-crops'"),
        (["explain", "--checkpoint", "m.ckpt", "--output", "a.html"], "--input is missing"),
        (
            ["fit-head", "--inverse-regularisation", "2"],
            "unknown option '--inverse-regularisation'",
        ),
        (["explain", "a.jpg", "b.jpg", "--output", "a.html"], "'b.jpg' is one word too many"),
        (["doctor", "crops", "--seed", "-1"], "'-1'; expected a whole number from 0"),
        (["doctor", "crops", "--workers", "0"], "'0'; expected a whole number above 0"),
        (["evaluate", "--data", "c", "--batch-size", "0"], "'0'; expected a whole number above 0"),
        (["calibrate", "--prevalance", "0.1"], "did you mean --prevalence?"),
        (["calibrate", "--prevalence", "nan"], "argument --prevalence: 'nan'; expected a number"),
        (["evaluate", "--resamples", "many"], "'many'; expected a whole number"),
        (["evaluate", "--corruption", "jpeg"], "did you mean --corruptions?"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_a_wrong_word_is_told_first(
    words: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    assert error in capsys.readouterr().err


def test_what_is_written_is_named_as_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", "crops", "--output", str(tmp_path / "new.onnx")]
    assert cli.main(["calibrate", *words]) == 2
    told = "new.onnx: a checkpoint is written; name it .ckpt or .safetensors"
    assert told in capsys.readouterr().err
    assert cli.main(["explain", "a.jpg", "--output", str(tmp_path / "why.pdf")]) == 2
    assert "why.pdf: a page is written; name it .html or .htm" in capsys.readouterr().err


def test_fit_head_names_the_strength_as_scikit_learn(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["fit-head", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--C C inverse strength of regularisation" in shown
    assert "(default: 2.0)" in shown


@pytest.mark.parametrize("option", [["--neighbours", "9"], ["--embeddings", "kept"]])
def test_neighbours_are_of_crops(
    option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").touch()
    words = [str(tmp_path / "a.png"), "--output", str(tmp_path / "a.html"), *option]
    assert cli.explain(words) == cli.EXIT_USAGE
    assert f"{option[0]} needs --data" in capsys.readouterr().err
