"""Hidden time steps: how many, where, and from which generator."""

from __future__ import annotations

import pytest
import torch

from medssl.errors import ConfigError
from medssl.objectives.step_masks import StepMask, check_mask, segments_kept, step_mask


def drawn(kind: StepMask, n: int = 2000, steps: int = 50, seed: int = 0) -> torch.Tensor:
    mask = step_mask(kind, n, steps, torch.Generator().manual_seed(seed))
    assert mask is not None and mask.shape == (n, steps) and mask.dtype == torch.bool
    return mask


def test_shares_of_what_is_kept() -> None:
    assert step_mask("none", 2, 5, torch.Generator()) is None
    assert drawn("binomial").float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert drawn("last").sum().item() == 2000 * 49 and not drawn("last")[:, -1].any()
    kept = drawn("continuous")
    assert kept.float().mean().item() == pytest.approx(0.6, abs=0.02)  # five segments of a tenth, which may overlap
    assert kept.sum(1).min() >= 25


def test_hidden_steps_stand_in_segments() -> None:
    mask = segments_kept(torch.tensor([[0, 1, 7], [3, 3, 3]]), 2, 9)
    assert mask.int().tolist() == [[0, 0, 0, 1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 1, 1, 1, 1]]
    edges = drawn("continuous").float().mean(0)
    assert edges[0] > edges[25] and edges[-1] > edges[25], "starts are uniform, so the middle is hidden more often"


@pytest.mark.parametrize("kind", ["binomial", "continuous"])
def test_every_sequence_is_masked_for_itself_and_from_the_generator_alone(kind: StepMask) -> None:
    torch.manual_seed(1)
    first = drawn(kind)
    torch.manual_seed(2)
    assert torch.equal(first, drawn(kind)) and not torch.equal(first, drawn(kind, seed=1))
    assert len(first[:100].unique(dim=0)) > 90


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_short_sequences(steps: int) -> None:
    mask = drawn("continuous", 50, steps)
    assert (mask.sum(1) == steps - 1).all()  # one segment of one step


def test_unknown_masks_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"id_mask is one of none, continuous, .*not 'half'"):
        check_mask("id_mask", "half")
