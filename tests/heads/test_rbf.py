"""The Gaussian SVM against scikit-learn's, through a saved file, and files that are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.svm import SVC

from deepfake.errors import JobError, UsageError
from deepfake.heads import HeadName, base, make_empty_head, make_head
from deepfake.heads import rbf as kernel
from deepfake.heads.calibration import make_folds
from deepfake.heads.rbf import GaussianSVM
from tests.made_embeddings import draw, reload


@pytest.mark.parametrize("grouped", [False, True], ids=["by-row", "by-group"])
@pytest.mark.parametrize(
    ("n_real", "n_fake", "dim", "c"),
    [
        pytest.param(60, 60, 8, 2.0, id="even"),
        pytest.param(90, 20, 8, 0.1, id="unequal"),
        pytest.param(40, 40, 64, 2.0, id="wide"),
    ],
)
def test_equals_scikit_learn(n_real: int, n_fake: int, dim: int, c: float, grouped: bool) -> None:
    rows, truth = draw(n_real, n_fake, dim)
    groups = [f"g{i // 2}" for i in range(len(truth))] if grouped else None
    machine = SVC(C=c, gamma="scale")
    oracle = CalibratedClassifierCV(machine, ensemble=False, cv=list(make_folds(truth, groups)))
    oracle.fit(rows, truth)
    fitted = make_head("rbf", dim, c).fit(rows, truth, groups)
    fresh, _ = draw(50, 51, dim)
    for queries in (rows, fresh, 3 * fresh):
        decisions = machine.fit(rows, truth).decision_function(queries)
        expected = oracle.predict_proba(queries)[:, 1]
        for classifier in (fitted, reload(fitted)):
            given = torch.from_numpy(queries)
            np.testing.assert_allclose(
                classifier.decision_function(given).numpy(), decisions, 0, 1e-6
            )
            p_fake = classifier(given)
            assert (p_fake.dtype, tuple(p_fake.shape)) == (torch.float64, (len(queries),))
            np.testing.assert_allclose(p_fake.numpy(), expected, rtol=0, atol=1e-6)


def test_it_parts_what_no_plane_can() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 2))
    truth = (np.linalg.norm(rows, axis=1) > 1.1).astype(np.int64)
    shares = []
    heads: tuple[HeadName, HeadName] = ("rbf", "svm")
    for head in heads:
        p_fake = make_head(head, 2, 2.0).fit(rows, truth)(rows_of(rows)).numpy()
        shares.append(((p_fake > 0.5) == truth).mean())
    assert shares[0] > 0.9 > 0.8 > shares[1]


def rows_of(rows: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(rows)


def test_float32_embeddings_are_kept_as_they_are() -> None:
    rows, truth = draw(40, 40)
    narrow = rows.astype(np.float32)
    one = GaussianSVM(8).fit(narrow, truth)
    other = GaussianSVM(8).fit(narrow.astype(np.float64), truth)
    assert (one.support_.dtype, other.support_.dtype) == (torch.float32, torch.float64)
    assert torch.equal(one(rows_of(narrow)), other(rows_of(narrow)))
    assert reload(one).support_.dtype == torch.float32


def test_memory_is_bounded_by_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, truth = draw(50, 50)
    fitted = GaussianSVM(8).fit(rows, truth)
    whole = fitted(rows_of(rows))
    sizes = []
    decide = GaussianSVM.decision_function

    def watch(self: GaussianSVM, embeddings: torch.Tensor) -> torch.Tensor:
        sizes.append(len(embeddings) * len(self.support_))
        return decide(self, embeddings)

    monkeypatch.setattr(GaussianSVM, "decision_function", watch)
    monkeypatch.setattr(base, "_NUMBERS_AT_ONCE", 1000)
    torch.testing.assert_close(fitted(rows_of(rows)), whole, rtol=0, atol=1e-12)
    assert len(sizes) > 5
    assert max(sizes) <= 1000
    assert fitted(torch.zeros(0, 8)).shape == (0,)


def test_calibrate_and_fitting_again() -> None:
    rows, truth = draw(60, 60)
    fitted = GaussianSVM(8).fit(rows, 1 - truth).fit(rows, truth)
    again = GaussianSVM(8).fit(rows, truth)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in fitted.state_dict().items())
    support = fitted.support_.clone()
    before = fitted(rows_of(rows))
    fitted.calibrate(rows[::2], truth[::2])
    assert torch.equal(fitted.support_, support)
    assert not torch.equal(fitted(rows_of(rows)), before)


def test_more_rows_than_can_be_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UsageError, match=r"head rbf on 30001 rows would take hours .*svm"):
        GaussianSVM(8).check_fit(kernel.MAX_ROWS + 1)
    monkeypatch.setattr(kernel, "MAX_ROWS", 79)
    with pytest.raises(UsageError, match="79 are the most that it takes"):
        GaussianSVM(8).fit(*draw(40, 40))
    monkeypatch.setattr(kernel, "MAX_ROWS", 80)
    monkeypatch.setattr(kernel, "_SLOW_ROWS", 79)
    with caplog.at_level("INFO"):
        GaussianSVM(8).fit(*draw(40, 40))
    assert "head rbf on 80 rows" in caplog.text


@pytest.mark.parametrize("noise", [0.0, 1e-8], ids=["equal", "rounding"])
def test_a_collapsed_network_is_said(noise: float) -> None:
    rng = np.random.default_rng(0)
    rows = np.full((20, 8), 8**-0.5) + noise * rng.normal(size=(20, 8))
    with pytest.raises(JobError, match=r"20 embeddings are all alike .* the network"):
        GaussianSVM(8).fit(rows, np.arange(20) % 2)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"support_": torch.zeros(3, 9)}, r"\(3, 9\) .*expected \(M, 8\)", id="w"),
        pytest.param({"support_": torch.zeros(8)}, r"support_ has shape \(8,\)", id="flat"),
        pytest.param({"support_": torch.zeros(3, 8).long()}, "type torch.int64", id="type"),
        pytest.param({"support_": torch.zeros(31, 8)}, "with M up to 30", id="long"),
        pytest.param({"support_": torch.full((3, 8), torch.nan)}, "support_ .*not", id="nan"),
        pytest.param({"dual_": torch.tensor([torch.inf])}, "dual_ .*not finite", id="inf"),
        pytest.param({"dual_": torch.zeros(2)}, r"dual_ \(2,\); expected", id="fewer"),
        pytest.param({"gamma_": torch.tensor(0.0)}, "gamma_ is 0.0; expected", id="gamma"),
        pytest.param({"gamma_": torch.ones(2)}, "size mismatch for gamma_", id="gammas"),
        pytest.param(
            {"support_": torch.zeros(0, 8), "dual_": torch.zeros(0)}, "has 0 support", id="none"
        ),
        pytest.param({"dual_": None}, "Missing key.*dual_", id="missing"),
        pytest.param({"weight_": torch.zeros(8)}, "Unexpected key.*weight_", id="two-heads"),
    ],
)
def test_refuses_nonsense_from_a_file(
    changes: dict[str, Any], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "MAX_ROWS", 30)
    state = GaussianSVM(8).fit(*draw(15, 15)).state_dict() | changes
    state = {name: value for name, value in state.items() if value is not None}
    fresh = make_empty_head(state, 8)
    with pytest.raises(RuntimeError, match=problem):
        fresh.load_state_dict(state)


def test_an_unfitted_state_can_be_read_but_not_asked() -> None:
    with pytest.raises(JobError, match="not fitted"):
        reload(GaussianSVM(8))(torch.zeros(1, 8))
