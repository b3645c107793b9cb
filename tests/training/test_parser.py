"""Options and configuration files: what is understood, what is refused, and how."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deepfake import cli
from deepfake.dataset import crop_mirror
from deepfake.errors import MediaError, UsageError
from deepfake.training.presets import read_config
from deepfake.training.run import run_training
from tests.training.made_runs import REPO, SMOKE, train


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        pytest.param(["--model.bckbone", "x"], r"did you mean --model\.backbone\?", id="option"),
        pytest.param(["--data.batchsize", "8"], r"did you mean --data\.batch_size\?", id="data"),
        pytest.param(
            ["--model.optimizer.lrr", "1"], r"mean --model\.optimizer\.lr\? \(", id="nested"
        ),
        pytest.param(["--wieghts", "last"], r"did you mean --weights\?", id="top-level"),
        pytest.param(
            ["--data.num_workers", "few"],
            r"^data\.num_workers=few; expected a whole .*\)$",
            id="int",
        ),
        pytest.param(
            ["--data.batches.paired", "maybe"], "=maybe; expected true or false or auto", id="union"
        ),
        pytest.param(
            ["--model.optimizer.lr", "fast"], r"^model\.optimizer\.lr=fast; expected a nu", id="lr"
        ),
        pytest.param(
            ["--model.objective", "Nope"], r"^model\.objective=Nope; expected a class", id="class"
        ),
        pytest.param(["--weights", "worst"], "=worst; expected one of best, last", id="choice"),
        pytest.param(["--data.cache_gb", "5"], "size of the cache: name its folder", id="cache"),
        pytest.param(
            ["--config", "none.yaml"], r"none\.yaml: there is no.* cpu, dacon", id="no-config"
        ),
        pytest.param(
            ["--model.backbone", "test_eficientnet"],
            "did you mean test_efficientnet",
            id="backbone",
        ),
        pytest.param(["--data.batch_size", "1"], "expected 2 or more, for triplets", id="batch"),
        pytest.param(["--seed_everything", "-5"], "seed_everything=-5; expected 0 to", id="seed"),
        pytest.param(["--model.network.dropout", "2"], "^configuration: dropout .*2", id="dropout"),
        pytest.param(["--model.network.embedding_dim", "0"], "dim=0; expected 1", id="width"),
        pytest.param(["--data.root", "none"], "none is not a crop folder", id="no-crops"),
        pytest.param(["--data.crop_preset", "dacon"], "cut with crop preset 'square'", id="preset"),
        pytest.param(["--model.image_size", "32"], r"pass --model\.image_size 64", id="size"),
        pytest.param(["--model.pretrained", "none.pth"], "there is no such file", id="weights"),
        pytest.param(["--resume", "none"], "--resume none: there is no checkpoint", id="resume"),
    ],
)
def test_refuses_options_that_are_not_right(
    crops: Path, tmp_path: Path, options: list[str], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        train(crops, tmp_path / "run", *options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists(), "the same --run could not be given again"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(
            "model:\n  bckbone: x\n", r"did you mean --model\.backbone\?", id="unknown-key"
        ),
        pytest.param("modle:\n  backbone: x\n", "did you mean --model", id="unknown-section"),
        pytest.param("model: [\n", r"configuration bad\.yaml: .*line 2", id="broken"),
        pytest.param(
            "weights: last\nhead:\n", r"head holds no settings; give it some, as head\.", id="empty"
        ),
        pytest.param(
            "model: {optimizer: torch.optim.Adamm}\n",
            r"optimizer=torch\.optim\.Adamm; ",
            id="class",
        ),
        pytest.param("weights: null\n", "weights=None; expected one of best, last", id="null"),
    ],
)
def test_refuses_a_configuration_that_is_not_right(
    crops: Path, tmp_path: Path, text: str, problem: str
) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UsageError, match=problem):
        train(crops, tmp_path / "run", "--config", "bad.yaml")


@pytest.mark.slow
def test_a_count_of_batches_is_no_share_whatever_was_imported_first(crops: Path) -> None:
    # ``1`` is one batch, ``1.0`` all of them, and what tells them apart hangs on the order.
    code = (
        "import sklearn.metrics, io, sys; from deepfake.training.run import run_training; "
        "sys.exit(run_training(sys.argv[1:], io.StringIO()))"
    )
    words = [*SMOKE, "--data.root", str(crops), "--trainer.limit_train_batches", "1"]
    command = [sys.executable, "-c", code, *words, "--print_config"]
    done = subprocess.run(command, cwd=REPO, check=True, capture_output=True, text=True)
    batches = yaml.safe_load(done.stdout)["trainer"]["limit_train_batches"]
    assert (batches, type(batches)) == (1, int)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """What ``--print_config`` says."""
    with pytest.raises(SystemExit) as end:
        run_training([*words, "--print_config"], io.StringIO())
    assert end.value.code == 0
    settings: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return settings


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted names; a class with its settings is one."""
    named: dict[str, Any] = {}
    for key, value in settings.items():
        inner = isinstance(value, dict) and "class_path" not in value
        named |= flat(value, f"{prefix}{key}.") if inner else {prefix + key: value}
    return named


