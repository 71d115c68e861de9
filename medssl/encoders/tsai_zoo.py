"""The other networks of tsai's model zoo, by name, each without its head."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medssl.encoders.base import Encoder, Features, mean_pool
from medssl.encoders.blocks import parameters_by_prefix
from medssl.encoders.tsai_backbone import tsai_model
from medssl.errors import ConfigError, unknown_name

__all__ = ["TSAI_MODELS", "TSAI_REFUSED", "TsaiModel", "working_models"]

Trunk = Callable[[Any], nn.Module]

MAX_TOKENS = 256
"""Tokens of a window where the network's cost grows with their square and its own default is a token a sample."""


def _backbone(model: Any) -> nn.Module:
    trunk: nn.Module = model.backbone
    return trunk


def _without(*heads: str) -> Trunk:
    """The whole network, its last layers made to pass on what they get."""

    def trunk(model: Any) -> nn.Module:
        for name in heads:
            setattr(model, name, nn.Identity())
        whole: nn.Module = model
        return whole

    return trunk


def _first(count: int) -> Trunk:
    return lambda model: nn.Sequential(*list(model.children())[:count])


class _Permute(nn.Module):
    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order)


def _gmlp(model: Any) -> nn.Module:
    return nn.Sequential(model.patcher, _Permute(0, 2, 1), *model.model, _Permute(0, 2, 1))


def _transformer(model: Any) -> nn.Module:
    layers = (model.permute, model.inlinear, model.relu, model.transformer_encoder)
    return nn.Sequential(*layers, _Permute(1, 2, 0))


def _perceiver(model: Any) -> nn.Module:
    model.head = nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(1))
    whole: nn.Module = model
    return whole


def _samples_a_token(length: int) -> int:
    return math.ceil(length / MAX_TOKENS)


@dataclass(frozen=True)
class _Kind:
    """How a network is built and where its features are.

    Attributes:
        module: of ``tsai.models``.
        summary: for people.
        trunk: takes the part that gives (B, D, T') or (B, D) from tsai's model.
        stride: samples a step of the map.
        stride_option: option that sets the stride; the input is padded at its end to a multiple.
        fixed: takes windows of one length only.
        wants_length: is told the length.
        defaults: options in place of tsai's own, for a length.
        even: takes even lengths only.
        unused: parameters that no output depends on; they are not trained.
        extra: options that tsai hands on without naming them.
    """

    module: str
    summary: str
    trunk: Trunk = _backbone
    stride: int = 1
    stride_option: str = ""
    fixed: bool = False
    wants_length: bool = False
    even: bool = False
    defaults: Callable[[int], Mapping[str, Any]] = field(default=lambda length: {})
    unused: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()


def _tokens(option: str) -> Callable[[int], Mapping[str, Any]]:
    return lambda length: {option: _samples_a_token(length)}


def _tst_options(length: int) -> Mapping[str, Any]:
    # tsai pads to exactly max_seq_len tokens; asking for just as many as the stride needs leaves no empty ones
    return {"max_seq_len": math.ceil(length / math.ceil(length / 512))}


def _tst_plus_options(length: int) -> Mapping[str, Any]:
    return {**_tst_options(length), "key_padding_mask": False}  # "auto" would overwrite NaN in the caller's array


