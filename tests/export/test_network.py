"""What is traced computes what the run computes, and which sizes it is tried with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from medssl.encoders.inception_time import InceptionTime
from medssl.encoders.resenc import ResEnc
from medssl.encoders.resnet1d import ResNet1d
from medssl.export.network import Exportable, exportable
from medssl.export.source import open_run
from medssl.heads.bag import BagHead
from medssl.heads.context import CONTEXTS
from medssl.heads.regression import RegressionHead
from medssl.heads.segmentation import SegmentationHead
from medssl.heads.sequence import SequenceHead

Make = Callable[..., Path]


def same(found: Exportable, x: torch.Tensor) -> bool:
    with torch.no_grad():
        pairs = zip(found.network(x), found.reference(x), strict=True)
        return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs)


def tiny() -> ResNet1d:
    return ResNet1d(in_channels=2, widths=(4, 8))


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_sequence_without_gaps_is_answered_as_by_the_head(model_run: Make, context: str) -> None:
    head = SequenceHead(tiny(), ("a", "b", "c"), context=context, width=16)
    run = model_run(head, 2, (64,), target={"classes": ["a", "b", "c"]}, testing={"sequence": 5, "spacing_s": 0.64})
    found = exportable(open_run(run))
    assert (found.axes, found.shape) == (("batch", "step", "channel", "time"), (1, 5, 2, 64))
    assert same(found, torch.randn(3, 5, 2, 64))
    assert found.reference(torch.randn(3, 5, 2, 64))[1].sum(-1).allclose(torch.ones(3, 5))


def test_a_bag_is_answered_as_by_the_head(model_run: Make) -> None:
    found = exportable(open_run(model_run(BagHead(tiny(), ("a", "b"), attention_width=8), 2, (64,))))
    assert found.shape == (1, 3, 2, 64) and found.layouts == (("batch", "step"), ("batch",), ())
    assert same(found, torch.randn(2, 4, 2, 64))


def test_regression_gives_the_value_in_its_unit(model_run: Make) -> None:
    head = RegressionHead(tiny(), mean=60.0, std=10.0)
    found = exportable(open_run(model_run(head, 2, (64,), target={"task": "regression", "classes": []})))
    assert found.outputs == ("value",)
    (value,) = found.reference(torch.randn(3, 2, 64))
    assert value.shape == (3,) and (value - 60).abs().max() < 40


def test_trials_are_of_other_batches_and_of_sizes_that_the_encoder_takes(model_run: Make) -> None:
    head = SegmentationHead(ResEnc(features=(4, 8), blocks=(1, 1), strides=(1, 2)), crop=(8, 16, 24))
    target = {"task": "segmentation", "classes": ["background", "x"], "values": [0, 3]}
    found = exportable(open_run(model_run(head, 1, (8, 16, 24), target=target)))
    assert found.layouts == (("batch", "z", "y", "x"), ("batch",), ())
    shapes = [tuple(x.shape) for x in found.trials(found.layouts[0])]
    assert shapes == [(1, 1, 8, 16, 24), (3, 1, 8, 16, 24), (2, 1, 10, 20, 26), (2, 1, 4, 8, 12)]
    for shape in shapes:
        head.encoder.check_input(shape[1], shape[2:])
    assert [tuple(x.shape) for x in found.trials(())] == [(1, 1, 8, 16, 24)] * 2


def test_a_network_that_turns_sizes_into_numbers_is_traced_for_one_size(encoder_run: Make) -> None:
    run = encoder_run(InceptionTime(in_channels=2, width=4, depth=3, kernel=9), 2, (64,))
    assert exportable(open_run(run)).layouts == (("batch",), ())
    assert exportable(open_run(run), "none").layouts == ((),)


def test_tracing_works_on_a_copy(model_run: Make) -> None:
    source = open_run(model_run(SequenceHead(tiny(), context="mamba", width=16), 2, (64,), testing={"sequence": 5}))
    found = exportable(source)
    assert source.network.context.scan == "auto"
    assert not set(map(id, found.network.parameters())) & set(map(id, source.network.parameters()))