def changed(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """What the second settings have otherwise than the first, by dotted names."""
    before = flat(first)
    return {name: value for name, value in flat(second).items() if before[name] != value}


@pytest.fixture
def plain(tmp_path: Path) -> str:
    """A recipe without a word: what the classes are by themselves."""
    (tmp_path / "plain.yaml").write_text("preset: true\n")
    return "plain.yaml"


def test_bare_is_the_recommended_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    bare = printed(capsys, "--data.root", "crops")
    assert bare == printed(capsys, "--data.root", "crops", "--config", "default")
    assert bare["trainer"]["max_epochs"] == 8


def test_what_a_preset_says_is_all_that_it_changes(
    capsys: pytest.CaptureFixture[str], plain: str
) -> None:
    classes = printed(capsys, "--config", plain, "--data.root", "x")
    for name in ("default", "dacon"):
        recipe = printed(capsys, "--config", name, "--data.root", "x")
        said, differs = set(flat(read_config(name))), set(changed(classes, recipe))
        assert differs <= said, "inherited from somewhere else"
        if name == "default":
            assert said - {"preset"} == differs, "says what is so anyway"


def test_an_overlay_adds_to_the_preset(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = set(flat(read_config("cpu")))
    for preset, words in (("default", []), ("dacon", ["--config", "dacon"])):
        alone = printed(capsys, "--data.root", "x", "--config", preset)
        added = printed(capsys, "--data.root", "x", *words, "--config=cpu")
        assert set(changed(alone, added)) == said
    (tmp_path / "my.yaml").write_text("data: {batch_size: 6}\n")
    mine = printed(capsys, "--data.root", "x", "-c", "my.yaml")
    assert changed(printed(capsys, "--data.root", "x"), mine) == {"data.batch_size": 6}


def test_options_win_over_files_wherever_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data.batch_size", "6", "--config", "dacon", "--data.root", "x"]
    assert printed(capsys, *words)["data"]["batch_size"] == 6


def test_what_is_printed_runs_as_it_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first = printed(capsys, "--config", "dacon", "--data.root", "x")
    (tmp_path / "printed.yaml").write_text(yaml.safe_dump(first))
    assert printed(capsys, "--config", "printed.yaml") == first


def test_the_side_of_the_crops_comes_from_their_folder(
    crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def side(*words: str) -> object:
        return printed(capsys, *words)["model"]["image_size"]

    assert side("--data.root", str(crops)) == side(f"--data.root={crops}") == 64
    assert side("--data.root", "none", "--data.root", str(crops)) == 64
    assert side("--data.root", str(crops), "--model.image_size", "32") == 32
    assert side("--data.root", str(crops), "--config", "dacon") == 380, "a recipe may name it"
    assert side("--data.root", "none") == 380
    (tmp_path / "mine.yaml").write_text(f"data: {{root: {crops}}}\n")
    assert side("--config", "mine.yaml") == 64


def test_the_crops_of_a_run_that_goes_on_are_those_of_its_configuration(
    crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    text = f"data: {{root: {crops}}}\nmodel: {{backbone: not.to.be.read}}\n"
    (tmp_path / "run" / "config.yaml").write_text(text)
    for words in (["--resume", "run"], ["--resume=auto", "--run=run"]):
        found = printed(capsys, *words)
        assert found["data"]["root"] == str(crops)
        assert found["model"]["image_size"] == 64
        assert found["model"]["backbone"] != "not.to.be.read", "it would be a stranger's class"
    assert printed(capsys, "--resume", "run", "--data.root", "x")["data"]["root"] == "x"
    # What happens to lie where the command is given is nobody's run.
    Path("config.yaml").write_text(text)
    assert printed(capsys).get("data", {}).get("root") is None
    assert printed(capsys, "--resume=auto").get("data", {}).get("root") is None


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        pytest.param(["--data.roots", "x"], r"did you mean --data\.root\?", id="root"),
        pytest.param(["--model.bckbone", "x"], r"mean --model\.backbone\?", id="before-the-root"),
        pytest.param(["--preset", "true"], "unknown option --preset", id="preset"),
        pytest.param([], r"data\.root", id="nothing-misspelt"),
    ],
)
def test_a_misspelt_option_comes_before_a_missing_one(words: list[str], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        run_training(words or ["--weights", "last"], io.StringIO())


def test_the_defaults_of_the_help_are_those_of_the_recommended_recipe(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.train(["--help"]) == 0
    text = capsys.readouterr().out
    parts = re.split(r"^  --", text, flags=re.MULTILINE)[1:]
    shown = {part.split()[0]: re.search(r"\(default\s+(\S+)\)", part) for part in parts}
    told = {name: match[1] for name, match in shown.items() if match}
    assert len(told) >= 9
    settings = printed(capsys, "--data.root", "x")
    for name, value in told.items():
        found: Any = settings
        for key in name.split("."):
            found = found.get("init_args", found)[key]
        assert yaml.safe_load(value) == found, name


def test_all_options_are_shown_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.train(["--help-all"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for name in ("--trainer.gradient_clip_val", "--data.num_workers", "--aggregation.policy"):
        assert name in text


def told_to_type() -> Iterator[list[str]]:
    """The words after ``train`` of every command in README and docs, and of the recipes."""
    pages = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
    for page in pages:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for match in re.finditer(r"(?:train\.py|deepfake train) +(--[^`\n]*)", text):
            yield shlex.split(match[1])
    recipes = (REPO / "docs" / "train.md").read_text(encoding="utf-8")
    table = recipes.split("| you want | say |")[1].split("\n\n")[0]
    for span in re.findall(r"`(--[^`]+)`", table):
        if not span.startswith(("--size", "--signal", "--print_config", "--help-all")):
            yield shlex.split(span)


@pytest.mark.parametrize("words", list(told_to_type()), ids=" ".join)
def test_every_command_of_the_pages_parses(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise MediaError("s3://bucket/crops", "io_error", "no test asks a store")

    monkeypatch.setattr(crop_mirror, "copy_object_to", refuse)
    monkeypatch.chdir(REPO)  # as their paths are
    # A run's own configuration is where a run is.
    words = ["default" if word == "runs/001/config.yaml" else word for word in words]
    with pytest.raises(SystemExit) as end:
        cli.train(["--data", "crops", *words, "--print_config"])
    assert end.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["data"]["root"]


@pytest.mark.parametrize(
    "words", [["--data", "crops"], ["--data=crops"], ["--data.root=crops"]], ids=" ".join
)
def test_the_crop_folder_is_named_as_in_all_commands(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.train([*words, "--config=smoke", "--print_config"])
    assert end.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["data"]["root"] == "crops"


def test_trains_as_lightning_users_say_it(
    crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SMOKE, "--data.root", str(crops), "--run", str(tmp_path / "run")]
    assert cli.train(["fit", *words]) == 0
    assert (tmp_path / "run" / "model.ckpt").exists()
    capsys.readouterr()
    for word, command in (("test", "evaluate"), ("validate", "evaluate"), ("predict", "predict")):
        assert cli.train([word, *words]) == 2
        assert f"use: deepfake {command} " in capsys.readouterr().err
