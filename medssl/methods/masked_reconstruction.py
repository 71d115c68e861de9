"""What methods share that hide parts of an input and are asked for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medssl.encoders.base import Encoder
from medssl.encoders.tokens import TokenEncoder
from medssl.errors import ConfigError
from medssl.methods.of_views import OfViews
from medssl.objectives.masked_reconstruction import Target, hidden_error, padded, patch_targets, patchify
from medssl.optim import Optim
from medssl.views.base import Batch, Sample, Views
from medssl.views.placement import background_input

if TYPE_CHECKING:
    from medssl.cohort import Reader

__all__ = ["MaskedReconstruction"]

FILLED = 0.01  # share of a patch's places that must show something, and of the input range that is something


class MaskedReconstruction(OfViews):
    """Views, targets and error of hidden patches. Subclasses hide and reconstruct in ``loss``.

    Where the encoder lengthens its input to whole patches, views may have any size; what was added has no error.

    Args:
        encoder: what is trained.
        views: how crops or windows are drawn and augmented; every view is reconstructed for itself, so a count of 1
            serves.
        patch: edges of what is hidden and standardised as one.
        target: see ``patch_targets``.
        min_token_std: see ``patch_targets``.
        ignore_background: leave patches out of the error that show nothing but what lies outside the body or the
            recording.
        optim: optimiser settings.
    """

    collapses: ClassVar[bool] = False  # what is told is the input itself

    def __init__(
        self,
        encoder: Encoder,
        views: Views,
        *,
        patch: Sequence[int],
        target: Target,
        min_token_std: float,
        ignore_background: bool,
        optim: Optim,
    ) -> None:
        super().__init__(encoder, optim)
        name = type(self).__name__
        if target not in ("token", "token_channel", "raw") or min_token_std < 0:
            raise ConfigError(
                f"{name} takes a target of token, token_channel or raw, and a min_token_std of 0 or more, not {target}"
                f" and {min_token_std}"
            )
        for family in views.families:
            _refuse_views(name, encoder, family, patch, ignore_background)
        self.views, self.patch = views, tuple(patch)
        self.grid = _grid(views.size, patch)
        self.target, self.min_token_std, self.ignore_background = target, min_token_std, ignore_background

    def draw(self, reader: Reader, rng: np.random.Generator) -> Sample:
        """What the views read, and ``background`` (C,): network input of what lies outside."""
        sample = super().draw(reader, rng)
        return {**sample, "background": background_input(reader, sample)}

    def rows(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Augmented views as rows (N, C, *size), lengthened to whole patches; which patches count (N, L), None: all."""
        if not self.ignore_background:
            return self._whole(self.views(batch, self.generator).flatten(0, 1)), None
        family = self.views.family_of(batch)
        augmented, clean = family.aligned(batch, self.generator)
        spatial = (1,) * len(self.grid)
        background = batch["background"].float().view(*batch["background"].shape, *spatial)
        # what is outside a volume or a sector is noisy air; a signal rests near its zero, so only the very value counts
        share = 1e-6 if family.kind == "signal" else FILLED
        tolerance = share * (batch["input_range"][:, 1] - batch["input_range"][:, 0]).float().view(-1, 1, *spatial)
        filled = ((clean - background).abs() > tolerance).any(2, keepdim=True).flatten(0, 1)
        counted = patchify(self._whole(filled.float()), self.patch).mean(-1) >= FILLED
        if family.kind == "video" and self.target != "raw":  # a patch that is the same all over has a target of 0
            cells = patchify(self._whole(clean.flatten(0, 1)), self.patch)
            counted &= cells.amax(-1) - cells.amin(-1) > tolerance.view(-1, 1).repeat(len(clean), 1)
        return self._whole(augmented.flatten(0, 1)), counted

    def _whole(self, rows: Tensor) -> Tensor:
        """Rows lengthened to whole patches."""
        return padded(rows, self.patch)[0] if _lengthened(rows.shape[2:], self.patch) else rows

    def score(
        self,
        prediction: Tensor,
        rows: Tensor,
        hidden: Tensor,
        counted: Tensor | None,
        size: Sequence[int] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Error of hidden patches, and named diagnostics.

        ``explained`` is the share of the error of telling the same of all patches (0; of raw targets their mean) that
        is gone; ``left_out`` the share of hidden patches that do not count.

        Args:
            prediction: (N, L, V) in the order of ``patchify``.
            rows: (N, C, *size) network input, of whole patches.
            hidden: (N, L) booleans, or (N, L, V) for single values.
            counted: (N, L) booleans, or None for all.
            size: of the views, before they were lengthened; None takes ``input_size``.
        """
        size = self.input_size if size is None else size
        tokens = patchify(rows, self.patch)
        target = patch_targets(
            tokens, channels=rows.shape[1], target=self.target, min_token_std=self.min_token_std
        )  # fmt: skip
        weights = None if counted is None else counted.float()
        if _lengthened(size, self.patch):
            own = self._own(rows, size)
            weights = own if weights is None else own * weights.unsqueeze(-1)
        if hidden.ndim == 3:
            each = 1.0 if weights is None else weights if weights.ndim == 3 else weights.unsqueeze(-1)
            weights = hidden.float() * each
            hidden = hidden.any(-1)
        error = hidden_error(prediction, target, hidden, weights)
        with torch.no_grad():
            same = target.mean() if self.target == "raw" else target.new_zeros(())
            nothing = hidden_error(same.expand_as(target), target, hidden, weights)
            left_out = torch.zeros_like(error) if counted is None else (hidden & ~counted).sum() / hidden.sum()
        terms = {
            "reconstruction": error.detach(),
            "explained": 1 - error.detach() / nothing.clamp_min(1e-12),
            "left_out": left_out.float(),
        }
        return error, terms

    def _own(self, rows: Tensor, size: Sequence[int]) -> Tensor:
        """(N, L, V) 1 for values of the views, 0 for what lengthened them."""
        own = rows.new_ones(1, rows.shape[1], *size)
        longer = [n - s for n, s in zip(rows.shape[2:], size, strict=True)]
        pads = [edge for more in reversed(longer) for edge in (0, more)]
        return patchify(functional.pad(own, pads), self.patch).expand(len(rows), -1, -1)


def _grid(size: Sequence[int], patch: Sequence[int]) -> tuple[int, ...]:
    return tuple(-(-s // p) for s, p in zip(size, patch, strict=True))


def _lengthened(size: Sequence[int], patch: Sequence[int]) -> bool:
    return any(s % p for s, p in zip(size, patch, strict=True))


def _refuse_views(name: str, encoder: Encoder, views: Views, patch: Sequence[int], ignore_background: bool) -> None:
    if len(views.size) != encoder.dims:
        raise ConfigError(
            f"{type(encoder).__name__} takes {encoder.dims} spatial axes but the views give {len(views.size)} "
            f"({views.size})"
        )
    if ignore_background and type(views).augment_aligned is Views.augment_aligned:
        raise ConfigError(
            f"{type(views).__name__} cannot tell where the background of an augmented view lies; set "
            f"ignore_background of {name} to false"
        )
    takes_any = isinstance(encoder, TokenEncoder) and max(encoder.divisor) == 1
    if (_lengthened(views.size, patch) and not takes_any) or math.prod(_grid(views.size, patch)) < 2:
        raise ConfigError(
            f"{name} hides patches of {tuple(patch)}; the views' size {views.size} must be a multiple of it with more "
            "than one patch"
        )
