"""Encoders of frame projections: sizes, lengths, what inference needs, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from medssl.encoders.base import InputSpec, load_encoder, save_encoder
from medssl.encoders.frame_projected import FrameMapping, FrameProjected
from medssl.encoders.frame_resnet import FrameResNet, PreActivationBlock, SameConv1d
from medssl.encoders.frames import FourierEncoder, FrameEncoders, WaveletEncoder
from medssl.encoders.resenc import ResEnc
from medssl.encoders.resnet1d import ResNet1d
from medssl.errors import ConfigError
from medssl.views.frames import Frames, geometric_scales

FEW = Frames(scales=8)


def small(channels: int = 2, out_dim: int = 16) -> FrameResNet:
    torch.manual_seed(0)
    return FrameResNet(channels, 4, blocks=4, out_dim=out_dim)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_numbers_of_weights() -> None:
    """The published totals, less what the released modules hold and never run."""
    never_run = {
        "time": 2 * 32 + (64 * 5 + 5),  # first norm; head of five classes
        "fourier": 2 * 2 * (16 + 32 + 32 + 64) + (64 * 128 + 128),  # norms of both branches; linear layer
    }
    frames = FrameEncoders(6, 100, 128, frames=Frames())
    assert count(FrameResNet(6)) + never_run["time"] == 206_629
    assert count(frames.fourier) + never_run["fourier"] == 55_996
    assert count(frames.wavelet) == 551_381
    assert count(FrameMapping()) == 449


@pytest.mark.parametrize("length", [18, 97, 100, 101, 102, 103])
@pytest.mark.parametrize("phase", ["angle", "cos_sin"])
def test_encoders_of_any_length(length: int, phase: str) -> None:
    encoders = FrameEncoders(2, length, 12, frames=Frames(phase=phase, scales=11))  # type: ignore[arg-type]
    for found in encoders(torch.randn(1, 2, length)):
        assert found.shape == (1, 12) and found.isfinite().all()


def test_learned_reductions_fix_the_length_and_means_do_not() -> None:
    scales = geometric_scales(8)
    for kind in (lambda **o: FourierEncoder(1, 100, **o), lambda **o: WaveletEncoder(1, 100, scales=scales, **o)):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            kind(pool="learned")(torch.randn(2, 1, 200))
        assert kind(pool="adaptive")(torch.randn(2, 1, 200)).shape == (2, 128)


def test_the_options_of_the_frames_change_what_is_encoded() -> None:
    x = 3 * torch.randn(2, 2, 40, generator=torch.Generator().manual_seed(0))
    found = []
    for frames in (FEW, Frames(scales=8, log1p=True), Frames(scales=8, cwt="analytic")):
        torch.manual_seed(0)
        found.append(torch.cat(FrameEncoders(2, 40, 32, frames=frames).eval()(x), 1))
    plain, packed, analytic = found
    assert not torch.allclose(plain[:, :32], packed[:, :32]) and not torch.allclose(plain[:, 32:], packed[:, 32:])
    assert torch.equal(plain[:, :32], analytic[:, :32]) and not torch.allclose(plain[:, 32:], analytic[:, 32:])


def test_convolutions_pad_the_smaller_half_before() -> None:
    convolution = SameConv1d(1, 1, 4)
    nn.init.ones_(convolution.weight), nn.init.zeros_(convolution.bias)
    assert convolution(torch.eye(5)[2][None, None]).flatten().tolist() == [1, 1, 1, 1, 0]  # 1 before, 2 behind
    strided = SameConv1d(1, 1, 5, stride=2)
    assert [strided(torch.zeros(1, 1, n)).shape[-1] for n in (1, 2, 7, 8)] == [1, 1, 4, 4]


def test_the_skip_meets_a_zero_at_odd_lengths_and_widens_on_both_sides() -> None:
    block = PreActivationBlock(2, 5, kernel=3, stride=2, norm=False)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    found = block(torch.tensor([[[-1.0, -2.0, -3.0], [1.0, 2.0, 3.0]]]))
    assert found.tolist() == [[[0, 0], [-1, 0], [2, 3], [0, 0], [0, 0]]]


@pytest.mark.parametrize("size", [2, 16, 128])
def test_mappings_keep_the_length(size: int) -> None:
    assert FrameMapping(3)(torch.randn(4, size)).shape == (4, size)


def test_parts_stand_in_order() -> None:
    encoder, x = FrameProjected(small()).eval(), torch.randn(3, 2, 64)
    time = encoder.encoder(x).pooled
    wanted = torch.cat([time, encoder.to_fourier(time), encoder.to_wavelet(time)], 1)
    assert torch.equal(encoder(x).pooled, wanted) and encoder.out_dim == 48
    every = FrameProjected(small(), inference="all_encoders", length=64, frames=FEW).eval()
    assert torch.equal(every(x).pooled, torch.cat([every.encoder(x).pooled, *every.frames(x)], 1))
    alone = FrameProjected(small(), inference="time_only").eval()
    assert torch.equal(alone(x).pooled, alone.encoder(x).pooled) and alone.out_dim == 16


def test_inference_needs_no_transform(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, x = FrameProjected(small()).eval(), torch.randn(3, 2, 64)
    wanted = encoder(x).pooled

    def gone(*args: object, **options: object) -> torch.Tensor:
        raise AssertionError("a transform was asked for")

    for name in ("rfft", "fft", "ifft"):
        monkeypatch.setattr(torch.fft, name, gone)
    assert torch.equal(encoder(x).pooled, wanted)
    assert not any(isinstance(m, FrameEncoders) for m in encoder.modules())
    with pytest.raises(AssertionError, match="was asked for"):
        FrameProjected(small(), inference="all_encoders", length=64, frames=FEW)(x)


def test_gaps_count_as_zero() -> None:
    x = torch.randn(2, 2, 64)
    x[0, 1] = torch.nan
    for encoder in (FrameProjected(small()), FrameProjected(small(), inference="all_encoders", length=64, frames=FEW)):
        encoder.eval()
        assert torch.equal(encoder(x).pooled, encoder(x.nan_to_num(0.0)).pooled)


@pytest.mark.parametrize("inference", ["mapped", "all_encoders"])
def test_it_is_exported_and_comes_back(tmp_path: Path, inference: str) -> None:
    encoder = FrameProjected(small(), inference=inference, length=64, frames=Frames(scales=8, log1p=True))  # type: ignore[arg-type]
    save_encoder(encoder.eval(), tmp_path, InputSpec("signal", ("I", "II"), (64,), rate_hz=100.0), {})
    again, x = load_encoder(tmp_path)[0].eval(), torch.randn(2, 2, 64)
    assert torch.equal(again(x).pooled, encoder(x).pooled)


def test_lengths_it_was_not_made_for() -> None:
    fixed, free = (
        FrameProjected(small(), inference="all_encoders", length=64, frames=FEW, pool=pool)
        for pool in ("learned", "adaptive")
    )
    fixed.check_input(2, (64,))
    with pytest.raises(ConfigError, match="built for windows of 64 samples, not 80"):
        fixed.check_input(2, (80,))
    for encoder in (free, FrameProjected(small())):
        encoder.check_input(2, (80,))
        with pytest.raises(ConfigError, match="at least"):
            encoder.check_input(2, (3,))


def test_layers_hold_every_weight_once() -> None:
    for encoder in (FrameProjected(small()), FrameProjected(small(), inference="time_only"), small()):
        names = [name for group in encoder.layers() for name, _ in group]
        assert sorted(names) == sorted(name for name, _ in encoder.named_parameters())


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="takes 3 axes"):
        FrameProjected(ResEnc(1, size="tiny"))
    with pytest.raises(ConfigError, match="even number"):
        FrameProjected(ResNet1d(1, (4, 7)))
    with pytest.raises(ConfigError, match="give its length"):
        FrameProjected(small(), inference="all_encoders")
    with pytest.raises(ConfigError, match="mapped, time_only or all_encoders"):
        FrameProjected(small(), inference="both")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be even"):
        FrameEncoders(1, 64, 15, frames=FEW)
    with pytest.raises(ConfigError, match="learned or adaptive"):
        FrameEncoders(1, 64, 16, frames=FEW, pool="mean")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="dropout from 0 to below 1"):
        FrameResNet(1, dropout=1.0)
