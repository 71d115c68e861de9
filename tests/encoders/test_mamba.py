"""The selective scan and the Mamba block: a reference in loops, chunks against steps, causality, kernels elsewhere."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medssl.encoders import mamba
from medssl.encoders.mamba import BidirectionalMamba, Mamba, selective_scan
from medssl.errors import ConfigError


def arguments(batch: int = 2, length: int = 23, inner: int = 3, state: int = 4, seed: int = 0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=draw)

    x, delta = normal(batch, length, inner), normal(batch, length, inner).abs()
    a = -normal(inner, state).abs()
    return [x, delta, a, normal(batch, length, state), normal(batch, length, state)]


def block(width: int = 8, *, seed: int = 0, **options: Any) -> Mamba:
    torch.manual_seed(seed)
    return Mamba(width, **options)


def test_scan_equals_the_recursion_written_out() -> None:
    x, delta, a, b, c = arguments(length=5)
    y, last = selective_scan(x, delta, a, b, c, scan="loop")
    for i in range(2):
        for e in range(3):
            h = [0.0] * 4
            for t in range(5):
                d, u = float(delta[i, t, e]), float(x[i, t, e])
                h = [math.exp(d * float(a[e, n])) * h[n] + d * u * float(b[i, t, n]) for n in range(4)]
                assert float(y[i, t, e]) == pytest.approx(sum(h[n] * float(c[i, t, n]) for n in range(4)))
            assert last[i, e].tolist() == pytest.approx(h)


@pytest.mark.parametrize("length", [1, 2, 7, 23, 50])
@pytest.mark.parametrize(("filled", "at_once"), [(10**9, 10**9), (1, 10**9), (60, 10**9), (60, 300), (1, 24)])
def test_chunks_equal_steps_in_value_and_gradient(
    length: int, filled: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As few or as many chunks side by side and pieces one after the other as there can be."""
    monkeypatch.setattr(mamba, "FILLED", {"cpu": filled})
    monkeypatch.setattr(mamba, "AT_ONCE", {"cpu": at_once})
    given = [t.requires_grad_() for t in arguments(length=length)]
    weights = torch.randn(2, length, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    found = []
    for scan in ("loop", "chunks"):
        y, last = selective_scan(*given, scan=scan)
        found.append([y, last, *torch.autograd.grad((y * weights).sum(), given)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_chunks_hold_where_products_of_decays_underflow() -> None:
    """Decays of e^-40 a step: a division by their product would be 0 / 0."""
    x, delta, a, b, c = (t.float() for t in arguments(length=300))
    delta = 5 + 20 * delta
    one, other = (selective_scan(x, delta, 8 * a - 1, b, c, scan=s)[0] for s in ("loop", "chunks"))
    assert other.isfinite().all()
    torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)


def test_long_sequences_take_chunks_and_short_ones_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []

    def noted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any) -> Any:
            taken.append(name)
            return real(*args)

        return called

    monkeypatch.setattr(mamba._Chunks, "apply", noted("chunks", mamba._Chunks.apply))
    monkeypatch.setattr(mamba, "_by_step", noted("steps", mamba._by_step))
    of = block()
    for length in (mamba.SHORT, mamba.SHORT + 1):
        of(torch.randn(1, length, 8))
    assert taken == ["steps", "chunks"]


@pytest.mark.parametrize("length", [20, 200])
def test_block_is_the_same_either_way_in_float32(length: int) -> None:
    of, x = block(16), torch.randn(2, length, 16, generator=torch.Generator().manual_seed(1))
    found = []
    for scan in ("loop", "chunks"):
        of.scan = scan
        of.zero_grad()
        y = of(x)
        y.square().sum().backward()
        found.append([y.detach(), *(p.grad for p in of.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scan", ["loop", "chunks"])
def test_block_is_causal(scan: Any) -> None:
    of, x = block(scan=scan), torch.randn(2, 40, 8)
    changed = x.clone()
    changed[:, 17] += 1.0
    with torch.no_grad():
        before, after = of(x), of(changed)
    assert torch.equal(before[:, :17], after[:, :17])
    assert all((before[:, t] != after[:, t]).any() for t in range(17, 21))  # the convolution alone sees four steps
    assert (before[:, 30:] != after[:, 30:]).any()  # and the state further


def test_without_steps_of_time_only_the_direct_path_is_left() -> None:
    of = block()
    with torch.no_grad():
        of.dt_proj.weight.zero_()
        of.dt_proj.bias.fill_(-100.0)  # Δ = 0
        u = torch.randn(2, 6, 8)
        x, z = of.in_proj(u).chunk(2, -1)
        x = functional.silu(of.conv1d(x.mT)[..., :6]).mT
        torch.testing.assert_close(of(u), of.out_proj(of.D * x * functional.silu(z)))


def test_start_of_the_weights_is_the_published_one() -> None:
    of = block(64)
    assert of.A_log.exp()[5].tolist() == pytest.approx(list(range(1, 17))) and torch.equal(of.D, torch.ones(128))
    delta = functional.softplus(of.dt_proj.bias.detach())
    assert 1e-3 * 0.99 < float(delta.min()) < 5e-3 and 0.02 < float(delta.max()) < 0.1 * 1.01
    assert float(of.dt_proj.weight.detach().abs().max()) <= of.rank**-0.5 and of.rank == 4
    names = {"A_log", "D", "in_proj.weight", "conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight"}
    assert set(of.state_dict()) == names | {"dt_proj.bias", "out_proj.weight"}


def test_one_sequence_of_one_step() -> None:
    y = block()(torch.randn(1, 1, 8))
    assert y.shape == (1, 1, 8) and y.isfinite().all()


def test_both_directions_see_the_whole_sequence() -> None:
    torch.manual_seed(0)
    of, x = BidirectionalMamba(8), torch.randn(1, 12, 8)
    with torch.no_grad():
        torch.testing.assert_close(of(x), of.onward(x) + of.against(x.flip(1)).flip(1))
        changed = x.clone()
        changed[:, -1] += 1.0
        assert all((of(x)[:, t] != of(changed)[:, t]).any() for t in range(12))


def test_states_stay_float32_under_autocast() -> None:
    of, x = block(16), torch.randn(2, 80, 16)
    exact = of(x).detach()
    for scan in ("loop", "chunks"):
        of.scan = scan
        with torch.autocast("cpu", torch.bfloat16):
            y = of(x)
            y.float().square().sum().backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in of.parameters())
        torch.testing.assert_close(y.float(), exact, rtol=0.05, atol=0.02)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        Mamba(8, kernel=0)
    with pytest.raises(ConfigError, match="loop, chunks"):
        selective_scan(*arguments(), scan="other")  # type: ignore[arg-type]


def test_the_compiled_kernel_is_looked_for_only_when_it_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU it is never asked for. Its place is taken by a stand-in of the same signature."""
    mamba._kernel.cache_clear()
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)  # importing it fails
    assert mamba._kernel() is None
    mamba._kernel.cache_clear()
    module: Any = ModuleType("mamba_ssm.ops.selective_scan_interface")
    asked: list[tuple[int, ...]] = []

    def selective_scan_fn(
        u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, z: None = None,
        delta_bias: Tensor | None = None, delta_softplus: bool = False,
    ) -> Tensor:  # fmt: skip
        assert z is None and delta_bias is not None and delta_softplus
        asked.append(tuple(u.shape))
        step = functional.softplus(delta + delta_bias.unsqueeze(1))
        return (selective_scan(u.mT, step.mT, a, b.mT, c.mT)[0] + d * u.mT).mT

    module.selective_scan_fn = selective_scan_fn
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    of, x = block(), torch.randn(2, 9, 8)
    plain = of(x)
    assert not asked
    monkeypatch.setattr(mamba, "_compiled", lambda x: True)
    torch.testing.assert_close(of(x), plain)
    assert asked == [(2, 16, 9)]
    of.scan = "chunks"
    of(x)
    assert len(asked) == 1, "a scan that is asked for by name is taken"
    mamba._kernel.cache_clear()
