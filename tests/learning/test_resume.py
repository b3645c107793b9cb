"""What may not change between the start of a run and its going on."""

from __future__ import annotations

import pytest

from deepfake.errors import UsageError
from deepfake.learning.resume import (
    choose_state,
    refuse_change,
    refuse_other_crops,
    refuse_other_length,
)


def test_equal_or_unknown_settings_pass() -> None:
    refuse_change({"backbone": "a", "more": 1}, {"backbone": "a", "optimizer": "b"})
    refuse_other_crops(None, "b" * 64)
    refuse_other_crops("b" * 64, "b" * 64)
    refuse_other_length(None, 5)
    refuse_other_length(5, 5)


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
