"""AutoTCL: two trainings in one step that leave each other alone, gates that find what informs, what is refused."""

from __future__ import annotations

import copy
import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import collate, signal, signal_encoder

from medssl.encoders.base import Encoder
from medssl.encoders.inception_time import InceptionTime
from medssl.encoders.trend import TrendTS2Vec
from medssl.encoders.ts2vec import TS2Vec
from medssl.errors import ConfigError
from medssl.methods.augmenter import Augmenter, AugmenterSettings, Gate
from medssl.methods.autotcl import AutoTCL, evaluating
from medssl.objectives.autotcl import max_mean_discrepancy, one_way_info_nce
from medssl.optim import Optim
from medssl.views.signal import SignalViews
from medssl.views.signal_augment import UNCHANGED

SMALL = AugmenterSettings(width=8, depth=1, out_dim=6, kernels=2)


def method(encoder: Encoder | None = None, *, steps: int = 64, **options: Any) -> AutoTCL:
    torch.manual_seed(0)
    views = SignalViews((steps,), count=1, augmentation=UNCHANGED)
    chosen = encoder or TrendTS2Vec(2, 8, out_dim=12, depth=2, kernels=2)
    return AutoTCL(chosen, views, **{"augmenter": SMALL, "mask": "none"} | options)


def batch_of(of: AutoTCL, count: int = 4) -> dict[str, Any]:
    return collate([of.draw(signal(i), np.random.default_rng(i)) for i in range(count)], seed=0)  # type: ignore[arg-type]


def gradients(of: AutoTCL, part: str) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in of.named_parameters() if n.startswith(part) and p.grad is not None}


def step(of: AutoTCL, seed: int = 3) -> Any:
    of.zero_grad()
    of.generator.manual_seed(seed)
    losses = of.loss(batch_of(of))
    losses.total.backward()
    return losses


def test_gradients_are_those_of_training_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each loss alone, with the other network left as it is, gives the same gradients as both in one pass."""
    of = method(keep=0.3)
    step(of)
    encoder, augmenter = gradients(of, "encoder."), gradients(of, "augmenter.")
    assert len(encoder) == len(list(of.encoder.parameters())) and len(augmenter) == len(list(of.augmenter.parameters()))
    with monkeypatch.context() as patch:
        patch.setattr(of, "_of_augmenter", lambda rows, augmented: (rows.new_zeros(()), {}))
        step(of)
        assert not gradients(of, "augmenter.")
        assert all(torch.equal(g, encoder[n]) for n, g in gradients(of, "encoder.").items())
    with monkeypatch.context() as patch:
        nothing = (torch.zeros(()), {}, torch.zeros(4, 12))
        patch.setattr(of, "_of_encoder", lambda rows, view: nothing)
        step(of)
        assert not gradients(of, "encoder.")
        assert all(torch.equal(g, augmenter[n]) for n, g in gradients(of, "augmenter.").items())


def test_gradient_of_the_augmenter_goes_through_the_encoder_as_it_is() -> None:
    """The loss written out with an ordinary encoder in evaluation mode."""
    of = method(TS2Vec(2, 8, out_dim=12, depth=2, dropout=0.5), keep=0.0)
    step(of)
    found = gradients(of, "augmenter.")
    of.zero_grad()
    of.generator.manual_seed(3)
    rows = of.views(batch_of(of), of.generator).flatten(0, 1)
    noise = torch.rand(rows.shape, generator=of.generator)
    view = of.augmenter(rows, noise).view
    of.encoder.eval()
    max_mean_discrepancy(of.encoder(rows).maps[0].amax(2).detach(), of.encoder(view).maps[0].amax(2)).backward()
    for name, wanted in gradients(of, "augmenter.").items():
        torch.testing.assert_close(found[name], wanted)
    assert any(g.abs().sum() > 0 for g in found.values())


def trained(of: AutoTCL, steps: int, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """All weights after each of some steps of the method's own optimiser."""
    monkeypatch.setattr(type(of), "trainer", SimpleNamespace(estimated_stepping_batches=100))
    optimizer = of.configure_optimizers()["optimizer"]
    history = [copy.deepcopy(of.state_dict())]
    for position in range(steps):
        step(of, seed=position)
        optimizer.step()
        of.average()
        history.append(copy.deepcopy(of.state_dict()))
    return history


def moved(before: dict[str, Tensor], after: dict[str, Tensor], part: str) -> bool:
    return any(not torch.equal(before[k], after[k]) for k in before if k.startswith(part))


def test_the_augmenter_rests_between_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """No decay, no momentum: its weights stay bit by bit; those of the encoder move at every step."""
    settings = AugmenterSettings(width=8, depth=1, out_dim=6, kernels=2, every=3)
    of = method(augmenter=settings, optim=Optim(lr=1e-3, warmup=0, schedule="constant"))
    history = trained(of, 7, monkeypatch)
    turns = [moved(a, b, "augmenter.") for a, b in itertools.pairwise(history)]
    assert turns == [True, False, False, True, False, False, True]
    assert all(moved(a, b, "encoder.") for a, b in itertools.pairwise(history))


def test_two_learning_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    of = method(optim=Optim(lr=1e-4, warmup=0))
    monkeypatch.setattr(type(of), "trainer", SimpleNamespace(estimated_stepping_batches=100))
    groups = of.configure_optimizers()["optimizer"].param_groups
    rates = {id(p): g["lr"] for g in groups for p in g["params"]}
    augmenter, encoder = ([rates[id(p)] for p in part.parameters()] for part in (of.augmenter, of.encoder))
    assert augmenter == pytest.approx([0.01] * len(augmenter)) and encoder == pytest.approx([1e-4] * len(encoder))
    assert len(rates) == len(list(of.encoder.parameters())) + len(list(of.augmenter.parameters()))


