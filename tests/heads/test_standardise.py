"""Features on one scale before the last layer."""

from __future__ import annotations

import pytest
import torch
from toy_heads import encoder

from medssl.heads.classification import ClassificationHead
from medssl.heads.regression import RegressionHead
from medssl.heads.standardise import Standardise


def test_as_it_is_made_it_changes_nothing() -> None:
    x = torch.randn(5, 3)
    torch.testing.assert_close(Standardise(3)(x), x)


def test_fitted_on_features_that_share_nearly_all_it_shows_where_they_differ() -> None:
    x = 50 + 1e-3 * torch.randn(200, 4, dtype=torch.float64)
    scaled = Standardise(4)
    scaled.fit(x)
    torch.testing.assert_close(scaled(x).std(0), torch.ones(4), rtol=0.02, atol=0)
    assert scaled(x).mean(0).abs().max() < 0.02


def test_a_feature_that_never_varies_becomes_zero_wherever_it_goes_later() -> None:
    x = torch.cat([torch.randn(50, 1), torch.full((50, 1), 0.1), torch.zeros(50, 1)], dim=1)
    scaled = Standardise(3)
    scaled.fit(x)
    assert (scaled(x + 1)[:, 1:] == 0).all() and scaled(x)[:, 0].std() > 0.9


def test_half_precision_does_not_lose_the_difference() -> None:
    x = 50 + 1e-3 * torch.randn(100, 2)
    scaled = Standardise(2)
    scaled.fit(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert scaled(x).dtype == torch.float32
        torch.testing.assert_close(scaled(x).std(0), torch.ones(2), rtol=0.05, atol=0)


@pytest.mark.parametrize("kind", [ClassificationHead, RegressionHead])
def test_only_heads_that_were_asked_for_it_have_it(kind: type[ClassificationHead | RegressionHead]) -> None:
    """A model of an earlier release has no such weights and loads as before."""
    plain, scaled = kind(encoder()), kind(encoder(), standardise=True)
    new = set(scaled.state_dict()) - set(plain.state_dict())
    assert new == {"standardise.mean", "standardise.scale"}
    scaled.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(3, 1, 32)
    torch.testing.assert_close(scaled.eval()(x), plain.eval()(x))
