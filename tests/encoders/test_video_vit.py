"""One vision transformer for images, volumes and video: padding, positions, class token, registers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medssl.encoders.positions import interleaved_sines, sine_positions
from medssl.encoders.video_vit import VideoViT
from medssl.errors import ConfigError
from medssl.heads.segmentation import SegmentationHead


def video_vit(size: tuple[int, int, int] = (4, 16, 16), **options: Any) -> VideoViT:
    torch.manual_seed(0)
    return VideoViT(1, size, **{"patch": (2, 8, 8), "width": 24, "depth": 2, "heads": 3, **options}).eval()


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_an_image_equals_the_constant_clip_of_it(pool: str) -> None:
    encoder, image = video_vit(pool=pool), torch.randn(2, 1, 1, 16, 20)
    clip = image.expand(-1, -1, 2, -1, -1)
    assert torch.equal(encoder(image).pooled, encoder(clip).pooled)
    assert torch.equal(encoder(image).maps[0], encoder(clip).maps[0])
    assert not torch.equal(encoder(torch.cat([image, image + 1], 2)).pooled, encoder(clip).pooled)


def test_the_edge_is_repeated_up_to_whole_patches() -> None:
    encoder, x = video_vit(), torch.randn(1, 1, 3, 10, 16)
    longer = torch.cat([x, x[:, :, -1:]], 2)
    longer = torch.cat([longer, longer[:, :, :, -1:].expand(-1, -1, -1, 6, -1)], 3)
    assert torch.equal(encoder.tokens(x), encoder.tokens(longer))
    assert encoder(x).maps[0].shape == (1, 24, 2, 2, 2)


def test_what_was_added_counts_for_nothing_in_the_mean() -> None:
    """Of the four tokens of 10 rows and 16 columns two have all their rows and two a quarter."""
    encoder, x = video_vit(pool="mean"), torch.randn(2, 1, 2, 10, 16)
    torch.testing.assert_close(encoder.shares((2, 10, 16)), torch.tensor([1.0, 1.0, 0.25, 0.25]))
    features = encoder(x)
    first, second = features.maps[0][:, :, 0].mean(-1).unbind(-1)
    torch.testing.assert_close(features.pooled, (first + 0.25 * second) / 1.25)
    whole = torch.randn(2, 1, 4, 16, 16)
    torch.testing.assert_close(encoder(whole).pooled, encoder(whole).maps[0].flatten(2).mean(2))


def test_tokens_are_in_the_order_of_time_row_and_column() -> None:
    encoder, x = video_vit(), torch.zeros(1, 1, 4, 16, 16)
    for place, (t, y, column) in enumerate((t, y, c) for t in (0, 1) for y in (0, 1) for c in (0, 1)):
        marked = x.clone()
        marked[:, :, 2 * t, 8 * y, 8 * column] = 1
        changed = (encoder.tokens(marked) != encoder.tokens(x)).any(-1)[0]
        assert changed.nonzero().flatten().tolist() == [place]


@pytest.mark.parametrize("registers", [0, 2])
def test_some_tokens_can_be_encoded_alone(registers: int) -> None:
    """The class token stands first; registers do not come out; a few tokens do not depend on the others."""
    encoder, x = video_vit(registers=registers), torch.randn(2, 1, 4, 16, 16)
    tokens = encoder.tokens(x)
    encoded = encoder.encode(tokens)
    assert encoder.leading == 1 and tokens.shape == (2, 8, 24) and encoded.shape == (2, 9, 24)
    torch.testing.assert_close(encoded[:, 0], encoder(x).pooled)
    torch.testing.assert_close(encoded[:, 1:].mT, encoder(x).maps[0].flatten(2))
    few, order = encoder.encode(tokens[:, :3]), torch.tensor([2, 0, 1])
    assert few.shape == (2, 4, 24) and not torch.allclose(few[:, 0], encoded[:, 0])
    shuffled = encoder.encode(tokens[:, order])  # beside its code, a token does not know its place
    torch.testing.assert_close(shuffled[:, 0], few[:, 0])
    torch.testing.assert_close(shuffled[:, 1:], few[:, 1:][:, order])


def test_without_a_class_token_tokens_alone_come_out() -> None:
    encoder = video_vit(class_token=False)
    assert encoder.leading == 0 and encoder.pool == "mean" and encoder.cls_token is None
    assert encoder.encode(torch.randn(2, 5, 24)).shape == (2, 5, 24)


def test_registers_change_the_answer() -> None:
    encoder, x = video_vit(registers=2), torch.randn(2, 1, 4, 16, 16)
    before = encoder(x).pooled
    assert encoder.reg_token is not None
    torch.nn.init.ones_(encoder.reg_token)
    assert not torch.allclose(encoder(x).pooled, before)


def test_fixed_codes_of_three_axes_and_of_one() -> None:
    codes = {p: video_vit(positions=p).codes((3, 2, 2))[0] for p in ("sincos3d", "sincos1d")}
    assert torch.equal(codes["sincos3d"], sine_positions((3, 2, 2), 24))
    assert torch.equal(codes["sincos1d"], interleaved_sines(12, 24))
    for code in codes.values():
        assert len(torch.unique(code, dim=0)) == 12, "each place has a code of its own"


def test_the_code_of_a_place_does_not_depend_on_the_size_of_the_grid() -> None:
    encoder = video_vit()
    small, large = encoder.codes((1, 2, 2)), encoder.codes((4, 2, 2))
    assert torch.equal(small[0], large[0, :4])
    assert "fixed" not in encoder.state_dict(), "a fixed table is no weight"


def test_a_learned_table_is_interpolated_for_other_grids() -> None:
    encoder = video_vit(positions="learned")
    assert encoder.pos_embed is not None and encoder.position_grids == {"pos_embed": (2, 2, 2)}
    with torch.no_grad():
        encoder.pos_embed.view(2, 4, 24)[:] = torch.tensor([0.0, 1.0]).view(2, 1, 1)
    along_time = encoder.codes((4, 2, 2)).view(4, 4, 24)[:, 0, 0]
    torch.testing.assert_close(along_time, torch.tensor([0.0, 0.25, 0.75, 1.0]))
    assert video_vit().position_grids == {}


def test_a_patch_of_one_frame_sees_frames_for_themselves() -> None:
    encoder = video_vit((1, 16, 16), patch=(1, 8, 8))
    x = torch.randn(2, 1, 3, 16, 16)
    frames = torch.stack([encoder(x[:, :, t : t + 1]).maps[0][:, :, 0] for t in range(3)], 2)
    assert frames.shape == encoder(x).maps[0].shape


def test_maps_of_sizes_that_are_no_multiples_are_segmented_at_full_size() -> None:
    head = SegmentationHead(video_vit()).eval()
    with torch.no_grad():
        logits = head(torch.randn(1, 1, 3, 20, 16))
    assert logits.shape[2:] == (3, 20, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (16, 16)}, "size of frames"),
        ({"size": (0, 16, 16)}, "size of frames"),
        ({"patch": (2, 8)}, "the patch"),
        ({"width": 23, "heads": 1}, "even width"),
        ({"heads": 5}, "multiple of its heads"),
        ({"width": 4, "heads": 2}, "at least 6"),
        ({"positions": "rotary"}, "sincos3d"),
        ({"class_token": False, "pool": "cls"}, "does not have"),
        ({"pool": "max"}, "cls or mean"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        video_vit(**options)
