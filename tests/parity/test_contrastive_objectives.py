"""Contrastive objectives against stored reference values (float64, from the published code)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.evaluation.representation import alignment, uniformity
from medssl.objectives import behaviour
from medssl.objectives.base import Given
from medssl.objectives.cacr import cacr_attraction, cacr_repulsion, cacr_teacher
from medssl.objectives.class_pairs import simlap
from medssl.objectives.continuous_weights import cwcl
from medssl.objectives.contrastive import info_nce, info_nce_anchors, info_nce_of_means
from medssl.objectives.decoupled import dcl, dclw, pair_weights
from medssl.objectives.multi_view import mv_dhel, mv_info_nce, poly_view
from medssl.objectives.pairs import pair_up, unit

Golden = Callable[[str], Mapping[str, np.ndarray]]
Vectors = Mapping[str, np.ndarray]

CLOSE = 1e-10


@pytest.fixture
def vectors(golden: Golden) -> Vectors:
    return golden("contrastive_objectives")


def cases(vectors: Vectors, pattern: str) -> list[tuple[str, ...]]:
    """What the groups of a pattern match in the file's keys."""
    found = [m.groups() for key in vectors if (m := re.fullmatch(pattern, key))]
    assert found, f"no case of {pattern} in the file"
    return found


def tensors(vectors: Vectors, *keys: str) -> Iterator[Tensor]:
    return (torch.from_numpy(vectors[key]) for key in keys)


def two_views(vectors: Vectors) -> Tensor:
    return torch.stack(list(tensors(vectors, "za", "zb"))).requires_grad_()


def expect(loss: Tensor, vectors: Vectors, key: str) -> None:
    assert loss.item() == pytest.approx(vectors[key].item(), rel=CLOSE, abs=CLOSE)


def expect_gradient(views: Tensor, vectors: Vectors, *keys: str) -> None:
    assert views.grad is not None
    gradients = views.grad if len(keys) > 1 else [views.grad]
    for gradient, key in zip(gradients, keys, strict=False):
        np.testing.assert_allclose(gradient.numpy(), vectors[key], rtol=CLOSE, atol=CLOSE)


def test_nt_xent_of_two_views_with_gradients(vectors: Vectors) -> None:
    for (temperature,) in cases(vectors, r"ntxent_t([\d.]+)_loss"):
        views, prefix = two_views(vectors), f"ntxent_t{temperature}"
        loss = info_nce(views, temperature=float(temperature))
        loss.backward()
        expect(loss, vectors, f"{prefix}_loss")
        expect_gradient(views, vectors, f"{prefix}_ga", f"{prefix}_gb")


def test_nt_xent_of_many_views_is_the_mean_over_pairs_or_against_means(vectors: Vectors) -> None:
    (views,) = tensors(vectors, "views")
    for (temperature,) in cases(vectors, r"ntxent_pwe_t([\d.]+)_loss"):
        expect(info_nce(views, temperature=float(temperature)), vectors, f"ntxent_pwe_t{temperature}_loss")
    for (temperature,) in cases(vectors, r"ntxent_avg_t([\d.]+)_loss"):
        terms = info_nce_of_means(pair_up(views, Given()), temperature=float(temperature))
        expect(terms.losses.mean(), vectors, f"ntxent_avg_t{temperature}_loss")


def test_decoupled_loss(vectors: Vectors) -> None:
    for (temperature,) in cases(vectors, r"dcl_t([\d.]+)_loss"):
        views, prefix = two_views(vectors), f"dcl_t{temperature}"
        loss = dcl(views, temperature=float(temperature))
        loss.backward()
        expect(loss, vectors, f"{prefix}_loss")
        expect_gradient(views, vectors, f"{prefix}_ga", f"{prefix}_gb")


def test_weighted_decoupled_loss(vectors: Vectors) -> None:
    for temperature, sigma in cases(vectors, r"dclw_t([\d.]+)_s([\d.]+)_loss"):
        views, prefix = two_views(vectors), f"dclw_t{temperature}_s{sigma}"
        loss = dclw(views, temperature=float(temperature), sigma=float(sigma))
        loss.backward()
        expect(loss, vectors, f"{prefix}_loss")
        expect_gradient(views, vectors, f"{prefix}_ga", f"{prefix}_gb")
    for temperature, sigma in cases(vectors, r"dclw_undetached_t([\d.]+)_s([\d.]+)_loss"):
        views, prefix = two_views(vectors), f"dclw_undetached_t{temperature}_s{sigma}"
        loss = dclw(views, temperature=float(temperature), sigma=float(sigma), detach_weights=False)
        loss.backward()
        expect(loss, vectors, f"{prefix}_loss")
        assert views.grad is not None
        np.testing.assert_allclose(views.grad[0].numpy(), vectors[f"{prefix}_ga"], rtol=CLOSE, atol=CLOSE)
    for (sigma,) in cases(vectors, r"dclw_weights_s([\d.]+)"):
        a, b = unit(two_views(vectors).detach())
        found = pair_weights((a * b).sum(-1).unsqueeze(0), sigma=float(sigma))[0]
        np.testing.assert_allclose(found.numpy(), vectors[f"dclw_weights_s{sigma}"], rtol=CLOSE, atol=CLOSE)


