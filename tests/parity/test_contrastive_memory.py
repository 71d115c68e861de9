"""Contrastive objectives with heads or memory of their own against stored reference values (float64)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.objectives.adaptive_heads import Form, amcl
from medssl.objectives.hard_mixing import Mixing, hardest_keys, mixed_similarity, mochi
from medssl.objectives.individual_temperature import SampleMemory, isogclr_step

Golden = Callable[[str], Mapping[str, np.ndarray]]
CLOSE = 1e-10


@pytest.fixture
def vectors(golden: Golden) -> Mapping[str, np.ndarray]:
    return golden("contrastive_objectives")


def tensors(vectors: Mapping[str, np.ndarray], *names: str) -> list[Tensor]:
    return [torch.from_numpy(np.asarray(vectors[name])) for name in names]


def cases(vectors: Mapping[str, np.ndarray], pattern: str) -> list[str]:
    """What the group of the pattern matches, over all keys."""
    found = sorted({m.group(1) for key in vectors if (m := re.fullmatch(pattern, key))})
    assert found, f"no key like {pattern} in the file"
    return found


@pytest.mark.parametrize(("form", "prefix"), [("hard", "amcl"), ("soft", "amcl_soft")])
def test_adaptive_heads(vectors: Mapping[str, np.ndarray], form: Form, prefix: str) -> None:
    given = tensors(vectors, "amcl_za", "amcl_zb", "amcl_tau_pos", "amcl_tau_neg")
    for beta in cases(vectors, rf"{prefix}_beta([\d.]+)_loss"):
        found = amcl(*given, beta=float(beta), form=form)
        assert found.item() == pytest.approx(vectors[f"{prefix}_beta{beta}_loss"].item(), abs=CLOSE, rel=CLOSE)


def steps(vectors: Mapping[str, np.ndarray], run: str) -> list[int]:
    return sorted(int(s) for s in cases(vectors, rf"isog_{run}_step(\d+)_loss"))


def test_individual_temperature_over_consecutive_steps(vectors: Mapping[str, np.ndarray]) -> None:
    for run in cases(vectors, r"isog_(\w+)_hp"):
        rho, gamma, beta, eta, start, low, high, clip = (float(x) for x in vectors[f"isog_{run}_hp"])
        samples = len(vectors[f"isog_{run}_step0_s"])
        # the published code makes its memory in float32 and computes on in float64
        tau = torch.full((samples,), np.float64(np.float32(start)), dtype=torch.float64)
        memory = SampleMemory(torch.full_like(tau, -torch.inf), torch.zeros_like(tau), tau)
        for step in steps(vectors, run):
            key = f"isog_{run}_step{step}"
            index, features = tensors(vectors, f"{key}_idx", f"{key}_feat")
            assert memory.tau[index].mean().item() == pytest.approx(vectors[f"{key}_avg_tau"].item(), abs=CLOSE)
            features.requires_grad_()
            # steps 0 and 1 are of the first epoch, in which the published code forgets what it knew of a sample
            first = torch.full((len(index),), step < 2)
            loss, after = isogclr_step(
                features.transpose(0, 1), SampleMemory(*(kept[index] for kept in memory)), first,
                rho=rho, gamma=gamma, beta=beta, eta=eta, low=low, high=high, clip=clip,
            )  # fmt: skip
            loss.backward()
            for kept, new in zip(memory, after, strict=True):
                kept[index] = new
            assert loss.item() == pytest.approx(vectors[f"{key}_loss"].item(), abs=CLOSE)
            assert features.grad is not None
            np.testing.assert_allclose(features.grad.numpy(), vectors[f"{key}_g"], atol=CLOSE)
            for found, name in ((memory.log_s.exp(), "s"), (memory.u, "u"), (memory.tau, "tau")):
                np.testing.assert_allclose(found.numpy(), vectors[f"{key}_{name}"], rtol=CLOSE, atol=CLOSE)


def test_queue_of_keys(vectors: Mapping[str, np.ndarray]) -> None:
    query, key, queue = tensors(vectors, "mochi_query", "mochi_key", "mochi_queue")
    for temperature in cases(vectors, r"moco_t([\d.]+)_loss"):
        found = mochi(query, key, queue, temperature=float(temperature))
        assert found.item() == pytest.approx(vectors[f"moco_t{temperature}_loss"].item(), abs=CLOSE)


def test_hard_mixing(vectors: Mapping[str, np.ndarray]) -> None:
    query, key, queue = tensors(vectors, "mochi_query", "mochi_key", "mochi_queue")
    mixing = Mixing(*tensors(vectors, "mochi_i", "mochi_j", "mochi_alpha", "mochi_k", "mochi_beta"))
    hardest = int(vectors["mochi_n_hard"])
    for temperature in cases(vectors, r"mochi_t([\d.]+)_loss"):
        found = mochi(query, key, queue, temperature=float(temperature), hardest=hardest, mixing=mixing)
        assert found.item() == pytest.approx(vectors[f"mochi_t{temperature}_loss"].item(), abs=CLOSE)


def test_similarity_to_synthetic_negatives_that_are_never_made(vectors: Mapping[str, np.ndarray]) -> None:
    query, queue = (torch.nn.functional.normalize(x, dim=-1) for x in tensors(vectors, "mochi_query", "mochi_queue"))
    made = torch.cat(tensors(vectors, "mochi_h1", "mochi_h2"), dim=1)
    mixing = Mixing(*tensors(vectors, "mochi_i", "mochi_j", "mochi_alpha", "mochi_k", "mochi_beta"))
    similarity = query @ queue.T
    hardest = hardest_keys(similarity, torch.ones_like(similarity, dtype=torch.bool), int(vectors["mochi_n_hard"]))
    found = mixed_similarity(query, similarity, queue, hardest, mixing)
    np.testing.assert_allclose(found.numpy(), torch.einsum("nd,nsd->ns", query, made).numpy(), atol=CLOSE)
