"""What lets the steps of a sequence (epochs of a night, windows of a record) see each other."""

from __future__ import annotations

from torch import Tensor, nn

from medssl.encoders.mamba import BidirectionalMamba, Mamba
from medssl.encoders.positions import sine_positions
from medssl.errors import ConfigError, unknown_name

__all__ = ["CONTEXTS", "make_context"]

CONTEXTS = ("mamba", "lstm", "attention", "lstm_attention", "none")
"""Kinds of context that ``make_context`` knows."""

HEADS, LAYERS, DROPOUT = 8, 2, 0.1


def make_context(kind: str, width: int, *, bidirectional: bool = False) -> nn.Module:
    """A module that mixes the steps of each sequence, (B, S, D) → (B, S, D); sequences of a batch stay apart.

    * ``mamba``: one Mamba block, as in NeuroNet (2024); causal, so that the first steps see little.
    * ``lstm``: two layers of D features; causal.
    * ``attention``: two transformer layers of 8 heads over steps with sine codes of their places; sees everything.
    * ``lstm_attention``: one LSTM layer, then ``attention``.
    * ``none``: every step for itself.

    Args:
        kind: one of ``CONTEXTS``.
        width: D.
        bidirectional: Mamba and LSTM also read the sequence from its end (LSTM with D / 2 features a direction).

    Raises:
        ConfigError: an unknown kind, a width that does not fit, or ``bidirectional`` where nothing runs one way.

    >>> import torch
    >>> make_context("lstm", 8, bidirectional=True)(torch.zeros(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """
    if kind not in CONTEXTS:
        raise ConfigError(unknown_name("context", kind, set(CONTEXTS)))
    if bidirectional and kind in ("attention", "none"):
        raise ConfigError(f"a context of {kind} has no direction; leave bidirectional out")
    if kind == "mamba":
        return BidirectionalMamba(width) if bidirectional else Mamba(width)
    if kind == "lstm":
        return _LSTM(width, layers=LAYERS, bidirectional=bidirectional)
    if kind == "attention":
        return _Attention(width)
    if kind == "lstm_attention":
        return nn.Sequential(_LSTM(width, layers=1, bidirectional=bidirectional), _Attention(width))
    return nn.Identity()


class _LSTM(nn.Module):
    def __init__(self, width: int, *, layers: int, bidirectional: bool) -> None:
        super().__init__()
        if bidirectional and width % 2:
            raise ConfigError(f"an LSTM in both directions needs an even width, not {width}")
        hidden = width // 2 if bidirectional else width
        self.lstm = nn.LSTM(width, hidden, layers, batch_first=True, bidirectional=bidirectional)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, D) → (B, S, D)."""
        mixed: Tensor = self.lstm(x)[0]
        return mixed


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        if width % HEADS:
            raise ConfigError(f"attention over a sequence needs a width that is a multiple of {HEADS}, not {width}")
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, HEADS, 4 * width, dropout=DROPOUT, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(LAYERS)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, D) → (B, S, D)."""
        x = x + sine_positions((x.shape[1],), x.shape[2]).to(x)
        for layer in self.layers:
            x = layer(x)
        return x
