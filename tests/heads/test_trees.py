"""Trees read from LightGBM's text against LightGBM itself, and texts that are no trees."""

from __future__ import annotations

import builtins
import importlib.util
import re
from typing import Any

import numpy as np
import pytest
import torch

from deepfake.errors import JobError, UsageError
from deepfake.heads import base, make_empty_head, trees
from deepfake.heads.calibration import fit_sigmoid, make_folds
from deepfake.heads.trees import BoostedTrees, read_forest
from tests.made_embeddings import draw, reload

# A model of two trees over three features: x1 <= 0.5 ? (x0 <= -1 ? a : b) : c, and a leaf alone.
TEXT = """tree
version=v4
num_class=1
num_tree_per_iteration=1
label_index=0
max_feature_idx=2
objective=binary sigmoid:1
feature_names=Column_0 Column_1 Column_2
tree_sizes=300 100

Tree=0
num_leaves=3
num_cat=0
split_feature=1 0
threshold=0.5 -1
decision_type=2 2
left_child=1 -1
right_child=-2 -3
leaf_value=1 20 300
is_linear=0
shrinkage=1


Tree=1
num_leaves=1
num_cat=0
split_feature=
threshold=
decision_type=
left_child=
right_child=
leaf_value=4000
is_linear=0
shrinkage=1


end of trees

parameters:
end of parameters
"""


def planted(text: str, n_features: int = 3) -> BoostedTrees:
    """A classifier of a text, as loading makes it."""
    state = BoostedTrees(n_features).state_dict()
    state |= {
        "model_": torch.tensor(list(text.encode()), dtype=torch.uint8),
        "slope_": torch.tensor(-1.0),
        "fitted_": torch.tensor(True),
    }
    made = make_empty_head(state, n_features)
    made.load_state_dict(state)
    assert isinstance(made, BoostedTrees)
    return made


def test_a_text_that_can_be_followed_by_hand() -> None:
    rows = torch.tensor(
        [[-2.0, 0.5, 0.0], [-1.0, 0.0, 9.0], [0.0, 0.5, 0.0], [-2.0, 0.6, 0.0], [0, torch.nan, 0]],
        dtype=torch.float64,
    )
    made = planted(TEXT)
    assert made.decision_function(rows)[:4].tolist() == [4001.0, 4001.0, 4300.0, 4020.0]
    assert bool(made(rows)[4].isnan())  # never an answer for what is no number
    assert made.text == TEXT


