"""Base of encoders that see a run as a whole, through its connectivity, and so have no map over time."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from medssl.encoders.base import Encoder, Features
from medssl.errors import ConfigError
from medssl.objectives.base import promoted

__all__ = ["WholeRun"]

FEWEST, MOST = 10, 4096


class WholeRun(Encoder):
    """One vector a run; its map is this vector at the only place there is, with a stride longer than any run.

    The number of volumes may differ from run to run. Volumes in which all regions are 0 are padding.
    """

    def describe(self, regions: int, width: int) -> None:
        """Set what ``Encoder`` declares.

        Args:
            regions: N, the channels of the input.
            width: D of the vector.
        """
        self.in_channels, self.dims = regions, 1
        self.out_dim, self.channels = width, (width,)
        self.strides, self.divisor, self.minimum = ((MOST,),), (1,), (FEWEST,)

    @abstractmethod
    def vector(self, x: Tensor) -> Tensor:
        """(B, N, T) → (B, D)."""

    def forward(self, x: Tensor) -> Features:
        """(B, N regions, T volumes) → the vector, pooled and as a map of one place (B, D, 1)."""
        found = self.vector(x)
        return Features(promoted(found), [found.unsqueeze(-1)])

    def check_input(self, channels: int, size: tuple[int, ...]) -> None:
        """See ``Encoder.check_input``; also refuses more volumes than the map of one place stands for."""
        super().check_input(channels, size)
        if size[0] > MOST:
            raise ConfigError(
                f"{type(self).__name__} describes a run of at most {MOST} volumes, not {size[0]}; take shorter windows"
            )
