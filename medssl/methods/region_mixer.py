"""A light decoder over the regions of a graph that mixes regions and features in turn (MLP-Mixer)."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["RegionMixer"]


class RegionMixer(nn.Module):
    """One MLP-Mixer block (Tolstikhin et al., NeurIPS 2021) and a linear map, as ST-JEMA's decoders.

    ``z + W₂ GELU(W₁ LN(z)ᵀ)ᵀ`` over regions (N → N/2 → N), then ``z + W₄ GELU(W₃ LN(z))`` over features (D → 2D → D).
    It knows the regions by their place in the atlas.

    Args:
        regions: N.
        width: D.
        out: features that it tells of each region.
    """

    def __init__(self, regions: int, width: int, out: int) -> None:
        super().__init__()
        between = max(1, regions // 2)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.of_regions = nn.Sequential(nn.Linear(regions, between), nn.GELU(), nn.Linear(between, regions))
        self.of_features = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.leave = nn.Linear(width, out)

    def forward(self, z: Tensor, valid: Tensor) -> Tensor:
        """What is told of every region; invalid ones tell the others nothing.

        Args:
            z: (..., N, D).
            valid: booleans that broadcast to (..., N).

        Returns:
            (..., N, out).
        """
        mixed = self.norms[0](z) * valid.unsqueeze(-1)
        z = z + self.of_regions(mixed.mT).mT
        z = z + self.of_features(self.norms[1](z))
        told: Tensor = self.leave(z)
        return told