TSAI_MODELS: dict[str, _Kind] = {
    "ConvTranPlus": _Kind(
        "ConvTranPlus", "convolutions and one transformer layer, Foumani et al., 2024", fixed=True, wants_length=True
    ),
    "FCN": _Kind("FCN", "three convolutions, Wang et al., 2017", _without("gap", "fc")),
    "FCNPlus": _Kind("FCNPlus", "three convolutions, Wang et al., 2017"),
    "GRUPlus": _Kind("RNNPlus", "gated recurrent units"),
    "GRU_FCNPlus": _Kind(
        "RNN_FCNPlus", "recurrent beside convolutions, Elsayed et al., 2019", fixed=True, wants_length=True
    ),
    "InceptionTime": _Kind("InceptionTime", "Fawaz et al., 2020", _without("gap", "fc"), extra=("depth", "ks")),
    "InceptionTimePlus": _Kind("InceptionTimePlus", "Fawaz et al., 2020", extra=("depth",)),
    "InceptionTimeXLPlus": _Kind(
        "InceptionTimePlus", "twice as deep and wide, Fawaz et al., 2020", extra=("ks", "sa", "se")
    ),
    "LSTMAttentionPlus": _Kind("RNNAttentionPlus", "an LSTM below a transformer", fixed=True, wants_length=True),
    "LSTMPlus": _Kind("RNNPlus", "long short-term memory"),
    "LSTM_FCNPlus": _Kind(
        "RNN_FCNPlus", "an LSTM beside convolutions, Karim et al., 2017", fixed=True, wants_length=True
    ),
    "MLP": _Kind("MLP", "three dense layers, Wang et al., 2017", _without("head"), fixed=True, wants_length=True),
    "MLSTM_FCNPlus": _Kind(
        "RNN_FCNPlus",
        "an LSTM beside convolutions with squeeze and excitation, Karim et al., 2019",
        fixed=True,
        wants_length=True,
        extra=("conv_layers", "hidden_size", "kss", "rnn_dropout", "shuffle"),
    ),
    "OmniScaleCNN": _Kind(
        "OmniScaleCNN", "kernels of all prime sizes, Tang et al., 2022", _without("gap", "hidden"), wants_length=True
    ),
    "RNNPlus": _Kind("RNNPlus", "plain recurrent units"),
    "ResCNN": _Kind("ResCNN", "residual and plain convolutions, Zou et al., 2019", _without("gap", "squeeze", "lin")),
    "ResNet": _Kind("ResNet", "three residual blocks, Wang et al., 2017", _without("gap", "squeeze", "fc")),
    "ResNetPlus": _Kind("ResNetPlus", "three residual blocks, Wang et al., 2017"),
    "TCN": _Kind("TCN", "causal dilated convolutions, Bai et al., 2018", _without("gap", "linear")),
    "TSPerceiver": _Kind(
        "TSPerceiver",
        "cross-attention to latents, Jaegle et al., 2021",
        _perceiver,
        fixed=True,
        wants_length=True,
        # tsai starts all latents at zero, where they stay equal for ever: one says as much as 512
        defaults=lambda length: {"n_latents": 1},
    ),
    "TST": _Kind(
        "TST",
        "transformer, Zerveas et al., 2021",
        _without("flatten", "head"),
        fixed=True,
        wants_length=True,
        defaults=_tst_options,
    ),
    "TSTPlus": _Kind(
        "TSTPlus", "transformer, Zerveas et al., 2021", fixed=True, wants_length=True, defaults=_tst_plus_options
    ),
    "TSiTPlus": _Kind(
        "TSiTPlus",
        "vision transformer of a signal, Dosovitskiy et al., 2021",
        fixed=True,
        wants_length=True,
        stride_option="token_size",
        defaults=_tokens("token_size"),
        unused=("cls_token",),
    ),
    "TransformerModel": _Kind("TransformerModel", "transformer without positions, Vaswani et al., 2017", _transformer),
    "XCM": _Kind("XCM", "2-D and 1-D convolutions, Fauvel et al., 2021", _without("head"), wants_length=True),
    "XCMPlus": _Kind("XCMPlus", "2-D and 1-D convolutions, Fauvel et al., 2021", wants_length=True),
    "XceptionTime": _Kind("XceptionTime", "Rahimian et al., 2019", _without("head"), extra=("ks",)),
    "XceptionTimePlus": _Kind("XceptionTimePlus", "Rahimian et al., 2019"),
    "gMLP": _Kind(
        "gMLP",
        "gated dense layers, Liu et al., 2021",
        _gmlp,
        fixed=True,
        wants_length=True,
        stride_option="patch_size",
        defaults=_tokens("patch_size"),
    ),
    "mWDNPlus": _Kind(
        "mWDN",
        "wavelet decomposition below InceptionTime, Wang et al., 2018",
        fixed=True,
        wants_length=True,
        even=True,
        defaults=lambda length: {"levels": 1},  # tsai uses the first level's output alone
        extra=("depth", "ks", "nf"),
    ),
    **{
        f"xresnet1d{depth}{plus}": _Kind(
            f"XResNet1d{plus.capitalize()}",
            f"residual network of {depth} layers, He et al., 2019",
            _backbone if plus else _first(8),
            stride=32,
        )
        for depth in (18, 34, 50)
        for plus in ("", "plus")
    },
}
"""Networks that can be pre-trained, by tsai's name for them."""

