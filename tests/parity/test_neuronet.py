"""NeuroNet and the Mamba block against stored values of the published code."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medssl.encoders.mamba import Mamba, Scan, selective_scan
from medssl.encoders.neuronet import NeuroNet as Encoder
from medssl.encoders.neuronet import frame_codes
from medssl.methods.neuronet import NeuroNet
from medssl.objectives.contrastive import info_nce
from medssl.objectives.masked_reconstruction import hidden_error
from medssl.views.signal import SignalViews

Golden = Callable[[str], Mapping[str, np.ndarray]]
EXACT, SINGLE = 1e-9, 1e-5
TABLES = 1e-6  # the position tables were stored in float32


@pytest.fixture(scope="module")
def vectors(golden: Golden) -> Mapping[str, np.ndarray]:
    return golden("neuronet")


def close(got: Tensor | None, wanted: np.ndarray, tolerance: float = EXACT) -> None:
    assert got is not None
    np.testing.assert_allclose(got.detach().numpy(), wanted, rtol=tolerance, atol=tolerance)


def numbers(vectors: Mapping[str, np.ndarray], pattern: str) -> list[int]:
    found = sorted({int(m.group(1)) for key in vectors if (m := re.match(pattern, key))})
    assert found, f"no case of {pattern} in the file"
    return found


def test_contrast_of_class_tokens(vectors: Mapping[str, np.ndarray]) -> None:
    for i in numbers(vectors, r"ntx(\d+)_a"):
        a, b = (torch.from_numpy(vectors[f"ntx{i}_{k}"]).requires_grad_() for k in "ab")
        temperature = float(vectors[f"ntx{i}_tau"])
        loss = info_nce(torch.stack([a, b]), temperature=temperature)
        loss.backward()
        close(loss, vectors[f"ntx{i}_loss"])
        close(a.grad, vectors[f"ntx{i}_ga"])
        close(b.grad, vectors[f"ntx{i}_gb"])
        single = info_nce(torch.stack([a, b]).detach().float(), temperature=temperature)
        close(single, vectors[f"ntx{i}_loss"], SINGLE)


def test_codes_of_places(vectors: Mapping[str, np.ndarray]) -> None:
    for i in numbers(vectors, r"pos(\d+)_cls"):
        wanted = vectors[f"pos{i}_nocls"]
        codes = frame_codes(*wanted.shape)
        close(codes, wanted, TABLES)
        close(torch.cat([torch.zeros(1, wanted.shape[1]), codes]), vectors[f"pos{i}_cls"], TABLES)


def formula(k: int, shape: tuple[int, ...], *, scale: bool) -> Tensor:
    """The file's stored network is a formula; see the description of its keys."""
    waves = torch.sin(1.7 * torch.arange(math.prod(shape), dtype=torch.float64) + 0.3 * k).view(shape)
    if len(shape) > 1 and shape[0] > 1:
        return waves / math.sqrt(math.prod(shape[1:]))
    return 1 + 0.1 * waves if scale else 0.1 * waves


def in_order(method: NeuroNet) -> Iterator[tuple[nn.Parameter | None, bool]]:
    """Parameters as the file counts them, and whether each is the scale of a norm. None: a table of positions."""
    encoder, decoder = method.encoder, method.decoder

    def of(*modules: nn.Module) -> Iterator[tuple[nn.Parameter | None, bool]]:
        for module in modules:
            norm = isinstance(module, nn.LayerNorm | nn.BatchNorm1d)
            yield from ((p, norm and name == "weight") for name, p in module.named_parameters())

    def blocks(layers: nn.ModuleList) -> Iterator[tuple[nn.Parameter | None, bool]]:
        for block in layers:
            yield from of(block.norm1)
            yield from ((p, False) for p in (block.self_attn.in_proj_weight, block.self_attn.in_proj_bias))
            yield from of(block.self_attn.out_proj, block.norm2, block.linear1, block.linear2)

    yield from of(*encoder.backbone.stem)
    for branch in encoder.backbone.branches:
        for block in list(branch)[:-1]:
            skip = list(block.skip) if isinstance(block.skip, nn.Sequential) else []
            yield from of(block.conv1, block.norm1, block.conv2, block.norm2, *skip)
    yield from of(*encoder.tokenizer)
    yield encoder.class_token, False
    yield None, False
    yield decoder.mask_token, False
    yield None, False
    yield from of(encoder.embedding)
    yield from blocks(encoder.blocks)
    yield from of(encoder.norm, decoder.enter)
    yield from blocks(decoder.blocks)
    yield from of(decoder.norm, decoder.leave, *method.projector)


@pytest.fixture(scope="module")
def network(vectors: Mapping[str, np.ndarray]) -> NeuroNet:
    rate, seconds, window, step, ratio = vectors["net_cfg"].tolist()
    encoder = Encoder(1, int(window * rate), step=int(step * rate), width=16, depth=2, heads=2)
    method = NeuroNet(
        encoder, SignalViews((int(seconds * rate),), count=1), mask_ratio=ratio, decoder_width=8, decoder_depth=1,
        decoder_heads=2, projector=(12, 10),
    ).double().eval()  # fmt: skip
    ordered = list(in_order(method))
    assert len(ordered) == 153
    with torch.no_grad():
        for k, (parameter, scale) in enumerate(ordered):
            if parameter is not None:
                parameter.copy_(formula(k, tuple(parameter.shape), scale=scale))
    assert sum(p is not None for p, _ in ordered) == len(list(method.parameters()))
    return method


