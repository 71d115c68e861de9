"""Representation measures against reference implementations and hand-solvable limits."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from medssl.evaluation import neighbours as nn
from medssl.evaluation import representation as rq
from medssl.evaluation.spectrum import StreamingSpectrum
from medssl.evaluation.streaming import StreamingAlignment, StreamingLidar, StreamingUniformity

Golden = Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def vectors(golden: Callable[[str], Golden]) -> Golden:
    return golden("representation_quality")


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(array))


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("rankme", {}),
        ("rankme_eps1e-5", {"eps": 1e-5}),
        ("rankme_centered", {"centre": True}),
        ("rankme_l2", {"normalise": True}),
    ],
)
def test_rankme(vectors: Golden, key: str, options: dict[str, float]) -> None:
    assert rq.rankme(tensor(vectors["Z"]), **options) == pytest.approx(float(vectors[key]), rel=1e-10)


def test_rankme_limits(vectors: Golden) -> None:
    assert rq.rankme(torch.eye(40, 12, dtype=torch.float64)) == pytest.approx(
        float(vectors["rankme_identity"]), rel=1e-12
    )
    one_direction = torch.outer(torch.arange(1.0, 41), torch.arange(1.0, 13)).double()
    assert rq.rankme(one_direction) == pytest.approx(float(vectors["rankme_rank1"]), abs=1e-9)


def test_alignment_and_uniformity(vectors: Golden) -> None:
    z, z2 = tensor(vectors["Z"]), tensor(vectors["Z2"])
    found = [k for k in vectors if re.match(r"(align_a|uniform_t)", k)]
    assert found
    for key in found:
        value = float(key[-1])
        got = rq.alignment(z, z2, alpha=value) if key.startswith("align") else rq.uniformity(z, t=value)
        assert got == pytest.approx(float(vectors[key]), rel=1e-10), key


def test_lidar(vectors: Golden) -> None:
    got = rq.lidar(tensor(vectors["lidar_X"]), standardise=False)
    assert got == pytest.approx(float(vectors["lidar_eq"]), rel=1e-9)
    assert got == pytest.approx(float(vectors["lidar"]), rel=1e-6)


def test_alpha_req(vectors: Golden) -> None:
    found = [k for k in vectors if k.startswith("alphareq_")]
    assert found
    for key in found:
        low, high = map(int, key.split("_")[1:])
        alpha, _ = rq.alpha_req(tensor(vectors["Z"]), low=low, high=high)
        assert alpha == pytest.approx(float(vectors[key]), rel=1e-9), key


def test_knn_full_class_ranking(vectors: Golden) -> None:
    found = [k for k in vectors if k.startswith("knn_k")]
    assert found
    for key in found:
        k, temperature = re.fullmatch(r"knn_k(\d+)_t([\d.]+)", key).groups()  # type: ignore[union-attr]
        near = nn.neighbours(vectors["knn_bank"], vectors["knn_query"], k=int(k))
        votes = nn.class_votes(
            near, vectors["knn_labels"], classes=vectors[key].shape[1], temperature=float(temperature)
        )
        np.testing.assert_array_equal(nn.rank_classes(votes), vectors[key])


def test_relative_representation_and_its_invariance(vectors: Golden) -> None:
    z, anchors, turn = tensor(vectors["Z"]), tensor(vectors["anchors"]), tensor(vectors["rotation"])
    np.testing.assert_allclose(rq.relative_representation(z, anchors), vectors["relative"], atol=1e-12)
    np.testing.assert_allclose(
        rq.relative_representation(3 * z @ turn, 3 * anchors @ turn), vectors["relative"], atol=1e-12
    )


def test_cka_and_spread(vectors: Golden) -> None:
    z, z2 = tensor(vectors["Z"]), tensor(vectors["Z2"])
    assert rq.linear_cka(z, z2) == pytest.approx(float(vectors["cka_Z_Z2"]), rel=1e-10)
    assert rq.linear_cka(z, z @ tensor(vectors["rotation"])) == pytest.approx(1.0)
    assert rq.std_l2(z) == pytest.approx(float(vectors["std_l2"]), rel=1e-10)


def test_streaming_spectrum(vectors: Golden) -> None:
    stream = StreamingSpectrum(vectors["Z"].shape[1])
    for part in tensor(vectors["Z"]).split(7):
        stream.update(part)
    # the root of an eigenvalue of the Gram matrix is exact down to 1e-8 of the largest singular value only
    assert stream.rankme() == pytest.approx(float(vectors["rankme"]), rel=1e-6)
    assert stream.rankme(eps=1e-5) == pytest.approx(float(vectors["rankme_eps1e-5"]), rel=1e-6)
    assert stream.rankme(centre=True) == pytest.approx(float(vectors["rankme_centered"]), rel=1e-6)
    assert stream.summary()["std_l2"] == pytest.approx(float(vectors["std_l2"]), rel=1e-10)
    for key in (k for k in vectors if k.startswith("alphareq_")):
        low, high = map(int, key.split("_")[1:])
        assert stream.power_law(low=low, high=high).alpha == pytest.approx(float(vectors[key]), rel=1e-9), key


def test_streaming_lidar_alignment_and_uniformity(vectors: Golden) -> None:
    x, z, z2 = (tensor(vectors[k]) for k in ("lidar_X", "Z", "Z2"))
    lidar = StreamingLidar(x.shape[2], standardise=False)
    for part in x.split(3):
        lidar.update(part)
    assert lidar.compute() == pytest.approx(float(vectors["lidar_eq"]), rel=1e-9)
    for key in (k for k in vectors if re.match(r"(align_a|uniform_t)", k)):
        value = float(key[-1])
        stream = StreamingAlignment(alpha=value) if key.startswith("align") else StreamingUniformity(t=value)
        for a, b in zip(z.split(9), z2.split(9), strict=True):
            stream.update(torch.stack([a, b], dim=1) if isinstance(stream, StreamingAlignment) else a)
        assert stream.compute() == pytest.approx(float(vectors[key]), rel=1e-10), key
