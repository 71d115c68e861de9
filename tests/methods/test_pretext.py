"""Pretext tasks: what their transformations are, when they can be told, and what they cost."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from toys import collate, info, signal_encoder, volume, volume_encoder

from medssl import cli
from medssl.encoders.base import Encoder, Features
from medssl.errors import ConfigError
from medssl.methods.pretext import FlipPretext, Pretext, PretextHead, RotationPretext, SegmentOrderPretext
from medssl.methods.redundancy_reduction import RedundancyReduction
from medssl.methods.self_distillation import SelfDistillation
from medssl.methods.transformations import distant_permutations, rotations_of_a_cube
from medssl.views.base import Views
from medssl.views.signal import SignalViews
from medssl.views.signal_augment import SignalAugmentation
from medssl.views.volume import VolumeViews
from medssl.views.volume_augment import VolumeAugmentation


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def every_class(pretext: Pretext, row: Tensor) -> Tensor:
    """The row (C, *size) in each of its transformations, (classes, C, *size)."""
    labels = torch.arange(pretext.classes)
    return pretext.transform(row.expand(pretext.classes, *row.shape), labels)


def volumes(size: tuple[int, int, int] = (8, 8, 8), **augmentation: object) -> Views:
    settings = {"flip": (0.0, 0.0, 0.0), **augmentation}
    return VolumeViews(size, augmentation=VolumeAugmentation(**settings))  # type: ignore[arg-type]


def signals(size: int = 128, permute: float = 0.0) -> Views:
    return SignalViews((size,), augmentation=SignalAugmentation(permute=permute))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_four_rotations_are_the_quarter_turns_about_an_axis(axis: int) -> None:
    row = torch.randn(2, 3, 3, 3, generator=generator())
    plane = [1 + a for a in range(3) if a != axis]
    turned = every_class(RotationPretext(axis=axis), row)
    wanted = [torch.rot90(row, k, plane) for k in range(4)]
    assert torch.equal(turned[0], row)
    for one in wanted:
        assert sum(torch.equal(one, other) for other in turned) == 1


@pytest.mark.parametrize("rotations", [4, 10, 24])
def test_rotations_are_different_proper_and_include_the_identity(rotations: int) -> None:
    row = torch.randn(1, 3, 3, 3, generator=generator())
    turned = every_class(RotationPretext(rotations=rotations), row)  # type: ignore[arg-type]
    assert torch.equal(turned[0], row)
    assert len({tuple(t.flatten().tolist()) for t in turned}) == rotations
    everything = every_class(RotationPretext(rotations=24), row)
    assert not any(torch.equal(row.flip(1), t) for t in everything), "a mirror image is no rotation"
    assert all(any(torch.equal(t, e) for e in everything) for t in turned)


def test_the_rotations_of_a_cube_are_a_group() -> None:
    row = torch.randn(1, 3, 3, 3, generator=generator())
    pretext = RotationPretext(rotations=24)
    once = every_class(pretext, row)
    known = {tuple(t.flatten().tolist()) for t in once}
    for turned in once:
        assert {tuple(t.flatten().tolist()) for t in every_class(pretext, turned)} == known
    assert len(rotations_of_a_cube()) == 24


def test_a_turn_across_a_square_works_for_crops_that_are_no_cube() -> None:
    row = torch.randn(1, 4, 5, 4, generator=generator())
    assert every_class(RotationPretext(axis=1), row).shape == (4, 1, 4, 5, 4)


def test_flips_are_told_axis_by_axis() -> None:
    row = torch.randn(1, 2, 3, 4, generator=generator())
    turned = every_class(FlipPretext(axes=(0, 2)), row)
    wanted = [row, row.flip(1), row.flip(3), row.flip(1, 3)]
    assert all(torch.equal(a, b) for a, b in zip(turned, wanted, strict=True))
    window = torch.randn(2, 7, generator=generator())
    assert torch.equal(every_class(FlipPretext(), window)[1], window.flip(1))


def test_segments_change_places_alike_in_all_channels_and_the_rest_stays() -> None:
    pretext = SegmentOrderPretext(segments=3, permutations=6)
    row = torch.arange(20.0).view(2, 10)
    turned = every_class(pretext, row)
    assert torch.equal(turned[0], row)
    for order, one in zip(pretext.orders.tolist(), turned, strict=True):
        wanted = torch.cat([*(row[:, 3 * s : 3 * s + 3] for s in order), row[:, 9:]], dim=1)
        assert torch.equal(one, wanted)


def test_each_permutation_is_as_far_as_can_be_from_those_before() -> None:
    table = [tuple(p) for p in distant_permutations(4, 12).tolist()]
    assert table[0] == (0, 1, 2, 3)

    def nearest(candidate: tuple[int, ...], before: list[tuple[int, ...]]) -> int:
        return min(sum(a != b for a, b in zip(candidate, one, strict=True)) for one in before)

    for place in range(1, 12):
        before = table[:place]
        assert nearest(table[place], before) == max(nearest(c, before) for c in itertools.permutations(range(4))) > 0


def test_permutations_depend_on_the_seed_alone() -> None:
    table = distant_permutations(5, 20)
    assert np.array_equal(table, distant_permutations(5, 20))
    assert not np.array_equal(table, distant_permutations(5, 20, seed=1))
    assert sorted(map(tuple, distant_permutations(3, 6).tolist())) == list(itertools.permutations(range(3)))


class Mean(Encoder):
    """Sees the mean of the first half of the first axis: enough to tell a flip."""

    out_dim = 1

    def forward(self, x: Tensor) -> Features:
        return Features(x[:, :1, : x.shape[2] // 2].flatten(1).mean(1, keepdim=True), [])


def test_a_task_that_can_be_told_is_learnt_and_chance_is_stated() -> None:
    rows = torch.cat([-torch.ones(64, 1, 4), torch.ones(64, 1, 4)], dim=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pretext = FlipPretext()
        pretext.fit_width(1)
    optimizer = torch.optim.Adam(pretext.parameters(), lr=1e-3)
    random = generator()
    for _ in range(60):
        loss, logs = pretext(rows, Mean(), random)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert logs["pretext_accuracy"] > 0.95 and logs["pretext_chance"] == 0.5
    assert logs["pretext"].item() == pytest.approx(loss.item())


def test_all_copies_encode_every_row_in_every_transformation() -> None:
    seen: list[Tensor] = []

    class Recorder(Mean):
        def forward(self, x: Tensor) -> Features:
            seen.append(x)
            return super().forward(x)

    rows = torch.randn(3, 1, 8, generator=generator())
    for all_copies in (False, True):
        pretext = FlipPretext(all_copies=all_copies)
        pretext.fit_width(1)
        pretext(rows, Recorder(), generator())
    assert [len(x) for x in seen] == [3, 6]
    assert torch.equal(seen[1], torch.cat([rows, rows.flip(2)]))


def test_dropout_of_the_head_acts_in_training_only_and_follows_the_generator() -> None:
    head, x = PretextHead(4, 3), torch.randn(5, 4)
    assert torch.equal(head(x, generator(0)), head(x, generator(0)))
    assert not torch.equal(head(x, generator(0)), head(x, generator(1)))
    head.eval()
    assert torch.equal(head(x, generator(0)), head(x, generator(1)))


@pytest.mark.parametrize(
    ("pretext", "views", "message"),
    [
        (RotationPretext(), signals(), "not signals"),
        (RotationPretext(), volumes((8, 8, 6)), "sizes must be equal"),
        (RotationPretext(rotations=24), volumes((6, 8, 8)), "sizes must be equal"),
        (RotationPretext(), VolumeViews((8, 8, 8)), r"axes \[1, 2\] at random"),
        (RotationPretext(), volumes(turn=0.5), "turn to 0"),
        (FlipPretext(axes=(0, 1)), volumes(flip=(0.0, 0.5, 0.5)), r"axes \[1\] at random"),
        (FlipPretext(axes=(2,)), volumes(turn=0.5), r"axes \[2\] at random"),
        (FlipPretext(axes=(1,)), signals(), "the views have 1"),
        (SegmentOrderPretext(), volumes(), "not volumes"),
        (SegmentOrderPretext(), signals(permute=0.2), "permute to 0"),
        (
            SegmentOrderPretext(),
            SignalViews((128,), augmentation=SignalAugmentation(permute=0.0), second=SignalAugmentation(permute=0.2)),
            "permute to 0",
        ),
        (SegmentOrderPretext(), signals(size=8), "take fewer"),
    ],
)
def test_views_that_make_the_task_impossible_are_refused(pretext: Pretext, views: Views, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pretext.check(views)


@pytest.mark.parametrize(
    ("pretext", "views"),
    [
        (RotationPretext(), volumes((6, 8, 8))),
        (RotationPretext(), volumes(flip=(0.5, 0.0, 0.5))),
        (RotationPretext(axis=1), volumes((8, 6, 8))),
        (FlipPretext(axes=(0, 1)), volumes(flip=(0.0, 0.0, 0.5))),
        (FlipPretext(), signals(permute=0.2)),
        (SegmentOrderPretext(), signals()),
    ],
)
def test_views_that_leave_the_task_possible_are_taken(pretext: Pretext, views: Views) -> None:
    pretext.check(views)


def test_settings_out_of_range_are_refused() -> None:
    for make, message in (
        (lambda: RotationPretext(rotations=6), "4, 10 or 24"),  # type: ignore[arg-type]
        (lambda: RotationPretext(axis=3), "axis"),
        (lambda: FlipPretext(axes=()), "at least one"),
        (lambda: FlipPretext(axes=(1, 1)), "different axes"),
        (lambda: FlipPretext(weight=0), "weight"),
        (lambda: SegmentOrderPretext(segments=1), "2 to 9 segments"),
        (lambda: SegmentOrderPretext(segments=3, permutations=7), "2 to 6 orders"),
    ):
        with pytest.raises(ConfigError, match=message):
            make()


def test_the_loss_is_that_of_the_objective_plus_the_weighted_task() -> None:
    of = SelfDistillation(
        volume_encoder(), volumes(), projector=(8, 4), predictor=4, pretext=RotationPretext(weight=0.7)
    )
    drawn = collate([of.draw(volume(i), np.random.default_rng(i)) for i in range(3)], seed=0)  # type: ignore[arg-type]
    losses = of.loss(drawn)
    wanted = losses.terms["objective"] + 0.7 * losses.terms["pretext"]
    assert losses.total.item() == pytest.approx(wanted.item(), rel=1e-6)


def test_a_method_with_impossible_views_is_refused_before_training() -> None:
    of = RedundancyReduction(
        signal_encoder(), SignalViews((128,)), projector=(8, 4), pretext=SegmentOrderPretext(segments=4, permutations=4)
    )
    with pytest.raises(ConfigError, match="permute"):
        of.check(info("signal", 2))


def test_a_config_may_name_a_task(tmp_path: Path) -> None:
    config = {
        "method": {
            "class_path": "SelfDistillation",
            "init_args": {
                "encoder": {"class_path": "ResEnc", "init_args": {"size": "tiny"}},
                "views": {"class_path": "VolumeViews", "init_args": {"size": [16, 16, 16]}},
                "objective": {"class_path": "SimSiam"},
                "pretext": {"class_path": "RotationPretext", "init_args": {"rotations": 24}},
            },
        }
    }
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    function = cli._function(cli.VERBS["pretrain"])
    parser = cli._parser("pretrain", cli.VERBS["pretrain"], function)
    arguments = cli._named_configs(["--config", str(file), "--cohort=A", "--out=B"])
    method = cli._values(parser, cli._parse(parser, arguments, function))["method"]
    assert isinstance(method.pretext, RotationPretext) and method.pretext.classes == 24
