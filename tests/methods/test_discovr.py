"""DISCOVR: all masks in one pass, who gets which gradient, teachers and centres, the released way, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn
from toys import collate, signal_encoder, video

from medssl import resources
from medssl.configurable import Configurable, build, discover
from medssl.encoders.base import InputSpec, save_encoder
from medssl.encoders.video_vit import VideoViT
from medssl.errors import ConfigError
from medssl.methods.base import Method
from medssl.methods.discovr import DISCOVR, BranchWeights
from medssl.objectives.discovr import cluster_distillation, masked_self_distillation
from medssl.objectives.pairs import unit
from medssl.training.pretrain import initialise
from medssl.views.clip import ClipViews
from medssl.views.volume import VolumeViews

SIZE = (8, 32, 32)
GRID = (4, 4, 4)


def encoder(**options: Any) -> VideoViT:
    settings: dict[str, Any] = {"patch": (2, 8, 8), "width": 24, "depth": 2, "heads": 2, "positions": "sincos1d"}
    return VideoViT(1, SIZE, **{**settings, **options})


def method(**options: Any) -> DISCOVR:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "masks": 3, "mask_ratio": 0.75, "head": (16, 8), "head_prototypes": 12, "prototypes": 7, "decoder_width": 12,
        "decoder_depth": 1, "decoder_heads": 2,
    }  # fmt: skip
    return DISCOVR(encoder(), ClipViews(SIZE, count=1), **{**settings, **options})


def clips(count: int = 2) -> Tensor:
    return torch.randn(count, 1, *SIZE, generator=torch.Generator().manual_seed(1))


def total(of: DISCOVR, x: Tensor) -> Tensor:
    of.generator.manual_seed(2)
    return of.compare(x).total


def moved(module: nn.Module) -> None:
    """Training has changed it."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))


def test_tubes_hide_the_same_places_in_all_frames_and_as_many_in_every_mask() -> None:
    of = method()
    encoded, hidden, places = of._masked(of.encoder, clips(), 5)
    assert encoded.shape == (2, 5, 1 + 4 * 4, 24) and hidden.shape == (2, 5, 64) and places.shape == (2, 5, 16)
    tubes = hidden.view(2, 5, *GRID)
    assert (tubes == tubes[:, :, :1]).all() and (tubes.sum((2, 3, 4)) == 4 * 12).all()
    assert torch.equal(torch.ones(2, 5, 64).scatter(2, places, 0).bool(), hidden), "visible and hidden make up all"
    flat = hidden.flatten(0, 1)
    assert len({tuple(row.tolist()) for row in flat}) == len(flat), "each mask is another one"


def test_the_paper_s_clip_leaves_five_tubes() -> None:
    with torch.device("meta"):
        of = DISCOVR(VideoViT(3, (64, 112, 112), depth=1), ClipViews((64, 112, 112), count=1))
    assert of.grid == (32, 7, 7) and of.hidden == 44


def test_masks_in_one_pass_equal_masks_one_after_the_other() -> None:
    of, x = method(), clips()
    encoded, hidden, _ = of._masked(of.encoder, x, 3)
    for mask in range(3):
        seen = of.encoder.tokens(x)[~hidden[:, mask]].view(2, 16, -1)
        torch.testing.assert_close(of.encoder.encode(seen), encoded[:, mask])


def test_a_step_equals_its_parts_one_by_one() -> None:
    """The step as it is described: teachers see all, students what is visible, the decoder's tokens go by place."""
    of, x = method().double().eval(), clips().double()
    found = total(of, x)
    of.generator.manual_seed(2)
    frames = x.transpose(1, 2).reshape(16, 1, 1, 32, 32)
    of_clips, _, places = of._masked(of.encoder, x, 4)
    of_frames, _, _ = of._masked(of.image_encoder, frames, 3)
    heat = {"temperature": 0.1, "teacher_temperature": 0.04}
    losses = []
    for student, head, teacher, whole in (
        (of_clips[:, :3], of.head, of.teacher, x),
        (of_frames, of.image_head, of.image_teacher, frames),
    ):
        known = teacher.head(teacher.encoder.encode(teacher.encoder.tokens(whole))[:, 0])
        scores = torch.stack([head(student[:, mask, 0]) for mask in range(3)])
        losses.append(masked_self_distillation(scores, known, teacher.centre, **heat).loss)
    taught = of.image_teacher.encoder
    own = of.decoder(of_clips[:, 3, 1:], places[:, 3])
    known = []
    for clip in range(2):
        for tubelet in range(4):
            tokens = taught.encode(taught.tokens(x[clip : clip + 1, :, 2 * tubelet : 2 * tubelet + 1]))[0, 1:]
            known.append((tokens - tokens.mean(0)) / (tokens.std(0) + 1e-6))
    losses.append(cluster_distillation(own.flatten(0, 1), torch.cat(known), unit(of.prototypes)).loss)
    torch.testing.assert_close(found, torch.stack(losses).sum())


