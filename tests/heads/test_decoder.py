"""Parts of a decoder, and decoders of slices."""

from __future__ import annotations

import pytest
import torch

from medssl.encoders.base import Encoder
from medssl.encoders.resenc import ResEnc
from medssl.encoders.slice_wise import SliceWise
from medssl.encoders.vit import ViT
from medssl.errors import ConfigError
from medssl.heads.decoder import Decoder

ENCODERS = {
    "unet": lambda: ResEnc(1, "tiny"),
    "strided stem": lambda: ResEnc(1, features=(4, 8), blocks=(1, 1), strides=(2, 2)),
    "tokens": lambda: ViT(size=(8, 8, 8), patch=4, width=12, depth=1, heads=2),
    "slices": lambda: SliceWise(ResEnc(1, "tiny", dims=2)),
}
SIZE = (8, 16, 16)


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_the_first_blocks_do_what_those_of_the_whole_decoder_do(name: str) -> None:
    torch.manual_seed(0)
    encoder: Encoder = ENCODERS[name]()
    size = (8, 8, 8) if name == "tokens" else SIZE
    whole = Decoder(encoder, None)
    x = torch.randn(2, 1, *size)
    maps = encoder(x).maps
    expected = whole(x, maps)
    assert len(expected) == len(whole.strides) == len(whole.channels)
    for blocks in range(1, len(expected) + 1):
        part = Decoder(encoder, None, blocks=blocks)
        named = {k: v for k, v in whole.state_dict().items() if k in part.state_dict()}
        part.load_state_dict(named)  # strict: every weight of the part has its name in the whole
        found = part(x, maps)
        assert len(found) == blocks
        for one, other, channels, stride in zip(found, expected[-blocks:], part.channels, part.strides, strict=True):
            assert torch.equal(one, other)
            scale = (1, *stride) if name == "slices" else stride
            assert one.shape == (2, channels, *(s // d for s, d in zip(size, scale, strict=True)))


def test_numbers_of_blocks_that_there_are_not() -> None:
    for blocks in (0, 4):
        with pytest.raises(ConfigError, match="has 3 blocks"):
            Decoder(ResEnc(1, "tiny"), None, blocks=blocks)


def test_a_slice_is_decoded_as_if_it_were_alone() -> None:
    torch.manual_seed(0)
    encoder = SliceWise(ResEnc(1, "tiny", dims=2))
    decoder, x = Decoder(encoder, 3), torch.randn(2, 1, 4, 16, 16)
    (whole,) = decoder.eval()(x, encoder(x).maps)
    alone = x[1:, :, 2:3]
    (one,) = decoder(alone, encoder(alone).maps)
    assert whole.shape == (2, 3, 4, 16, 16)
    torch.testing.assert_close(whole[1:, :, 2:3], one)
    assert all(p.ndim != 5 for p in decoder.parameters()), "its convolutions are 2-D"
