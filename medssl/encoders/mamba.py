"""The Mamba block (Gu and Dao, 2023) in plain torch: a selective state-space layer over the steps of a sequence."""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from medssl.errors import ConfigError

__all__ = ["BidirectionalMamba", "Mamba", "Scan", "selective_scan"]

Scan = Literal["auto", "loop", "chunks"]
"""Step by step; in chunks; or whichever is faster for the length (on a GPU mamba-ssm's kernel, where installed)."""

SHORT = 64  # steps up to which "auto" goes step by step
AT_ONCE = {"cpu": 2**18, "cuda": 2**26}  # states (steps · B · E · N) that lie in memory at once: what a cache holds
FILLED = {"cpu": 2**13, "cuda": 2**20}  # numbers that an operation must have before it is worth its start


def selective_scan(
    x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, *, scan: Scan = "auto"
) -> tuple[Tensor, Tensor]:
    """The selective state-space recursion, in at least float32.

    ``h_t = exp(Δ_t A) ⊙ h_{t-1} + (Δ_t x_t) B_tᵀ`` and ``y_t = h_t C_t``, with h = 0 before the first step.

    Args:
        x: (B, L, E).
        delta: Δ (B, L, E), above 0.
        a: A (E, N), below 0.
        b: (B, L, N).
        c: (B, L, N).
        scan: see ``Scan``. Chunks keep no states for the backward pass but compute them again.

    Returns:
        y (B, L, E), and the last state (B, E, N); with chunks the latter has no gradient.

    Raises:
        ConfigError: an unknown scan.
    """
    if scan not in get_args(Scan):
        raise ConfigError(f"a scan is one of {', '.join(get_args(Scan))}, not '{scan}'")
    wanted = torch.promote_types(x.dtype, torch.float32)
    x, delta, a, b, c = (t.to(wanted) for t in (x, delta, a, b, c))
    if scan == "loop" or (scan == "auto" and x.shape[1] <= SHORT):
        return _by_step(x, delta, a, b, c)
    steps = [t.transpose(0, 1).contiguous() for t in (delta, delta * x, b, c)]
    y, last = _Chunks.apply(a, *steps)
    return y.transpose(0, 1), last


