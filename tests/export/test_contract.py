"""Which encoders and heads export to which format, and which axes may then have any length. A new encoder adds a line.

``tests/encoders/test_encoders.py`` holds the examples.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_encoders import EXAMPLES

from medssl.configurable import build, discover
from medssl.encoders.base import Encoder
from medssl.errors import MedSSLError
from medssl.export import export
from medssl.heads.bag import BagHead
from medssl.heads.base import Head
from medssl.heads.classification import ClassificationHead
from medssl.heads.context import CONTEXTS
from medssl.heads.regression import RegressionHead
from medssl.heads.segmentation import SegmentationHead
from medssl.heads.sequence import SequenceHead

SIGNAL, VOLUME, BATCH = ["batch", "time"], ["batch", "z", "y", "x"], ["batch"]
REFUSED = None
ROOM = {"SwinUNETREncoder": 1e-3}  # the smallest one has norms over two voxels, which enlarge rounding

ENCODERS: dict[str, tuple[list[str] | None, list[str] | None]] = {  # as .pt2, as .onnx
    "BrainGraph": (SIGNAL, SIGNAL),
    "BrainNetCNN": (SIGNAL, SIGNAL),
    "Concatenated": (SIGNAL, SIGNAL),
    "ConnectivityMLP": (SIGNAL, SIGNAL),
    "FrameProjected": (BATCH, REFUSED),  # all_encoders: ONNX has no complex numbers
    "FrameResNet": (BATCH, BATCH),
    "InceptionTime": (BATCH, BATCH),
    "NeuroNet": (BATCH, BATCH),
    "PerChannel": (SIGNAL, SIGNAL),
    "PositionFree": (SIGNAL, SIGNAL),
    "ResEnc": (VOLUME, VOLUME),
    "ResNet1d": (SIGNAL, SIGNAL),
    "SliceTransformer": (VOLUME, VOLUME),
    "SliceWise": (VOLUME, VOLUME),
    "SpatioTemporalGraph": (BATCH, SIGNAL),  # torch guards against runs of a single window
    "SwinUNETREncoder": (BATCH, BATCH),
    "TS2Vec": (SIGNAL, SIGNAL),
    "TST": (BATCH, BATCH),
    "TrendTS2Vec": (SIGNAL, SIGNAL),
    "TsaiModel": (BATCH, BATCH),
    "ViT": (BATCH, VOLUME),  # torch guards the enlarging of the position table by the size it was traced at
    "VideoViT": (BATCH, VOLUME),  # torch guards against axes that come down to a single token, as half the example's do
    "XceptionTime": (BATCH, BATCH),
}
TSAI = ("FCNPlus", "InceptionTimePlus", "LSTM_FCNPlus", "OmniScaleCNN", "TCN", "TSTPlus", "XCMPlus", "gMLP", "mWDNPlus")


formats = pytest.mark.parametrize("suffix", [".pt2", ".onnx"])


def make(name: str, arguments: dict[str, Any]) -> Encoder:
    discover("medssl.encoders", Encoder)
    return build({"class_path": name, "init_args": arguments}, Encoder)


def test_every_encoder_has_a_line() -> None:
    assert set(ENCODERS) == set(discover("medssl.encoders", Encoder))


@pytest.mark.slow
@formats
@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_an_encoder_exports_as_its_line_says(
    name: str, suffix: str, encoder_run: Callable[..., Path], tmp_path: Path
) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnx")
    shape = EXAMPLES[name].shape
    run = encoder_run(make(name, EXAMPLES[name].arguments), shape[0], shape[1:])
    expected = ENCODERS[name][suffix == ".onnx"]
    if expected is REFUSED:
        with pytest.raises(MedSSLError, match=f"{name} cannot be exported to {suffix}"):
            export(run, tmp_path / f"e{suffix}")
        return
    made = export(run, tmp_path / f"e{suffix}", tolerance=ROOM.get(name, 1e-4))
    assert made["input"]["any_length"] == expected


@pytest.mark.slow
@formats
@pytest.mark.parametrize("model", TSAI)
def test_networks_of_tsai_export_for_any_batch(
    model: str, suffix: str, encoder_run: Callable[..., Path], tmp_path: Path
) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnx")
    run = encoder_run(make("TsaiModel", {"in_channels": 2, "model": model, "length": 40}), 2, (40,))
    assert export(run, tmp_path / f"e{suffix}")["input"]["any_length"] == BATCH


def signals() -> Encoder:
    return make("ResNet1d", EXAMPLES["ResNet1d"].arguments)


STEPS = ["batch", "step"]
UNROLLED = {"mamba": (BATCH, BATCH), "lstm": (BATCH, BATCH), "lstm_attention": (STEPS, BATCH)}
HEADS: dict[str, tuple[Callable[[], Head], tuple[int, ...], dict[str, Any], list[str], list[str]]] = {  # .pt2, .onnx
    "classification": (lambda: ClassificationHead(signals(), ("a", "b"), centre=True), (64,), {}, BATCH, BATCH),
    "multilabel": (lambda: ClassificationHead(signals(), ("a", "b"), multilabel=True), (64,), {}, SIGNAL, SIGNAL),
    "regression": (lambda: RegressionHead(signals(), 5.0, std=2.0), (64,), {"task": "regression"}, SIGNAL, SIGNAL),
    "segmentation": (
        lambda: SegmentationHead(make("ResEnc", {"in_channels": 2, "size": "tiny"}), deep_supervision=True),
        (16, 16, 16), {"task": "segmentation"}, VOLUME, VOLUME,
    ),
    "segmentation over ViT": (
        lambda: SegmentationHead(make("ViT", {**EXAMPLES["ViT"].arguments, "in_channels": 2})),
        (16, 16, 16), {"task": "segmentation"}, BATCH, VOLUME,
    ),
    "segmentation over SwinUNETR": (
        lambda: SegmentationHead(
            make("SwinUNETREncoder", {**EXAMPLES["SwinUNETREncoder"].arguments, "in_channels": 2})
        ),
        (32, 32, 64), {"task": "segmentation"}, BATCH, BATCH,
    ),
    "segmentation slice by slice": (
        lambda: SegmentationHead(make("SliceWise", EXAMPLES["SliceWise"].arguments)),
        (4, 16, 16), {"task": "segmentation"}, VOLUME, VOLUME,
    ),
    "bag": (lambda: BagHead(signals(), ("a", "b")), (64,), {}, STEPS, STEPS),
    **{
        f"sequence {context}": (
            lambda context=context: SequenceHead(signals(), ("a", "b"), context=context, width=16),
            (64,), {"sequence": 6}, *UNROLLED.get(context, (STEPS, STEPS)),
        )
        for context in CONTEXTS
    },
}  # fmt: skip


@pytest.mark.slow
@formats
@pytest.mark.parametrize("name", sorted(HEADS))
def test_a_whole_model_exports_as_its_line_says(
    name: str, suffix: str, model_run: Callable[..., Path], tmp_path: Path
) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnx")
    head, size, more, *expected = HEADS[name]
    testing = {k: v for k, v in more.items() if k == "sequence"}
    target = {k: v for k, v in more.items() if k == "task"}
    run = model_run(head(), 2, size, target=target, testing=testing)
    assert export(run, tmp_path / f"m{suffix}")["input"]["any_length"] == expected[suffix == ".onnx"]