def planted(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise with a burst of one rhythm a signal somewhere, (N, 1, T), and where it lies."""
    draw = torch.Generator().manual_seed(seed)
    x = 0.2 * torch.randn(count, 1, 96, generator=draw)
    time, start = torch.arange(96), torch.randint(8, 56, (count, 1), generator=draw)
    inside = ((time >= start) & (time < start + 32)).unsqueeze(1)
    rhythm = torch.rand(count, 1, 1, generator=draw) * 0.8 + 0.4
    return torch.where(inside, x + 2 * torch.sin(rhythm * time), x), inside


def test_the_gate_finds_what_informs() -> None:
    """After training the gate is more open where the rhythm is than where there is noise."""
    settings = AugmenterSettings(width=8, depth=1, out_dim=16, kernels=2)
    network = TS2Vec(1, 16, out_dim=16, depth=3, dropout=0.0)
    of = method(network, steps=96, augmenter=settings, keep=4.0, keep_share=0.3)
    optimizer = torch.optim.AdamW(
        [{"params": of.encoder.parameters(), "lr": 1e-3}, {"params": of.augmenter.parameters(), "lr": 3e-3}]
    )

    def contrast() -> float:
        x, inside = planted(64, seed=10_000)
        kept = of.kept(x)
        return float(kept[inside].mean() - kept[~inside].mean())

    before = contrast()
    of.generator.manual_seed(0)
    for position in range(50):
        x, _ = planted(12, seed=position)
        augmented = of.augmenter(x, torch.rand(x.shape, generator=of.generator))
        total = of._of_encoder(x, augmented.view.detach())[0] + of._of_augmenter(x, augmented)[0]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert abs(before) < 0.05
    assert contrast() > 0.2


def test_an_encoder_without_masks_sees_zeros_instead() -> None:
    of = method(InceptionTime(2, 4, depth=3), mask="binomial")
    seen: list[Tensor] = []
    of.encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    step(of)
    zeros = [float((x == 0).all(1).float().mean()) for x in seen]
    assert zeros[0] == pytest.approx(0.5, abs=0.1), "the encoder's own step"
    assert max(zeros[1:]) < 0.05, "the augmenter's step"


def test_adversarial_augmenter_makes_the_contrast_hard() -> None:
    of = method(adversarial=True, keep=0.0)
    terms = step(of).terms
    of.generator.manual_seed(3)
    rows = of.views(batch_of(of), of.generator).flatten(0, 1)
    view = of.augmenter(rows, torch.rand(rows.shape, generator=of.generator)).view
    with torch.no_grad():
        wanted = one_way_info_nce(*(of.encoder(x).maps[0].amax(2) for x in (rows, view)))[0]
    torch.testing.assert_close(terms["augmenter"], -wanted)


@pytest.mark.parametrize("smoothness", ["variation", "sampled"])
def test_smoothness_is_asked_for_by_its_weight(smoothness: str) -> None:
    without, given = step(method()), step(method(smooth=0.5, smoothness=smoothness))
    torch.testing.assert_close(given.total - without.total, 0.5 * given.terms["smoothness"])
    assert float(given.terms["smoothness"]) > 0


def test_what_is_logged_of_the_gate() -> None:
    of = method()
    with torch.no_grad():
        of.augmenter.factor.weight.zero_()
        of.augmenter.factor.bias.fill_(1.0)
    terms = step(of).terms
    open_share = (1 + 0.02) / (1 + np.exp(-1)) - 0.02
    assert float(terms["gate_mean"]) == pytest.approx(open_share, abs=1e-5) and float(terms["gate_variance"]) == 0
    assert float(terms["kept_beyond"]) == pytest.approx(1 / (1 + np.exp(-1)) - 0.4, abs=1e-5)


def test_gaps_stay_gaps() -> None:
    torch.manual_seed(0)
    augmenter, x = Augmenter(2, SMALL, Gate()), torch.randn(3, 2, 40)
    x[1, 0, 7] = torch.nan
    made = augmenter(x, torch.rand(3, 2, 40))
    assert torch.equal(made.view.isnan(), x.isnan()) and made.gate.isfinite().all()
    made.view.nansum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in augmenter.parameters())


def test_a_published_gate_is_told_by_a_probability() -> None:
    logits = torch.linspace(-9, 9, 50)
    published = Gate("prob", stretch=0.0)(logits, None)
    assert float(published.min()) >= 0.5 and float(published.max()) <= 0.7311
    assert float(Gate(stretch=0.0)(logits, None).min()) < 0.01
    assert set(Gate(hard=True)(logits, None).tolist()) == {0.0, 1.0}


def test_evaluation_is_taken_back_part_by_part() -> None:
    network = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Dropout(0.5).eval())
    with evaluating(network):
        assert not any(m.training for m in network.modules())
    assert [m.training for m in network.modules()] == [True, True, False]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"local": -1.0}, "at least 0"),
        ({"keep_share": 2.0}, "keep_share"),
        ({"smoothness": "rough"}, "smoothness"),
        ({"temperature": 0.0}, "temperature"),
        ({"mask": "other"}, "mask"),
        ({"steps": 15}, "16 stretches"),
    ],
)
def test_settings_that_cannot_work_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        method(**options)


def test_encoders_gates_and_networks_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="full length"):
        method(signal_encoder())
    for wrong in ({"bias": 0.0}, {"bias": 0.5}, {"stretch": -0.1}, {"temperature": 0.0}, {"input": "odds"}):
        with pytest.raises(ConfigError, match="gate"):
            Gate(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="augmenter"):
        AugmenterSettings(every=0)