def test_frames_and_their_tokens(vectors: Mapping[str, np.ndarray], network: NeuroNet) -> None:
    x = torch.from_numpy(vectors["net_x"]).unsqueeze(1)
    frames = network.encoder.frames(x)
    close(frames.squeeze(2), vectors["net_frames"])
    close(network.encoder.backbone(frames[:, 0]), vectors["net_backbone_raw_frame0"], TABLES)
    close(network.encoder.tokens(x), vectors["net_tokens"], TABLES)


def masks(vectors: Mapping[str, np.ndarray], network: NeuroNet) -> Tensor:
    noise = torch.from_numpy(np.concatenate([vectors["net_noise1"], vectors["net_noise2"]]))
    kept = int(noise.shape[1] * (1 - network.mask_ratio))
    return noise.argsort(1).argsort(1) >= kept


def test_encoder_and_decoder_of_both_masks(vectors: Mapping[str, np.ndarray], network: NeuroNet) -> None:
    tokens, hidden = torch.from_numpy(vectors["net_tokens"]), masks(vectors, network)
    for j, mask in enumerate(hidden.chunk(2), start=1):
        close(mask.double(), vectors[f"net_mask{j}"])
        noise = torch.from_numpy(vectors[f"net_noise{j}"])
        places = noise.argsort(1)[:, : int((~mask[0]).sum())]  # the published order; ours is sorted
        latent = network.encoder.encode(tokens, places)
        close(latent, vectors[f"net_latent{j}"], TABLES)
        prediction = network.decoder(latent[:, 1:], places)
        close(prediction, vectors[f"net_pred{j}"], TABLES)
        close(hidden_error(prediction, tokens, mask), vectors[f"net_mae{j}"], TABLES)


def test_losses(vectors: Mapping[str, np.ndarray], network: NeuroNet) -> None:
    losses = network.compare(torch.from_numpy(vectors["net_tokens"]), masks(vectors, network))
    close(losses.terms["reconstruction"], vectors["net_recon_loss"], TABLES)
    close(losses.terms["contrast"], vectors["net_contrastive_loss"], TABLES)
    close(losses.total, vectors["net_recon_loss"] + vectors["net_contrastive_loss"], TABLES)
    assert losses.embeddings is not None
    unit = functional.normalize(losses.embeddings, dim=1)
    similar = (unit @ unit.T / 0.05).fill_diagonal_(-torch.inf)
    n = len(unit) // 2
    positive = torch.cat([similar.diagonal(n), similar.diagonal(-n)])
    logits = torch.from_numpy(vectors["net_logits"])  # each anchor's positive first, then its negatives in any order
    close(positive, logits[:, 0].numpy(), 1e-5)
    finite = similar.masked_fill(similar == -torch.inf, -1e9).sort(1, descending=True).values[:, :-1]
    close(finite, logits.sort(1, descending=True).values.numpy(), 1e-5)


def test_without_masks(vectors: Mapping[str, np.ndarray], network: NeuroNet) -> None:
    x = torch.from_numpy(vectors["net_x"]).unsqueeze(1)
    encoded = network.encoder.encode(network.encoder.tokens(x))
    close(encoded[:, 0], vectors["net_cls_full"], TABLES)
    close(encoded[:, 1:].mean(1), vectors["net_mean_token_full"], TABLES)
    close(network.encoder(x).pooled, vectors["net_mean_token_full"], SINGLE)  # pooled in float32


@pytest.mark.parametrize("scan", ["loop", "chunks"])
def test_selective_scan(vectors: Mapping[str, np.ndarray], scan: Scan) -> None:
    def stored(name: str) -> Tensor:
        return torch.from_numpy(vectors[f"scan_{name}"])

    x, z = stored("u").mT, stored("z").mT
    delta = functional.softplus(stored("dt").mT + stored("dt_bias"))
    y, last = selective_scan(x, delta, stored("A"), stored("B").mT, stored("C").mT, scan=scan)
    close(((y + stored("D") * x) * functional.silu(z)).mT, vectors["scan_y"], SINGLE)
    close(last, vectors["scan_last_state"], SINGLE)


@pytest.mark.parametrize("scan", ["loop", "chunks"])
def test_mamba_block(vectors: Mapping[str, np.ndarray], scan: Scan) -> None:
    for i in numbers(vectors, r"mamba(\d+)_cfg"):
        width, state, kernel, expand = vectors[f"mamba{i}_cfg"].tolist()
        block = Mamba(width, state=state, kernel=kernel, expand=expand, scan=scan)
        prefix = f"mamba{i}_param/"
        block.load_state_dict(
            {k.removeprefix(prefix): torch.from_numpy(v) for k, v in vectors.items() if k.startswith(prefix)}
        )
        x = torch.from_numpy(vectors[f"mamba{i}_x"]).requires_grad_()
        y = block(x)
        y.square().sum().backward()
        close(y, vectors[f"mamba{i}_y"], SINGLE)
        close(x.grad, vectors[f"mamba{i}_gradx_sumsq"], SINGLE)
