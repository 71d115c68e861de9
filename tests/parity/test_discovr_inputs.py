"""What DISCOVR's encoder and clips are made of, against stored reference values of the published code."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from medssl.encoders.positions import interleaved_sines
from medssl.views.clip_crops import crop_offsets
from medssl.views.clip_frames import repeated_frames, start_count

Golden = Callable[[str], Mapping[str, np.ndarray]]


def test_codes_of_places_in_a_sequence(golden: Golden) -> None:
    wanted = torch.from_numpy(golden("discovr")["pos_table_10_8"])
    torch.testing.assert_close(interleaved_sines(10, 8), wanted, atol=1e-6, rtol=1e-6)


def test_frames_of_long_and_of_short_videos(golden: Golden) -> None:
    vectors = golden("discovr")
    for (frames, length, step, first), wanted in zip(
        vectors["frames_meta"].tolist(), vectors["frames_ids"], strict=True
    ):
        found = repeated_frames(frames, length, step, first - 1)  # counted from 1 in the file
        np.testing.assert_array_equal(found, wanted[wanted >= 0])
        assert first <= start_count(frames, length, step)


def test_places_of_multi_scale_crops(golden: Golden) -> None:
    assert crop_offsets((160, 224), (112, 112)) == list(map(tuple, golden("discovr")["crop_offsets_224_160_112"]))