_RESERVED = frozenset({"self", "args", "kwargs", "c_in", "c_out", "seq_len", "custom_head", "use_token"})
_RANDOM = "its kernels are random and stay so: there is nothing in it to pre-train"
_BATCH = "tsai's layers run along the batch, so what it says of one recording depends on the others"

TSAI_REFUSED: dict[str, str] = {
    "PatchTST": "it forecasts the coming samples of each channel and gives no features of a window",
    "RocketClassifier": "it needs sktime, and is a classifier rather than an encoder",
    "MiniRocketClassifier": "it needs sktime, and is a classifier rather than an encoder",
    "MiniRocketRegressor": "it needs sktime, and is a regressor rather than an encoder",
    **dict.fromkeys(("MiniRocket", "MiniRocketPlus", "MiniRocketFeatures", "MultiRocketPlus", "ROCKET"), _RANDOM),
    **dict.fromkeys(("HydraPlus", "HydraMultiRocketPlus"), _RANDOM),
    **dict.fromkeys(("TransformerLSTMPlus", "TransformerGRUPlus", "TransformerRNNPlus", "TSSequencerPlus"), _BATCH),
    **{
        name: f"it is the same network as {name}Plus; use that name"
        for name in ("LSTM", "GRU", "RNN", "LSTM_FCN", "GRU_FCN", "MLSTM_FCN", "LSTMAttention", "mWDN")
    },
}
"""Networks of tsai that are no encoders, and why."""


