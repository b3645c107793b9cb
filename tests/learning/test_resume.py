"""What may not change between the start of a run and its going on."""

from __future__ import annotations

import pytest

from deepfake.errors import UsageError
from deepfake.learning.resume import (
    choose_state,
    refuse_change,
    refuse_other_crops,
    refuse_other_length,
    refuse_other_settings,
)


def test_equal_or_unknown_settings_pass() -> None:
    refuse_change({"backbone": "a", "more": 1}, {"backbone": "a", "optimizer": "b"})
    refuse_other_crops(None, "b" * 64)
    refuse_other_crops("b" * 64, "b" * 64)
    refuse_other_length(None, 5)
    refuse_other_length(5, 5)


BEGUN = """
seed_everything: 3
trainer: {max_epochs: 2}
model: {optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1}}, pretrained: a.ckpt}
data: {root: here, batch_size: 8, split: {by: auto, shares: [0.7, 0.2, 0.1]}}
"""


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("seed_everything: 3", "seed_everything: 0", "seed_everything=3, now it is 0"),
        ("lr: 0.1", "lr: 0.5", r"model\.optimizer\.init_args\.lr=0\.1, now it is 0\.5"),
        ("SGD", "AdamW", r"model\.optimizer\.class_path='torch\.optim\.SGD', now"),
        ("by: auto", "by: group", r"data\.split\.by='auto', now it is 'group'"),
        ("0.2, 0.1", "0.1, 0.2", r"data\.split\.shares="),
        ("batch_size: 8", "batch_size: 4", r"data\.batch_size=8, now it is 4"),
    ],
)
def test_what_makes_a_run_stays(old: str, new: str, name: str) -> None:
    refuse_other_settings(BEGUN, BEGUN)
    with pytest.raises(UsageError, match=f"begun with {name}"):
        refuse_other_settings(BEGUN, BEGUN.replace(old, new))


def test_what_is_no_part_of_a_run_may_change() -> None:
    others = BEGUN.replace("here", "there").replace("a.ckpt", "b.ckpt").replace("epochs: 2", "9")
    refuse_other_settings(BEGUN, others.replace("batch_size: 8", "batch_size: 8, num_workers: 2"))
    for unknown in ("", "{", "7"):
        refuse_other_settings(unknown, BEGUN)


def test_changes_are_named() -> None:
    with pytest.raises(UsageError, match=r"begun with model\.backbone='a', now it is 'b'; give"):
        refuse_change({"model.backbone": "a"}, {"model.backbone": "b"})
    with pytest.raises(UsageError, match="sha256 aaaaaaaaaaaa, this one bbbbbbbbbbbb"):
        refuse_other_crops("a" * 64, "b" * 64)
    with pytest.raises(UsageError, match=r"planned for 5 steps, now there are 9; .*--model\.pretr"):
        refuse_other_length(5, 9)


def test_the_head_stays_out_and_an_objective_is_taken_where_it_fits() -> None:
    state = {"embedder.x": 1, "head.w": 2, "objective.a": 3}
    assert choose_state(state, {"objective.a": 0}, goes_on=True) == {
        "embedder.x": 1,
        "objective.a": 3,
    }
    other = {"objective.b": 4}
    assert choose_state(state, other, goes_on=False) == {"embedder.x": 1, "objective.b": 4}
    with pytest.raises(UsageError, match=r"begun with another model\.objective"):
        choose_state(state, other, goes_on=True)
