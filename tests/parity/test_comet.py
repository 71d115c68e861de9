"""COMET's and TS2Vec's losses, masks and windows against stored values of the published code (float64)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.encoders.importing import load_weights
from medssl.encoders.ts2vec import TS2Vec
from medssl.objectives.hierarchical import (
    id_loss,
    mean_over_scales,
    observation_losses,
    pyramid,
    same,
    sample_losses,
    ts2vec_losses,
)
from medssl.objectives.step_masks import segments_kept, step_mask
from medssl.views.trials import grid_starts, trial_statistics

Golden = Callable[[str], Mapping[str, np.ndarray]]
Loss = Callable[[Tensor, Tensor], Tensor]
EXACT = 1e-9
SINGLE = 1e-5


def numbers(vectors: Mapping[str, np.ndarray], pattern: str) -> list[str]:
    found = sorted({m.group(1) for key in vectors if (m := re.fullmatch(pattern, key))})
    assert found, f"no case of {pattern} in the file"
    return found


def held(vectors: Mapping[str, np.ndarray], case: str, loss: Loss, value: str, gradients: str | None) -> None:
    """Value and gradients of both views in float64 and in float32."""
    for dtype, tolerance in ((torch.float64, EXACT), (torch.float32, SINGLE)):
        views = [torch.from_numpy(vectors[f"{case}_z{v}"]).to(dtype).requires_grad_() for v in (1, 2)]
        found = loss(*views)
        np.testing.assert_allclose(found.detach().numpy(), vectors[value], rtol=tolerance, atol=tolerance)
        if gradients is None:
            continue
        for found_gradient, v in zip(torch.autograd.grad(found, views), (1, 2), strict=True):
            wanted = vectors[f"{gradients}_g{v}"]
            np.testing.assert_allclose(found_gradient.numpy(), wanted, rtol=tolerance, atol=tolerance)


def losses_of(vectors: Mapping[str, np.ndarray], case: str) -> dict[str, Loss]:
    """The losses of the file by name, with its factors."""
    patient, trial = (same(torch.from_numpy(vectors[f"{case}_{name}"])) for name in ("pid", "tid"))
    of_patient, of_trial, of_sample, of_observation = vectors[f"{case}_factors"].tolist()
    return {
        "patient": lambda a, b: id_loss(a, b, patient) * (of_patient != 0),
        "trial": lambda a, b: id_loss(a, b, trial) * (of_trial != 0),
        "sample_level": lambda a, b: sample_losses(a, b).mean(),
        "obs_level": lambda a, b: observation_losses(a, b).mean(),
        "sample_hier": lambda a, b: of_sample * mean_over_scales(pyramid(a, b), sample_losses).mean(),
        "obs_hier": lambda a, b: of_observation * mean_over_scales(pyramid(a, b), observation_losses).mean(),
    }


def test_comets_four_levels(golden: Golden) -> None:
    vectors = golden("comet")
    for case in numbers(vectors, r"(case\d+)_z1"):
        losses = losses_of(vectors, case)
        for name, loss in losses.items():
            if f"{case}_{name}" in vectors:
                held(vectors, case, loss, f"{case}_{name}", f"{case}_{name}")
        parts = [losses[name] for name in ("patient", "trial", "sample_hier", "obs_hier")]
        held(vectors, case, lambda a, b, p=parts: sum(loss(a, b) for loss in p), f"{case}_sum_same_views", None)


def test_ts2vecs_loss(golden: Golden) -> None:
    vectors = golden("timeseries_backbones")
    for case in numbers(vectors, r"(c\d+)_z1"):
        alpha, unit = float(vectors[f"{case}_alpha"]), int(vectors[f"{case}_temporal_unit"])

        def hierarchical(a: Tensor, b: Tensor, alpha: float = alpha, unit: int = unit) -> Tensor:
            return ts2vec_losses(a, b, alpha=alpha, temporal_unit=unit).mean()

        held(vectors, case, hierarchical, f"{case}_hier", case)
        held(vectors, case, lambda a, b: sample_losses(a, b).mean(), f"{case}_instance", None)
        held(vectors, case, lambda a, b: observation_losses(a, b).mean(), f"{case}_temporal", None)


def test_encoder_with_hidden_steps(golden: Golden) -> None:
    vectors = golden("comet")
    c_in, c_out, width, depth = vectors["enc_cfg"].tolist()
    encoder = TS2Vec(c_in, width, out_dim=c_out, depth=depth).double().eval()
    prefix = "enc_param/"
    official = {k.removeprefix(prefix): torch.from_numpy(v) for k, v in vectors.items() if k.startswith(prefix)}
    assert not load_weights(encoder, official, minimum=1.0).skipped
    x = torch.from_numpy(vectors["enc_x"]).mT.requires_grad_()
    shape, generator = (len(x), x.shape[2]), torch.Generator()
    masks = {
        "all_true": step_mask("none", *shape, generator),
        "mask_last": step_mask("last", *shape, generator),
        "all_false": torch.zeros(shape, dtype=torch.bool),
    }
    for name, mask in masks.items():
        features = encoder(x, mask=mask)
        np.testing.assert_allclose(features.maps[0].mT.detach(), vectors[f"enc_out_{name}"], rtol=EXACT, atol=EXACT)
    features = encoder(x)
    np.testing.assert_allclose(features.pooled.detach(), vectors["enc_pooled"], rtol=EXACT, atol=EXACT)
    (gradient,) = torch.autograd.grad(features.maps[0].square().sum(), x)
    np.testing.assert_allclose(gradient.mT, vectors["enc_gradx_sumsq"], rtol=EXACT, atol=EXACT)


def test_hidden_segments(golden: Golden) -> None:
    vectors = golden("comet")
    wanted = vectors["mask_cont"]
    n, steps = wanted.shape
    length = int(0.1 * steps)
    legacy = np.random.RandomState(int(vectors["mask_cont_seed"]))  # starts one after the other, as the code draws
    starts = torch.tensor([[legacy.randint(steps - length + 1) for _ in range(5)] for _ in range(n)])
    np.testing.assert_array_equal(segments_kept(starts, length, steps), wanted)


@pytest.mark.parametrize(("windows", "ids", "overlap"), [("seg", "seg", None), ("seg0", "seg0", 0.0)])
def test_windows_of_a_trial(golden: Golden, windows: str, ids: str, overlap: float | None) -> None:
    vectors = golden("comet")
    trials, length = vectors["seg_X"], int(vectors["seg_len"])
    share = float(vectors["seg_overlap"]) if overlap is None else overlap
    trials = trials if overlap is None else trials[:, : 2 * length]
    starts = grid_starts(trials.shape[1], length, int(length * (1 - share)))
    found = np.stack([trial[s : s + length] for trial in trials for s in starts])
    np.testing.assert_array_equal(found, vectors[f"{windows}_samples"])
    np.testing.assert_array_equal(np.repeat(np.arange(len(trials)) + 1, len(starts)), vectors[f"{ids}_trial_ids"])


def test_standardised_trials(golden: Golden) -> None:
    vectors = golden("comet")
    for trial, wanted in zip(vectors["norm_in"], vectors["norm_out"], strict=True):
        mean, sd = trial_statistics(trial.T)
        np.testing.assert_allclose((trial - mean) / sd, wanted, rtol=EXACT, atol=EXACT)
