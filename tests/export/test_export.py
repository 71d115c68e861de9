"""The verb: a file that answers as the run does, its JSON and its card; one sentence for whatever cannot be done."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import medssl.export.program as program
from medssl.cli import main
from medssl.encoders.base import Encoder, Features
from medssl.encoders.resnet1d import ResNet1d
from medssl.errors import CheckpointError, ConfigError, MedSSLError
from medssl.export import export
from medssl.export.onnx import load_onnx
from medssl.export.program import load_program
from medssl.training.models import load_model

Make = Callable[..., Path]


class Sorted(Encoder):
    """Branches on the values it sees, which no tracer can follow."""

    def __init__(self, in_channels: int = 2) -> None:
        super().__init__()
        self.in_channels, self.dims, self.out_dim = in_channels, 1, in_channels
        self.channels, self.strides, self.divisor, self.minimum = (in_channels,), ((1,),), (1,), (1,)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> Features:
        y = x * self.scale if x.sum().item() > 0 else -x
        return Features(y.mean(-1), [y])


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_a_model_as_a_torch_program_answers_as_the_run_does(
    classifier_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "rhythm.pt2"
    about = export(classifier_run, out)
    assert names(out.parent) == {"rhythm.pt2", "rhythm.pt2.json", "MODEL_CARD.md"}
    head, x = load_model(classifier_run).head, torch.randn(5, 2, 77)  # another batch and another length
    with torch.no_grad():
        want = head(x)
        logits, probabilities = load_program(out)(x)
    torch.testing.assert_close(logits, want)
    torch.testing.assert_close(probabilities, want.softmax(1))
    assert about["input"]["any_length"] == ["batch", "time"]
    assert json.loads(Path(f"{out}.json").read_text())["agreement"]["max_rel"] == about["agreement"]["max_rel"] < 1e-4
    said = capsys.readouterr().out.strip().splitlines()
    assert len(said) == 2 and said[-1].startswith("written: ") and "agrees with torch on 4 random inputs" in said[-1]


def test_an_encoder_as_onnx_gives_pooled_features_and_maps(encoder_run: Make, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    encoder = ResNet1d(in_channels=2, widths=(4, 8)).eval()
    out = tmp_path / "ecg.onnx"
    about = export(encoder_run(encoder, 2, (64,)), out)
    x = torch.randn(1, 2, 50)
    with torch.no_grad():
        want = encoder(x)
    pooled, fine = load_onnx(out)(x)
    torch.testing.assert_close(pooled, want.pooled, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fine, want.maps[0], rtol=1e-4, atol=1e-5)
    model = onnx.load(out)
    assert [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", 2, "time"]
    assert [o.name for o in model.graph.output] == ["pooled", "map_0"] == [o["name"] for o in about["outputs"]]
    inside = json.loads(next(p.value for p in model.metadata_props if p.key == "medssl"))
    assert inside["input"]["channels"] == ["c0", "c1"] and inside["source"] == about["source"]


def test_the_batch_alone_may_vary_or_nothing(classifier_run: Path, tmp_path: Path) -> None:
    assert export(classifier_run, tmp_path / "a.pt2", dynamic="batch")["input"]["shape"] == [None, 2, 64]
    fixed = export(classifier_run, tmp_path / "b.pt2", dynamic="none")
    assert fixed["input"]["shape"] == [1, 2, 64]
    with pytest.raises(Exception, match=r"Guard failed|Expected input"):
        load_program(tmp_path / "b.pt2")(torch.randn(2, 2, 64))


def test_the_encoder_of_a_model_can_be_exported_alone(classifier_run: Path, tmp_path: Path) -> None:
    about = export(classifier_run, tmp_path / "e.pt2", part="encoder")
    assert (about["part"], about["target"]) == ("encoder", None)
    assert [o["name"] for o in about["outputs"]] == ["pooled", "map_0"]


def test_a_file_that_disagrees_is_not_left_behind(
    classifier_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = program.load_program

    def wrong(file: Path) -> object:
        return lambda x: [y + 0.01 for y in right(file)(x)]

    monkeypatch.setattr(program, "load_program", wrong)
    with pytest.raises(MedSSLError, match=r"is not written: its answer differs from torch's by"):
        export(classifier_run, tmp_path / "out" / "m.pt2", dynamic="none")
    assert not names(tmp_path / "out")


def test_a_stricter_tolerance_can_refuse(classifier_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = program.load_program
    monkeypatch.setattr(program, "load_program", lambda f: lambda x: [y * (1 + 1e-5) for y in right(f)(x)])
    export(classifier_run, tmp_path / "m.pt2", dynamic="none")
    with pytest.raises(MedSSLError, match="where 1e-06 is allowed"):
        export(classifier_run, tmp_path / "n.pt2", dynamic="none", tolerance=1e-6)


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_a_network_that_cannot_be_traced_is_refused_in_one_sentence(
    encoder_run: Make, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnx")
    run, out = encoder_run(Sorted(), 2, (8,)), tmp_path / "out" / f"s{suffix}"
    assert main(["export", str(run), str(out)]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"medssl: Sorted cannot be exported to {suffix} (") and message.count("\n") == 1
    assert len(message) < 320 and not names(out.parent)


def test_bad_input_gets_one_sentence(
    classifier_run: Path, encoder_run: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: object) -> str:
        assert main(["export", *map(str, words)]) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1 and "Traceback" not in message
        return message

    there = tmp_path / "there.pt2"
    there.touch()
    assert "no folder" in said(tmp_path / "nowhere", tmp_path / "a.pt2")
    assert "has the suffix .pth; choose .onnx or .pt2" in said(classifier_run, tmp_path / "a.pth")
    assert "is there already" in said(classifier_run, there)
    assert "must be above 0" in said(classifier_run, tmp_path / "a.pt2", "--tolerance", "0")
    (tmp_path / "empty").mkdir()
    assert "neither an encoder nor a model" in said(tmp_path / "empty", tmp_path / "a.pt2")


def test_onnx_without_its_packages_says_how_to_install_them(
    classifier_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import medssl.export.onnx

    monkeypatch.setattr(medssl.export.onnx.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'medssl\[onnx\]'"):
        export(classifier_run, tmp_path / "a.onnx")


def test_weights_beyond_what_one_onnx_file_holds_are_refused(
    classifier_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    monkeypatch.setattr("medssl.export.onnx.LARGEST", 100)
    with pytest.raises(ConfigError, match=r"export to \.pt2"):
        export(classifier_run, tmp_path / "a.onnx", dynamic="none")


def test_an_edited_card_is_kept_and_one_of_another_model_is_not_replaced(
    classifier_run: Path, model_run: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, card = tmp_path / "out", tmp_path / "out" / "MODEL_CARD.md"
    export(classifier_run, out / "a.pt2", dynamic="none")
    card.write_text(card.read_text().replace("Licence of the weights: _", "Licence of the weights: CC0 _"))
    capsys.readouterr()
    export(classifier_run, out / "b.pt2", dynamic="none")
    assert "CC0" in card.read_text() and "MODEL_CARD.md left as it is" in capsys.readouterr().out
    (classifier_run / "model" / "model.safetensors").rename(tmp_path / "w")
    other = load_model_with_other_weights(classifier_run, tmp_path / "w")
    with pytest.raises(ConfigError, match="is the card of another model"):
        export(other, out / "c.pt2", dynamic="none")
    export(other, out / "c.pt2", dynamic="none", card=False)
    assert "CC0" in card.read_text()
    export(other, out / "c.pt2", dynamic="none", overwrite=True)
    assert "CC0" not in card.read_text()


def load_model_with_other_weights(run: Path, weights: Path) -> Path:
    from safetensors.torch import load_file, save_file

    save_file({k: v + 1 for k, v in load_file(weights).items()}, run / "model" / "model.safetensors")
    return run


def test_an_unfinished_run_is_refused(encoder_run: Make, tmp_path: Path) -> None:
    run = encoder_run(ResNet1d(in_channels=2, widths=(4, 8)), 2, (64,), status="stopped")
    (run / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match=r"not finished \(stopped\); continue it with `medssl resume"):
        export(run, tmp_path / "a.pt2")
