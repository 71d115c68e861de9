"""TS2Vec: both crops show the same steps, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cases_comet import Halves, small, ts2vec
from torch import Tensor
from toys import signal_encoder

from medssl.encoders.base import Encoder
from medssl.encoders.inception_time import InceptionTime
from medssl.errors import ConfigError
from medssl.methods import ts2vec as module
from medssl.methods.ts2vec import TS2Vec
from medssl.objectives.hierarchical import ts2vec_losses
from medssl.views.signal import SignalViews
from medssl.views.signal_augment import UNCHANGED


class Itself(Encoder):
    """The vector of a step is what stands there."""

    def __init__(self) -> None:
        super().__init__()
        self.in_channels, self.dims, self.out_dim, self.channels = 2, 1, 2, (2,)
        self.strides, self.divisor, self.minimum = ((1,),), (1,), (1,)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Any:
        self.seen.append(x)
        return SimpleNamespace(maps=[x], pooled=x.amax(-1))


def test_the_same_steps_of_both_crops_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    case, compared = ts2vec(), []
    monkeypatch.setattr(
        module, "ts2vec_losses", lambda a, b, **options: compared.append((a, b)) or ts2vec_losses(a, b, **options)
    )
    encoder = Itself()
    method = TS2Vec(encoder, SignalViews((32,), count=1, augmentation=UNCHANGED), mask="none")
    for seed in range(20):
        batch = case.batch(method, size=3, seed=seed)
        method.generator.manual_seed(seed)
        method.loss(batch)
    assert len(compared) == 20 and all(torch.equal(a, b) and a.shape[1] >= 2 for a, b in compared)
    lengths = {tuple(x.shape[2] for x in pair) for pair in zip(encoder.seen[::2], encoder.seen[1::2], strict=True)}
    assert len(lengths) > 10, "crops of random lengths"
    assert any(max(a, b) > len(z[0]) for (a, b), (z, _) in zip(sorted(lengths), compared, strict=False))


def test_each_crop_has_steps_hidden_for_itself() -> None:
    encoder = Itself()
    method = TS2Vec(encoder, SignalViews((32,), count=1, augmentation=UNCHANGED))
    batch = ts2vec().batch(method, size=8)
    method.loss({**batch, "x": 1 + batch["x"].abs()})
    hidden = [(x == 0).all(1) for x in encoder.seen]
    assert all(0.3 < h.float().mean() < 0.7 for h in hidden)
    assert all(len(h.unique(dim=0)) == 8 for h in hidden)


def test_recordings_are_weighed() -> None:
    case = ts2vec(count=2)
    plain, weighed = case.make(), ts2vec(count=2, weighting=Halves()).make()
    weighed.encoder.load_state_dict(plain.encoder.state_dict())
    batch = case.batch(plain, size=5)
    losses = []
    for method in (plain, weighed):
        method.generator.manual_seed(1)
        losses.append(method.loss(batch).total)
    torch.testing.assert_close(losses[1], losses[0] / 2)
    assert weighed.weighting.seen[0][0].shape == (5,) and weighed.weighting.seen[0][1].tolist() == [0, 1, 2, 3, 4]


def test_any_encoder_of_full_length() -> None:
    case = ts2vec()
    method = TS2Vec(InceptionTime(2, 4, depth=3, kernel=8), SignalViews((32,), count=1))
    losses = method.loss(case.batch(method, size=3))
    losses.total.backward()
    assert torch.isfinite(losses.total) and losses.embeddings is not None and losses.embeddings.shape == (3, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, "alpha from 0 to 1"),
        ({"temporal_unit": -1}, "temporal_unit of 0 or more"),
        ({"temporal_unit": 5}, r"overlap in 64 steps or more, but windows have 32"),
        ({"mask": "half"}, "mask is one of"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TS2Vec(small(), SignalViews((32,)), **options)


def test_encoders_without_a_vector_of_every_step_are_refused() -> None:
    with pytest.raises(ConfigError, match="TS2Vec compares single time steps, but ResNet1d has no map"):
        TS2Vec(signal_encoder(), SignalViews((32,)))
