"""Trees against LightGBM itself, and tensors that are no trees."""

from __future__ import annotations

import builtins
import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deepfake.errors import JobError, UsageError
from deepfake.heads import base, make_empty_head, trees
from deepfake.heads.calibration import fit_sigmoid, make_folds
from deepfake.heads.trees import BoostedTrees
from tests.made_embeddings import draw, reload

# Two trees over three features: x1 <= 0.5 ? (x0 <= -1 ? 1 : 300) : 20, and a leaf alone.
ROOTS = torch.tensor([0, 5])
NODES = torch.tensor([[1, 0, 0, 0, 0, 0], [1, 2, 2, 3, 4, 5], [3, 4, 2, 3, 4, 5]])
NUMBERS = torch.tensor([[0.5, -1, 0, 0, 0, 0], [0, 0, 1, 20, 300, 4000]], dtype=torch.float64)


def planted(**changes: Tensor) -> BoostedTrees:
    """A classifier of these tensors, as loading makes it."""
    state = BoostedTrees(3).state_dict()
    state |= {"roots_": ROOTS, "nodes_": NODES, "numbers_": NUMBERS}
    state |= {"slope_": torch.tensor(-1.0), "fitted_": torch.tensor(True)} | changes
    made = make_empty_head(state, 3)
    made.load_state_dict(state)
    assert isinstance(made, BoostedTrees)
    return made


def test_trees_that_can_be_followed_by_hand() -> None:
    rows = torch.tensor(
        [[-2.0, 0.5, 0.0], [-1.0, 0.0, 9.0], [0.0, 0.5, 0.0], [-2.0, 0.6, 0.0], [0, torch.nan, 0]],
        dtype=torch.float64,
    )
    made = planted()
    assert made.decision_function(rows)[:4].tolist() == [4001.0, 4001.0, 4300.0, 4020.0]
    assert bool(made(rows)[4].isnan())  # never an answer for what is no number


def changed(tensor: Tensor, row: int, column: int, value: float) -> Tensor:
    tensor = tensor.clone()
    tensor[row, column] = value
    return tensor


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"roots_": torch.tensor([0, 6])}, "roots point outside of 0 to 5", id="root"),
        pytest.param({"roots_": torch.tensor([-1])}, "roots point outside", id="negative-root"),
        pytest.param({"nodes_": changed(NODES, 0, 1, 3)}, "features .* 0 to 2", id="feature"),
        pytest.param({"nodes_": changed(NODES, 0, 1, -1)}, "features point outside", id="minus"),
        pytest.param({"nodes_": changed(NODES, 1, 0, 6)}, "children .* 0 to 5", id="range"),
        pytest.param({"nodes_": changed(NODES, 2, 0, -(2**63))}, "children point", id="wrap"),
        pytest.param({"nodes_": changed(NODES, 1, 1, 0)}, "have no end", id="cycle"),
        pytest.param({"nodes_": changed(NODES, 1, 1, 1)}, "have no end", id="half-a-leaf"),
        pytest.param({"numbers_": changed(NUMBERS, 0, 0, torch.nan)}, "numbers_ .*not", id="nan"),
        pytest.param({"numbers_": changed(NUMBERS, 1, 2, -torch.inf)}, "numbers_ .*not", id="leaf"),
        pytest.param({"numbers_": NUMBERS.float()}, "torch.float32", id="float32"),
        pytest.param({"numbers_": NUMBERS[:, 1:]}, "shapes and types", id="fewer-numbers"),
        pytest.param({"numbers_": NUMBERS[0]}, "shapes and types", id="one-row"),
        pytest.param({"nodes_": NODES[:2]}, r"\(2, 6\)", id="fewer-rows"),
        pytest.param({"nodes_": NODES.double()}, "torch.float64", id="no-whole-numbers"),
        pytest.param({"roots_": ROOTS[None]}, r"\(1, 2\)", id="roots-in-a-table"),
        pytest.param({"roots_": ROOTS[:0]}, "it has no tree", id="no-tree"),
        pytest.param({"model_": torch.zeros(5)}, "Unexpected key.*model_", id="text"),
    ],
)
def test_refuses_what_is_no_tree(changes: dict[str, Tensor], problem: str) -> None:
    with pytest.raises(RuntimeError, match=problem):
        planted(**changes)


def test_sizes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, limit, problem in (
        ("_MAX_TREES", 1, "T up to 1"),
        ("_MAX_NODES", 5, "K up to 5"),
        ("_MAX_DEPTH", 1, "more than 1 splits deep"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(trees, name, limit)
            with pytest.raises(RuntimeError, match=problem):
                planted()
    state = BoostedTrees(3).state_dict()
    del state["nodes_"]
    with pytest.raises(RuntimeError, match=r"Missing key.*nodes_"):
        BoostedTrees(3).load_state_dict(state)


def test_random_nodes_are_refused_or_score_numbers() -> None:
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        nodes = NODES.clone()
        for _ in range(2):
            nodes[rng.integers(3), rng.integers(6)] = int(rng.integers(-1, 7))
        try:
            made = planted(nodes_=nodes)
        except RuntimeError:
            refused += 1
            continue
        assert bool(torch.isfinite(made.decision_function(torch.zeros(2, 3))).all())
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
    assert float(planted()(torch.zeros(1, 3))) == 1.0
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
    booster = fitted._train(rows, truth)
    assert booster.num_trees() == len(fitted.roots_) == 12
    assert "[lambda_l2: 2]" in booster.model_to_string()
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
    fitted.calibrate(rows, truth)
    for name in ("roots_", "nodes_", "numbers_"):
        assert torch.equal(again.get_buffer(name), fitted.get_buffer(name))


def test_a_model_of_rows_with_holes_scores_whole_rows_as_lightgbm_does(lightgbm: Any) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 4))
    truth = (rows[:, 0] + (rng.random(300) < 0.3) > 0.2).astype(int)
    rows[rng.random(rows.shape) < 0.3] = np.nan
    settings = {"objective": "binary", "num_threads": 1, "verbosity": -1, "min_data_in_leaf": 5}
    booster = lightgbm.train(settings, lightgbm.Dataset(rows, truth), 8)
    made = BoostedTrees(4)
    made._keep(booster, rows)
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
