"""Integers that stand for names, so that a batch can say which samples belong together."""

from __future__ import annotations

import hashlib

__all__ = ["stable_integer"]


def stable_integer(name: str) -> int:
    """A 63-bit integer that stands for a name, the same in every process."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1
