"""Whole recordings at another size: averages of equal parts, and the pixels as an embedding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional
from toy_cohorts import make_cohort

from medssl.cohort import Cohort
from medssl.evaluation.whole import PIXEL_GRID, pixel_length, pixels, whole_recording
from medssl.training.windows import Recordings


@pytest.fixture(scope="module")
def of(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recordings]:
    folder = tmp_path_factory.mktemp("whole")
    cohorts = {kind: Cohort(make_cohort(folder, kind, patients=2)) for kind in ("volume", "signal")}
    return {k: Recordings(c, channels=None, rows=np.arange(2), cache_gb=0) for k, c in cohorts.items()}


def image(recordings: Recordings, row: int) -> np.ndarray:
    return recordings.network_input(row, recordings.whole(row))


@pytest.mark.parametrize(("kind", "size"), [("volume", (5, 7, 22)), ("volume", (18, 20, 22)), ("signal", (100,))])
@pytest.mark.parametrize("slab", [1, 2000, 2**24])
def test_a_smaller_one_is_the_adaptive_average_whatever_the_slab(
    of: dict[str, Recordings], kind: str, size: tuple[int, ...], slab: int
) -> None:
    pool = functional.adaptive_avg_pool3d if kind == "volume" else functional.adaptive_avg_pool1d
    expected = pool(torch.from_numpy(image(of[kind], 0)).double(), size).numpy()
    found = whole_recording(of[kind], 0, size, slab=slab)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_a_larger_one_is_interpolated(of: dict[str, Recordings]) -> None:
    found = whole_recording(of["volume"], 0, (36, 20, 11))
    middle = functional.adaptive_avg_pool3d(torch.from_numpy(image(of["volume"], 0)), (18, 20, 11))
    expected = functional.interpolate(middle[None], size=(36, 20, 11), mode="trilinear", align_corners=False)[0]
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-6)


@pytest.mark.parametrize("kind", ["volume", "signal"])
def test_pixels_are_standardised_so_that_a_cosine_is_a_correlation(of: dict[str, Recordings], kind: str) -> None:
    channels = len(of[kind].cohort.info.channels)
    one, other = (pixels(of[kind], row).astype(np.float64) for row in range(2))
    assert one.shape == (pixel_length(kind, channels),)
    per_channel = one.reshape(channels if kind == "signal" else 1, -1)
    np.testing.assert_allclose(per_channel.mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(per_channel.std(1), 1, atol=1e-5)
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    if kind == "volume":
        assert cosine == pytest.approx(np.corrcoef(one, other)[0, 1], abs=1e-6)
    small = whole_recording(of[kind], 0, PIXEL_GRID[kind])
    reference = small[0] if kind == "signal" else small.mean(0)
    assert np.corrcoef(reference.ravel(), per_channel[0])[0, 1] == pytest.approx(1, abs=1e-6)


def test_a_constant_recording_is_nowhere(of: dict[str, Recordings], monkeypatch: pytest.MonkeyPatch) -> None:
    flat = np.zeros_like(of["volume"].whole(0))
    monkeypatch.setattr(of["volume"], "read", lambda row, start, size: flat[:, : size[0]])
    assert not pixels(of["volume"], 0).any()