def test_multi_view_objectives_with_gradients(vectors: Vectors) -> None:
    objectives = {"mvinfonce": mv_info_nce, "mvdhel": mv_dhel, "pvc_geo": poly_view}
    for name, objective in objectives.items():
        for (temperature,) in cases(vectors, rf"{name}_t([\d.]+)_loss"):
            views = next(tensors(vectors, "views")).requires_grad_()
            loss = objective(views, temperature=float(temperature))
            loss.backward()
            expect(loss, vectors, f"{name}_t{temperature}_loss")
            expect_gradient(views, vectors, f"{name}_t{temperature}_g")


def test_multi_view_variants(vectors: Vectors) -> None:
    (views,) = tensors(vectors, "views")
    variants = {
        "mvinfonce_eq": lambda t: mv_info_nce(views, temperature=t, variant="paper"),
        "mvdhel_eq": lambda t: mv_dhel(views, temperature=t, variant="paper"),
        "mv_cl1": lambda t: mv_info_nce(views, temperature=t, variant="per_view"),
        "mv_cl2": lambda t: mv_dhel(views, temperature=t, variant="per_view"),
        "mvdhel_pwe": lambda t: torch.stack(
            [mv_dhel(views[list(pair)], temperature=t) for pair in itertools.combinations(range(len(views)), 2)]
        ).mean(),
    }
    for name, loss in variants.items():
        for (temperature,) in cases(vectors, rf"{name}_t([\d.]+)_loss"):
            expect(loss(float(temperature)), vectors, f"{name}_t{temperature}_loss")


# constants of the two stored settings, which the file names by a letter
ATTRACTION = {"a": {"alpha": 1.0, "t_pos": 1.0}, "b": {"alpha": 0.5, "t_pos": 2.0}}
REPULSION = {"a": {"beta": 1.0, "t_neg": 0.9}, "b": {"beta": 2.0, "t_neg": 2.0}}


def expect_tangential(views: Tensor, vectors: Vectors, key: str) -> None:
    """The published code takes distances of vectors that are unit already, so its gradient has a part along them.

    Ours normalises, and so has none; what remains of the published gradient is compared.
    """
    wanted = torch.from_numpy(vectors[key])
    assert views.grad is not None
    along = (wanted * views.detach()).sum(-1, keepdim=True) * views.detach()
    torch.testing.assert_close(views.grad, wanted - along, rtol=CLOSE, atol=CLOSE)


def test_attraction_and_repulsion(vectors: Vectors) -> None:
    def check(key: str, loss: Callable[[Tensor], Tensor]) -> None:
        views = next(tensors(vectors, "views_n")).requires_grad_()
        value = loss(views)
        value.backward()
        expect(value, vectors, f"{key}_loss")
        if f"{key}_g" in vectors:
            expect_tangential(views, vectors, f"{key}_g")

    for (letter,) in cases(vectors, r"cacr_ca_([ab])_loss"):
        pull, push = ATTRACTION[letter], REPULSION[letter]
        alpha, beta = pull["alpha"], push["beta"]
        check(f"cacr_ca_{letter}", lambda v, c=pull: cacr_attraction(v, **c))
        check(f"cacr_ca_unif_{letter}", lambda v, a=alpha: cacr_attraction(v, alpha=a, t_pos=0))
        check(f"cacr_cr_{letter}", lambda v, c=push: cacr_repulsion(v, **c))
        check(f"cacr_cr_unif_{letter}", lambda v, b=beta: cacr_repulsion(v, beta=b, t_neg=0))
        check(f"cacr_cr_debias_{letter}", lambda v, c=push: cacr_repulsion(v, **c, debias=0.1))
        check(f"cacr_cr_rbf_{letter}", lambda v, c=push: cacr_repulsion(v, **c, cost="rbf", rho=2))
    (views,) = tensors(vectors, "views_n")
    expect(cacr_attraction(views[:2]) + cacr_repulsion(views[:2]), vectors, "cacr_two_view_loss")


