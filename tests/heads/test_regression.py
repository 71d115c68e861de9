"""Regression in the unit of the target."""

from __future__ import annotations

import pytest
import torch

from medssl.encoders.resnet1d import ResNet1d
from medssl.errors import ConfigError
from medssl.heads.regression import RegressionHead


def head(**arguments: object) -> RegressionHead:
    torch.manual_seed(0)
    return RegressionHead(ResNet1d(1, (4, 8), kernel=3, blocks=1), **arguments)  # type: ignore[arg-type]


def test_an_untrained_head_predicts_near_the_mean_in_the_target_s_unit() -> None:
    model = head(mean=62.0, std=1e-3).eval()
    with torch.no_grad():
        prediction = model.probabilities(model(torch.randn(5, 1, 32)))
    assert prediction.shape == (5,)
    torch.testing.assert_close(prediction, torch.full((5,), 62.0), atol=0.05, rtol=0)


@pytest.mark.parametrize("loss", ["huber", "mse", "mae"])
def test_the_loss_does_not_depend_on_the_unit(loss: str) -> None:
    """Millilitres or litres: the same loss, and the logged error in the unit itself."""
    x, y = torch.randn(4, 1, 32), torch.tensor([40.0, 50.0, 60.0, 70.0])
    in_ml, in_l = head(mean=55.0, std=10.0, loss=loss).eval(), head(mean=0.055, std=0.010, loss=loss).eval()
    a, parts_ml = in_ml.criterion(x, y)
    b, parts_l = in_l.criterion(x, y / 1000)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts_ml["mae"], parts_l["mae"] * 1000, rtol=1e-3, atol=1e-3)


def test_learns_the_amplitude_of_a_wave() -> None:
    model = head(mean=3.0, std=1.0, dropout=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    y = torch.linspace(1, 5, 32)
    x = y.view(-1, 1, 1) * torch.sin(torch.linspace(0, 25, 64))
    for _ in range(80):
        optimizer.zero_grad()
        model.criterion(x, y)[0].backward()
        optimizer.step()
    with torch.no_grad():
        assert (model(x) - y).abs().mean() < 0.4


def test_a_constant_target_and_an_unknown_loss_are_refused() -> None:
    with pytest.raises(ConfigError, match="standard deviation is 0"):
        head(std=0.0)
    with pytest.raises(ConfigError, match="huber, mae, mse"):
        head(loss="l3")
