"""Foreign weights into an encoder: unwrap, rename, adapt, and say exactly what happened.

Layouts that are known: bare dictionaries and anything wrapped in ``state_dict``, ``network_weights``, ``net`` or
``student`` (VoCo v1, v2 and VoComni, MONAI's Swin SSL, nnssl's ResEnc-L), Lightning checkpoints, and DDP's ``module.``.
For ``VideoViT`` also timm's ViT and VideoMAE, see ``foreign_vit``.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from medssl.encoders.base import Encoder
from medssl.encoders.foreign_vit import video_vit_weights
from medssl.encoders.video_vit import VideoViT
from medssl.encoders.vit import resize_positions
from medssl.errors import CheckpointError

__all__ = ["LoadReport", "load_weights", "read_state_dict"]

_WRAPPERS = ("state_dict", "model_state_dict", "network_weights", "net", "model", "student", "teacher")
_PREFIXES = ("module.", "_orig_mod.", "backbone.", "encoder.", "model.", "net.", "network.")
_RENAMES = (("swin_vit.", "swinViT."), (".mlp.fc1.", ".mlp.linear1."), (".mlp.fc2.", ".mlp.linear2."))
# Parts of known checkpoints that no encoder wants: the other branch, decoders and heads, nnU-Net's duplicate names
_NOT_ENCODER = (
    "decoder", "out.", "head", "proj_head.", "projector.", "projection", "predictor.", "mask_token", "objective.",
    "encoder_to_decoder.", "classifier.", "rotation_head.", "contrastive_head.", "conv.", "layer1.", "layer2.",
    "layer3.",
)  # fmt: skip


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor, by name.

    Attributes:
        loaded: copied as they were.
        adapted: copied after a change: ``(name, what was done)``.
        missing: of the encoder, left as they were initialised.
        mismatched: those of ``missing`` that the file has in another shape: ``(name, shapes)``.
        unexpected: of the file, unknown to the encoder.
        skipped: of the file, known not to belong to an encoder (decoder, head, other branch, duplicates).
    """

    loaded: tuple[str, ...] = ()
    adapted: tuple[tuple[str, str], ...] = ()
    missing: tuple[str, ...] = ()
    mismatched: tuple[tuple[str, str], ...] = ()
    unexpected: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Share of the encoder's tensors that came from the file, 0 to 1."""
        filled = len(self.loaded) + len(self.adapted)
        return filled / max(1, filled + len(self.missing))

    def __str__(self) -> str:
        parts = f"{len(self.loaded)} loaded, {len(self.adapted)} adapted, {len(self.missing)} missing"
        if self.mismatched:
            parts += f" ({len(self.mismatched)} of them of another shape)"
        rest = f"{len(self.unexpected)} unexpected, {len(self.skipped)} skipped"
        return f"{self.share:.0%} of the encoder's tensors: {parts}; of the file {rest}"


def load_weights(
    encoder: Encoder,
    source: Mapping[str, Any] | str | Path,
    *,
    minimum: float = 0.5,
    branch: Literal["student", "teacher"] = "student",
    keep_prefixes: Sequence[str] = (),
) -> LoadReport:
    """Copy weights of another program, run or architecture variant into ``encoder``, in place.

    Input layers made for another number of channels are averaged over their channels, repeated and rescaled, so that
    an image repeated in every channel gives the same response; position tables are resized.

    Args:
        encoder: receives the weights. Left untouched when loading fails.
        source: a (possibly wrapped) state dict, or a ``.safetensors`` / torch file. Nothing is ever unpickled.
        minimum: share of the encoder's tensors that must be filled.
        branch: which branch to take where a file holds a student and a teacher.
        keep_prefixes: only names that start with one of these are considered, without the prefix; for layouts that are
            not known here, e.g. ``("image_tower.",)``.

    Raises:
        CheckpointError: an unreadable or unsafe file, non-finite weights, or a share below ``minimum``.
    """
    where = f"'{source}'" if isinstance(source, (str, Path)) else "the state dict"
    state = _tensors(read_state_dict(source) if isinstance(source, (str, Path)) else source, branch)
    if keep_prefixes:
        state = {k.removeprefix(p): v for k, v in state.items() for p in keep_prefixes if k.startswith(p)}
    state, notes = video_vit_weights(state, encoder) if isinstance(encoder, VideoViT) else (state, {})
    target = encoder.state_dict()
    plan = _Plan(encoder, target, notes=notes)
    for key, value in state.items():
        plan.place(key, value, branch)
    report = plan.report()
    if report.share < minimum:
        absent = ", ".join(report.missing[:3])
        found = ", ".join((report.unexpected or report.skipped)[:3]) or "nothing"
        raise CheckpointError(
            f"only {report} of {where} fit {type(encoder).__name__} (at least {minimum:.0%} must); choose the encoder "
            f"and arguments the weights were made for. Not found, for example: {absent}; "
            f"in the file, for example: {found}"
        )
    broken = [name for name, value in plan.filled.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{where} holds NaN or infinite weights in '{broken[0]}'; the file is damaged or diverged"
        )
    encoder.load_state_dict(plan.filled, strict=False)
    return report


