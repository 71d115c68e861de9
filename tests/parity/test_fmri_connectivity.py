"""Connectivity against stored reference values of nilearn (0.14)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.views import connectivity as fc

Golden = Callable[[str], Mapping[str, np.ndarray]]
CLOSE = {"rtol": 1e-8, "atol": 1e-8}
TANGENT = {"rtol": 1e-5, "atol": 1e-5}


class Group:
    """Six subjects of four regions and 40 to 65 volumes."""

    def __init__(self, vectors: Mapping[str, np.ndarray]) -> None:
        self.vectors = vectors
        self.series = [torch.from_numpy(vectors[f"group_{s}"]).mT for s in range(6)]

    def wanted(self, name: str) -> Tensor:
        return torch.from_numpy(self.vectors[name])

    def each(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.stack([function(x) for x in self.series])


@pytest.fixture
def group(golden: Golden) -> Group:
    return Group(golden("fmri_ingest"))


COVARIANCES: dict[str, Callable[[Tensor], Tensor]] = {"emp": fc.covariance, "lw": lambda x: fc.ledoit_wolf(x)[0]}
both = pytest.mark.parametrize("kind", COVARIANCES)


def test_pearson_correlation_and_its_vector(group: Group) -> None:
    r = group.each(fc.correlation)
    torch.testing.assert_close(r, group.wanted("corr_emp"), **CLOSE)
    torch.testing.assert_close(fc.lower_triangle(r, diagonal=True), group.wanted("sym_vec_corr_emp"), **CLOSE)
    torch.testing.assert_close(fc.lower_triangle(r), group.wanted("sym_vec_corr_emp_nodiag"), **CLOSE)


def test_runs_of_different_length_in_one_batch_by_weights(group: Group) -> None:
    """What is padded with zeros does not count."""
    longest = max(x.shape[-1] for x in group.series)
    padded = torch.stack([torch.nn.functional.pad(x, (0, longest - x.shape[-1])) for x in group.series])
    torch.testing.assert_close(fc.correlation(padded), group.wanted("corr_emp"), **CLOSE)
    shrunk, share = fc.ledoit_wolf(padded)
    torch.testing.assert_close(shrunk, group.wanted("lw_covariances"), **CLOSE)
    torch.testing.assert_close(share, group.wanted("lw_shrinkage"), **CLOSE)


def test_ledoit_wolf_shrinkage(group: Group) -> None:
    torch.testing.assert_close(group.each(lambda x: fc.ledoit_wolf(x)[0]), group.wanted("lw_covariances"), **CLOSE)
    torch.testing.assert_close(group.each(lambda x: fc.ledoit_wolf(x)[1]), group.wanted("lw_shrinkage"), **CLOSE)


def test_shrunk_correlation_of_standardised_series(group: Group) -> None:
    def shrunk(x: Tensor) -> Tensor:
        c = fc.ledoit_wolf((x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True))[0]
        scale = c.diagonal().rsqrt()
        return c * scale * scale.unsqueeze(1)

    torch.testing.assert_close(group.each(shrunk), group.wanted("corr_lw"), **CLOSE)


@both
def test_partial_correlation(kind: str, group: Group) -> None:
    found = group.each(lambda x: fc.partial_correlation(COVARIANCES[kind](x)))
    torch.testing.assert_close(found, group.wanted(f"partial_{kind}"), **CLOSE)


@both
def test_tangent_space_at_the_mean_of_the_training_subjects(kind: str, group: Group) -> None:
    covariances = group.each(COVARIANCES[kind])
    reference = fc.tangent_reference(covariances[:5])
    torch.testing.assert_close(reference, group.wanted(f"tangent_mean_{kind}"), **TANGENT)
    torch.testing.assert_close(fc.tangent(covariances[:5], reference), group.wanted(f"tangent_{kind}"), **TANGENT)
    new = group.wanted(f"tangent_new_subjects_{kind}")
    torch.testing.assert_close(fc.tangent(covariances[4:], reference), new, **TANGENT)
