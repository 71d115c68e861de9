"""Methods that compare views take clips of video as they take crops and windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from toys import Case, info

from medssl.encoders.video_vit import VideoViT
from medssl.errors import ConfigError
from medssl.methods.base import Method
from medssl.methods.clustering import Clustering
from medssl.methods.contrastive import Contrastive
from medssl.methods.redundancy_reduction import RedundancyReduction
from medssl.methods.self_distillation import SelfDistillation
from medssl.objectives.contrastive import InfoNCE
from medssl.objectives.dino import DINO
from medssl.objectives.sim_dino import SimDINO
from medssl.optim import Optim
from medssl.views.clip import ClipViews

METHODS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "contrastive": (Contrastive, {"objective": InfoNCE}),
    "self_distillation": (SelfDistillation, {}),
    "dino": (Clustering, {"objective": lambda: DINO(prototypes=16)}),
    "sim_dino": (Clustering, {"objective": SimDINO}),
    "redundancy_reduction": (RedundancyReduction, {}),
}


def made(name: str, **options: Any) -> Case:
    kind, more = METHODS[name]

    def make() -> Method:
        torch.manual_seed(0)
        encoder = VideoViT(1, (4, 16, 16), patch=(2, 8, 8), width=16, depth=1, heads=2, **options)
        views = ClipViews((4, 16, 16), count=2, stride=2, rate_hz=50.0)
        given = {k: v() for k, v in more.items()}
        method: Method = kind(encoder, views, projector=(16, 8), optim=Optim(lr=1e-2), **given)
        return method

    return Case(make, "video", 1)


def stepped(case: Case, change: Callable[[dict[str, Any]], None] = lambda batch: None) -> torch.Tensor:
    """Loss of a step over six patients, after its backward pass."""
    method = case.make()
    method.check(case.info)
    batch = case.batch(method, size=6)
    change(batch)
    method.generator.manual_seed(0)
    total = method.loss(batch).total
    total.backward()
    gradients = {n: p.grad for n, p in method.encoder.named_parameters() if p.grad is not None}
    assert total.isfinite() and all(g.isfinite().all() for g in gradients.values())
    assert gradients["patch_embed.weight"].abs().sum() > 0
    return total.detach()


@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.parametrize("token", [True, False])
def test_a_step_on_clips_is_finite_and_repeats(name: str, token: bool) -> None:
    case = made(name, class_token=token)
    total = stepped(case)
    assert torch.equal(total, stepped(case))

    def still(batch: dict[str, Any]) -> None:
        batch["x"] = batch["x"][:, :, :, :1].expand(-1, -1, -1, 4, -1, -1).clone()

    assert not torch.equal(total, stepped(case, still)), "what moves matters"


def test_clips_are_not_cut_from_volumes() -> None:
    with pytest.raises(ConfigError, match="cuts videos"):
        made("contrastive").make().check(info("volume", 1))
