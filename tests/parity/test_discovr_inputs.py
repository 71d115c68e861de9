"""What DISCOVR's encoder and clips are made of, against stored reference values of the published code."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from medssl.encoders.positions import interleaved_sines

Golden = Callable[[str], Mapping[str, np.ndarray]]


def test_codes_of_places_in_a_sequence(golden: Golden) -> None:
    wanted = torch.from_numpy(golden("discovr")["pos_table_10_8"])
    torch.testing.assert_close(interleaved_sines(10, 8), wanted, atol=1e-6, rtol=1e-6)