def swap(pattern: str, replacement: str) -> str:
    text, count = re.subn(pattern, replacement, TEXT, count=1, flags=re.MULTILINE)
    assert count == 1
    return text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("", "model_ is empty", id="empty"),
        pytest.param("no trees at all", "no beginning or no end", id="text"),
        pytest.param("tree\n\u00e9", "is no ASCII", id="ascii"),
        pytest.param(TEXT[:-60].partition("end of")[0], "no beginning or no end", id="cut"),
        pytest.param(swap("^version=v4", "version=v9"), "version is 'v9'; expected v3 or", id="v"),
        pytest.param(swap("^num_class=1", "num_class=3"), "num_class is '3'", id="classes"),
        pytest.param(swap("^max_feature_idx=2", "max_feature_idx=7"), "max_fea.* '7'", id="width"),
        pytest.param(swap("^objective=binary", "objective=l2"), "objective is 'l2", id="goal"),
        pytest.param(swap("^label_index", "average_output\nlabel_index"), "averaged", id="forest"),
        pytest.param(swap(r"^Tree=0[\s\S]*shrinkage=1\n", ""), "it has 0 trees", id="no-tree"),
        pytest.param(swap("^num_cat=0", "num_cat=1"), "it has categorical", id="categories"),
        pytest.param(swap("^is_linear=0", "is_linear=1"), "tree 0: it has linear", id="linear"),
        pytest.param(swap("^decision_type=2 2", "decision_type=2 1"), "decision_type", id="bit"),
        pytest.param(swap("^decision_type=2 2", "decision_type=2 64"), "decision_type", id="bits"),
        pytest.param(swap("^decision_type=2 2", "decision_type=2 6"), "decision_type", id="zeros"),
        pytest.param(swap("^num_leaves=3", "num_leaves=0"), "num_leaves is 0", id="no-leaf"),
        pytest.param(swap("^num_leaves=3", "num_leaves=4"), "leaf_value has 3 num.* 4", id="more"),
        pytest.param(swap("^num_leaves=3\n", ""), "it has no num_leaves", id="missing"),
        pytest.param(swap("^num_leaves=3", "num_leaves=three"), "tree 0: invalid", id="word"),
        pytest.param(swap("^split_feature=1 0", "split_feature=1 3"), "outside of 0 to 2", id="f"),
        pytest.param(swap("^split_feature=1 0", "split_feature=1 -1"), "outside of 0", id="minus"),
        pytest.param(swap("^split_feature=1 0", "split_feature=1 " + "9" * 30), "tree 0", id="big"),
        pytest.param(swap("^threshold=0.5", "threshold=nan"), "threshold .*not finite", id="nan"),
        pytest.param(swap("^threshold=0.5", "threshold=inf"), "threshold .*not finite", id="inf"),
        pytest.param(swap("^leaf_value=1 20", "leaf_value=1 -inf"), "leaf_value .*not", id="leaf"),
        pytest.param(swap("^left_child=1 -1", "left_child=1 1"), "no tree: one is mis", id="twice"),
        pytest.param(swap("^left_child=1 -1", "left_child=0 -1"), "are no tree: one", id="cycle"),
        pytest.param(swap("^left_child=1 -1", "left_child=2 -1"), "are no tree: one", id="range"),
        pytest.param(swap("^left_child=1 -1", "left_child=1 -9"), "are no tree: one", id="leaves"),
        pytest.param(
            swap("^left_child=1 -1", "left_child=1 -9223372036854775808"), "are no tree", id="wrap"
        ),
        pytest.param(
            TEXT.replace("num_leaves=3", "num_leaves=4")
            .replace("split_feature=1 0", "split_feature=0 0 0")
            .replace("threshold=0.5 -1", "threshold=0 0 0")
            .replace("decision_type=2 2", "decision_type=2 2 2")
            .replace("left_child=1 -1", "left_child=-1 2 1")  # 1 and 2 lead to each other
            .replace("right_child=-2 -3", "right_child=-2 -3 -4")
            .replace("leaf_value=1 20 300", "leaf_value=1 2 3 4"),
            "one comes before its parent",
            id="loop",
        ),
    ],
)
def test_refuses_texts_that_are_no_trees(text: str, problem: str) -> None:
    with pytest.raises(RuntimeError, match=problem):
        planted(text)