def _by_step(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    state = x.new_zeros(x.shape[0], *a.shape)
    outputs = []
    for x_t, delta_t, b_t, c_t in zip(*(t.unbind(1) for t in (x, delta, b, c)), strict=True):
        state = torch.exp(delta_t.unsqueeze(-1) * a) * state + (delta_t * x_t).unsqueeze(-1) * b_t.unsqueeze(1)
        outputs.append((state * c_t.unsqueeze(1)).sum(-1))
    return torch.stack(outputs, 1), state


class _Chunks(torch.autograd.Function):
    """The scan with steps first, a piece of the sequence at a time; of the states only those between pieces are kept.

    Backwards, with g_t the gradient of state t through all that follows, g_t = C_t dy_tᵀ + exp(Δ_{t+1} A) g_{t+1}: the
    same recursion from the end.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, delta: Tensor, inputs: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        decay, states = _buffers(delta, a, 2)
        starts, outputs = [states[0].zero_().clone()], torch.empty_like(delta)
        for piece in _pieces(delta, a):
            h = _states(a, delta[piece], inputs[piece], b[piece], starts[-1], decay, states)
            _rows(c[piece], h.mT, outputs[piece])
            starts.append(h[-1].clone())
        ctx.save_for_backward(a, delta, inputs, b, c, *starts[:-1])
        ctx.mark_non_differentiable(starts[-1])
        return outputs, starts[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        a, delta, inputs, b, c, *starts = ctx.saved_tensors
        given = gradients[0].contiguous()
        decay, states, through = _buffers(delta, a, 3)
        later = torch.zeros_like(starts[0])
        grad_a, grads = torch.zeros_like(a), [torch.empty_like(t) for t in (delta, inputs, b, c)]
        for piece, start in zip(reversed(_pieces(delta, a)), reversed(starts), strict=True):
            h = _states(a, delta[piece], inputs[piece], b[piece], start, decay, states)
            count = len(h)
            g = torch.mul(given[piece].unsqueeze(-1), c[piece].unsqueeze(2), out=through[:count])
            g[-1] += later
            _scan_(decay[1 : count + 1], g, backwards=True)
            later = decay[0] * g[0]
            _rows(given[piece], h, grads[3][piece])
            _rows(inputs[piece], g, grads[2][piece])
            _rows(b[piece], g.mT, grads[1][piece])
            g.mul_(decay[:count]).mul_(states[:count])  # now of Δ A; states[t] is the one before step t
            torch.sum(torch.mul(g, a, out=decay[:count]), -1, out=grads[0][piece])
            grad_a += g.mul_(delta[piece].unsqueeze(-1)).sum((0, 1))
        return grad_a, *grads


def _rows(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Row vectors (..., I) times matrices (..., I, J); the other way round takes ten times as long on a CPU."""
    with torch.autocast(left.device.type, enabled=False):
        torch.matmul(left.unsqueeze(-2), right, out=out.unsqueeze(-2))


def _pieces(delta: Tensor, a: Tensor) -> list[slice]:
    """Stretches of steps that are worked on at once."""
    size = max(1, AT_ONCE.get(delta.device.type, AT_ONCE["cpu"]) // (delta[0].numel() * a.shape[1]))
    return [slice(start, min(start + size, len(delta))) for start in range(0, len(delta), size)]


def _buffers(delta: Tensor, a: Tensor, count: int) -> list[Tensor]:
    """Room for the states of a piece and one more, (steps + 1, B, E, N) each."""
    longest = _pieces(delta, a)[0].stop + 1
    return [delta.new_zeros(longest, *delta.shape[1:], a.shape[1]) for _ in range(count)]


def _states(
    a: Tensor, delta: Tensor, inputs: Tensor, b: Tensor, start: Tensor, decay: Tensor, states: Tensor
) -> Tensor:
    """The states (steps, B, E, N) of a piece, written to ``states[1:]`` after ``start``; decays to ``decay``."""
    count = len(delta)
    torch.mul(delta.unsqueeze(-1), a, out=decay[:count]).exp_()
    states[0] = start
    h = torch.mul(inputs.unsqueeze(-1), b.unsqueeze(2), out=states[1 : count + 1])
    h[0].addcmul_(decay[0], start)
    _scan_(decay[:count], h)
    return h


def _scan_(decay: Tensor, states: Tensor, *, backwards: bool = False) -> None:
    """``states[t] += decay[t] · states[t - 1]`` in place, from the second step on; ``t + 1`` from the end backwards.

    Where a step is too small to keep the device busy, up to √L chunks run side by side from 0; then the last states are
    handed on from chunk to chunk, weakened by what the next chunk decays. There is no division by products of decays,
    which underflow.
    """
    wanted = FILLED.get(states.device.type, FILLED["cpu"]) // states[0].numel()
    count = max(1, min(math.isqrt(len(states)), wanted))
    done = len(states) // count * count
    order = slice(None, None, -1 if backwards else 1)
    if count > 1:
        part = slice(len(states) - done, None) if backwards else slice(0, done)
        _side_by_side_(decay[part].unflatten(0, (count, -1)), states[part].unflatten(0, (count, -1)), order)
    first = done if count > 1 else 1
    weights, values = decay.unbind(0)[order], states.unbind(0)[order]
    for step in range(first, len(values)):
        values[step].addcmul_(weights[step], values[step - 1])


def _side_by_side_(decay: Tensor, states: Tensor, order: slice) -> None:
    """The same for chunks that follow each other: (chunks, steps, ...)."""
    weights, values = decay.clone().unbind(1)[order], states.unbind(1)[order]
    for step in range(1, len(values)):
        values[step].addcmul_(weights[step], values[step - 1])
        weights[step].mul_(weights[step - 1])  # what is left, at this step, of a state before the chunk
    ends, through = values[-1].unbind(0)[order], weights[-1].unbind(0)[order]
    for chunk in range(1, len(ends)):
        ends[chunk].addcmul_(through[chunk], ends[chunk - 1])
    later, before = (slice(0, -1), slice(1, None)) if order.step == -1 else (slice(1, None), slice(0, -1))
    for value, weight in zip(values[:-1], weights[:-1], strict=True):
        value[later].addcmul_(weight[later], values[-1][before])


def _compiled(x: Tensor) -> bool:
    """Whether mamba-ssm's kernel could take it."""
    return x.is_cuda and x.dtype == torch.float32


@functools.cache
def _kernel() -> Callable[..., Tensor] | None:
    """mamba-ssm's compiled scan, or None where it is not installed or does not load."""
    try:
        found: Callable[..., Tensor] = importlib.import_module(
            "mamba_ssm.ops.selective_scan_interface"
        ).selective_scan_fn
    except (ImportError, OSError, AttributeError):  # a build for another torch fails with any of them
        return None
    return found


class Mamba(nn.Module):
    """One Mamba-1 block, (B, L, width) → (B, L, width), without residual and norm; causal.

    ``[x, z] = in · u``; ``x = SiLU(causal depthwise convolution of x)``; ``[r, B, C] = x_proj · x``;
    ``Δ = softplus(dt_proj · r + bias)``; ``selective_scan`` with A = -exp(A_log), plus D x; ``out · (y ⊙ SiLU(z))`` (Gu
    and Dao, *Mamba: Linear-time sequence modeling with selective state spaces*, 2023). Weights carry the published
    names. Δ, A and the states are float32 whatever the autocast.

    Args:
        width: d, features of a step.
        state: N, states of a feature.
        kernel: K, steps that the convolution sees.
        expand: E = expand · d inner features.
        scan: see ``Scan``.

    Raises:
        ConfigError: a number below 1.
    """

    def __init__(self, width: int, *, state: int = 16, kernel: int = 4, expand: int = 2, scan: Scan = "auto") -> None:
        super().__init__()
        if min(width, state, kernel, expand) < 1:
            raise ConfigError(
                f"Mamba takes a width, state, kernel and expand of at least 1, not {width}, {state}, {kernel}, {expand}"
            )
        self.state, self.rank, self.scan = state, math.ceil(width / 16), scan
        inner = expand * width
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, kernel, groups=inner, padding=kernel - 1)
        self.x_proj = nn.Linear(inner, self.rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, state + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)
        _initialise_steps(self.dt_proj)

    def forward(self, u: Tensor) -> Tensor:
        """(B, L, width) → (B, L, width); a step sees itself and earlier ones."""
        x, z = self.in_proj(u).chunk(2, -1)
        x = functional.silu(self.conv1d(x.transpose(1, 2))[..., : u.shape[1]]).transpose(1, 2)
        rank, b, c = self.x_proj(x).split([self.rank, self.state, self.state], -1)
        with torch.autocast(u.device.type, enabled=False):
            y = self._scanned(x, rank, b, c)
        gated: Tensor = self.out_proj(y.to(z.dtype) * functional.silu(z))
        return gated

    def _scanned(self, x: Tensor, rank: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """(B, L, E) without the gate."""
        x, rank, b, c = (t.to(self.D.dtype) for t in (x, rank, b, c))
        a = -self.A_log.exp()
        step = functional.linear(rank, self.dt_proj.weight)
        compiled = _kernel() if self.scan == "auto" and _compiled(x) else None
        if compiled is not None:
            flat = [t.transpose(1, 2).contiguous() for t in (x, step, b, c)]
            return compiled(
                flat[0], flat[1], a, flat[2], flat[3], self.D, None, self.dt_proj.bias, delta_softplus=True
            ).transpose(1, 2)
        y, _ = selective_scan(x, functional.softplus(step + self.dt_proj.bias), a, b, c, scan=self.scan)
        return y + self.D * x


@torch.no_grad()
def _initialise_steps(projection: nn.Linear) -> None:
    """Δ starts log-uniform between 0.001 and 0.1: the bias is the inverse softplus of it."""
    bound = projection.in_features**-0.5
    nn.init.uniform_(projection.weight, -bound, bound)
    start = torch.empty_like(projection.bias).uniform_(math.log(0.001), math.log(0.1)).exp().clamp_min(1e-4)
    projection.bias.copy_(start + torch.log(-torch.expm1(-start)))


class BidirectionalMamba(nn.Module):
    """The sum of a Mamba block and of another one that reads the sequence from its end.

    Args:
        width: features of a step.
        scan: see ``Scan``.
    """

    def __init__(self, width: int, *, scan: Scan = "auto") -> None:
        super().__init__()
        self.onward, self.against = Mamba(width, scan=scan), Mamba(width, scan=scan)

    def forward(self, u: Tensor) -> Tensor:
        """(B, L, width) → (B, L, width); a step sees the whole sequence."""
        whole: Tensor = self.onward(u) + self.against(u.flip(1)).flip(1)
        return whole
