"""What every objective of the contrastive family has in common, checked on each by discovery."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from toys import ObjectiveCase, every_case

from medssl.evaluation.representation import alignment, uniformity
from medssl.objectives.base import Objective
from medssl.objectives.pairs import ContrastiveObjective

CASES = {n: c for n, c in every_case()[1].items() if type(c.make()).family == "contrastive"}
contrastive = pytest.mark.parametrize("name", sorted(CASES))

# why an objective's losses of single samples depend on more than the sample's own negatives
COUPLED = {
    "DCLW": "its weights compare all samples of the batch",
    "SimLAP": "its divisor counts the positives of the batch",
}
# why free embeddings of many views are not aligned by it
NOT_ALIGNING = {"SimLAP": "aligns classes drawn at random, in sub-spaces"}


def random_views(case: ObjectiveCase, n: int, *, seed: int = 0) -> Tensor:
    shape = (max(2, case.views), n, 8, *case.grid)
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def ready(case: ObjectiveCase) -> Objective:
    return case.ready().double().eval()


def chosen(given: dict[str, Any], kept: Tensor) -> dict[str, Any]:
    """What is given of the samples that are kept."""
    of_samples = {k: v[kept] for k, v in given.items() if k in ("index", "labels")}
    of_views = {k: v[:, kept] for k, v in given.items() if k in ("targets", "mask")}
    return {**given, **of_samples, **of_views, "generator": torch.Generator().manual_seed(5)}


def losses_of_samples(objective: Objective, views: Tensor, **given: Any) -> Tensor:
    seen: list[Tensor] = []

    def weighting(losses: Tensor) -> Tensor:
        seen.append(losses)
        return torch.ones_like(losses)

    objective(views, weights=weighting, **given)
    return seen[0]


@contrastive
def test_samples_of_a_group_are_as_if_they_were_not_there(name: str) -> None:
    case = CASES[name]
    objective, views = ready(case), random_views(case, 6)
    if not objective.pairwise or case.ordered or name in COUPLED:
        pytest.skip(COUPLED.get(name, "has no loss of single samples, or draws by the place in the batch"))
    group = torch.tensor([0, 1, 0, 2, 1, 2])  # none holds two samples of one label, which are positives all the same
    given = case.given(objective, views)
    grouped = losses_of_samples(objective, views, group=group, **chosen(given, torch.arange(6)))
    for sample in range(6):
        kept = ((group != group[sample]) | (torch.arange(6) == sample)).nonzero().flatten()
        alone = losses_of_samples(objective, views[:, kept], **chosen(given, kept))
        place = (kept == sample).nonzero().item()
        assert grouped[sample].item() == pytest.approx(alone[place].item(), rel=1e-9, abs=1e-11)


@contrastive
@pytest.mark.parametrize("rows", [1, 4])
def test_chunks_change_neither_value_nor_gradient(name: str, rows: int) -> None:
    case = CASES[name]
    results = []
    for chunk in (0, rows):
        objective, views = ready(case), random_views(case, 6).requires_grad_()
        if not isinstance(objective, ContrastiveObjective) or "chunk" not in objective.init_args:
            pytest.skip("knows no chunks")
        objective.chunk = chunk
        output = objective(views, group=torch.tensor([0, 0, 1, 2, 3, 3]), **case.given(objective, views))
        output.loss.backward()
        assert views.grad is not None
        results.append((output.loss.detach(), views.grad))
    torch.testing.assert_close(results[1], results[0], atol=1e-12, rtol=1e-12)


@contrastive
def test_gradient_is_orthogonal_to_the_embeddings(name: str) -> None:
    case = CASES[name]
    objective, views = ready(case), random_views(case, 6).requires_grad_()
    if objective.takes != "projections":
        pytest.skip("heads of its own stand between the embeddings and the sphere")
    objective(views, **case.given(objective, views)).loss.backward()
    assert views.grad is not None
    along = (views.detach() * views.grad).sum(2)
    assert along.abs().max() < 1e-10 < views.grad.abs().max()


@contrastive
def test_two_samples_of_one_dimension_are_finite(name: str) -> None:
    case = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        objective = case.ready(width=1)
    views = torch.tensor([[1.0], [-2.0]]).expand(max(2, case.views), 2, 1).clone().requires_grad_()
    objective(views, **case.given(objective, views)).loss.backward()
    assert views.grad is not None and views.grad.isfinite().all()


@contrastive
def test_rotations_and_scales_change_nothing(name: str) -> None:
    case = CASES[name]
    objective, views = ready(case), random_views(case, 6)
    if objective.takes != "projections" or name == "SimLAP":
        pytest.skip("has weights that know the axes")
    given = case.given(objective, views)
    turn = torch.linalg.qr(random_views(case, 8, seed=3)[0]).Q
    scale = 10 ** torch.linspace(-3, 3, 6, dtype=torch.float64).unsqueeze(1)
    plain = objective(views, **chosen(given, torch.arange(6))).loss
    if "targets" in given:
        given["targets"] = given["targets"] @ turn
    turned = objective(scale * views @ turn, **chosen(given, torch.arange(6))).loss
    assert turned.item() == pytest.approx(plain.item(), rel=1e-9)


@pytest.mark.slow
@contrastive
def test_free_embeddings_align_and_spread(name: str) -> None:
    """No collapse: 16 samples that start close together spread over the sphere, and their views meet."""
    case = CASES[name]
    if name in NOT_ALIGNING:
        pytest.skip(NOT_ALIGNING[name])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        objective = case.ready(samples=16)
        if objective.takes != "projections":
            pytest.skip("its own heads take the embeddings")
    random = torch.Generator().manual_seed(1)
    views = torch.randn(max(2, case.views), 16, 8, generator=random)
    views = (views + 2 * torch.ones(8)).requires_grad_()
    labels = torch.linspace(0, 300, 16) if objective.continuous else torch.arange(16)

    def quality() -> tuple[float, float]:
        return alignment(views[0], views[1]), uniformity(views[0])

    before = quality()
    optimizer = torch.optim.Adam([views, *objective.parameters()], lr=0.05)
    for _ in range(500):
        given = {"targets": views.detach(), "labels": labels}
        more = {k: v for k, v in given.items() if k in objective.needs}
        loss = objective(views, index=torch.arange(16), generator=random, **more).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = quality()
    assert after[0] < before[0] and after[1] < before[1], (before, after)
