"""Frame projections: two stages, what each leaves alone, any time encoder, gaps, presets, what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases_frame_projection import NOISE, Mapped
from toy_cohorts import make_cohort
from toys import collate, info, signal, signal_encoder

from medssl.encoders.base import load_encoder
from medssl.encoders.frame_projected import FrameProjected
from medssl.encoders.frame_resnet import FrameResNet
from medssl.encoders.per_channel import PerChannel
from medssl.encoders.ts2vec import TS2Vec
from medssl.errors import ConfigError
from medssl.methods.base import Losses, Method
from medssl.methods.frame_projection import FrameProjection
from medssl.optim import Optim
from medssl.training.pretrain import pretrain
from medssl.training.settings import TrainSettings
from medssl.views import frames as transforms
from medssl.views.frames import Frames
from medssl.views.signal import SignalViews
from medssl.views.volume import VolumeViews

FEW = Frames(scales=8)
BRIEF: dict[str, Any] = {
    "batch_size": 4, "workers": 0, "log_every": 1, "monitor_every": 0, "progress": False, "accelerator": "cpu",
}  # fmt: skip


def small(channels: int = 2, dropout: float = 0.5) -> FrameResNet:
    return FrameResNet(channels, 4, blocks=4, out_dim=16, dropout=dropout)


def method(of: type[FrameProjection] = FrameProjection, **options: Any) -> FrameProjection:
    torch.manual_seed(0)
    settings = {"encoder": small(), "frames": FEW, "hidden": 4} | options
    views = SignalViews((64,), count=1, augmentation=NOISE)
    return of(settings.pop("encoder"), views, **settings)


def batch(of: Method, size: int = 4, seed: int = 0) -> dict[str, Any]:
    return collate([of.draw(signal(i), np.random.default_rng(i)) for i in range(size)], seed=seed)  # type: ignore[arg-type]


def step(of: Method, drawn: dict[str, Any] | None = None) -> Losses:
    """One pass, with all randomness tied down."""
    torch.manual_seed(1)
    of.generator.manual_seed(2)
    return of.loss(batch(of) if drawn is None else drawn)


def moved(of: Method) -> set[str]:
    """Weights whose gradient is not zero."""
    found = step(of)
    of.zero_grad()
    found.total.backward()
    return {n for n, p in of.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_each_stage_trains_its_own_weights() -> None:
    joint, mappings = moved(method()), moved(method(Mapped))
    names = {name for name, _ in method().named_parameters()}
    assert mappings == {name for name in names if name.startswith("encoder.to_")}
    assert not joint & mappings
    assert all(name.endswith(".bias") for name in names - mappings - joint)  # before a norm they have no influence
    for part in ("encoder.encoder.", "own_frames.fourier.", "own_frames.wavelet.", "projectors.2.", "aligners.1."):
        assert any(name.startswith(part) for name in joint)


def test_the_mappings_leave_weights_and_running_statistics_and_see_no_dropout() -> None:
    of = method(Mapped).train()
    before = {name: value.clone() for name, value in of.state_dict().items()}
    optimizer = torch.optim.AdamW(of.parameters(), lr=0.1, weight_decay=0.1)
    losses = []
    for seed in range(8):
        torch.manual_seed(seed)  # dropout, were there any
        found = of.loss(batch(of))
        losses.append(float(found.total.detach()))
        optimizer.zero_grad()
        found.total.backward()
        of.on_before_optimizer_step(optimizer)
        optimizer.step()
        if seed == 0:
            torch.manual_seed(99)
            first = of.loss(batch(of)).terms
    changed = {name for name, value in of.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("encoder.to_")}
    torch.manual_seed(5)
    assert of.loss(batch(of)).terms["time_fourier"] == first["time_fourier"]  # the same without a change of weights
    assert losses[-1] < losses[0]


def test_the_first_stage_has_dropout_and_the_mappings_do_not_reach_the_encoders() -> None:
    of = method().train()
    torch.manual_seed(0)
    one = of.loss(batch(of)).total
    torch.manual_seed(1)
    assert of.loss(batch(of)).total != one
    assert of.encoder.encoder.training and of.frames.training


def test_terms_add_up() -> None:
    for of in (method(map_weight=0.7), method(Mapped)):
        found = step(of)
        terms = found.terms
        joint = sum(terms[n] for n in ("time_fourier", "time_wavelet", "fourier_wavelet"))
        joint = joint + 0.7 * (terms["align_fourier"] + terms["align_wavelet"])
        wanted = terms["map_fourier"] + terms["map_wavelet"] if of.maps_now else joint
        torch.testing.assert_close(found.total.detach(), wanted)
        assert found.embeddings is not None
        torch.testing.assert_close(found.embeddings.norm(dim=1), torch.ones(4))


def test_presets_of_the_mapping_terms() -> None:
    mean, paper, code = (step(method(map_reduction=r)).terms["align_fourier"] for r in ("mean", "paper", "code"))
    torch.testing.assert_close(paper, 16 * mean)
    torch.testing.assert_close(code, mean / 4)
    assert step(method(temperature=0.5)).total != step(method()).total


def test_mappings_learn_what_can_be_told() -> None:
    """One frame's features are minus those of time, the other's tell nothing."""
    of, h, noise = method(Mapped, hidden=16), torch.randn(8, 16), 5 * torch.randn(8, 16)
    optimizer = torch.optim.Adam(of.encoder.parameters(), lr=0.02)
    for _ in range(120):
        total, terms = of._map(h, -h, noise)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert terms["explained_fourier"] > 0.5 > terms["explained_wavelet"]


@pytest.mark.parametrize("inference", ["mapped", "time_only", "all_encoders"])
def test_any_time_encoder(inference: Any) -> None:
    for encoder in (signal_encoder(), TS2Vec(2, 4, out_dim=12, depth=2)):
        of = method(encoder=encoder, inference=inference)
        assert step(of).total.isfinite()
        x = torch.randn(3, 2, 64)
        parts = 1 if inference == "time_only" else 3
        assert of.exported(x).pooled.shape == (3, parts * encoder.out_dim)
        assert (of.mapping_share > 0) == (inference == "mapped")
        assert "map_fourier" not in step(of).terms or inference == "mapped"


def test_encoders_of_all_frames_are_exported_as_trained() -> None:
    of = method(inference="all_encoders")
    assert isinstance(of.exported, FrameProjected) and of.frames is of.exported.frames
    assert any(name.startswith("encoder.frames.wavelet.") for name in moved(of))


def test_windows_stay_as_they_are_unless_asked() -> None:
    plain, noisy = method(), method(augment=True)
    drawn = batch(plain)
    rows = drawn["x"][:, 0].float() / 1000
    torch.testing.assert_close(plain._windows(drawn), rows)
    assert not torch.allclose(noisy._windows(drawn), rows)


def test_missing_channels_count_as_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    of = method().eval()
    rows = torch.randn(4, 2, 64)
    rows[1, 1] = torch.nan
    found = []
    for x in (rows, rows.nan_to_num(0.0)):
        monkeypatch.setattr(of, "_windows", lambda drawn, x=x: x)
        found.append(step(of).total)
    assert found[0].isfinite() and torch.equal(*found)
    assert of.embed(rows).isfinite().all()


def test_transforms_run_in_single_precision_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for name in ("rfft", "fft", "ifft"):
        real = getattr(torch.fft, name)

        def watched(x: torch.Tensor, *args: Any, real: Any = real, **options: Any) -> torch.Tensor:
            assert not torch.is_autocast_enabled("cpu")
            seen.append(x.dtype)
            found: torch.Tensor = real(x, *args, **options)
            return found

        monkeypatch.setattr(torch.fft, name, watched)
    of = method()
    with torch.autocast("cpu", torch.bfloat16):
        step(of).total.backward()
    assert set(seen) == {torch.float32, torch.complex64}


def test_kernels_are_made_once() -> None:
    of = method()
    step(of)
    before = transforms._spectra.cache_info().misses
    step(of)
    assert transforms._spectra.cache_info().misses == before


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="at least 2 of them a batch, got 1; raise the batch size"):
        step(method(), batch(method(), 1))
    two = SignalViews((64,), count=2)
    for views in (two, VolumeViews((8, 8, 8), count=1)):
        with pytest.raises(ConfigError, match="SignalViews with a count of 1"):
            FrameProjection(small(), views)
    for options, words in (
        ({"mapping_share": 0.0}, "mapping_share"),
        ({"mapping_share": 1.0}, "mapping_share"),
        ({"map_weight": -1.0}, "map_weight"),
        ({"map_reduction": "sum"}, "mean, paper or code"),
        ({"temperature": 0.0}, "temperature above 0"),
        ({"encoder": FrameResNet(2, 4, out_dim=15)}, "even"),
    ):
        with pytest.raises(ConfigError, match=words):
            method(**options)
    cohort = info("signal", 2)
    method().check(cohort)
    with pytest.raises(ConfigError, match="this cohort holds 1"):
        method().check(dataclasses.replace(cohort, n_recordings=1))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cohort(tmp_path_factory.mktemp("signals"), "signal", patients=6)


def test_a_run_trains_encoders_first_and_then_the_mappings(cohort: Path, tmp_path: Path) -> None:
    of = method(optim=Optim(lr=1e-2, weight_decay=0.1, warmup=0))
    settings = TrainSettings(max_steps=6, checkpoint_every=3, keep_every=3, **BRIEF)
    pretrain(method=of, cohort=[cohort], out=tmp_path / "run", trainer=settings)
    half, whole = (
        torch.load(tmp_path / "run" / "checkpoints" / name, weights_only=True)
        for name in ("step-00000003.ckpt", "last.ckpt")
    )
    changed = {n for n, v in whole["state_dict"].items() if not torch.equal(v, half["state_dict"][n])}
    assert changed == {n for n in whole["state_dict"] if n.startswith("encoder.to_")}
    # every weight took the three steps of its own stage, without moments of the other
    assert {int(s["step"]) for s in whole["optimizer_states"][0]["state"].values()} == {3}
    encoder, inputs = load_encoder(tmp_path / "run")
    assert isinstance(encoder, FrameProjected) and encoder.out_dim == 48 and inputs.size == (64,)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["skipped_steps"] == 0

    again = tmp_path / "again"
    settings = TrainSettings(max_steps=1, **BRIEF)
    frozen = method(optim=Optim(lr=0.0))
    pretrain(method=frozen, cohort=[cohort], out=again, trainer=settings, init_from=tmp_path / "run")
    x = torch.randn(2, 2, 64)
    begun, _ = load_encoder(again)
    weights = dict(begun.named_parameters())
    assert all(torch.equal(weights[n], p) for n, p in encoder.named_parameters())
    assert begun.eval()(x).pooled.shape == (2, 48)


def test_the_rate_of_the_mappings_is_constant_and_that_of_the_encoders_ends_before(
    cohort: Path, tmp_path: Path
) -> None:
    from medssl.training.metrics_log import read_metrics

    of = method(mapping_share=0.4, optim=Optim(lr=1e-2, warmup=0))
    pretrain(method=of, cohort=[cohort], out=tmp_path / "run", trainer=TrainSettings(max_steps=5, **BRIEF))
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    rates = [group["lr"] for group in checkpoint["optimizer_states"][0]["param_groups"]]
    assert rates[:2] == [0.0, 0.0] and rates[2:] == [1e-2, 1e-2]
    rows = read_metrics(tmp_path / "run")
    assert [row["loss"] == pytest.approx(row["map_fourier"] + row["map_wavelet"]) for row in rows] == [
        False, False, False, True, True,
    ]  # fmt: skip


def test_other_channels_than_the_frames_were_built_for_are_refused() -> None:
    of = method(encoder=PerChannel(signal_encoder(1), in_channels=2))
    of.check(info("signal", 2))
    assert of.exported.any_channels  # once the mappings stand for the frames
    assert not method(
        encoder=PerChannel(signal_encoder(1), in_channels=2), inference="all_encoders"
    ).exported.any_channels
    with pytest.raises(ConfigError, match="built for 2 channels but the data have 3"):
        of.check(info("signal", 3))
