"""One encoder for several kinds: a decoder for every grid, and crops of several sizes in one loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from toys import collate, video, volume

from medssl.encoders.video_vit import VideoViT
from medssl.methods.clustering import Clustering
from medssl.methods.masked_autoencoder import MASK_RATIOS, MaskedAutoencoder
from medssl.objectives.sim_dino import SimDINO
from medssl.views.by_kind import ViewsByKind
from medssl.views.clip import ClipViews
from medssl.views.multi_crop import MultiCrop
from medssl.views.volume import VolumeViews

SMALL = {"decoder_width": 12, "decoder_depth": 1, "decoder_heads": 2}


def encoder() -> VideoViT:
    torch.manual_seed(0)
    return VideoViT(1, (4, 16, 16), patch=(2, 4, 4), width=16, depth=1, heads=2)


def batch_of(of: Any, readers: list[Any]) -> dict[str, Any]:
    of.generator.manual_seed(0)
    return collate([of.draw(r, np.random.default_rng(i)) for i, r in enumerate(readers)], seed=0)


def autoencoder() -> MaskedAutoencoder:
    views = ViewsByKind(
        images=ClipViews((1, 16, 16), count=1),
        volumes=VolumeViews((6, 14, 16), count=1),  # no whole number of patches along an axis
        video=ClipViews((8, 16, 16), count=1),
    )
    return MaskedAutoencoder(encoder(), views, **SMALL)  # type: ignore[arg-type]


def test_every_kind_hides_its_own_share_of_its_own_grid() -> None:
    of, seen = autoencoder(), []
    of.decoder.register_forward_pre_hook(lambda module, given: seen.append(given))
    of.decoder.register_forward_hook(lambda module, given, told: seen.append(told.shape))
    kinds = {"image": [video(0, (1, 20, 20))] * 2, "volume": [volume(0), volume(1)], "video": [video(0), video(1)]}
    cells = {"image": (1, 4, 4), "volume": (3, 4, 4), "video": (4, 4, 4)}
    for kind, readers in kinds.items():
        seen.clear()
        losses = of.loss(batch_of(of, readers))
        (encoded, places, grid), told = seen
        assert grid == cells[kind] and told[1] == np.prod(grid)
        assert places.shape[1] == int(np.prod(grid) * (1 - MASK_RATIOS[kind])) == encoded.shape[1]
        assert losses.total.isfinite()


def test_codes_of_a_grid_do_not_depend_on_which_kind_came_first() -> None:
    one, other = autoencoder().decoder, autoencoder().decoder
    other.codes((4, 4, 4))
    assert torch.equal(one.codes((3, 4, 4)), other.codes((3, 4, 4))) and one.codes((3, 4, 4)).shape == (48, 12)
    assert set(one.state_dict()) == set(autoencoder().decoder.state_dict())


def clustering() -> Clustering:
    views = MultiCrop(ClipViews((4, 16, 16), count=2), ClipViews((2, 8, 8), count=3, crop="resized"))
    torch.manual_seed(0)
    return Clustering(encoder(), views, objective=SimDINO(), projector=(16, 8))


def test_the_teacher_sees_large_crops_alone_and_the_student_all() -> None:
    of, taught, learnt = clustering(), [], []
    of.teacher_encoder.register_forward_hook(lambda module, given, out: taught.append(given[0].shape))
    of.encoder.register_forward_hook(lambda module, given, out: learnt.append(given[0].shape))
    losses = of.loss(batch_of(of, [video(i) for i in range(3)]))
    assert taught == [(6, 1, 4, 16, 16)] and learnt == [(6, 1, 4, 16, 16), (9, 1, 2, 8, 8)]
    assert losses.embeddings is not None and losses.embeddings.shape == (15, 8)


def test_small_crops_are_told_what_the_teacher_says_of_large_ones() -> None:
    """The loss is that of the objective on all projections, in the order large, small."""
    of = clustering()
    batch = batch_of(of, [video(i) for i in range(3)])
    total = of.loss(batch).total
    of.generator.manual_seed(0)
    large, small = of.views.crops(batch, of.generator)
    rows = torch.cat([of.projector(of.encoder(x.flatten(0, 1)).pooled) for x in (large, small)]).unflatten(0, (5, 3))
    targets = of.teach(large.flatten(0, 1)).unflatten(0, (2, 3))
    expected = of.objective(rows, **of.given(batch, targets=targets)).loss
    torch.testing.assert_close(total, expected)
