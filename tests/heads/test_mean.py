"""The mean of several heads, each of its own part."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from deepfake.errors import JobError
from deepfake.heads import LinearSVM, MeanHead, make_head
from tests.made_embeddings import draw


def test_each_head_sees_its_own_part_and_the_mean_counts() -> None:
    first, second = (make_head("svm", width, 2.0).fit(*draw(30, 30, width)) for width in (8, 5))
    parts = [F.normalize(torch.randn(9, width)) for width in (8, 5)]
    mean = MeanHead([first, second]).eval()
    joined = torch.cat(parts, dim=1) / 2**0.5
    expected = (first(parts[0]) + second(parts[1])) / 2
    torch.testing.assert_close(mean(joined), expected, rtol=0, atol=1e-6)
    decisions = mean.decision_function(joined)
    torch.testing.assert_close(torch.sigmoid(decisions), expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"expected \(N, 13\)"):
        mean(parts[0])


def test_it_jumps_where_one_of_them_does() -> None:
    trees = make_head("gbm", 8, 2.0)
    assert MeanHead([LinearSVM(8), trees]).piecewise
    assert not MeanHead([LinearSVM(8), LinearSVM(8)]).piecewise


def test_it_is_not_fitted_as_a_whole() -> None:
    with pytest.raises(JobError, match="fit each by itself"):
        MeanHead([LinearSVM(4), LinearSVM(4)]).fit(*draw(10, 10, 8))
