"""What training asks of every encoder beside its features: seeds, precision, memory layout, other processes.

``tests/encoders/test_encoders.py`` holds the examples, and the contract of ``forward`` itself.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.configurable import build, discover, spec
from medssl.encoders.base import Encoder, with_channels
from medssl.training.fitting import to_channels_last


def examples() -> dict[str, Any]:
    file = Path(__file__).resolve().parent.parent / "encoders" / "test_encoders.py"
    found = importlib.util.spec_from_file_location("encoder_examples", file)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    every: dict[str, Any] = module.EXAMPLES
    return every


EXAMPLES = examples()
ENCODERS = discover("medssl.encoders", Encoder)
everywhere = pytest.mark.parametrize("name", sorted(ENCODERS))


def make(name: str, seed: int = 0) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build({"class_path": name, "init_args": EXAMPLES[name].arguments}, Encoder)  # type: ignore[type-abstract]


def batch(name: str, size: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(size, *EXAMPLES[name].shape, generator=torch.Generator().manual_seed(seed))


def test_every_encoder_has_an_example() -> None:
    assert set(ENCODERS) == set(EXAMPLES)


@everywhere
def test_the_seed_alone_decides_the_weights_and_the_answer(name: str) -> None:
    one, same, other = make(name), make(name), make(name, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    x = batch(name)
    with torch.no_grad():
        assert torch.equal(one.eval()(x).pooled, same.eval()(x).pooled)
        assert not torch.equal(one(x).pooled, other.eval()(x).pooled)


@everywhere
def test_its_specification_can_be_built_for_another_number_of_channels(name: str) -> None:
    wider = build(with_channels(spec(make(name)), EXAMPLES[name].shape[0] + 1), Encoder)  # type: ignore[type-abstract]
    assert wider.in_channels == EXAMPLES[name].shape[0] + 1
    assert wider.eval()(torch.zeros(2, wider.in_channels, *EXAMPLES[name].shape[1:])).pooled.isfinite().all()


@everywhere
def test_asked_twice_it_answers_the_same(name: str) -> None:
    encoder, x = make(name).eval(), batch(name)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    with torch.no_grad():
        torch.manual_seed(1)
        first = encoder(x)
        torch.manual_seed(2)
        again = encoder(x)
    assert torch.equal(first.pooled, again.pooled)
    assert all(torch.equal(a, b) for a, b in zip(first.maps, again.maps, strict=True))
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items()), "evaluation changes its state"


@everywhere
def test_training_with_one_seed_repeats_exactly(name: str) -> None:
    def gradients() -> list[Tensor]:
        encoder = make(name).train()
        torch.manual_seed(3)
        encoder(batch(name)).pooled.square().sum().backward()
        return [p.grad for p in encoder.parameters() if p.grad is not None]

    assert all(torch.equal(a, b) for a, b in zip(gradients(), gradients(), strict=True))


@everywhere
def test_batch_of_one_trains(name: str) -> None:
    encoder = make(name).train()
    features = encoder(batch(name, size=1))
    (features.pooled.square().sum() + sum(m.float().square().sum() for m in features.maps)).backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)


@everywhere
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_constant_input_stays_finite(name: str, value: float) -> None:
    """A lead that fell off, air around a body: every cohort has such windows."""
    encoder = make(name).train()
    features = encoder(torch.full((2, *EXAMPLES[name].shape), value))
    features.pooled.square().sum().backward()
    assert features.pooled.isfinite().all()
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)


def bfloat16_gradients_are_finite(encoder: Encoder, x: torch.Tensor) -> bool:
    """Whether a backward pass gave finite gradients.

    torch's CPU kernel for the weight gradient of 3-D convolutions in bfloat16 gives non-finite numbers now and then on
    maps of a few voxels (8 of 60 identical passes of SwinUNETREncoder here; the next pass is finite again). Training
    skips such steps (GradientGuard). Any other weight must always have a finite gradient.
    """
    encoder.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = encoder(x).pooled
    pooled.square().sum().backward()
    bad = [p for p in encoder.parameters() if p.grad is not None and not p.grad.isfinite().all()]
    assert all(p.ndim == 5 for p in bad)
    return not bad


@everywhere
def test_bfloat16_autocast_gives_finite_gradients_close_to_float32(name: str) -> None:
    encoder, x = make(name).eval(), batch(name)
    exact = encoder(x).pooled.detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = encoder(x)
    assert features.pooled.dtype == torch.float32
    assert all(m.isfinite().all() for m in features.maps)
    assert any(bfloat16_gradients_are_finite(encoder, x) for _ in range(8)), "never finite: not the kernel's fault"
    cosine = torch.nn.functional.cosine_similarity(features.pooled.detach(), exact, dim=1)
    assert (cosine > 0.9).all(), cosine  # norms over maps of two voxels, as Swin has here, enlarge the rounding


@everywhere
def test_the_memory_layout_does_not_change_the_answer(name: str) -> None:
    encoder, x = make(name).eval(), batch(name)
    if encoder.dims != 3:
        pytest.skip("channels_last_3d is for volumes")
    with torch.no_grad():
        plain = encoder(x).pooled
        to_channels_last(encoder)  # volume encoders may hold 2-D convolutions
        moved = encoder(x.to(memory_format=torch.channels_last_3d)).pooled
    torch.testing.assert_close(moved, plain, rtol=1e-2, atol=1e-3)


@everywhere
def test_a_step_of_the_optimiser_changes_the_answer_and_lowers_the_loss(name: str) -> None:
    encoder, x = make(name).train(), batch(name, size=4)
    head = torch.nn.Linear(encoder.out_dim, 1)
    torch.nn.init.constant_(head.weight, 1 / encoder.out_dim)
    target = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=3e-3)
    history = []
    for _ in range(12):
        torch.manual_seed(0)
        loss = (head(encoder(x).pooled) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert min(history[-3:]) < 0.9 * history[0], history


def _answer(encoder: Encoder, x: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    torch.set_num_threads(1)
    with torch.no_grad():
        return spec(encoder), encoder.eval()(torch.from_numpy(x)).pooled.numpy()


def test_a_spawned_process_gets_every_encoder_as_it_is() -> None:
    work = [(make(name), batch(name).numpy()) for name in sorted(ENCODERS)]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.starmap(_answer, work)
    for (encoder, x), (written, pooled) in zip(work, there, strict=True):
        assert spec(build(written, Encoder)) == spec(encoder)  # type: ignore[type-abstract]
        np.testing.assert_allclose(pooled, _answer(encoder, x)[1], rtol=1e-4, atol=1e-5)
