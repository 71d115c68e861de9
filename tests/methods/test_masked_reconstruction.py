"""Hidden patches that follow from the visible ones are told: both methods learn what can be learnt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.encoders.resenc import ResEnc
from medssl.encoders.vit import ViT
from medssl.methods.masked_autoencoder import MaskedAutoencoder
from medssl.methods.masked_reconstruction import MaskedReconstruction
from medssl.methods.spark import SparK
from medssl.views.signal import SignalViews

LENGTH = 128


class AsItIs(SignalViews):
    """Windows without augmentation."""

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x


def masked_autoencoder() -> MaskedReconstruction:
    encoder = ViT(1, (LENGTH,), patch=8, width=32, depth=2, heads=2)
    return MaskedAutoencoder(
        encoder, AsItIs((LENGTH,), count=1), decoder_width=32, decoder_depth=1, decoder_heads=2, target="raw",
        ignore_background=False,
    )  # fmt: skip


def spark() -> MaskedReconstruction:
    encoder = ResEnc(1, dims=1, features=(16, 32, 32, 64), blocks=(1, 1, 1, 1), strides=(1, 2, 2, 2))
    return SparK(encoder, AsItIs((LENGTH,), count=1), mask_ratio=0.4, target="raw", ignore_background=False)


def waves(seed: int, n: int) -> dict[str, Any]:
    """A batch of sines of random frequency and phase, of which a part says all."""
    g = torch.Generator().manual_seed(seed)
    time = torch.arange(LENGTH) / LENGTH
    frequency, phase = 2 + 2 * torch.rand(n, 1, generator=g), 2 * torch.pi * torch.rand(n, 1, generator=g)
    stored = (1000 * torch.sin(2 * torch.pi * frequency * time + phase)).round().to(torch.int16)
    fields = {"input_scale": torch.full((n, 1), 1e-3), "input_offset": torch.zeros(n, 1)}
    limits = torch.tensor([[-10.0, 10.0]]).expand(n, 2)
    return {"x": stored[:, None, None], "row": torch.arange(n), "input_range": limits, **fields}


@pytest.mark.slow
@pytest.mark.parametrize(("make", "size", "steps", "lr"), [(masked_autoencoder, 32, 150, 5e-3), (spark, 16, 80, 1e-2)])
def test_what_follows_from_the_visible_is_learnt(
    make: Callable[[], MaskedReconstruction], size: int, steps: int, lr: float
) -> None:
    torch.manual_seed(0)
    of = make()
    optimizer = torch.optim.AdamW(of.parameters(), lr=lr, betas=of.optim.betas)
    explained = []
    for step in range(steps):
        of.generator.manual_seed(step)
        losses = of.loss(waves(step, size))
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        explained.append(float(losses.terms["explained"]))
    assert np.mean(explained[-10:]) > 0.3 > np.mean(explained[:3])