def test_sizes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, limit, problem in (
        ("_MAX_BYTES", 100, "expected up to 100 bytes"),
        ("_MAX_TREES", 1, "it has 2 trees; expected 1 to 1"),
        ("_MAX_NODES", 5, "more than 5 nodes"),
        ("_MAX_DEPTH", 1, "tree 0: it is 2 splits deep; expected up to 1"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(trees, name, limit)
            with pytest.raises(RuntimeError, match=problem):
                planted(TEXT)
    state = BoostedTrees(3).state_dict() | {"model_": torch.zeros(2, 2)}
    with pytest.raises(RuntimeError, match=r"model_ has shape \(2, 2\) and type torch.float32"):
        BoostedTrees(3).load_state_dict(state)
    del state["model_"]
    with pytest.raises(RuntimeError, match=r"Missing key.*model_"):
        BoostedTrees(3).load_state_dict(state)


def test_flipped_bytes_are_refused_or_score_numbers() -> None:
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        broken = bytearray(TEXT, "ascii")
        for place in rng.integers(0, len(broken), 2):
            broken[place] = int(rng.integers(32, 127))
        try:
            forest = read_forest(bytes(broken), 3)
        except ValueError:
            refused += 1
            continue
        assert bool(torch.isfinite(forest.value).all())
    assert refused > 50


def break_lightgbm(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Whoever imports it gets the error."""
    real_import = builtins.__import__

    def broken(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "lightgbm":
            raise error
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", broken)


def test_scoring_needs_no_lightgbm(monkeypatch: pytest.MonkeyPatch) -> None:
    break_lightgbm(monkeypatch, ModuleNotFoundError("lightgbm"))
    assert float(planted(TEXT)(torch.zeros(1, 3))) == 1.0
    find = importlib.util.find_spec
    monkeypatch.setattr(trees, "find_spec", lambda name: None if name == "lightgbm" else find(name))
    with pytest.raises(UsageError, match=r"head gbm .* pip install 'deepfake\[gbm\]'"):
        BoostedTrees(8).fit(*draw(10, 10))


def test_a_lightgbm_that_does_not_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    break_lightgbm(monkeypatch, OSError("libgomp.so.1: cannot open shared object file"))
    monkeypatch.setattr(trees, "find_spec", lambda name: object())
    with pytest.raises(UsageError, match=r"does not start: libgomp\.so\.1"):
        BoostedTrees(8).fit(*draw(10, 10))


# With LightGBM


@pytest.fixture
def lightgbm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """LightGBM, and few trees: it takes its time on a busy machine."""
    module = pytest.importorskip("lightgbm", reason="head gbm is fitted by LightGBM")
    monkeypatch.setattr(trees, "N_TREES", 12)
    return module


@pytest.mark.parametrize("grouped", [False, True], ids=["by-row", "by-group"])
def test_equals_lightgbm(lightgbm: Any, grouped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, truth = draw(150, 110, 16)
    rows = rows.astype(np.float32)
    groups = [f"g{i // 2}" for i in range(len(truth))] if grouped else None
    fitted = BoostedTrees(16, C=0.5).fit(rows, truth, groups)
    booster = lightgbm.Booster(model_str=fitted.text)
    assert booster.num_trees() == 12
    assert "[lambda_l2: 2]" in fitted.text
    held_out = np.empty(len(rows))
    for train, test in make_folds(truth, groups):
        machine = fitted._train(rows[train], truth[train])
        held_out[test] = machine.predict(rows[test], raw_score=True)
    slope, offset = fit_sigmoid(held_out, truth)
    fresh, _ = draw(200, 201, 16)
    queries = np.concatenate([rows.astype(np.float64), fresh, np.zeros((1, 16)), -5 * fresh])
    raw = booster.predict(queries, raw_score=True)
    for classifier in (fitted, reload(fitted)):
        given = torch.from_numpy(queries)
        np.testing.assert_allclose(
            classifier.decision_function(given).numpy(), raw, rtol=0, atol=1e-9
        )
        expected = 1 / (1 + np.exp(slope * raw + offset))
        np.testing.assert_allclose(classifier(given).numpy(), expected, rtol=0, atol=1e-9)
    whole = fitted(given)
    monkeypatch.setattr(base, "_NUMBERS_AT_ONCE", 100)
    torch.testing.assert_close(fitted(given), whole, rtol=0, atol=1e-12)
    again = BoostedTrees(16, C=0.5).fit(rows, truth, groups)
    assert again.text == fitted.text
    fitted.calibrate(rows, truth)
    assert again.text == fitted.text


def test_a_model_of_rows_with_holes_scores_whole_rows_as_lightgbm_does(lightgbm: Any) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 4))
    truth = (rows[:, 0] + (rng.random(300) < 0.3) > 0.2).astype(int)
    rows[rng.random(rows.shape) < 0.3] = np.nan
    settings = {"objective": "binary", "num_threads": 1, "verbosity": -1, "min_data_in_leaf": 5}
    booster = lightgbm.train(settings, lightgbm.Dataset(rows, truth), 8)
    made = planted(booster.model_to_string(), 4)
    queries = np.where(np.isnan(rows), 0.0, rows)
    expected = booster.predict(queries, raw_score=True)
    found = made.decision_function(torch.from_numpy(queries)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_few_rows_still_grow_a_tree(lightgbm: Any) -> None:
    rows, truth = draw(12, 12, shift=2.0)
    p_fake = BoostedTrees(8).fit(rows, truth)(torch.from_numpy(rows)).numpy()
    assert p_fake[truth == 1].mean() > p_fake[truth == 0].mean()


def test_rows_that_are_all_alike_are_refused(lightgbm: Any) -> None:
    with pytest.raises(JobError, match="LightGBM finds nothing in 60 embeddings"):
        BoostedTrees(8).fit(np.ones((60, 8)), np.arange(60) % 2)
