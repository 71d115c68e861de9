"""Does bad pair mining find planted bad pairs, and does it help? Precision and recall of its flags, epoch by epoch.

Run ``python benchmarks/bad_pairs.py`` (some minutes on a CPU) or with ``--quick``. Nothing is asserted. Items are noisy
sinusoids of eight frequencies. A tenth is replaced by white noise (noisy pairs); of another tenth the second view is an
item of another class (faulty pairs). A small network is trained with InfoNCE, with and without the miner; classes of
clean items that were not trained on are told from its features by a linear map.
"""

from __future__ import annotations

import argparse
import functools
from typing import NamedTuple

import torch
from torch import Tensor

from medssl.encoders.resnet1d import ResNet1d
from medssl.methods.projectors import Projector
from medssl.objectives.bad_pairs import BadPairMiner
from medssl.objectives.contrastive import InfoNCE

__all__ = ["Planted", "main", "planted", "quality", "train"]

LENGTH, CLASSES, BATCH = 96, 8, 64


class Planted(NamedTuple):
    """Items (N, 1, T), what the second view is made of, their classes, and which pairs are bad."""

    first: Tensor
    second: Tensor
    labels: Tensor
    noisy: Tensor
    faulty: Tensor


def planted(n: int, *, share: float, seed: int) -> Planted:
    """Sinusoids of random phase with a share of noisy and one of faulty pairs."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    cycles, phase = 3.0 + 0.5 * labels.view(-1, 1), 6.2832 * torch.rand(n, 1, generator=g)
    clean = torch.sin(6.2832 * cycles * torch.linspace(0, 1, LENGTH) + phase) * 1.4142
    clean = (clean + 0.4 * torch.randn(n, LENGTH, generator=g)).unsqueeze(1)
    order, count = torch.randperm(n, generator=g), round(share * n)
    noisy, faulty = (torch.zeros(n, dtype=torch.bool).index_fill(0, i, True) for i in order.split(count)[:2])
    first = torch.where(noisy.view(-1, 1, 1), torch.randn(clean.shape, generator=g), clean)
    second = torch.where(faulty.view(-1, 1, 1), clean.roll(1, 0), first)  # its neighbour is of another class
    return Planted(first, second, labels, noisy, faulty)


def train(
    data: Planted, *, miner: BadPairMiner | None, epochs: int, seed: int
) -> tuple[ResNet1d, list[dict[str, float]]]:
    """The encoder, and for every epoch how good its flags are."""
    torch.manual_seed(seed)
    g, n = torch.Generator().manual_seed(seed), len(data.first)
    encoder, objective = ResNet1d(1, (16, 32), blocks=1), InfoNCE(temperature=0.2)
    head = Projector(encoder.out_dim, hidden=64, out=32)
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=1e-3)
    if miner is not None:
        miner.remember(n)
        miner.plan(epochs * (n // BATCH))
    history: list[dict[str, float]] = []
    for _ in range(epochs):
        for index in torch.randperm(n, generator=g).split(BATCH)[: n // BATCH]:
            gain = 1 + 0.2 * torch.randn(len(index), 1, 1, generator=g)
            noise = 0.3 * torch.randn(len(index), 1, LENGTH, generator=g)
            rows = torch.cat([data.first[index] * gain, data.second[index] + noise])
            views = head(encoder(rows).pooled).unflatten(0, (2, -1))
            loss = objective(views, weights=None if miner is None else functools.partial(miner, index=index)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if miner is not None:
            history.append(flags(miner, data))
    return encoder.eval(), history


def flags(miner: BadPairMiner, data: Planted) -> dict[str, float]:
    """Precision and recall of what is flagged on either side, and mean losses of the three kinds of pairs."""
    found: dict[str, float] = {}
    for name, flagged, truth in (
        ("noisy", miner.noisy_pairs, data.noisy), ("faulty", miner.faulty_pairs, data.faulty),
    ):  # fmt: skip
        right = float((flagged & truth).sum())
        found |= {f"{name} precision": right / max(1, int(flagged.sum())), f"{name} recall": right / int(truth.sum())}
    kinds = {"noisy": data.noisy, "clean": ~(data.noisy | data.faulty), "faulty": data.faulty}
    return found | {f"{kind} loss": float(miner.histories(1.0)[pairs].mean()) for kind, pairs in kinds.items()}


@torch.no_grad()
def quality(encoder: ResNet1d) -> float:
    """Accuracy of a ridge regression to the classes of clean items, from features."""
    train_set, test_set = (planted(400, share=0.0025, seed=seed) for seed in (101, 102))
    x, y = (encoder(s.first).pooled.double() for s in (train_set, test_set))
    mean, sd = x.mean(0), x.std(0) + 1e-6
    x, y = ((torch.nn.functional.pad((f - mean) / sd, (0, 1), value=1.0)) for f in (x, y))
    target = torch.nn.functional.one_hot(train_set.labels, CLASSES).double()
    weights = torch.linalg.solve(x.T @ x + torch.eye(x.shape[1]).double(), x.T @ target)
    return float(((y @ weights).argmax(1) == test_set.labels).double().mean())


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer epochs, one seed")
    quick = parser.parse_args().quick
    epochs, seeds = (20, range(1)) if quick else (30, range(5))
    settings = {"warmup": 0.3, "noisy": 1.0, "faulty": 1.0}
    print("| pairs | weighting | seed | accuracy |\n|---|---|---|---|")
    shown: list[dict[str, float]] = []
    for share, kind in ((0.1, "planted"), (0.0025, "clean")):
        for seed in seeds:
            data = planted(640, share=share, seed=seed)
            for weighting in ("none", "bounded", "drop"):
                miner = None if weighting == "none" else BadPairMiner(weighting=weighting, **settings)  # type: ignore[arg-type]
                encoder, history = train(data, miner=miner, epochs=epochs, seed=seed)
                print(f"| {kind} | {weighting} | {seed} | {quality(encoder):.3f} |", flush=True)
                if (kind, weighting, seed) == ("planted", "bounded", 0):
                    shown = history
    print(f"\nplanted, bounded, seed 0:\n\n| epoch | {' | '.join(shown[0])} |\n|{'---|' * (1 + len(shown[0]))}")
    for epoch, row in enumerate(shown):
        print(f"| {epoch} | {' | '.join(f'{v:.2f}' for v in row.values())} |")


if __name__ == "__main__":
    main()
