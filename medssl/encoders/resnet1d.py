"""A small residual network for signals: the fast default for beats and short windows."""

from __future__ import annotations

from torch import Tensor, nn

from medssl.encoders.base import Encoder, Features, mean_pool
from medssl.encoders.blocks import parameters_by_prefix
from medssl.errors import ConfigError

__all__ = ["ResNet1d"]


class _Block(nn.Module):
    def __init__(self, c_in: int, c_out: int, *, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(c_in, c_out, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.norm1 = nn.BatchNorm1d(c_out)
        self.conv2 = nn.Conv1d(c_out, c_out, kernel, padding=kernel // 2, bias=False)
        self.norm2 = nn.BatchNorm1d(c_out)
        self.act = nn.ReLU(inplace=True)
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or c_in != c_out:
            # ceil_mode: the strided convolution rounds the length up as well
            pool = nn.AvgPool1d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
            self.skip = nn.Sequential(pool, nn.Conv1d(c_in, c_out, 1, bias=False), nn.BatchNorm1d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))
        z: Tensor = self.act(y + self.skip(x))
        return z


class ResNet1d(Encoder):
    """Residual network over time, after Wang, Yan and Oates (2017) and the ECG networks of Ribeiro et al. (2020).

    A strided stem and one strided stage a width; any length is taken, the map has ceil(T / stride) steps.
    Pooled: mean over time of the last map.

    Args:
        in_channels: channels of the signal.
        widths: channels of each stage, fine to coarse.
        blocks: residual blocks a stage, one number for all or one each. Widths (64, 128, 256, 512), blocks
            (3, 4, 6, 3), kernel 3 and stem_stride 1 make the 1-D ResNet-34 of Lan et al. (ICLR 2024).
        kernel: odd length of the convolutions in samples; the stem's is twice as long.
        stem_stride: stride of the stem; each stage after the first halves the length again.

    Raises:
        ConfigError: an even kernel, or blocks that do not fit the widths.
    """

    exports_any_size = True

    def __init__(
        self,
        in_channels: int = 1,
        widths: tuple[int, ...] = (32, 64, 128, 256),
        *,
        blocks: int | tuple[int, ...] = 2,
        kernel: int = 7,
        stem_stride: int = 2,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ConfigError(f"ResNet1d needs an odd kernel, not {kernel}")
        counts = (blocks,) * len(widths) if isinstance(blocks, int) else tuple(blocks)
        if len(counts) != len(widths) or min(counts, default=0) < 1:
            raise ConfigError(f"ResNet1d needs 1 or more blocks for each of its {len(widths)} widths, not {blocks}")
        self.in_channels, self.dims = in_channels, 1
        self.channels, self.out_dim = (widths[-1],), widths[-1]
        stride = stem_stride * 2 ** (len(widths) - 1)
        self.strides, self.divisor, self.minimum = ((stride,),), (1,), (2 * stride,)
        stem = 2 * kernel + 1
        self.stem = nn.Sequential(
            nn.Conv1d(in_channels, widths[0], stem, stride=stem_stride, padding=stem // 2, bias=False),
            nn.BatchNorm1d(widths[0]),
            nn.ReLU(inplace=True),
        )
        inputs = (widths[0], *widths[:-1])
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    _Block(a, b, kernel=kernel, stride=2 if i else 1),
                    *(_Block(b, b, kernel=kernel, stride=1) for _ in range(count - 1)),
                )
                for i, (a, b, count) in enumerate(zip(inputs, widths, counts, strict=True))
            )
        )
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Features:
        """(B, C, T) → one map (B, D, ceil(T / stride)) and its mean over time."""
        y: Tensor = self.stages(self.stem(x))
        return Features(mean_pool(y), [y])

    def layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """Stem, then one group a stage."""
        return parameters_by_prefix(self, [("stem.",), *((f"stages.{i}.",) for i in range(len(self.stages)))])
