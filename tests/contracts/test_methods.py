"""What every self-supervised method promises, checked on each by discovery."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from toys import Case, every_case, info

from medssl.configurable import build, discover, spec
from medssl.errors import ConfigError, MedSSLError
from medssl.methods.base import Losses, Method
from medssl.training.data import weightless

METHODS, _ = every_case()
CASES = [pytest.param(case, id=f"{name}-{which}") for name, cases in METHODS.items() for which, case in cases.items()]
everywhere = pytest.mark.parametrize("case", CASES)
FIRST = [pytest.param(next(iter(cases.values())), id=name) for name, cases in METHODS.items()]


def build_method(case: Case, seed: int = 0) -> Method:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return case.make()


def step(method: Method, batch: dict[str, Any]) -> Losses:
    method.generator.manual_seed(batch["seed"])
    return method.loss(batch)


def test_every_method_has_a_case() -> None:
    assert set(discover("medssl.methods", Method)) == set(METHODS)  # type: ignore[type-abstract]


@everywhere
def test_forward_and_backward_are_finite_and_reach_the_encoder(case: Case) -> None:
    method = build_method(case)
    losses = step(method, case.batch(method, size=4))
    losses.total.backward()
    assert losses.total.ndim == 0 and torch.isfinite(losses.total)
    assert all(torch.isfinite(t) and not t.requires_grad and t.ndim == 0 for t in losses.terms.values())
    assert losses.embeddings is not None and not losses.embeddings.requires_grad and losses.embeddings.ndim == 2
    trained = [p for p in method.parameters() if p.requires_grad]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)
    learnt = method.encoder if any(p.requires_grad for p in method.encoder.parameters()) else method.decoder_exported
    assert learnt is not None
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in learnt.parameters())


@everywhere
def test_loss_falls_on_a_toy_cohort(case: Case) -> None:
    method = build_method(case)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=method.optim.lr)
    history = []
    for position in range(40):
        losses = step(method, case.batch(method, size=6, position=6 * position))
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        history.append(float(losses.total.detach()))
    assert np.mean(history[-10:]) < np.mean(history[:10])


@everywhere
def test_batch_of_one_works_or_is_refused_in_a_sentence(case: Case) -> None:
    method = build_method(case)
    batch = case.batch(method, size=1)
    try:
        total = step(method, batch).total
    except MedSSLError as refusal:
        assert "batch" in str(refusal)
    else:
        assert torch.isfinite(total)


@everywhere
def test_bfloat16_autocast(case: Case) -> None:
    method = build_method(case)
    batch = case.batch(method, size=4)
    with torch.autocast("cpu", torch.bfloat16):
        losses = step(method, batch)
    assert losses.total.dtype == torch.float32
    losses.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


@everywhere
def test_state_dict_round_trip(case: Case) -> None:
    first, second = build_method(case, seed=0), build_method(case, seed=1)
    batch = case.batch(first, size=4)
    step(first, batch)  # moves teachers and running statistics
    second.load_state_dict(first.state_dict())
    first.eval(), second.eval()
    assert torch.equal(step(first, batch).total, step(second, batch).total)


@everywhere
def test_same_seed_gives_the_same_step_and_the_next_position_another(case: Case) -> None:
    def run(position: int) -> tuple[dict[str, Any], torch.Tensor]:
        method = build_method(case)
        batch = case.batch(method, size=4, position=position)
        drawn = {k: v for k, v in batch.items() if k != "seed"}
        return drawn, step(method, batch).total.detach()

    (drawn, loss), (drawn_again, again), (drawn_next, following) = run(0), run(0), run(4)
    assert all(torch.equal(drawn[k], drawn_again[k]) for k in drawn) and torch.equal(loss, again)
    assert any(not torch.equal(drawn[k], drawn_next[k]) for k in drawn) and not torch.equal(loss, following)


@everywhere
def test_device_randomness_depends_on_the_batch_seed_alone(case: Case) -> None:
    method = build_method(case)
    method.eval()  # running statistics would change between the two steps
    batch = case.batch(method, size=4)
    torch.manual_seed(1)
    first = step(method, batch).total
    torch.manual_seed(2)
    assert torch.equal(first, step(method, batch).total)
    assert not torch.equal(first, step(method, {**batch, "seed": 77}).total)


@everywhere
def test_draw_survives_pickling_and_needs_no_weights(case: Case) -> None:
    method = build_method(case)
    reader: Any = case.readers(1)[0]
    wanted = method.draw(reader, np.random.default_rng(3))
    travelled = pickle.loads(pickle.dumps(weightless(method)))
    found = travelled.draw(pickle.loads(pickle.dumps(reader)), np.random.default_rng(3))
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        np.testing.assert_array_equal(found[key], value)


@everywhere
def test_specification_builds_the_same_method(case: Case) -> None:
    method = build_method(case)
    again = build(spec(method), Method)  # type: ignore[type-abstract]
    assert spec(again) == spec(method)
    # buffers may hold memory of single recordings, which is made when it is known how many there are
    assert [(k, p.shape) for k, p in again.named_parameters()] == [(k, p.shape) for k, p in method.named_parameters()]
    assert again.input_size == method.input_size


@everywhere
def test_cohorts_that_do_not_fit_are_refused_before_training(case: Case) -> None:
    method = build_method(case)
    method.check(case.info)
    other = "signal" if case.kind == "volume" else "volume"
    with pytest.raises(ConfigError, match=other):
        method.check(info(other, case.channels))
    with pytest.raises(ConfigError, match="channels"):
        method.check(info(case.kind, case.channels + 3))


@pytest.mark.parametrize("case", FIRST)
def test_every_recording_stands_once_in_an_epoch(case: Case) -> None:
    import pandas as pd

    order = build_method(case).order(pd.DataFrame({"recording": list("abcdef")}), np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(6))
