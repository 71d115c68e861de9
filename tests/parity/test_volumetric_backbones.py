"""Fine-tuning schedules against the learning rates of the official trainers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from medssl.heads.schedules import poly, sawtooth, warmup_poly

Golden = Callable[[str], Mapping[str, np.ndarray]]


def schedule(name: str, epochs: int) -> Callable[[int], float]:
    """The schedule a key of the file stands for; the long runs use 50 epochs a phase, the short CNN ones 15."""
    kind, network, _ = name.split("_") if name.count("_") == 2 else (name.split("_")[0], "cnn", "")
    phase = 50 if epochs == 1000 else 15
    lr = 1e-4 if network == "primus" else 1e-3
    if kind == "poly":
        return lambda e: poly(e, epochs, lr=1e-2)
    if kind == "warmup":
        return lambda e: warmup_poly(e, epochs, lr=lr, warmup=phase)
    if network == "primus":
        factor = 0.01 if epochs == 1000 else 0.1
        return lambda e: sawtooth(e, epochs, lr=lr, decoder=phase, warmup=50, decoder_factor=factor)
    return lambda e: sawtooth(e, epochs, lr=lr, decoder=phase, warmup=phase)


def test_every_schedule_equals_the_official_learning_rates(golden: Golden) -> None:
    cases = golden("volumetric_backbones")
    assert cases
    for name, expected in cases.items():
        law = schedule(name, len(expected))
        got = [law(epoch) for epoch in range(len(expected))]
        np.testing.assert_allclose(got, expected, rtol=1e-12, err_msg=name)
