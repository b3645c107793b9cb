"""What a checkpoint has seen of crops: by its networks, its head and its limits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deepfake.dataset.manifest import read_manifest
from deepfake.errors import CheckpointError, UsageError
from deepfake.evaluation.job import describe_origin
from deepfake.evaluation.origins import divide_as_trained, find_use
from deepfake.evaluation.refit import calibrate_checkpoint, fit_new_head
from deepfake.evaluation.sets import read_evaluation_set
from deepfake.learning.checkpoint import KEY, Checkpoint, load_checkpoint
from deepfake.learning.checkpoint_file import seal
from deepfake.learning.embedder import EmbeddingModel
from deepfake.learning.ensemble import combine
from tests.evaluation.conftest import Made
from tests.evaluation.made_checkpoint import BACKBONE, DIM, write_checkpoint
from tests.evaluation.made_refits import LOOSE
from tests.made_crops import write_crop_folder

LEARNT, CHOSE = "learnt from", "chose its limits on"


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops that nobody has divided."""
    return write_crop_folder(
        tmp_path_factory.mktemp("others") / "crops",
        {"train": (60, 60)},
        size=32,
        edit=lambda row: replace(row, split=""),
    )


def uses(checkpoint: Checkpoint, crops: Path) -> dict[str, str]:
    manifest = read_manifest(crops)
    splits = ("train", "validation", "test", "all")
    return {split: find_use(checkpoint, manifest, split) for split in splits}


def test_crops_that_a_head_was_fitted_on_are_known(
    made: Made, others: Path, tmp_path: Path
) -> None:
    assert set(uses(made.checkpoint, others).values()) == {""}
    fit_new_head(made.checkpoint, others, tmp_path / "new.ckpt", **LOOSE)
    new = load_checkpoint(tmp_path / "new.ckpt")
    wanted = {"train": LEARNT, "validation": CHOSE, "test": "", "all": LEARNT}
    assert uses(new, others) == wanted
    assert uses(combine([made.checkpoint, new]), others) == wanted
    # They are divided as they were for the head; what was not asked for is the test split.
    data = read_evaluation_set(others, new)
    division = divide_as_trained(read_manifest(others), made.checkpoint)
    assert (data.split, data.remarks) == ("test", ())
    assert len(data.faces) == division.count("test")
    assert read_evaluation_set(others, new, split="train").remarks[0].startswith("LEAK: the check")
    with pytest.raises(UsageError, match="learnt from split 'train'"):
        calibrate_checkpoint(new, others, tmp_path / "no.ckpt", split="train", **LOOSE)


def test_a_head_beside_a_network_of_the_same_crops_is_no_secret(
    made: Made, others: Path, tmp_path: Path
) -> None:
    fit_new_head(made.checkpoint, others, tmp_path / "head.ckpt", **LOOSE)
    configuration = "data: {split: {by: group, shares: [0.2, 0.4, 0.4]}}\n"
    network = write_checkpoint(tmp_path / "net.ckpt", others, configuration=configuration)
    both = combine([load_checkpoint(network), load_checkpoint(tmp_path / "head.ckpt")])
    with pytest.raises(UsageError, match=r"divided the crops in .* otherwise"):
        read_evaluation_set(others, both)


def test_crops_that_a_network_saw_that_this_one_began_with_are_known(
    made: Made, others: Path, tmp_path: Path
) -> None:
    def begin_with(path: Path) -> EmbeddingModel:
        return EmbeddingModel(BACKBONE, 32, DIM, dropout=0.0, pretrained=str(path))

    first = write_checkpoint(tmp_path / "first.ckpt", others)
    second = write_checkpoint(tmp_path / "second.ckpt", made.crops, embedder=begin_with(first))
    third = write_checkpoint(
        tmp_path / "third.ckpt", made.crops, manifest_sha256="x", embedder=begin_with(second)
    )
    wanted = {"train": LEARNT, "validation": CHOSE, "test": "", "all": LEARNT}
    for path in (second, third):
        assert uses(load_checkpoint(path), others) == wanted
    assert uses(load_checkpoint(third), made.crops) == wanted
    assert uses(load_checkpoint(first), made.crops) == dict.fromkeys(wanted, "")
    data = read_evaluation_set(others, load_checkpoint(third))
    assert (data.split, data.remarks) == ("test", ())
    with pytest.raises(UsageError, match="learnt from split 'train'"):
        calibrate_checkpoint(
            load_checkpoint(third), others, tmp_path / "no.ckpt", split="train", **LOOSE
        )
    # One of a file of several is known, too.
    calibrate_checkpoint(
        combine([load_checkpoint(second), made.checkpoint]),
        made.crops,
        tmp_path / "both.ckpt",
        split="validation",
        **LOOSE,
    )
    last = write_checkpoint(
        tmp_path / "last.ckpt",
        made.crops,
        manifest_sha256="x",
        embedder=begin_with(tmp_path / "both.ckpt"),
    )
    assert uses(load_checkpoint(last), others) == wanted