class TsaiModel(Encoder):
    """A network of tsai's model zoo without its head, by name (``medssl list encoders`` shows which there are).

    One map (B, D, T'), pooled by its mean over time; networks that end in a vector give it as a map of one step.
    ``InceptionTime``, ``XceptionTime`` and ``TST`` are encoders of their own, with layer-wise learning rates.

    Args:
        in_channels: channels of the signal.
        model: tsai's name of the network.
        length: samples of a window. Networks with position tables or layers along time take no other; the others only
            take their kernel sizes from it, or do not look at it.
        options: further arguments of tsai's constructor, such as ``{"nf": 16}``. TSiTPlus and gMLP get ``token_size``
            or ``patch_size`` so that a window is at most 256 tokens, unless they are given here.

    Raises:
        ConfigError: an unknown or refused name, options that the network does not take, or tsai cannot be imported.
    """

    def __init__(
        self,
        in_channels: int = 1,
        model: str = "ResNetPlus",
        *,
        length: int = 1000,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        kind = _kind(model)
        if length < 2:
            raise ConfigError(f"TsaiModel needs a length of 2 samples or more, not {length}")
        self.model, self.length = model, length
        arguments = {**kind.defaults(length), **{k: _plain(v) for k, v in (options or {}).items()}}
        self.token = int(arguments.get(kind.stride_option) or 1)
        padded = self.token * math.ceil(length / self.token)
        self.backbone = kind.trunk(_construct(model, kind, in_channels, padded, arguments))
        for name in kind.unused:
            getattr(self.backbone, name).requires_grad_(False)
        self.in_channels, self.dims = in_channels, 1
        self.out_dim, steps = self._probed(padded)
        self.channels = (self.out_dim,)
        self.strides = ((self._stride(steps),),)
        self.divisor = (2 if kind.even else 1,)
        self.minimum = (length if kind.fixed else 2 * self.strides[0][0],)

    @property
    def kind(self) -> _Kind:
        """How the network is built; looked up, since it cannot be pickled."""
        return TSAI_MODELS[self.model]

    @classmethod
    def members(cls) -> dict[str, str]:
        """See ``Encoder.members``."""
        return {name: kind.summary for name, kind in TSAI_MODELS.items()}

    def forward(self, x: Tensor) -> Features:
        """(B, C, T) → one map and its mean over time."""
        y = self._encoded(nn.functional.pad(x, (0, -x.shape[-1] % self.token)))
        return Features(mean_pool(y), [y])

    def check_input(self, channels: int, size: tuple[int, ...]) -> None:
        """See ``Encoder.check_input``; also refuses other lengths where the network takes one only."""
        super().check_input(channels, size)
        if self.kind.fixed and size != (self.length,):
            raise ConfigError(
                f"{self.model} was built for windows of {self.length} samples, not {size[0]}; set length to the window"
            )

    def layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """One group a stage where the network is a plain sequence of them, else one group."""
        prefix, trunk = "backbone.", self.backbone
        while isinstance(trunk, nn.Sequential) and len(trunk) == 1:
            name, trunk = next(iter(trunk.named_children()))
            prefix += f"{name}."
        if not isinstance(trunk, nn.Sequential):
            return super().layers()
        return parameters_by_prefix(self, [(f"{prefix}{name}.",) for name, _ in trunk.named_children()])

    def _encoded(self, x: Tensor) -> Tensor:
        y: Tensor = self.backbone(x)
        for module in self._reparametrised():  # else what they computed last could not be copied or pickled
            module.weight = module.weight.detach()
        return y.unsqueeze(-1) if y.ndim == 2 else y

    def _reparametrised(self) -> Iterator[Any]:
        """Layers whose ``weight`` is computed anew for every pass (weight normalisation)."""
        return (module for module in self.backbone.modules() if hasattr(module, "weight_g"))

    @torch.no_grad()
    def _probed(self, length: int) -> tuple[int, int]:
        """Channels and steps of the map, found by asking."""
        self.backbone.eval()
        shape = self._encoded(torch.zeros(2, self.in_channels, length)).shape
        self.backbone.train()
        return int(shape[1]), int(shape[2])

    def _stride(self, steps: int) -> int:
        stride = math.ceil(self.length / steps) if self.kind.fixed else self.kind.stride
        if math.ceil(self.length / stride) != steps:
            raise ConfigError(
                f"with these options {self.model} gives {steps} steps for {self.length} samples, where medssl expects "
                f"one in {stride}; leave out the options that change strides or padding"
            )
        return stride


def _kind(model: str) -> _Kind:
    if model in TSAI_REFUSED:
        raise ConfigError(
            f"tsai's {model} is no encoder here: {TSAI_REFUSED[model]}; see `medssl list encoders` for those that are"
        )
    if model not in TSAI_MODELS:
        raise ConfigError(unknown_name("tsai model", model, TSAI_MODELS))
    return TSAI_MODELS[model]


def _plain(value: Any) -> Any:
    """Sequences as lists, which tsai tells from tuples."""
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _construct(model: str, kind: _Kind, in_channels: int, length: int, arguments: Mapping[str, Any]) -> Any:
    try:
        make = tsai_model(kind.module, model)
    except ConfigError as error:
        there = working_models()
        raise ConfigError(f"{error}" + (f"; of tsai there work {', '.join(there)}" if there else "")) from error
    own = {"seq_len": length} if kind.wants_length else {}
    reserved = sorted(set(arguments) & _RESERVED)
    if reserved:
        raise ConfigError(f"option '{reserved[0]}' of {model} is set by medssl; leave it out")
    known = {*inspect.signature(make).parameters, *kind.extra} - _RESERVED
    unknown = [name for name in arguments if name not in known]
    if unknown:  # some of tsai's constructors take anything and say nothing
        raise ConfigError(unknown_name(f"option of {model}", unknown[0], known))
    try:
        with warnings.catch_warnings(), _numpy_follows_torch():
            warnings.simplefilter("ignore")
            return make(in_channels, 1, **own, **arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError, ZeroDivisionError) as error:
        raise ConfigError(
            f"tsai's {model} cannot be built for {in_channels} channels and {length} samples with {dict(arguments)}: "
            f"{error}; change its options or the length"
        ) from error


@contextmanager
def _numpy_follows_torch() -> Iterator[None]:
    """NumPy's global generator, from which some of tsai's weights are drawn, seeded by torch's, and put back."""
    state = np.random.get_state()
    np.random.seed(int(torch.randint(2**31, ())))
    try:
        yield
    finally:
        np.random.set_state(state)


def working_models() -> tuple[str, ...]:
    """Names whose module of tsai can be imported here."""
    found = []
    for name, kind in TSAI_MODELS.items():
        try:
            tsai_model(kind.module, name)
        except ConfigError:
            continue
        found.append(name)
    return tuple(found)
