"""Fine-tuning schedules of nnU-Net and nnssl as pure functions: epoch → learning rate, set at the epoch's start.

After "An OpenMind for 3D medical vision self-supervised learning" (ICCV 2025) and its official trainers.
"""

from __future__ import annotations

__all__ = ["poly", "sawtooth", "warmup_poly"]

EXPONENT = 0.9


def poly(epoch: int, epochs: int, *, lr: float) -> float:
    """``lr (1 - e/N)^0.9``: nnU-Net from scratch (lr 1e-2), or plain fine-tuning (1e-3).

    >>> poly(0, 1000, lr=1e-2)
    0.01
    """
    return float(lr * (1.0 - epoch / epochs) ** EXPONENT)


def warmup_poly(epoch: int, epochs: int, *, lr: float, warmup: int) -> float:
    """``lr (e+1)/w`` in the first w epochs, then the poly decay over the other N - w.

    >>> [round(warmup_poly(e, 10, lr=1.0, warmup=2), 3) for e in (0, 1, 2, 9)]
    [0.5, 1.0, 1.0, 0.154]
    """
    if epoch < warmup:
        return lr * (epoch + 1) / warmup
    return poly(epoch - warmup, epochs - warmup, lr=lr)


def sawtooth(epoch: int, epochs: int, *, lr: float, decoder: int, warmup: int, decoder_factor: float = 1.0) -> float:
    """Decoder alone first, up and down; then everything, up and down (with a new optimiser).

    Args:
        epoch: 0-based epoch.
        epochs: N, all epochs.
        lr: peak learning rate of the whole network.
        decoder: epochs in which only the decoder is trained; its warm-up takes the first half (rounded down).
        warmup: warm-up epochs of the whole network after that.
        decoder_factor: peak of the decoder phase relative to ``lr`` (1 for the CNN; 0.01 or 0.1 for Primus).
    """
    if epoch >= decoder:
        return warmup_poly(epoch - decoder, epochs - decoder, lr=lr, warmup=warmup)
    return warmup_poly(epoch, decoder, lr=lr * decoder_factor, warmup=decoder // 2)
