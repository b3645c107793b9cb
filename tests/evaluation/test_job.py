"""The command ``evaluate``, from words to files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import cv2
import pytest

from deepfake import cli
from deepfake.errors import UsageError
from deepfake.evaluation import embeddings, sets
from deepfake.evaluation.job import EvaluationOptions, run_evaluation
from deepfake.records import CropSpec
from deepfake.reports.evaluation_page import format_report
from deepfake.tables import read_csv
from tests.evaluation.conftest import CPU, Made, words
from tests.fakes import portrait
from tests.made_crops import write_crop_folder

NO_RESAMPLES = EvaluationOptions(n_resamples=0)
FILES = ["embeddings", "faces.csv", "metrics.json", "predictions.csv", "report.html"]


def test_what_an_address_was_signed_with_is_written_nowhere(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def open_crops(data: str, *_: Any) -> Path:
        asked.append(data)
        return made.crops

    monkeypatch.setattr("deepfake.evaluation.job.open_crops", open_crops)
    url = "https://host/lists/labels.csv?sig=topsecret"
    options = words(made, "--data", url, "--output", tmp_path, "--resamples", 0)
    assert cli.main(["evaluate", *options]) == 0
    assert asked == [url]
    texts = [path.read_text() for path in tmp_path.glob("*.*")]
    assert any("https://host/lists/labels.csv?sig=..." in text for text in texts)
    assert not [text for text in [*texts, *capsys.readouterr()] if "topsecret" in text]


def test_evaluate_writes_everything(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "report"
    options = words(made, "--data", made.crops, "--output", output, "--resamples", 20)
    assert cli.main(["evaluate", *options]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("verdict: real up to 0.5000, fake from 0.5000 (from 0.5000 for")
    assert "22 files = 20 ok + 1 no_face + 0 too_small + 1 unreadable" in shown
    assert f"report: {output / 'report.html'}" in shown
    assert sorted(path.name for path in output.iterdir()) == FILES
    result = json.loads((output / "metrics.json").read_text())
    assert result["provenance"]["checkpoint_sha256"] == made.checkpoint.sha256
    assert result["provenance"]["command"].startswith("deepfake evaluate --checkpoint ")
    assert result["levels"]["file"]["overall"]["n_fake"] == 10
    rows = read_csv(output / "predictions.csv", ["path", "p_fake"])
    assert len(rows) == 22
    assert sum(row["p_fake"] == "" for row in rows) == 2


def test_scores_of_another_kind_than_the_limits_carry_a_remark(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crops = write_crop_folder(
        tmp_path / "clips",
        {"test": (6, 6)},
        size=32,
        edit=lambda row: replace(row, frame=row.frame + 1),
    )
    options = words(made, "--data", crops, "--output", tmp_path / "a", "--resamples", 0)
    told = "limits were chosen on files scored otherwise (policy max instead of mean)"
    assert cli.main(["evaluate", *options]) == 0
    assert told not in capsys.readouterr().out
    assert cli.main(["evaluate", *options, "--aggregate", "max"]) == 0
    assert told in capsys.readouterr().out
    assert told in (tmp_path / "a" / "report.html").read_text()
    # A photo is one frame, whatever makes one score of several.
    photos = words(made, "--data", made.crops, "--output", tmp_path / "b", "--resamples", 0)
    assert cli.main(["evaluate", *photos, "--aggregate", "max"]) == 0
    assert "scored otherwise" not in capsys.readouterr().out


def test_second_evaluation_needs_no_network(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, data = tmp_path / "report", [str(made.crops)]
    first = run_evaluation(made.checkpoint, data, output, NO_RESAMPLES, CPU)
    first_bytes = (output / "predictions.csv").read_bytes()

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("a second pass of the network")

    monkeypatch.setattr(embeddings, "_iter_embeddings", refuse)
    second = run_evaluation(made.checkpoint, data, output, EvaluationOptions(None, "max", 30))
    assert second.levels["file"].overall.metrics["auc"].low >= 0
    assert (output / "predictions.csv").read_bytes() == first_bytes
    assert first.levels["file"].overall.n_real == second.levels["file"].overall.n_real


def test_same_words_same_bytes(made: Made, tmp_path: Path) -> None:
    data = [str(made.crops)]
    for name in ("a", "b"):
        run_evaluation(
            made.checkpoint,
            data,
            tmp_path / name,
            EvaluationOptions(n_resamples=20),
            CPU,
            render=format_report,
        )
    for name in FILES[1:]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_labelled_media_and_several_sets(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / made.crops.name
    for number, word in enumerate(["real", "fake"]):
        (photos / word).mkdir(parents=True)
        picture = cv2.cvtColor(portrait(number), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(photos / word / "a.png"), picture)
    options = words(made, "--data", made.crops, photos, "--resamples", 10, "--workers", 0)
    assert cli.main(["evaluate", *options]) == 0
    shown = capsys.readouterr().out
    assert "crops-2: 2 files = 2 ok" in shown
    assert "all together" in shown
    assert "report:" not in shown
    output = tmp_path / "report"
    run_evaluation(made.checkpoint, [str(photos)], output, NO_RESAMPLES, CPU)
    assert (output / "crops" / "crops" / "manifest.csv").is_file()
    # The crops are kept, too: the same folder again is no new job.
    run_evaluation(made.checkpoint, [str(photos)], output, NO_RESAMPLES, CPU)


def test_own_training_data_warns_of_the_leak(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.evaluation.made_checkpoint import write_checkpoint

    own = write_checkpoint(tmp_path / "own.ckpt", made.crops)
    options = ["--checkpoint", str(own), "--data", str(made.crops), "--quiet", "--resamples", "0"]
    assert cli.main(["evaluate", *options, "--split", "train"]) == 0
    assert "crops: LEAK: the checkpoint learnt from these crops" in capsys.readouterr().out
    assert cli.main(["evaluate", *options]) == 0
    assert "LEAK" not in capsys.readouterr().out


def test_evaluate_refuses(made: Made, tmp_path: Path) -> None:
    data = [str(made.crops)]
    with pytest.raises(UsageError, match="no aggregation 'mode'"):
        run_evaluation(made.checkpoint, data, None, EvaluationOptions(aggregation="mode"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="resamples=-1; expected 0 or more"):
        EvaluationOptions(n_resamples=-1)
    with pytest.raises(UsageError, match="is named twice: its files would count for two"):
        run_evaluation(made.checkpoint, [*data, f"{made.crops}/."], None)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file; name a folder for the report"):
        run_evaluation(made.checkpoint, data, tmp_path / "file")
    with pytest.raises(UsageError, match=r"other things than an evaluation \('file'\)"):
        run_evaluation(made.checkpoint, data, tmp_path)


@pytest.mark.parametrize("command", ["evaluate", "calibrate", "fit-head"])
def test_faces_of_media_are_searched_for_where_it_says(
    command: str,
    made: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    devices = []

    def cut(data: str, crops: Path, spec: CropSpec, **options: Any) -> NoReturn:
        devices.append(options["workers"].detect_device)
        raise UsageError("seen")

    monkeypatch.setattr(sets, "crop_media", cut)
    options = [command, *words(made, "--data", tmp_path)]
    options += [] if command == "evaluate" else ["--output", str(tmp_path / "new.ckpt")]
    assert cli.main(options) == 2
    monkeypatch.setattr(sets, "check_detect_device", lambda name: None)
    assert cli.main([*options, "--detect-device", "cuda:1"]) == 2
    assert devices == ["cpu", "cuda:1"]
    monkeypatch.undo()
    capsys.readouterr()
    # A crop folder needs no search, but a wrong word is told all the same.
    options[options.index(str(tmp_path))] = str(made.crops)
    assert cli.main([*options, "--detect-device", "gpu"]) == 2
    assert "detect device 'gpu'; expected cpu, cuda or cuda:N" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["embeddings", "embeddings/0123", "crops/data"])
def test_an_evaluation_of_a_stranger_is_gone_on_with_only_inside_of_its_folder(
    made: Made, tmp_path: Path, place: str
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "report" / place).parent.mkdir(parents=True)
    (tmp_path / "report" / place).symlink_to(tmp_path / "outside")
    with pytest.raises(UsageError, match=f"names '{place}', which leads out of the folder"):
        run_evaluation(made.checkpoint, [str(made.crops)], tmp_path / "report", NO_RESAMPLES, CPU)
    assert list((tmp_path / "outside").iterdir()) == []
