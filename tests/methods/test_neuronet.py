"""NeuroNet: published sizes, masks, which gradients the targets have, and encoders and windows it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from toys import signal_encoder

from medssl.configurable import build, spec
from medssl.encoders.base import Encoder
from medssl.encoders.neuronet import NeuroNet as FrameEncoder
from medssl.encoders.neuronet import frame_codes
from medssl.errors import ConfigError
from medssl.methods.base import Method
from medssl.methods.neuronet import NeuroNet
from medssl.objectives.contrastive import info_nce
from medssl.objectives.masked_reconstruction import random_mask
from medssl.views.signal import SignalViews

FRAMES = 10


def method(**options: Any) -> NeuroNet:
    torch.manual_seed(0)
    encoder = FrameEncoder(1, 289, step=20, width=16, depth=1, heads=2)
    settings = {"mask_ratio": 0.8, "decoder_width": 8, "decoder_heads": 2, "projector": (12, 6)} | options
    return NeuroNet(encoder, SignalViews((289 + 20 * (FRAMES - 1),), count=1), **settings)


def tokens(of: NeuroNet, count: int = 3) -> Tensor:
    return torch.randn(count, FRAMES, of.encoder.token_dim, generator=torch.Generator().manual_seed(1))


def masks(of: NeuroNet, count: int = 3, seed: int = 2) -> Tensor:
    return random_mask(2 * count, of.grid, of.mask_ratio, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("size", "width", "depth", "wanted"), [("T", 192, 1, 14.88), ("B", 256, 3, 33.01)])
def test_sizes_are_the_published_ones(size: Any, width: int, depth: int, wanted: float) -> None:
    """The published count has the fixed codes of 73 frames and the class token, which are parameters there."""
    with torch.device("meta"):
        of = NeuroNet(
            FrameEncoder(size=size), SignalViews((3000,), count=1), decoder_width=width, decoder_depth=depth
        )  # fmt: skip
    assert of.grid == (73,)
    codes = 74 * (of.encoder.out_dim + width)
    assert round((sum(p.numel() for p in of.parameters()) + codes) / 1e6, 2) == wanted


def test_a_fifth_of_the_frames_is_seen() -> None:
    of = method()
    hidden = masks(of)
    assert (~hidden).sum(1).tolist() == [int(FRAMES * 0.2)] * 6
    wide = NeuroNet(FrameEncoder(width=8, depth=1), SignalViews((3000,), count=1), decoder_width=8)
    assert (~random_mask(4, wide.grid, 0.8, torch.Generator())).sum(1).tolist() == [14] * 4


def test_frames_return_to_their_places() -> None:
    """With layers that pass everything on, the decoder holds each seen frame where it was."""
    of = method().decoder
    of.blocks, of.norm, of.leave = torch.nn.ModuleList(), torch.nn.Identity(), torch.nn.Identity()
    seen, places = torch.randn(2, 3, 16), torch.tensor([[1, 4, 9], [0, 2, 3]])
    told = of(seen, places)
    for row in range(2):
        for place in range(FRAMES):
            at = places[row].tolist().index(place) if place in places[row].tolist() else None
            wanted = of.mask_token[0, 0] if at is None else of.enter(seen[row, at])
            torch.testing.assert_close(told[row, place], wanted + frame_codes(FRAMES, 8)[place])


def test_loss_is_both_errors_and_alpha_times_the_contrast() -> None:
    of = method(alpha=0.3).eval()
    t, hidden = tokens(of), masks(of)
    losses = of.compare(t, hidden)
    errors = []
    for row, mask in zip([*t, *t], hidden, strict=True):
        places = (~mask).nonzero().T
        encoded = of.encoder.encode(row[None], places)
        errors.append((of.decoder(encoded[:, 1:], places)[0] - row)[mask].square().mean())
    first, second = (torch.stack(part).mean() for part in (errors[:3], errors[3:]))
    torch.testing.assert_close(losses.terms["reconstruction"], (first + second).detach())
    contrast = info_nce(losses.embeddings.unflatten(0, (2, 3)), temperature=0.05)  # type: ignore[union-attr]
    torch.testing.assert_close(losses.total, first + second + 0.3 * contrast)


def test_masks_may_change_places_and_equal_ones_give_equal_views() -> None:
    of = method().eval()
    t, hidden = tokens(of), masks(of)
    swapped = torch.cat([hidden[3:], hidden[:3]])
    torch.testing.assert_close(of.compare(t, swapped).total, of.compare(t, hidden).total)
    same = of.compare(t, torch.cat([hidden[:3], hidden[:3]]))
    assert same.embeddings is not None
    torch.testing.assert_close(same.embeddings[:3], same.embeddings[3:])


@pytest.mark.parametrize("options", [{}, {"detach_target": True}, {"norm_target": True}])
def test_gradient_of_the_targets(options: dict[str, bool]) -> None:
    """A frame that neither mask shows has a gradient as a target alone."""
    of = method(alpha=0.0, **options).eval()
    t = tokens(of).requires_grad_()
    hidden = masks(of)
    of.compare(t, hidden).total.backward()
    assert t.grad is not None
    never = hidden[:3] & hidden[3:]
    assert never.any() and (t.grad[~never].abs().sum(-1) > 0).all()
    assert bool(t.grad[never].abs().sum() > 0) != bool(options.get("detach_target", False))
    if options.get("norm_target"):
        along = (t.grad * t).sum(-1)[never] / (t.grad.norm(dim=-1) * t.norm(dim=-1))[never]
        assert float(along.detach().abs().max()) < 1e-3, "shrinking a token that is standardised gains nothing"


def test_the_mean_token_explains_nothing_and_shrinking_shows() -> None:
    of = method().eval()
    t, hidden = tokens(of), masks(of)
    terms = of.compare(t, hidden).terms
    of.decoder.leave.weight.data.zero_()
    of.decoder.leave.bias.data.copy_(t.mean((0, 1)))
    assert abs(float(of.compare(t, torch.cat([hidden[:3], hidden[3:]])).terms["explained"])) < 0.1
    assert float(of.compare(0.1 * t, hidden).terms["token_spread"]) == pytest.approx(0.1 * float(terms["token_spread"]))


def test_hidden_frames_do_not_reach_encoder_or_decoder() -> None:
    of = method(alpha=1.0).eval()
    t, hidden = tokens(of), masks(of)
    hidden = torch.cat([hidden[:3], hidden[:3]])  # what one mask hides the other does too
    other = torch.where(hidden[:3].unsqueeze(-1), tokens(of) + 5, t)
    one, two = of.compare(t, hidden), of.compare(other, hidden)
    assert torch.equal(one.embeddings, two.embeddings)  # type: ignore[arg-type]
    assert not torch.equal(one.terms["reconstruction"], two.terms["reconstruction"])


def test_method_and_encoder_of_one_name_are_told_apart() -> None:
    of = method()
    again = build(spec(of), Method)  # type: ignore[type-abstract]
    assert type(again) is NeuroNet and type(again.encoder) is FrameEncoder
    short = {"class_path": "NeuroNet", "init_args": {"width": 8, "depth": 1}}
    assert type(build(short, Encoder)) is FrameEncoder  # type: ignore[type-abstract]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mask_ratio": 1.0}, "mask_ratio"),
        ({"alpha": -1.0}, "alpha"),
        ({"temperature": 0.0}, "temperature"),
        ({"decoder_width": 10}, "multiple of 4"),
        ({"decoder_depth": 0}, "one block"),
    ],
)
def test_settings_that_cannot_work_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        method(**options)


def test_other_encoders_and_short_windows_are_refused() -> None:
    with pytest.raises(ConfigError, match="encoder NeuroNet"):
        NeuroNet(signal_encoder(), SignalViews((3000,), count=1))
    with pytest.raises(ConfigError, match="fewer than two"):
        NeuroNet(FrameEncoder(width=8, depth=1), SignalViews((310,), count=1))
