"""RedundancyReduction: its head, and how inputs are mixed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import collate, signal, signal_encoder

from medssl.errors import ConfigError
from medssl.methods.redundancy_reduction import RedundancyReduction, mix
from medssl.objectives.barlow_twins import BarlowTwins, MixedBarlowTwins
from medssl.objectives.distillation import BYOL
from medssl.views.signal import SignalViews


def method(**options: Any) -> RedundancyReduction:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RedundancyReduction(signal_encoder(), SignalViews((128,)), **({"projector": (16, 8)} | options))


def batch(of: RedundancyReduction, count: int = 4, seed: int = 0) -> dict[str, Any]:
    samples = [of.draw(signal(i), np.random.default_rng(i)) for i in range(count)]  # type: ignore[arg-type]
    return collate(samples, seed=seed)


def inputs(of: RedundancyReduction, drawn: dict[str, Any]) -> tuple[list[Tensor], dict[str, Any]]:
    """What the encoder and the objective get."""
    encoded: list[Tensor] = []
    given: dict[str, Any] = {}
    hooks = [
        of.encoder.register_forward_pre_hook(lambda _m, args: encoded.append(args[0])),
        of.objective.register_forward_pre_hook(lambda _m, _a, known: given.update(known), with_kwargs=True),
    ]
    of.generator.manual_seed(drawn["seed"])
    of.loss(drawn)
    for hook in hooks:
        hook.remove()
    return encoded, given


def test_the_head_has_three_layers_and_no_last_bias() -> None:
    linear = [m for m in method().projector.modules() if isinstance(m, nn.Linear)]
    assert len(linear) == 3 and linear[-1].bias is None


def test_mixed_inputs_are_made_of_the_first_two_views() -> None:
    views = torch.arange(24.0).view(3, 4, 1, 2)
    order, share = torch.tensor([2, 0, 3, 1]), torch.tensor([0.0, 0.25, 0.5, 1.0])
    mixed = mix(views, order, share)
    for i in range(4):
        torch.testing.assert_close(mixed[i], share[i] * views[0, i] + (1 - share[i]) * views[1, order[i]])


def test_objectives_that_ask_for_it_get_the_mixture_in_a_pass_of_its_own() -> None:
    of = method()
    assert isinstance(of.objective, MixedBarlowTwins)
    encoded, given = inputs(of, batch(of))
    assert [len(x) for x in encoded] == [8, 4]
    mixture = given["mixture"]
    views = encoded[0].unflatten(0, (2, 4))
    torch.testing.assert_close(encoded[1], mix(views, mixture.order, mixture.share))
    assert sorted(mixture.order.tolist()) == [0, 1, 2, 3]
    assert len(set(mixture.share.tolist())) == 1 and 0 <= mixture.share[0] <= 1
    assert mixture.embeddings.requires_grad and mixture.embeddings.shape == (4, 8)

    encoded, given = inputs(method(objective=BarlowTwins()), batch(of))
    assert [len(x) for x in encoded] == [8] and given["mixture"] is None


def test_partners_and_shares_follow_the_seed_of_the_batch() -> None:
    of = method()
    drawn = [inputs(of, batch(of, 8, seed))[1]["mixture"] for seed in (0, 0, 1)]
    assert torch.equal(drawn[0].order, drawn[1].order) and torch.equal(drawn[0].share, drawn[1].share)
    assert not torch.equal(drawn[0].order, drawn[2].order) and not torch.equal(drawn[0].share, drawn[2].share)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="distillation family"):
        method(objective=BYOL())
    of = method()
    with pytest.raises(ConfigError, match="raise the batch size"):
        of.loss(batch(of, 1))
