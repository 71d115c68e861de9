"""An encoder of one channel for signals of any montage: every channel by itself."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from medssl.configurable import build, spec
from medssl.encoders.base import Encoder, Features, with_channels
from medssl.errors import ConfigError

__all__ = ["PerChannel"]

Pool = Literal["mean", "attention", "concat"]


class PerChannel(Encoder):
    """What an encoder of one channel says of each channel, put together over the channels.

    The weights are the same for all channels, which go through the encoder as one batch (channel independence, as in
    PatchTST, Nie et al., ICLR 2023). With ``mean`` and ``attention`` they fit signals of any number of channels, so
    that an encoder that was pre-trained on one montage can be fine-tuned, and used, on another.

    Args:
        encoder: of signals of one channel; what is wrapped. Its ``in_channels`` does not count: an encoder for another
            number is built again, with new weights, for one.
        in_channels: channels of the signal.
        pool: pooled features over the channels: their ``mean``; ``attention``: a mean whose weights the features
            themselves decide, learnt, equal at first; ``concat``: (B, C D), one channel behind the other, for exactly
            these channels in this order.
        maps: their ``mean`` over the channels, (B, D, T'), or ``concat``, (B, C D, T'), for exactly these channels. By
            default as ``pool``, with the mean beside attention.

    Raises:
        ConfigError: an encoder that takes no signals, or an unknown way to pool.
    """

    exports_any_size = True

    def __init__(
        self,
        encoder: Encoder,
        in_channels: int = 1,
        *,
        pool: Pool = "mean",
        maps: Literal["mean", "concat"] | None = None,
    ) -> None:
        super().__init__()
        if encoder.dims != 1:
            raise ConfigError(
                f"PerChannel wraps encoders of signals (dims 1), but {type(encoder).__name__} takes {encoder.dims} axes"
            )
        if pool not in ("mean", "attention", "concat") or maps not in (None, "mean", "concat"):
            raise ConfigError(f"pool is mean, attention or concat, and maps mean or concat, not '{pool}', '{maps}'")
        if encoder.in_channels != 1:
            encoder = build(with_channels(spec(encoder), 1), Encoder)  # type: ignore[type-abstract]
            self.init_args["encoder"] = encoder  # what is written down is what is there
        self.encoder, self.in_channels, self.dims = encoder, in_channels, 1
        self.pool, self.maps = pool, maps or ("concat" if pool == "concat" else "mean")
        self.any_channels = pool != "concat" and self.maps != "concat"
        self.out_dim = encoder.out_dim * (in_channels if pool == "concat" else 1)
        self.channels = tuple(c * (in_channels if self.maps == "concat" else 1) for c in encoder.channels)
        self.strides, self.divisor, self.minimum = encoder.strides, encoder.divisor, encoder.minimum
        self.position_grids = {f"encoder.{k}": v for k, v in getattr(encoder, "position_grids", {}).items()}
        self.score = nn.Linear(encoder.out_dim, 1, bias=False) if pool == "attention" else None
        if self.score is not None:
            nn.init.zeros_(self.score.weight)  # the mean, until training says otherwise

    def forward(self, x: Tensor) -> Features:
        """See ``Encoder.forward``: (B, C, T)."""
        size = x.shape[:2]
        features: Features = self.encoder(x.flatten(0, 1).unsqueeze(1))
        pooled = features.pooled.unflatten(0, size)
        maps = [m.unflatten(0, size) for m in features.maps]
        return Features(self._pooled(pooled), [m.flatten(1, 2) if self.maps == "concat" else m.mean(1) for m in maps])

    def attention(self, x: Tensor) -> Tensor:
        """How much each channel counts for the pooled features: (B, C, T) → (B, C), of sum 1."""
        features: Features = self.encoder(x.flatten(0, 1).unsqueeze(1))
        return self._weights(features.pooled.unflatten(0, x.shape[:2])).squeeze(-1)

    def check_input(self, channels: int, size: tuple[int, ...]) -> None:
        """See ``Encoder.check_input``."""
        super().check_input(channels, size)
        self.encoder.check_input(1, size)

    def layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """Those of the encoder, then the attention over channels."""
        groups = [[(f"encoder.{name}", p) for name, p in group] for group in self.encoder.layers()]
        own = [] if self.score is None else [(f"score.{name}", p) for name, p in self.score.named_parameters()]
        return [*groups, own] if own else groups

    def _pooled(self, pooled: Tensor) -> Tensor:
        if self.pool == "concat":
            return pooled.flatten(1, 2)
        return (self._weights(pooled) * pooled).sum(1)

    def _weights(self, pooled: Tensor) -> Tensor:
        """(B, C, D) → (B, C, 1)."""
        if self.score is None:
            return torch.full_like(pooled[..., :1], 1 / pooled.shape[1])
        return torch.softmax(self.score(pooled).float() / pooled.shape[-1] ** 0.5, dim=1)
