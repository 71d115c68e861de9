"""Masked momentum contrastive learning: each term against loops, masks, schedule and the state it keeps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medssl.errors import ConfigError
from medssl.objectives.masked_momentum import MaskedMomentum, momentum_contrast, patch_distillation


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def objective(**options: Any) -> MaskedMomentum:
    torch.manual_seed(0)
    made = MaskedMomentum(**({"prototypes": 7, "predictor": 6} | options))
    made.fit_width(5)
    return made.double()


def hidden(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(4)) < 0.5


def run(of: MaskedMomentum, views: Tensor, **more: Any) -> Tensor:
    given = {"targets": random(*views.shape, seed=9), "mask": hidden(*views.shape[:2], *views.shape[3:])}
    loss: Tensor = of(views, **{**given, **more}).loss
    return loss


@pytest.mark.parametrize("visible", [0.0, 0.3])
def test_distillation_of_cells_equals_the_loops(visible: float) -> None:
    scores, shares, mask = random(3, 6, 4).requires_grad_(), random(3, 6, 4, seed=1).softmax(-1), hidden(3, 6)
    mask[2] = False
    found = patch_distillation(scores, shares, mask, temperature=0.1, visible=visible)
    views = []
    for v in range(3):
        weights = [1.0 if mask[v, c] else visible for c in range(6)]
        losses = [-(shares[v, c] * (scores[v, c] / 0.1).log_softmax(-1)).sum() for c in range(6)]
        total = sum(weights)
        views.append(sum(w * x for w, x in zip(weights, losses, strict=True)) / (total or 1.0))
    wanted = torch.stack([torch.as_tensor(v, dtype=torch.float64) for v in views]).mean()
    assert found.item() == pytest.approx(wanted.item())
    (gradient,) = torch.autograd.grad(found, scores)
    assert gradient[mask].any()
    assert bool(gradient[~mask].any()) is (visible > 0), "what was seen counts only where it is asked for"


@pytest.mark.parametrize("group", [None, [0, 0, 1, 2], [0, 0, 0, 0]])
@pytest.mark.parametrize("k", [2, 3])
def test_contrast_equals_the_loops(k: int, group: list[int] | None) -> None:
    q, keys = random(k, 4, 5).requires_grad_(), random(k, 4, 5, seed=1)
    found, accuracy = momentum_contrast(
        q, keys, temperature=0.2, group=None if group is None else torch.tensor(group)
    )  # fmt: skip
    names = group or [0, 1, 2, 3]
    losses, hits = [], []
    for a in range(k):
        for b in range(k):
            if a == b:
                continue
            for i in range(4):
                allowed = [j for j in range(4) if j == i or names[j] != names[i]]
                logits = torch.stack([functional.cosine_similarity(q[a, i], keys[b, j], dim=0) / 0.2 for j in allowed])
                losses.append(-logits.log_softmax(0)[allowed.index(i)])
                hits.append(int(logits.argmax()) == allowed.index(i))
    wanted = torch.stack(losses).mean()
    assert found.item() == pytest.approx(wanted.item(), abs=1e-14)
    assert accuracy.item() == pytest.approx(sum(hits) / len(hits))
    for mine, theirs in zip(torch.autograd.grad(found, q), torch.autograd.grad(wanted, q), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_contrast_solved_by_hand() -> None:
    same = torch.ones(2, 6, 3, dtype=torch.float64)
    assert momentum_contrast(same, same, temperature=0.2)[0].item() == pytest.approx(math.log(6))
    apart = torch.eye(6, dtype=torch.float64).expand(2, 6, 6)
    loss, accuracy = momentum_contrast(apart, apart, temperature=0.2)
    assert loss.item() == pytest.approx(math.log(math.exp(5) + 5) - 5) and accuracy.item() == 1
    assert momentum_contrast(same[:, :1], same[:, :1], temperature=0.2)[0].item() == 0, "alone: nothing to tell apart"


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    views = random(2, 4, 5, 3, 3)
    given = {"targets": random(2, 4, 5, 3, 3, seed=9), "mask": hidden(2, 4, 3, 3)}
    logs = objective()(views, **given).logs
    for patch, contrast in ((1.0, 1.0), (0.0, 2.0), (0.5, 0.0)):
        wanted = patch * logs["patch"] + contrast * logs["contrast"]
        assert run(objective(patch=patch, contrast=contrast), views).item() == pytest.approx(wanted.item())


def test_views_are_contrasted_by_their_mean_cells_and_a_predictor() -> None:
    of, views, targets = objective(), random(2, 4, 5, 3, 3), random(2, 4, 5, 3, 3, seed=9)
    predictions = of.predictor_head(functional.normalize(views.flatten(3).mean(-1), dim=-1))
    keys = targets.flatten(3).mean(-1)
    wanted, _ = momentum_contrast(
        predictions - predictions.mean((0, 1)), keys - keys.mean((0, 1)), temperature=0.2
    )  # fmt: skip
    found = of(views, targets=targets, mask=hidden(2, 4, 3, 3)).logs["contrast"]
    assert found.item() == pytest.approx(wanted.item())


@pytest.mark.parametrize(
    "change",
    [
        {"prototypes": 9}, {"temperature": 0.3}, {"teacher_temperature": (0.04, 0.2)}, {"contrast_temperature": 0.5},
        {"visible": 0.5}, {"patch": 2.0}, {"contrast": 2.0}, {"predictor": 7},
    ],
)  # fmt: skip
def test_every_option_changes_the_loss(change: dict[str, Any]) -> None:
    views = random(2, 4, 5, 6)
    assert run(objective(**change), views).item() != pytest.approx(run(objective(), views).item(), abs=1e-9)


def test_the_teacher_grows_less_certain_in_training() -> None:
    views = random(2, 4, 5, 6)
    given = {"targets": random(*views.shape, seed=9), "mask": hidden(2, 4, 6)}
    certain = [float(objective()(views, **given, progress=p).logs["certainty"]) for p in (0.0, 0.5, 1.0)]
    assert certain == sorted(certain, reverse=True) and certain[0] > certain[2]


def test_the_centre_follows_the_teacher_in_training_and_evens_out_its_word() -> None:
    of, views = objective(centre_momentum=0.0), random(2, 4, 5, 6)
    targets = random(*views.shape, seed=9)
    of(views, targets=targets, mask=hidden(2, 4, 6))
    cells = functional.normalize(targets.flatten(0, 1).transpose(1, 2), dim=-1)
    wanted = (cells @ functional.normalize(of.teacher_prototypes, dim=1).T).mean((0, 1))
    torch.testing.assert_close(of.centre, wanted)
    still = objective(centre_momentum=1.0)
    run(still, views)
    assert not still.centre.any()


def test_the_teacher_s_prototypes_follow() -> None:
    of = objective()
    with torch.no_grad():
        of.prototypes.fill_(1.0)
        of.teacher_prototypes.fill_(0.0)
    of.follow(0.75)
    assert of.teacher_prototypes.eq(0.25).all()


def test_bad_settings_are_refused() -> None:
    for wrong, word in (
        ({"temperature": 0}, "temperature"), ({"teacher_temperature": (0.0, 0.1)}, "teacher temperature"),
        ({"prototypes": 1}, "prototypes"), ({"patch": 0.0, "contrast": 0.0}, "weights"), ({"visible": 2.0}, "visible"),
        ({"reconstruction": -1.0}, "weights"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=word):
            MaskedMomentum(**wrong)  # type: ignore[arg-type]
