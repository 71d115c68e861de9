"""Foreign weights: the layouts in which they come, and what must not load."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from medssl.encoders.base import Encoder
from medssl.encoders.importing import _Plan, _tensors, load_weights
from medssl.encoders.resenc import ResEnc
from medssl.encoders.swin_unetr import SwinUNETREncoder
from medssl.encoders.ts2vec import TS2Vec
from medssl.encoders.tst import TST
from medssl.encoders.vit import ViT
from medssl.errors import CheckpointError

State = dict[str, Tensor]


def swin(in_channels: int = 1) -> SwinUNETREncoder:
    return SwinUNETREncoder(in_channels, 12, window=3)


def resenc(in_channels: int = 1) -> ResEnc:
    return ResEnc(in_channels, features=(4, 8), blocks=(1, 2), strides=(1, 2))


def same_weights(a: Encoder, b: Encoder) -> bool:
    other = b.state_dict()
    return all(torch.equal(value, other[name]) for name, value in a.state_dict().items())


def prefixed(state: State, prefix: str) -> State:
    return {prefix + k: v for k, v in state.items()}


def with_decoder(state: State) -> State:
    return state | {"decoder5.transp_conv.conv.weight": torch.randn(2, 2), "out.conv.conv.bias": torch.randn(3)}


LAYOUTS: dict[str, Callable[[State, State], dict[str, Any]]] = {
    "voco_v2_encoder": lambda s, _: dict(s),
    "vocomni_whole_network": lambda s, _: with_decoder(s),
    "network_weights": lambda s, _: {"network_weights": s},
    "voco_v1_student_and_teacher": lambda s, t: {
        "epoch": 3,
        "state_dict": prefixed(s, "student.")
        | {"student.proj_head.0.weight": torch.randn(2)}
        | prefixed(t, "teacher."),
    },
    "voco_v2_training_under_ddp": lambda s, t: {
        "state_dict": prefixed(s, "module.backbone.") | {"module.student.layer1.0.weight": torch.randn(2)},
    },
    "monai_swin_vit": lambda s, _: {"state_dict": {k.replace("swinViT.", "module.swin_vit."): v for k, v in s.items()}},
    "lightning_checkpoint": lambda s, _: {
        "state_dict": prefixed(s, "encoder.") | {"projector.0.weight": torch.randn(2)}
    },
    "student_dictionary": lambda s, t: {"teacher": t, "student": s},
    "net": lambda s, _: {"net": s, "step": 7},
    "compiled": lambda s, _: prefixed(s, "_orig_mod."),
}


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_swin_weights_load_from_every_known_layout(layout: str) -> None:
    source, other, target = swin(), swin(), swin()
    report = load_weights(target, LAYOUTS[layout](source.state_dict(), other.state_dict()))
    assert same_weights(source, target)
    assert report.share == 1.0
    assert not report.missing and not report.unexpected


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Networks of any size cost nothing here: their tensors have names and shapes but no numbers."""
    real = torch.linspace  # MONAI asks it for plain numbers, which need a device
    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
        patch.setattr(torch, "linspace", lambda *a, **k: real(*a, **{**k, "device": "cpu"}))
        yield


@pytest.mark.parametrize(("size", "millions"), [(48, (53.2, 72.8)), (96, (212.0, 290.4)), (192, (847.3, 1160.8))])
def test_released_names_and_shapes_of_b_l_and_h_fill_the_encoder(size: int, millions: tuple[float, float]) -> None:
    from monai.networks.nets.swin_unetr import SwinUNETR

    with shapes_alone():
        whole, encoder = SwinUNETR(1, 21, feature_size=size, use_v2=True), SwinUNETREncoder(feature_size=size)
    counted = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (encoder, whole)]
    assert counted == pytest.approx(millions, abs=0.06)
    released = whole.state_dict()  # what VoComni_{B,L,H}.pt hold; VoCo_{B,L,H}_SSL_head.pt lack the decoder
    ssl = {k: v for k, v in released.items() if not k.startswith(("decoder", "out."))}
    assert (len(ssl), len(released)) == (145, 167)
    for layout in sorted(LAYOUTS):
        for state in (ssl, released):
            plan = _Plan(encoder, encoder.state_dict())
            for name, value in _tensors(LAYOUTS[layout](state, state), "student").items():
                plan.place(name, value, "student")
            report = plan.report()
            assert report.share == 1.0 and not report.adapted and not report.unexpected, f"{layout}: {report}"
            assert len(report.loaded) == 145


def test_of_a_whole_network_the_encoder_is_taken_and_the_decoder_is_said_to_be_left() -> None:
    from monai.networks.nets.swin_unetr import SwinUNETR

    whole, target = SwinUNETR(1, 21, feature_size=12, window_size=3, use_v2=True), swin()
    report = load_weights(target, whole.state_dict())
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in target.state_dict().items())
    assert len(report.skipped) == 22 and all(k.startswith(("decoder", "out.")) for k in report.skipped)
    assert "22 skipped" in str(report)


def test_another_architecture_in_a_known_wrapper_is_refused() -> None:
    """VoComni_nnunet.pt is a plain U-Net: no residual blocks, so neither of our encoders is made for it."""
    plain = {
        f"encoder.stages.{s}.0.convs.{c}.conv.weight": torch.randn(8, 4, 3, 3, 3) for s in range(6) for c in range(2)
    }
    for make in (swin, resenc):
        with pytest.raises(CheckpointError, match="at least 50%"):
            load_weights(make(), {"network_weights": plain})


def test_teacher_can_be_chosen() -> None:
    source, other, target = swin(), swin(), swin()
    content = LAYOUTS["voco_v1_student_and_teacher"](source.state_dict(), other.state_dict())
    load_weights(target, content, branch="teacher")
    assert same_weights(other, target)


