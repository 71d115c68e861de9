"""Joint images and volumes: stages and what they train, slices that are not there, ids, what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from cases_joint_image_volume import image_encoder
from toys import collate, info, volume

from medssl.encoders.base import InputSpec, load_encoder, save_encoder
from medssl.encoders.resenc import ResEnc
from medssl.encoders.slice_transformer import SliceTransformer
from medssl.errors import ConfigError
from medssl.methods.joint_image_volume import JointImageVolume
from medssl.objectives.deep_cluster import DeepCluster
from medssl.objectives.dino import DINO
from medssl.objectives.swav import SwAV
from medssl.training.pretrain import initialise
from medssl.views.volume_augment import VolumeAugmentation

NOTHING = VolumeAugmentation(
    flip=(0.0, 0.0, 0.0), affine=0.0, blur=0.0, coarse=0.0, noise=0.0, brightness=0.0, contrast=0.0, gamma=0.0
)
FLIPPED = VolumeAugmentation(
    flip=(1.0, 0.0, 0.0), affine=0.0, blur=0.0, coarse=0.0, noise=0.0, brightness=0.0, contrast=0.0, gamma=0.0
)


def encoder(**options: Any) -> SliceTransformer:
    settings = {"width": 16, "layers": 1, "hidden": 16, "dropout": 0.0, **options}
    return SliceTransformer(image_encoder(), **settings)


def method(stage: str = "intra", *, seed: int = 0, **options: Any) -> JointImageVolume:
    torch.manual_seed(seed)
    settings = {
        "size": (10, 8, 8), "intra": SwAV(prototypes=6), "inter": SwAV(prototypes=6), "intra_slices": 2,
        "projector": (16, 8),
    }  # fmt: skip
    chosen = {"mode": "joint"} if stage == "joint" else {"stage": stage}
    return JointImageVolume(options.pop("encoder", None) or encoder(), **{**settings, **chosen, **options})


def source(count: int = 12, **columns: Any) -> Any:
    return SimpleNamespace(places=range(count), cohorts=[], manifest=pd.DataFrame(columns) if columns else None)


def batch(made: JointImageVolume, size: int = 4, *, depth: int = 7, seed: int = 5, first: int = 0) -> dict[str, Any]:
    readers: list[Any] = [volume(first + row, (depth, 12, 12)) for row in range(size)]
    drawn = collate([made.draw(r, np.random.default_rng([seed, i])) for i, r in enumerate(readers)], seed=seed)
    made.generator.manual_seed(seed)
    return drawn


def trained(made: JointImageVolume) -> set[str]:
    """Parts of the method and of its encoder that have something to train."""
    names = [n.split(".") for n, p in made.named_parameters() if p.requires_grad]
    return {".".join(n[:2]) if n[0] == "encoder" else n[0] for n in names}


def test_each_stage_trains_its_parts() -> None:
    slices, pooling = {"encoder.encoder", "encoder.projection"}, {"encoder.attention"}
    assert trained(method("intra")) == slices | {"intra", "head"}
    assert trained(method("mask")) == pooling | {"token", "decoder"}
    assert trained(method("inter")) == slices | pooling | {"inter"}
    assert trained(method("joint")) == slices | pooling | {"intra", "head", "inter"}


def test_the_mask_stage_leaves_the_encoder_of_slices_as_it_is() -> None:
    made = method("mask")
    before = {k: v.clone() for k, v in made.encoder.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in made.parameters() if p.requires_grad], lr=0.1)
    made.train()
    made.loss(batch(made)).total.backward()
    optimizer.step()
    changed = {k.split(".")[0] for k, v in made.encoder.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"attention"}, "running statistics neither"
    assert not made.encoder.projection.training and made.encoder.attention.training


def test_joint_adds_both_losses() -> None:
    made = method("joint")
    losses = made.loss(batch(made))
    torch.testing.assert_close(losses.total.detach(), losses.terms["intra"] + losses.terms["inter"])
    assert {"intra_loss_of_uniform", "inter_loss_of_uniform"} <= set(losses.terms)
    losses.total.backward()
    for part in (made.encoder.encoder, made.encoder.attention, made.head):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


@pytest.mark.parametrize("stage", ["mask", "inter"])
@pytest.mark.parametrize("augmentation", [NOTHING, FLIPPED])
def test_slices_that_are_not_there_do_not_matter(stage: str, augmentation: VolumeAugmentation) -> None:
    made = method(stage, augmentation=augmentation).eval()
    drawn = batch(made)
    assert drawn["filled"].sum(1).tolist() == [7] * 4 and not drawn["filled"].all()
    other = {**drawn, "x": torch.where(drawn["filled"].view(4, 1, 1, 10, 1, 1), drawn["x"], 999)}
    totals = []
    for one in (drawn, other):
        made.generator.manual_seed(5)
        totals.append(made.loss(one).total)
    assert torch.equal(*totals)


def test_a_flip_along_the_slices_takes_along_which_are_there() -> None:
    made = method("inter", augmentation=FLIPPED).eval()
    x, filled = torch.rand(1, 1, 5, 8, 8), torch.tensor([[True, True, False, False, False]])
    vectors, there, (first,) = made._two_views(x, filled, torch.arange(5).eq(1).unsqueeze(0))
    assert there.tolist() == [[False, False, False, True, True]] * 2
    assert first.tolist() == [[False, False, False, True, False]] * 2
    alone = made.encoder.slice_vectors(x[:, :, :2])
    torch.testing.assert_close(vectors[0, 3:].flip(0), alone[0])
    assert not vectors[:, :3].any()


def test_a_volume_padded_and_the_same_volume_without_padding_have_one_vector() -> None:
    made = method("inter", augmentation=NOTHING).eval()
    x = torch.rand(2, 1, 6, 8, 8)
    padded = torch.nn.functional.pad(x, (0, 0, 0, 0, 2, 2), value=7.0)
    filled = torch.tensor([False] * 2 + [True] * 6 + [False] * 2).expand(2, -1)
    short, _, _ = made._two_views(x, torch.ones(2, 6, dtype=torch.bool))
    long, there, _ = made._two_views(padded, filled)
    torch.testing.assert_close(made._volume_vectors(long, there), made._volume_vectors(short), rtol=0, atol=1e-6)


def test_images_are_volumes_of_one_slice() -> None:
    made = method("intra", intra_slices=1)
    made.prepare(source(shape=[(1, 12, 12)] * 4), batch=4)
    drawn = batch(made, depth=1)
    assert drawn["x"].shape == (4, 1, 1, 1, 8, 8)
    losses = made.loss(drawn)
    losses.total.backward()
    assert losses.total.isfinite() and losses.embeddings is not None and losses.embeddings.shape == (8, 8)


def test_volumes_of_one_slice_and_of_many_stand_in_one_batch() -> None:
    made = method("joint")
    readers: list[Any] = [volume(row, (depth, 12, 12)) for row, depth in enumerate((1, 3, 10, 25))]
    drawn = collate([made.draw(r, np.random.default_rng(0)) for r in readers], seed=1)
    assert drawn["filled"].sum(1).tolist() == [1, 3, 10, 10]
    losses = made.loss(drawn)
    losses.total.backward()
    assert losses.total.isfinite()
    assert all(p.grad.isfinite().all() for p in made.parameters() if p.grad is not None)


def test_slices_of_the_joint_step_are_those_that_are_there() -> None:
    made = method("joint", intra_slices=3)
    x = torch.arange(10.0).view(1, 1, 10, 1, 1).expand(2, 1, 10, 8, 8)
    filled = torch.tensor([[False] * 3 + [True] * 6 + [False], [False] * 4 + [True] + [False] * 5])
    for seed in range(20):
        made.generator.manual_seed(seed)
        found = made._some(x, filled)[:, 0, :, 0, 0].long()
        assert [(int(p) - 3) // 2 for p in found[0]] == [0, 1, 2], "one of each third"
        assert found[1].tolist() == [4, 4, 4]


def test_ids_of_slices_and_volumes_are_those_of_the_whole_run() -> None:
    made = method("joint", intra=DeepCluster(clusters=(3,)), inter=DeepCluster(clusters=(3,)))
    made.prepare(source(6), batch=3)
    for first in (0, 3):  # two cohorts of three recordings each
        made.loss(batch(made, 3, first=first))
    assert made.inter.seen.all() and made.intra.seen.all()  # type: ignore[operator, union-attr]
    assert made.inter.bank.shape == (2, 6, 16) and made.intra.bank.shape == (2, 12, 8)  # type: ignore[union-attr]
    for objective in (made.inter, made.intra):
        assert (objective.assignments >= 0).all()  # type: ignore[operator]
        assert len(objective.bank[0].unique(dim=0)) == len(objective.seen)  # type: ignore[arg-type, index, operator]


def test_views_are_drawn_anew_at_every_step() -> None:
    made = method("inter").eval()
    drawn = batch(made)
    made.generator.manual_seed(1)
    first = made.loss(drawn).total
    assert not torch.equal(first, made.loss(drawn).total)


def test_the_next_stage_starts_from_encoder_projection_and_transformer(tmp_path: Path) -> None:
    before = method("intra")
    before.loss(batch(before))  # running statistics
    save_encoder(before.exported, tmp_path / "encoder", InputSpec("volume", ("c0",), (10, 8, 8)), {})
    after = method("mask", seed=1)
    initialise(after, tmp_path)
    state = after.encoder.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in before.encoder.state_dict().items())
    loaded, _ = load_encoder(tmp_path)
    assert isinstance(loaded, SliceTransformer) and loaded.dims == 3


def test_what_is_exported_pools_volumes_once_that_is_trained() -> None:
    assert method(encoder=image_encoder()).exported.out_dim == 8
    for stage in ("inter", "joint"):
        exported = method(stage, encoder=image_encoder(), size=(4, 8, 8)).exported
        assert isinstance(exported, SliceTransformer) and exported.pool == "volume" and exported.out_dim == 640


def test_embed_gives_what_the_objective_gets() -> None:
    x = torch.rand(3, 1, 10, 8, 8)
    assert method("intra").eval().embed(x).shape == (3, 8, 10)
    volumes = method("inter").eval().embed(x)
    torch.testing.assert_close(volumes.norm(dim=1), torch.ones(3))


def test_the_loss_of_volumes_is_symmetric_and_small_where_views_agree_and_prototypes_lie_apart() -> None:
    objective = SwAV(prototypes=4, frozen=0.0)
    objective.fit_width(16)
    volumes = torch.nn.functional.normalize(torch.randn(2, 4, 16), dim=-1)
    torch.testing.assert_close(objective(volumes).loss, objective(volumes.flip(0)).loss)
    with torch.no_grad():
        objective.prototypes.copy_(torch.eye(16)[:4])
    assert objective(torch.eye(16)[:4].expand(2, -1, -1)).loss < 1e-3


def test_a_batch_of_one_is_refused_where_volumes_are_compared() -> None:
    for stage in ("intra", "inter", "joint"):
        made = method(stage)
        with pytest.raises(ConfigError, match="at least 2 recordings a batch"):
            made.loss(batch(made, 1))
    made = method("mask")
    assert made.loss(batch(made, 1)).total.isfinite()


def test_more_prototypes_than_a_step_can_use_are_refused() -> None:
    made = method("inter", inter=SwAV(prototypes=33))
    with pytest.raises(ConfigError, match="33 prototypes of the inter objective are too many for 8 samples"):
        made.prepare(source(), batch=8)
    made.prepare(source(), batch=9)
    method("inter", inter=SwAV(prototypes=33, queue=1)).prepare(source(), batch=8)
    slices = method("intra", intra=SwAV(prototypes=64), intra_slices=2)
    slices.prepare(source(), batch=8)
    with pytest.raises(ConfigError, match="intra objective"):
        slices.prepare(source(), batch=7)


def test_cohorts_that_do_not_fit_are_refused() -> None:
    made = method()
    with pytest.raises(ConfigError, match="signals"):
        made.check(info("signal", 1))
    with pytest.raises(ConfigError, match="thickest of this cohort has 1; set intra_slices"):
        made.prepare(source(shape=[(1, 64, 64)] * 2), batch=8)


def test_settings_that_make_no_sense_are_refused() -> None:
    for match, options in {
        "takes 3 axes": {"encoder": ResEnc(1, "tiny")},
        "DINO": {"intra": DINO()},
        "mask_ratio": {"mask_ratio": 1.0},
        "set pool: slices": {"encoder": encoder(pool="volume")},
        "8 slices, but size has 10": {"encoder": encoder(attend="embedding", slices=8)},
    }.items():
        with pytest.raises(ConfigError, match=match):
            method(**options)
