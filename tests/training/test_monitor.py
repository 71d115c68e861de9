"""Collapse is told in plain words; healthy embeddings raise no alarm."""

from __future__ import annotations

import torch

from medssl.training.monitor import alarm, measures

N, D = 256, 32


def said(z: torch.Tensor, earlier: list[float] | None = None) -> str:
    return alarm(measures(z), earlier or [], rows=len(z), dimension=z.shape[1]) or ""


def test_healthy_embeddings_are_left_alone() -> None:
    assert said(torch.randn(N, D, generator=torch.Generator().manual_seed(0))) == ""


def test_one_embedding_for_everybody_is_complete_collapse() -> None:
    z = torch.ones(N, D) + 1e-4 * torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    assert "same embedding for every recording" in said(z)


def test_few_directions_are_dimensional_collapse() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(N, 1, generator=generator) @ torch.randn(1, D, generator=generator)
    assert "1.0 of 32 possible directions" in said(z)


def test_a_sudden_loss_of_directions_is_noticed() -> None:
    z = torch.randn(N, 8, generator=torch.Generator().manual_seed(0)) @ torch.eye(8, D)
    assert "lost half of their directions" in said(z, [25.0, 24.0, 26.0])


def test_one_dominant_direction_is_noticed() -> None:
    z = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
    z[:, 0] *= 12
    assert "one direction carries" in said(z)
