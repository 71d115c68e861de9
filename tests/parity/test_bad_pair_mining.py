"""Bad pair mining against stored values of the published code and equations (float64)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import pytest
import torch

from medssl.objectives.bad_pairs import BadPairMiner
from medssl.objectives.contrastive import InfoNCE

Golden = Callable[[str], Mapping[str, np.ndarray]]
EXACT = 1e-9
SINGLE = 1e-5


@pytest.fixture(scope="module")
def vectors(golden: Golden) -> Mapping[str, np.ndarray]:
    return golden("bad_pair_mining")


def cases(vectors: Mapping[str, np.ndarray], pattern: str) -> list[str]:
    found = sorted({m.group(1) for key in vectors if (m := re.fullmatch(pattern, key))})
    assert found, f"no case of {pattern} in the file"
    return found


def close(got: torch.Tensor | None, wanted: np.ndarray, tolerance: float = EXACT) -> None:
    assert got is not None
    np.testing.assert_allclose(got.detach().double().numpy(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, EXACT), (torch.float32, SINGLE)])
def test_losses_of_pairs_and_gradients_of_their_weighted_mean(
    vectors: Mapping[str, np.ndarray], dtype: torch.dtype, tolerance: float
) -> None:
    for case in cases(vectors, r"(nce\d+)_loss"):
        views = [torch.from_numpy(vectors[f"{case}_{z}"]).to(dtype).requires_grad_() for z in ("z1", "z2")]
        seen: list[torch.Tensor] = []

        def weights(losses: torch.Tensor, case: str = case, seen: list[torch.Tensor] = seen) -> torch.Tensor:
            seen.append(losses)
            return torch.from_numpy(vectors[f"{case}_w"]).to(losses.dtype)

        output = InfoNCE(temperature=float(vectors[f"{case}_tau"]))(torch.stack(views), weights=weights)
        output.loss.backward()
        close(seen[0], vectors[f"{case}_loss"], tolerance)
        close(output.loss, np.mean(vectors[f"{case}_w"] * vectors[f"{case}_loss"]), tolerance)
        for view, name in zip(views, ("g1", "g2"), strict=True):
            close(view.grad, vectors[f"{case}_{name}"], tolerance)


def miner_of(vectors: Mapping[str, np.ndarray], case: str, weighting: Literal["paper", "code"]) -> BadPairMiner:
    epochs, pairs = vectors[f"{case}_table"].shape
    thresholds = {"noisy": float(vectors[f"{case}_beta_np"]), "faulty": float(vectors[f"{case}_beta_fp"])}
    miner = BadPairMiner(weighting=weighting, warmup=float(vectors[f"{case}_warm"]), **thresholds)
    miner.remember(pairs)
    miner.plan(epochs)
    return miner.double()


@pytest.mark.parametrize("weighting", ["paper", "code"])
def test_histories_flags_and_weights_of_a_whole_run(
    vectors: Mapping[str, np.ndarray], weighting: Literal["paper", "code"]
) -> None:
    random = torch.Generator().manual_seed(0)
    for case in cases(vectors, rf"(mem\d+)_{weighting}_w"):
        miner = miner_of(vectors, case, weighting)
        table = torch.from_numpy(vectors[f"{case}_table"])
        epochs, pairs = table.shape
        wanted = {name: vectors[f"{case}_{weighting}_{name}"] for name in ("hist", "mu", "sd", "is_np", "is_fp", "w")}
        for epoch in range(epochs):
            histories = miner.histories(epochs)
            order = torch.randperm(pairs, generator=random)
            weights = torch.empty(pairs, dtype=torch.float64)
            weights[order] = miner(table[epoch, order], order)
            close(weights, wanted["w"][epoch])
            if weighting == "code":
                close(weights, vectors[f"{case}_code_weights"][epoch])
            if np.isnan(wanted["mu"][epoch]):
                assert not (miner.noisy_pairs | miner.faulty_pairs).any()
                continue
            close(histories, wanted["hist"][epoch])
            close(miner.mean, wanted["mu"][epoch])
            close(miner.sd, wanted["sd"][epoch])
            np.testing.assert_array_equal(miner.noisy_pairs.numpy(), wanted["is_np"][epoch])
            np.testing.assert_array_equal(miner.faulty_pairs.numpy(), wanted["is_fp"][epoch])
        assert (miner.noisy_pairs | miner.faulty_pairs).any()


def test_the_density_raises_losses_that_the_bounded_weight_does_not(vectors: Mapping[str, np.ndarray]) -> None:
    published = np.concatenate([vectors[f"{case}_w"].ravel() for case in cases(vectors, r"(mem\d+_(?:code|paper))_w")])
    assert published.max() > 1
    for case in cases(vectors, r"(mem\d+)_table"):
        miner = miner_of(vectors, case, "paper")
        miner.weighting = "bounded"
        index = torch.arange(len(miner.count))
        weights = torch.stack([miner(row, index) for row in torch.from_numpy(vectors[f"{case}_table"])])
        assert weights.max() == 1 and 0 < weights.min() < 1
        np.testing.assert_array_equal(weights.numpy() == 1, vectors[f"{case}_paper_w"] == 1)