@pytest.mark.parametrize("parent", [7, {}, {"name": "a"}, {"name": 1, "manifest_sha256": "b"}])
def test_a_file_that_does_not_tell_what_its_network_began_with_is_refused(
    made: Made, tmp_path: Path, parent: object
) -> None:
    content = torch.load(made.path, weights_only=True)
    content[KEY]["parent"] = {"name": "a", "manifest_sha256": "b", "parent": parent}
    seal(content)
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(CheckpointError, match="it does not tell what the network that it began"):
        load_checkpoint(tmp_path / "odd.ckpt")


def test_crops_that_limits_were_chosen_on_are_known(
    made: Made, others: Path, tmp_path: Path
) -> None:
    calibrate_checkpoint(made.checkpoint, others, tmp_path / "all.ckpt", **LOOSE)
    assert set(uses(load_checkpoint(tmp_path / "all.ckpt"), others).values()) == {CHOSE}
    data = read_evaluation_set(others, load_checkpoint(tmp_path / "all.ckpt"))
    assert (data.split, len(data.remarks)) == ("all", 1)
    calibrate_checkpoint(made.checkpoint, made.crops, tmp_path / "one.ckpt", split="test", **LOOSE)
    one = load_checkpoint(tmp_path / "one.ckpt")
    assert uses(one, made.crops) == {"train": "", "validation": "", "test": CHOSE, "all": CHOSE}
    assert uses(one, others) == dict.fromkeys(uses(one, others), "")
    # A file of several remembers what each of them has seen.
    two = combine([one, load_checkpoint(tmp_path / "all.ckpt")])
    calibrate_checkpoint(two, made.crops, tmp_path / "two.ckpt", split="validation", **LOOSE)
    two = load_checkpoint(tmp_path / "two.ckpt")
    assert set(uses(two, others).values()) == {CHOSE}
    chosen = {"train": "", "validation": CHOSE, "test": CHOSE, "all": CHOSE}
    assert uses(two, made.crops) == chosen
    assert describe_origin(two, "")["history"] == ["calibrate"] * 3


def test_where_several_were_trained_is_told_of_each(made: Made, tmp_path: Path) -> None:
    paths = []
    for name in "ab":
        configuration = f"seed_everything: 1\ndata: {{root: /data/{name}}}\n"
        path = tmp_path / f"{name}.ckpt"
        paths.append(write_checkpoint(path, made.crops, configuration=configuration))
    first, second = map(load_checkpoint, paths)
    assert describe_origin(first, "")["trained_on_data"] == "/data/a"
    assert describe_origin(combine([first, second]), "")["trained_on_data"] == "/data/a + /data/b"
    assert describe_origin(made.checkpoint, "")["trained_on_data"] is None


def test_a_leak_that_a_training_allowed_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    crops = write_crop_folder(
        tmp_path / "crops",
        {"train": (12, 12), "validation": (6, 6), "test": (6, 6)},
        size=32,
        edit=lambda row: replace(row, group="everywhere"),
    )
    with pytest.raises(UsageError, match="everywhere"):
        read_evaluation_set(crops, load_checkpoint(write_checkpoint(tmp_path / "a.ckpt", crops)))
    allowed = "data: {split: {allow_leak: true}}\n"
    path = write_checkpoint(tmp_path / "b.ckpt", crops, configuration=allowed)
    assert len(read_evaluation_set(crops, load_checkpoint(path)).faces) == 12
    assert "going on because data.split.allow_leak is true" in caplog.text
