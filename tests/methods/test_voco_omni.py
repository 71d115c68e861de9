"""VoCo's omni-supervised stage: whose labels it learns from, when pseudo-masks come, and what they may change."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cases_voco_omni import VALUES, LabelledReader, ToyCohort, labelled_volume, source_of
from toys import collate, volume_encoder

from medssl.errors import ConfigError
from medssl.heads.decoder import Decoder
from medssl.methods.base import Losses
from medssl.methods.voco_omni import VoCoOmni

Readers = list[LabelledReader]


def readers(count: int = 4) -> Readers:
    """Every second one has a mask."""
    return [labelled_volume(row) for row in range(count)]


def method(of: Readers | None = None, **options: Any) -> VoCoOmni:
    torch.manual_seed(0)
    settings = {"crop": (8, 8, 8), "grid": (1, 2, 2), "crops": 2, "projector": (16, 8)} | options
    made = VoCoOmni(volume_encoder(), "organs", len(VALUES), **settings)
    made.prepare(source_of(ToyCohort(readers() if of is None else of)), batch=4)
    return made


def batch(of: VoCoOmni, drawn: Readers, seed: int = 0) -> dict[str, Any]:
    samples = [of.draw(r, np.random.default_rng([seed, i])) for i, r in enumerate(drawn)]  # type: ignore[arg-type]
    return collate(samples, seed=seed)


def step(of: VoCoOmni, drawn: dict[str, Any]) -> Losses:
    of.zero_grad()
    of.generator.manual_seed(drawn["seed"])
    losses = of.loss(drawn)
    losses.total.backward()
    return losses


def gradient(module: torch.nn.Module) -> float:
    return sum(float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None)


def test_the_three_losses_add_up() -> None:
    of = method(pseudo_from=0.0)
    losses = step(of, batch(of, readers()))
    parts = ("intra", "inter", "reg", "supervised", "pseudo")
    assert losses.total.item() == pytest.approx(sum(losses.terms[p].item() for p in parts), rel=1e-5)
    assert 0 <= losses.terms["supervised_dice"] <= 1


def test_positions_are_those_of_voco_v2() -> None:
    from medssl.methods.voco import VoCo

    options: dict[str, Any] = {"crop": (8, 8, 8), "grid": (1, 2, 2), "crops": 2, "projector": (16, 8)}
    torch.manual_seed(0)
    plain = VoCo(volume_encoder(), variant="v2", **options)
    of = method()
    drawn = batch(of, readers())
    plain.generator.manual_seed(0)
    wanted = plain.loss(drawn).terms
    found = step(of, drawn).terms
    assert {k: found[k].item() for k in wanted} == {k: v.item() for k, v in wanted.items()}


def test_patches_come_from_recordings_with_a_mask_and_their_classes_are_counted_through() -> None:
    of = method(patches=3)
    sample = of.draw(readers()[1], np.random.default_rng(0))  # type: ignore[arg-type]
    assert not sample["masked"] and sample["patch"].shape == (3, 1, 8, 8, 8)
    assert sample["patch_label"].shape == (3, 8, 8, 8) and set(np.unique(sample["patch_label"])) == {0, 1, 2}
    assert of.labels_used == (0, 2)
    only = method([labelled_volume(0), labelled_volume(1), labelled_volume(3)])
    stored = labelled_volume(0).data
    for seed in range(4):
        patch = only.draw(readers()[3], np.random.default_rng(seed))["patch"][0, 0]  # type: ignore[arg-type]
        windows = np.lib.stride_tricks.sliding_window_view(stored[0], patch.shape)
        assert (windows == patch).all((-3, -2, -1)).any(), "cut from the only recording with a mask"


def test_nine_patches_of_ten_lie_about_a_labelled_voxel() -> None:
    masked = labelled_volume(0, (16, 40, 40))
    masked.data[:] = 500
    masked.data[:, 13:15, 30:32, 30:32] = 900  # the label 3 is rare
    masked.points = np.array([[4, 4, 4], [5, 5, 5]])
    of = method([masked, labelled_volume(1)])
    labels = [of.draw(readers()[1], np.random.default_rng(i))["patch_label"] for i in range(100)]  # type: ignore[arg-type]
    assert np.mean([label.any() for label in labels]) == pytest.approx(0.9, abs=0.07)


def test_masks_are_turned_with_their_patches() -> None:
    of = method(flip=0.5, turn=1.0, shift=0.0)
    ramp = torch.arange(512.0).view(1, 1, 8, 8, 8).repeat(6, 1, 1, 1, 1)
    of.generator.manual_seed(1)
    rows, masks = of.augment(ramp, torch.ones(6), masks=ramp.clone())
    assert masks is not None and torch.equal(rows, masks) and not torch.equal(rows, ramp)


def test_pseudo_masks_begin_when_due_and_stay_those_of_the_network_as_it_was() -> None:
    of = method()
    drawn = batch(of, readers())
    of._trainer = SimpleNamespace(max_steps=10, global_step=4)  # type: ignore[assignment]
    assert "pseudo" not in step(of, drawn).terms and not of.labeller_made
    before = of.decoder.outputs[0].weight.detach().clone()
    of._trainer.global_step = 5  # type: ignore[union-attr]
    assert "pseudo" in step(of, drawn).terms and of.labeller_made
    with torch.no_grad():
        of.decoder.outputs[0].weight += 1
    of._trainer = SimpleNamespace(max_steps=100, global_step=6)  # type: ignore[assignment]
    assert "pseudo" in step(of, drawn).terms, "an extended run does not go back"
    assert torch.equal(of.labeller_decoder.outputs[0].weight, before)
    assert gradient(of.labeller_encoder) == gradient(of.labeller_decoder) == 0
    of._trainer = None
    never = method(pseudo_from=1.0)
    never._trainer = SimpleNamespace(max_steps=10, global_step=10)  # type: ignore[assignment]
    assert "pseudo" not in step(never, drawn).terms


@pytest.mark.parametrize("semi", [False, True])
def test_guesses_reach_the_encoder_in_the_semi_supervised_form_alone(semi: bool) -> None:
    of = method(pseudo_from=0.0, semi_supervised=semi, teacher_momentum=1.0)
    drawn = batch(of, readers())
    step(of, drawn)
    crops = of.cut(drawn)
    chosen = of._guessed(drawn)
    assert chosen.tolist() == [2, 3, 6, 7], "crops of the second and of the fourth recording"
    rows = crops.rows[chosen]
    maps = of.encoder(rows).maps
    of.zero_grad()
    of._pseudo(rows, maps if semi else [m.detach() for m in maps]).backward()
    assert gradient(of.decoder) > 0 and (gradient(of.encoder) > 0) == semi
    # and as a whole: without guesses, the encoder's gradient is what it was, or not
    with_guesses = gradient_of_step(of, drawn)
    of._guessed = lambda _: torch.empty(0, dtype=torch.long)  # type: ignore[method-assign, assignment]
    assert (with_guesses == pytest.approx(gradient_of_step(of, drawn), rel=1e-5)) != semi


def gradient_of_step(of: VoCoOmni, drawn: dict[str, Any]) -> float:
    step(of, drawn)
    return gradient(of.encoder)


def test_recordings_without_a_mask_are_all_that_get_pseudo_masks(capsys: pytest.CaptureFixture[str]) -> None:
    masked = [labelled_volume(i, masked=True) for i in range(3)]
    of = method(masked, pseudo_from=0.0)
    assert "no pseudo-masks" in capsys.readouterr().err
    assert "pseudo" not in step(of, batch(of, masked)).terms
    assert "pseudo" in step(of, batch(of, [labelled_volume(i, masked=False) for i in range(3)])).terms


def test_semi_supervised_has_no_heads_and_no_positions() -> None:
    of = method(semi_supervised=True, pseudo_from=0.0)
    assert not hasattr(of, "head")
    terms = step(of, batch(of, readers())).terms
    assert set(terms) == {"supervised", "supervised_dice", "pseudo"}


def test_patches_have_the_scale_of_the_crops() -> None:
    fine, coarse = labelled_volume(0, (16, 32, 32)), labelled_volume(2, (16, 32, 32))
    fine.spacing_mm = (1.0, 0.5, 0.5)
    of = method([fine, labelled_volume(1)], crop_mm=(8.0, 8.0, 8.0))
    fine.reads.clear()
    sample = of.draw(coarse, np.random.default_rng(0))  # type: ignore[arg-type]
    assert fine.reads[-1][1] == (8, 16, 16) and sample["patch"].shape == (1, 1, 8, 8, 8)
    assert set(np.unique(sample["patch_label"])) <= {0, 1, 2}, "labels are never mixed"


@pytest.mark.parametrize("shape", [(1, 20, 20), (3, 4, 5), (1, 1, 1)])
@pytest.mark.parametrize("crop_mm", [None, (6.0, 10.0, 10.0)])
def test_small_volumes_are_trained_on(shape: tuple[int, int, int], crop_mm: Any) -> None:
    drawn = [labelled_volume(i, shape) for i in range(3)]
    for reader in drawn:
        reader.points = None
    of = method(drawn, pseudo_from=0.0, crop_mm=crop_mm)
    losses = step(of, batch(of, drawn))
    assert torch.isfinite(losses.total) and np.isfinite(gradient(of))


def test_the_decoder_is_there_for_fine_tuning() -> None:
    of = method()
    assert isinstance(of.decoder_exported, Decoder) and of.decoder_exported is of.decoder


def test_what_cannot_work_is_refused_before_training() -> None:
    with pytest.raises(ConfigError, match=r"no recording.*'organs'.*masks of the cohort: organs"):
        method([labelled_volume(0, masked=False)])
    with pytest.raises(ConfigError, match=r"2 labels.*3 classes, not 5"):
        VoCoOmni(volume_encoder(), "organs", 5).prepare(source_of(ToyCohort(readers())), batch=2)
    one, other = ToyCohort(readers()), ToyCohort(readers(), values=(0, 1, 5))
    with pytest.raises(ConfigError, match="mean different things"):
        VoCoOmni(volume_encoder(), "organs", 3).prepare(source_of(one, other), batch=2)
    with pytest.raises(ConfigError, match="2 or more classes"):
        VoCoOmni(volume_encoder(), "organs", 1)
    with pytest.raises(ConfigError, match="after prepare"):
        VoCoOmni(volume_encoder(), "organs", 3).draw(readers()[0], np.random.default_rng(0))  # type: ignore[arg-type]


def test_learns_to_segment_what_is_labelled() -> None:
    of = method(flip=0, turn=0, shift=0, pseudo_from=0.3, semi_supervised=True, patches=2)
    optimizer = torch.optim.AdamW([p for p in of.parameters() if p.requires_grad], lr=1e-2)
    dice = []
    for position in range(30):
        of._trainer = SimpleNamespace(max_steps=30, global_step=position)  # type: ignore[assignment]
        losses = step(of, batch(of, readers(), seed=position))
        optimizer.step()
        dice.append(losses.terms["supervised_dice"].item())
    of._trainer = None
    assert np.mean(dice[-5:]) > np.mean(dice[:3]) + 0.1