def read_state_dict(path: str | Path) -> Mapping[str, Any]:
    """The dictionary in a ``.safetensors`` or torch file, on the CPU, without unpickling objects.

    Raises:
        CheckpointError: missing, damaged, or it holds more than tensors and plain values.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"no weights file at '{file}'; give a .safetensors, .pt, .pth or .ckpt file")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"'{file}' holds pickled Python objects, which could run code when loaded; save its tensors as "
            ".safetensors where you trust the file, and load that"
        ) from error
    except Exception as error:  # torch and safetensors raise many kinds for damaged files
        raise CheckpointError(f"'{file}' cannot be read as weights ({type(error).__name__}: {error})") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"'{file}' holds a {type(content).__name__}, not a dictionary of weights")
    return content


def _tensors(content: Mapping[str, Any], branch: str) -> dict[str, Tensor]:
    """The tensors inside any number of known wrappers, the wanted branch first."""
    order = (branch, *(w for w in _WRAPPERS if w not in ("student", "teacher")), "student", "teacher")
    while not any(isinstance(v, Tensor) for v in content.values()):
        inner = next((content[w] for w in order if isinstance(content.get(w), Mapping)), None)
        if inner is None:
            break
        content = inner
    return {k: v for k, v in content.items() if isinstance(v, Tensor)}


@dataclass
class _Plan:
    """Collects, tensor by tensor, what goes where."""

    encoder: Encoder
    target: Mapping[str, Tensor]
    filled: dict[str, Tensor] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)
    adapted: dict[str, str] = field(default_factory=dict)
    mismatched: dict[str, str] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    notes: Mapping[str, str] = field(default_factory=dict)  # what was changed already, by name in the file

    def place(self, key: str, value: Tensor, branch: str) -> None:
        other = "teacher" if branch == "student" else "student"
        bare = key.removeprefix("module.")
        if bare.startswith(f"{other}."):
            self.skipped.append(key)
            return
        name = next((c for c in _candidates(bare, branch) if c in self.target), None)
        if name is None:
            (self.skipped if _foreign(bare, branch) else self.unexpected).append(key)
        elif name in self.filled:
            self.skipped.append(key)
        else:
            self._fill(name, value, self.notes.get(key))

    def _fill(self, name: str, value: Tensor, note: str | None) -> None:
        want = self.target[name]
        if value.shape == want.shape:
            self.filled[name] = value.to(want.dtype)
            if note is None:
                self.loaded.append(name)
            else:
                self.adapted[name] = note
            return
        change = _resized(self.encoder, name, value, want) or _rechannelled(self.encoder, value, want)
        if change is None:
            self.mismatched[name] = f"{tuple(value.shape)} instead of {tuple(want.shape)}"
        else:
            self.filled[name] = change[0]
            self.adapted[name] = change[1] if note is None else f"{note}; {change[1]}"

    def report(self) -> LoadReport:
        missing = tuple(k for k in self.target if k not in self.filled)
        mismatched = tuple((k, v) for k, v in self.mismatched.items() if k not in self.filled)
        return LoadReport(
            loaded=tuple(self.loaded),
            adapted=tuple(self.adapted.items()),
            missing=missing,
            mismatched=mismatched,
            unexpected=tuple(self.unexpected),
            skipped=tuple(self.skipped),
        )


def _candidates(key: str, branch: str) -> Iterator[str]:
    """Names the encoder may know ``key`` under, the least changed first."""
    for old, new in _RENAMES:
        key = key.replace(old, new)
    prefixes = (f"{branch}.", *_PREFIXES)
    while True:
        yield key
        yield f"swinViT.{key}"  # MONAI's Swin SSL file holds the transformer alone
        shorter = next((key.removeprefix(p) for p in prefixes if key.startswith(p)), None)
        if shorter is None:
            return
        key = shorter


def _foreign(key: str, branch: str) -> bool:
    stripped = list(_candidates(key, branch))[-2]
    return ".all_modules." in key or any(c.startswith(_NOT_ENCODER) for c in (key, stripped))


def _rechannelled(encoder: Encoder, value: Tensor, want: Tensor) -> tuple[Tensor, str] | None:
    """An input layer for another number of channels, or None where it is something else."""
    same_but_inputs = (
        value.ndim == want.ndim >= 2 and value.shape[:1] + value.shape[2:] == want.shape[:1] + want.shape[2:]
    )
    if not same_but_inputs or want.shape[1] != encoder.in_channels:
        return None
    have, need = value.shape[1], want.shape[1]
    repeats = [1, need] + [1] * (value.ndim - 2)
    kernel = value.float().mean(1, keepdim=True).repeat(repeats) * (have / need)
    return kernel.to(want.dtype), f"input channels {have} → {need}"


def _resized(encoder: Encoder, name: str, value: Tensor, want: Tensor) -> tuple[Tensor, str] | None:
    """A position table resized to the encoder's grid, or None where it is something else."""
    new: tuple[int, ...] | None = getattr(encoder, "position_grids", {}).get(name)
    if new is None or value.ndim != want.ndim or value.shape[-1] != want.shape[-1]:
        return None
    old = _grid(value.shape[-2], new)
    if old is None:
        return None
    table = resize_positions(value.view(1, *value.shape[-2:]), old, new)
    return table.view(want.shape).to(want.dtype), f"position grid {old} → {new}"


def _grid(tokens: int, like: tuple[int, ...]) -> tuple[int, ...] | None:
    """The grid of ``tokens``: in proportion to ``like`` where that works out, else with equal edges, else unknown."""
    dims = len(like)
    factor = (tokens / math.prod(like)) ** (1 / dims)
    for guess in (tuple(round(n * factor) for n in like), (round(tokens ** (1 / dims)),) * dims):
        if math.prod(guess) == tokens:
            return guess
    return None
