"""The encoder half of MONAI's SwinUNETR, under MONAI's own names, so released weights load as they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medssl.encoders.base import Encoder, Features, mean_pool
from medssl.encoders.blocks import parameters_by_prefix, refuse_single_voxel
from medssl.errors import ConfigError

__all__ = ["SwinUNETREncoder"]


class SwinUNETREncoder(Encoder):
    """Swin UNETR (Hatamizadeh et al., 2022), its encoder with the residual blocks that feed the decoder.

    Maps, for F = ``feature_size``: F at stride 1, F at 2, 2F at 4, 4F at 8, 8F at 16 (the transformer's state as it is)
    and 16F at 32. Pooled is the VoCo embedding: the means of all maps but the one at stride 16, 24F numbers.

    Args:
        in_channels: channels of the volume.
        feature_size: F, a multiple of 12; 48 / 96 / 192 are the released B / L / H.
        window: edge of the attention window in tokens.
        use_v2: SwinUNETR-v2 (a residual convolution before each stage), as VoCo uses.
        depths: transformer blocks of each stage.
        drop_path: stochastic depth rate.
        checkpointing: recompute activations in the backward pass to save memory.

    Raises:
        ConfigError: a feature size that is no multiple of 12.
    """

    def __init__(
        self,
        in_channels: int = 1,
        feature_size: int = 48,
        *,
        window: int = 7,
        use_v2: bool = True,
        depths: tuple[int, ...] = (2, 2, 2, 2),
        drop_path: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if feature_size % 12 or feature_size < 12 or len(depths) != 4:
            raise ConfigError(
                f"SwinUNETREncoder needs a feature_size that is a multiple of 12 (not {feature_size}) and 4 depths "
                f"(not {len(depths)})"
            )
        # here and not at the top: MONAI takes seconds to import
        from monai.networks.nets.swin_unetr import MERGING_MODE, SwinTransformer

        f = feature_size
        self.in_channels, self.dims, self.out_dim = in_channels, 3, 24 * f
        self.channels = (f, f, 2 * f, 4 * f, 8 * f, 16 * f)
        self.strides = tuple((s, s, s) for s in (1, 2, 4, 8, 16, 32))
        self.divisor = self.minimum = (32, 32, 32)
        self.swinViT = SwinTransformer(
            in_chans=in_channels,
            embed_dim=f,
            window_size=(window,) * 3,
            patch_size=(2, 2, 2),
            depths=depths,
            num_heads=(3, 6, 12, 24),
            drop_path_rate=drop_path,
            use_checkpoint=checkpointing,
            spatial_dims=3,
            downsample=MERGING_MODE["merging"],
            use_v2=use_v2,
        )
        self.encoder1 = _unetr_block(in_channels, f)
        self.encoder2 = _unetr_block(f, f)
        self.encoder3 = _unetr_block(2 * f, 2 * f)
        self.encoder4 = _unetr_block(4 * f, 4 * f)
        self.encoder10 = _unetr_block(16 * f, 16 * f)

    def forward(self, x: Tensor) -> Features:
        """(B, C, Z, Y, X), every edge a multiple of 32 → six maps and (B, 24F)."""
        hidden = self.swinViT(x, True)  # True: layer-normalise every state over its channels
        blocks = (self.encoder2, self.encoder3, self.encoder4)
        maps = [self.encoder1(x), *(block(h) for block, h in zip(blocks, hidden[:3], strict=True))]
        maps += [hidden[3], self.encoder10(hidden[4])]
        pooled = torch.cat([mean_pool(maps[i]) for i in self.described_by], 1)
        return Features(pooled, maps)

    @property
    def described_by(self) -> tuple[int, ...]:
        """See ``Encoder.described_by``: all but the transformer's state at stride 16, as the released code has it."""
        return (0, 1, 2, 3, 5)

    def check_input(self, channels: int, size: tuple[int, ...]) -> None:
        """See ``Encoder.check_input``; also refuses sizes whose deepest map is one voxel."""
        super().check_input(channels, size)
        refuse_single_voxel(self, size)

    def layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """Patch embedding, then one group a transformer stage with the residual block that follows it."""
        stages = [
            (f"swinViT.layers{i}.", f"swinViT.layers{i}c.", f"{after}.")
            for i, after in zip((1, 2, 3, 4), ("encoder2", "encoder3", "encoder4", "encoder10"), strict=True)
        ]
        return parameters_by_prefix(self, [("swinViT.patch_embed.", "encoder1."), *stages])


def _unetr_block(c_in: int, c_out: int) -> nn.Module:
    from monai.networks.blocks.unetr_block import UnetrBasicBlock

    block: nn.Module = UnetrBasicBlock(3, c_in, c_out, kernel_size=3, stride=1, norm_name="instance", res_block=True)
    return block