def test_nnssl_layout_of_resenc() -> None:
    """The encoder's names come with a duplicate ``all_modules`` of each and once more under ``decoder.encoder``."""
    source, target = resenc(), resenc()
    state = prefixed(source.state_dict(), "encoder.")
    for name, value in list(state.items()):
        twin = name.replace(".conv.", ".all_modules.0.").replace(".norm.", ".all_modules.1.")
        state[twin] = value
    state |= {f"decoder.{k}": torch.zeros_like(v) for k, v in state.items()}
    report = load_weights(target, {"network_weights": state, "nnssl_adaptation_plan": {"key_to_stem": "encoder.stem"}})
    assert same_weights(source, target)
    assert report.share == 1.0
    assert not report.unexpected


@pytest.mark.parametrize("make", [swin, resenc], ids=["swin", "resenc"])
def test_four_input_channels_answer_a_replicated_image_like_one_channel(make: Callable[..., Encoder]) -> None:
    source, target = make(1).eval(), make(4).eval()
    report = load_weights(target, source.state_dict())
    assert report.share == 1.0
    assert all(how == "input channels 1 → 4" for _, how in report.adapted) and report.adapted
    x = torch.randn(1, 1, 32, 32, 64)
    with torch.no_grad():
        torch.testing.assert_close(target(x.repeat(1, 4, 1, 1, 1)).pooled, source(x).pooled, rtol=2e-3, atol=2e-3)


def test_input_channels_can_shrink_too() -> None:
    source, target = TS2Vec(3, 4, out_dim=4, depth=1).eval(), TS2Vec(1, 4, out_dim=4, depth=1).eval()
    load_weights(target, source.state_dict())
    x = torch.randn(1, 1, 20)
    torch.testing.assert_close(target(x).pooled, source(x.repeat(1, 3, 1)).pooled)


def test_position_tables_are_resized() -> None:
    arguments: dict[str, Any] = {"patch": 8, "width": 12, "depth": 1, "heads": 2}
    source, target = ViT(1, (16, 16, 16), **arguments), ViT(1, (32, 32, 32), **arguments)
    report = load_weights(target, source.state_dict())
    assert report.adapted == (("vit.patch_embedding.position_embeddings", "position grid (2, 2, 2) → (4, 4, 4)"),)
    torch.nn.init.constant_(source.vit.patch_embedding.position_embeddings, 3.0)
    load_weights(target, source.state_dict())
    assert (target.vit.patch_embedding.position_embeddings == 3.0).all()

    signal: dict[str, Any] = {"width": 8, "depth": 1, "heads": 2}
    report = load_weights(TST(1, 40, **signal), TST(1, 20, **signal).state_dict())
    assert report.adapted == (("backbone.W_pos", "position grid (20,) → (40,)"),)


def test_weights_of_another_architecture_are_refused_with_examples() -> None:
    target = swin()
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"0% of the encoder's tensors.*at least 50%"):
        load_weights(target, {"state_dict": resenc().state_dict()})
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


def test_the_required_share_is_the_caller_s_choice() -> None:
    source, target = resenc(), resenc()
    stem = {k: v for k, v in source.state_dict().items() if k.startswith("stem.")}
    with pytest.raises(CheckpointError):
        load_weights(target, stem)
    report = load_weights(target, stem, minimum=0.1)
    assert set(report.loaded) == set(stem)
    assert set(report.missing) == set(source.state_dict()) - set(stem)
    assert "missing" in str(report)


def test_a_shape_that_cannot_be_adapted_is_reported() -> None:
    source = resenc().state_dict()
    source["stages.1.blocks.0.conv2.conv.weight"] = torch.zeros(9, 9, 3, 3, 3)
    report = load_weights(resenc(), source)
    assert report.mismatched == (("stages.1.blocks.0.conv2.conv.weight", "(9, 9, 3, 3, 3) instead of (8, 8, 3, 3, 3)"),)
    assert report.missing == ("stages.1.blocks.0.conv2.conv.weight",)


def test_names_unknown_here_can_be_cut_by_hand() -> None:
    source, target = resenc(), resenc()
    content = prefixed(source.state_dict(), "image_tower.") | {"text_tower.stem.convs.0.conv.weight": torch.zeros(1)}
    assert load_weights(target, content, keep_prefixes=("image_tower.",)).share == 1.0
    assert same_weights(source, target)


def test_non_finite_weights_are_refused() -> None:
    state = resenc().state_dict()
    state["stem.convs.0.conv.weight"][0] = torch.nan
    with pytest.raises(CheckpointError, match=r"NaN or infinite weights in 'stem"):
        load_weights(resenc(), state)


def test_files_of_both_kinds(tmp_path: Path) -> None:
    source = resenc()
    torch.save({"state_dict": source.state_dict(), "epoch": 4}, tmp_path / "weights.pt")
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    for name in ("weights.pt", "weights.safetensors"):
        target = resenc()
        assert load_weights(target, tmp_path / name).share == 1.0
        assert same_weights(source, target)


class Payload:
    """Stands for an optimiser object, or worse, inside a checkpoint."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (print, ("code from a checkpoint ran",))


def test_nothing_is_unpickled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "weights.pt"
    torch.save({"state_dict": resenc().state_dict(), "optimizer": Payload()}, file)
    with pytest.raises(CheckpointError, match=r"pickled Python objects.*safetensors"):
        load_weights(resenc(), file)
    file.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(CheckpointError):
        load_weights(resenc(), file)
    assert "code from a checkpoint ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["missing.pt", "broken.pt", "broken.safetensors"])
def test_missing_and_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    if name.startswith("broken"):
        (tmp_path / name).write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match=name):
        load_weights(resenc(), tmp_path / name)