def reached(of: DISCOVR, weights: tuple[float, float, float]) -> set[str]:
    """Parts that get a gradient."""
    of.weights = BranchWeights(*weights)
    of.zero_grad()
    total(of, clips()).backward()
    return {n.split(".")[0] for n, p in of.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_each_loss_trains_its_own_parts_and_none_a_teacher() -> None:
    of = method()
    assert reached(of, (1, 0, 0)) == {"encoder", "head"}
    assert reached(of, (0, 1, 0)) == {"image_encoder", "image_head"}
    assert reached(of, (0, 0, 1)) == {"encoder", "decoder", "prototypes"}, "semantics flow from image to video only"
    assert reached(method(symmetric=True), (0, 0, 1)) == {"encoder", "decoder", "prototypes"}


def test_teachers_are_in_evaluation_mode_and_say_at_first_what_the_student_says() -> None:
    of = method().train()
    assert of.training and not any(m.training for t in (of.teacher, of.image_teacher) for m in t.modules())
    scores, tokens = of.teacher(clips())
    encoded = of.encoder.encode(of.encoder.tokens(clips()))
    torch.testing.assert_close(tokens, encoded[:, 1:].detach())
    torch.testing.assert_close(scores, of.head(encoded[:, 0]).detach())


@pytest.mark.parametrize(("momentum", "share"), [(0.0, 0.0), (1.0, 1.0), (0.75, 0.75)])
def test_teachers_follow(momentum: float, share: float) -> None:
    of = method(momentum=momentum)
    pairs = [(of.teacher.encoder, of.encoder), (of.teacher.head, of.head), (of.image_teacher.encoder, of.image_encoder)]
    before = [p.clone() for teacher, _ in pairs for p in teacher.parameters()]
    for part in (of.encoder, of.head, of.image_encoder, of.image_head):
        moved(part)
    of.follow()
    now = [p for teacher, _ in pairs for p in teacher.parameters()]
    wanted = [p for _, student in pairs for p in student.parameters()]
    for old, found, student in zip(before, now, wanted, strict=True):
        torch.testing.assert_close(found, share * old + (1 - share) * student)


def test_centres_move_in_training_only_and_are_part_of_a_checkpoint() -> None:
    of = method(centre_momentum=0.0).eval()
    total(of, clips())
    assert (of.teacher.centre == 0).all()
    of.train()
    total(of, clips())
    torch.testing.assert_close(of.teacher.centre, of.teacher(clips()).scores.mean(0))
    assert {"teacher.centre", "image_teacher.centre", "teacher.encoder.cls_token"} <= set(of.state_dict())


def test_the_released_way() -> None:
    of = method(reference=True)
    assert (of.momentum, of.centre_momentum, of.targets, of.alignment) == (0.99, 0.8, "hard", "reference")
    assert of.optim.schedule == "constant" and of.optim.warmup == 0
    of.weights = BranchWeights(0, 1, 0)
    ours = method(weights=BranchWeights(0, 1, 0))
    torch.testing.assert_close(total(of, clips()), total(ours, clips()) * 256 / 16)
    torch.testing.assert_close(of.image_teacher.centre.sum(), torch.tensor(0.2))  # (1 - 0.8) of shares


def test_hard_targets_and_another_alignment_change_the_clusters_alone() -> None:
    one = method().eval()
    for options in ({"targets": "hard"}, {"alignment": "reference"}, {"symmetric": True}, {"epsilon": 0.5}):
        other = method(**options).eval()
        for of in (one, other):
            of.generator.manual_seed(2)
        a, b = one.compare(clips()).terms, other.compare(clips()).terms
        assert torch.equal(a["video"], b["video"]) and torch.equal(a["image"], b["image"])
        assert not torch.equal(a["clusters"], b["clusters"]), options


def test_one_frame_of_each_tubelet_changes_the_image_branch_but_no_cluster_s_target() -> None:
    whole, half = method().eval(), method(every_frame=False).eval()
    seen: list[int] = []
    half.image_teacher.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    for of in (whole, half):
        of.generator.manual_seed(2)
    a, b = whole.compare(clips()).terms, half.compare(clips()).terms
    assert seen == [2 * 4]
    torch.testing.assert_close(a["clusters"], b["clusters"])
    assert not torch.equal(a["image"], b["image"])


def test_all_tokens_of_a_clip_can_be_drawn_and_some_give_another_value() -> None:
    values = {n: float(total(method(cluster_tokens=n).eval(), clips()).detach()) for n in (None, 64, 10)}
    assert values[None] == values[64] != values[10]


def test_frames_have_an_encoder_of_their_own_that_sees_one_at_a_time() -> None:
    of = method()
    assert of.image_encoder.patch == (1, 8, 8) and of.image_encoder.grid == (1, 4, 4)
    assert of.exported is of.encoder
    one, other = clips(1)[:, :, :1], clips(2)[1:, :, :1]
    together = of.image_teacher(torch.cat([one, other])).tokens
    torch.testing.assert_close(of.image_teacher(one).tokens[0], together[0])


def test_another_run_s_encoder_starts_student_and_teacher_and_leaves_frames_alone(tmp_path: Path) -> None:
    before, of = encoder(), method()
    moved(before)
    image = of.image_encoder.cls_token.clone()
    save_encoder(before, tmp_path / "encoder", InputSpec("video", ("b_mode",), SIZE), {})
    initialise(of, tmp_path)
    for name, value in before.state_dict().items():
        assert torch.equal(of.encoder.state_dict()[name], value)
        assert torch.equal(of.teacher.encoder.state_dict()[name], value)
    assert torch.equal(of.image_encoder.cls_token, image)


def test_views_of_another_kind_and_encoders_without_class_tokens_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"VolumeViews cuts volumes; choose ClipViews"):
        DISCOVR(encoder(), VolumeViews(SIZE, count=1))
    with pytest.raises(ConfigError, match=r"ResNet1d has none; choose the encoder VideoViT with class_token: true"):
        DISCOVR(signal_encoder(), ClipViews(SIZE, count=1))
    with pytest.raises(ConfigError, match="class tokens, and this one was built without"):
        DISCOVR(encoder(class_token=False, pool="mean"), ClipViews(SIZE, count=1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mask_ratio": 0.01}, "hides 0 of 16 patches"),
        ({"mask_ratio": 1.0}, "mask_ratio of 1.0"),
        ({"decoder_width": 13}, "an even width"),
        ({"prototypes": 1}, "2 or more prototypes"),
        ({"weights": BranchWeights(0, 0, 0)}, "not all 0"),
        ({"teacher_temperature": (0.0, 0.07)}, "lowest teacher temperature above 0"),
        ({"cluster_tokens": 0}, "cluster tokens above 0"),
        ({"momentum": 1.5}, "momentum from 0 to 1"),
        ({"masks": 0}, "masks above 0"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        method(**options)


def test_clips_that_do_not_divide_into_tubelets_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of 2"):
        DISCOVR(encoder(), ClipViews((7, 32, 32), count=1), mask_ratio=0.75)


def test_stopped_and_continued_is_never_stopped() -> None:
    """Teachers and centres travel with the weights."""

    def steps(of: DISCOVR, optimizer: torch.optim.Optimizer, numbers: range) -> list[float]:
        values = []
        for number in numbers:
            of.follow()
            of.generator.manual_seed(number)
            loss = of.compare(clips()).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.append(float(loss.detach()))
        return values

    def fresh() -> tuple[DISCOVR, torch.optim.Optimizer]:
        of = method(momentum=0.5, centre_momentum=0.5)
        return of, torch.optim.AdamW([p for p in of.parameters() if p.requires_grad], lr=1e-2)

    whole, half, other = fresh(), fresh(), fresh()
    wanted = steps(*whole, range(4))
    first = steps(*half, range(2))
    moved(other[0])
    other[0].load_state_dict(half[0].state_dict())
    other[1].load_state_dict(half[1].state_dict())
    assert first + steps(*other, range(2, 4)) == wanted


def test_the_laptop_s_configuration_takes_a_step() -> None:
    config = yaml.safe_load(resources.find("configs", "discovr_echo_laptop").read_text(encoding="utf-8"))
    for package in ("encoders", "views"):
        discover(f"medssl.{package}", Configurable)  # type: ignore[type-abstract]
    of: Any = build(config["method"], Method)  # type: ignore[type-abstract]
    samples = [of.draw(video(row, (50, 120, 120)), np.random.default_rng(row)) for row in range(2)]
    of.generator.manual_seed(0)
    losses = of.loss(collate(samples, seed=0))
    losses.total.backward()
    assert torch.isfinite(losses.total) and losses.embeddings.shape == (4 * 2, 64)