def test_attraction_and_repulsion_with_a_teacher(vectors: Vectors) -> None:
    for (temperature,) in cases(vectors, r"cacr_in1k_rbf_T([\d.]+)_loss"):
        views = next(tensors(vectors, "views")).requires_grad_()
        loss = cacr_teacher(views[1:], views[0], temperature=float(temperature), cost="rbf")
        loss.backward()
        expect(loss, vectors, f"cacr_in1k_rbf_T{temperature}_loss")
        expect_gradient(views, vectors, f"cacr_in1k_rbf_T{temperature}_g")
    for (temperature,) in cases(vectors, r"cacr_in1k_euc_T([\d.]+)_loss"):
        (views,) = tensors(vectors, "views")
        loss = cacr_teacher(views[1:], views[0], temperature=float(temperature), cost="euclidean")
        expect(loss * views.shape[1], vectors, f"cacr_in1k_euc_T{temperature}_loss")  # the published code sums


def test_class_pairs(vectors: Vectors) -> None:
    cases(vectors, r"simlap_loss")
    z, gate, label, partner = tensors(vectors, "simlap_z", "simlap_gate", "simlap_y1", "simlap_y2")
    z.requires_grad_(), gate.requires_grad_()
    loss = simlap(z, gate, label, partner, temperature=0.1)
    loss.backward()
    expect(loss, vectors, "simlap_loss")
    expect_gradient(z, vectors, "simlap_gz")
    expect_gradient(gate, vectors, "simlap_ggate")


def test_continuous_weights(vectors: Vectors) -> None:
    for (temperature,) in cases(vectors, r"cwcl_eq_t([\d.]+)_loss"):
        p, q, frozen = tensors(vectors, "cwcl_p", "cwcl_q", "cwcl_frozen")
        p.requires_grad_(), q.requires_grad_()
        loss = cwcl(p, q, frozen, temperature=float(temperature))
        loss.backward()
        expect(loss, vectors, f"cwcl_eq_t{temperature}_loss")
        # the other program adds 1e-8 to norms and sums
        assert loss.item() == pytest.approx(vectors[f"cwcl_t{temperature}_loss"].item(), abs=1e-7)
        for x, key in ((p, "gp"), (q, "gq")):
            assert x.grad is not None
            np.testing.assert_allclose(x.grad.numpy(), vectors[f"cwcl_t{temperature}_{key}"], rtol=0, atol=1e-7)


def test_behaviour_of_the_temperature(vectors: Vectors) -> None:
    a, b = unit(two_views(vectors).detach())
    parts = {
        "P": behaviour.probabilities,
        "dS": behaviour.similarity_gradient,
        "rel": behaviour.relative_penalties,
    }
    for name, part in parts.items():
        for (temperature,) in cases(vectors, rf"behav_{name}_t([\d.]+)"):
            found = part(a @ b.T, temperature=float(temperature))
            wanted = vectors[f"behav_{name}_t{temperature}"]
            np.testing.assert_allclose(found.numpy(), wanted, rtol=CLOSE, atol=CLOSE)


def test_uniformity_alignment_and_tolerance(vectors: Vectors) -> None:
    a, b = two_views(vectors).detach()
    for (t,) in cases(vectors, r"behav_uniformity_t([\d.]+)"):
        assert uniformity(a, t=float(t)) == pytest.approx(vectors[f"behav_uniformity_t{t}"].item(), abs=CLOSE)
    for (power,) in cases(vectors, r"behav_alignment_a([\d.]+)"):
        wanted = vectors[f"behav_alignment_a{power}"].item()
        assert alignment(a, b, alpha=float(power)) == pytest.approx(wanted, abs=CLOSE)
    cases(vectors, "behav_tolerance")
    (labels,) = tensors(vectors, "behav_labels")
    expect(behaviour.tolerance(a, labels), vectors, "behav_tolerance")


def test_hard_contrastive_loss_in_one_direction(vectors: Vectors) -> None:
    for temperature, quantile in cases(vectors, r"behav_hard_contrastive_t([\d.]+)_q([\d.]+)_loss"):
        pairs = pair_up(two_views(vectors), Given())
        terms = info_nce_anchors(pairs, temperature=float(temperature), quantile=float(quantile), same_view=False)
        expect(terms.losses[0].mean(), vectors, f"behav_hard_contrastive_t{temperature}_q{quantile}_loss")
