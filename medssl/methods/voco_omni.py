"""VoCo's omni-supervised stage: positions of all volumes, masks of those that have one, pseudo-masks of the others."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from medssl.encoders.base import Encoder
from medssl.errors import ConfigError
from medssl.heads.decoder import Decoder
from medssl.heads.losses import dice_and_cross_entropy
from medssl.methods.base import Losses, Readable
from medssl.methods.position_contrast import Extent, PositionContrast, Size, embedded
from medssl.methods.teacher import frozen
from medssl.objectives.base import full_precision
from medssl.optim import Optim
from medssl.views.base import Batch, Sample, to_input
from medssl.views.placement import centred_start, covered, uniform_start
from medssl.views.resized import read_fitted

if TYPE_CHECKING:
    from medssl.cohort import Cohort, Reader

__all__ = ["VoCoOmni"]

PATCH_SHIFT = 0.1  # probability of an intensity shift of a labelled patch


class VoCoOmni(PositionContrast):
    """VoCo's omni-supervised stage (Wu et al., *Geometric context priors*, TPAMI 2025), for cohorts with some masks.

    The sum of three losses. Positions: VoCo's ``v2`` on all volumes. Masks: a decoder segments patches of recordings
    that have a mask, Dice without background and cross-entropy. Pseudo-masks: from ``pseudo_from`` on a frozen copy of
    the network, as it is then, segments the random crops of recordings without a mask, and the decoder learns that from
    features that are held constant, so that guesses do not reach the encoder. (The released code lets them, through one
    of the maps.)

    With ``semi_supervised`` there are no positions, and masks and pseudo-masks train the whole network.

    Patients whose masks are learnt from are named in the run's ``summary.json`` (``labels_used``); a study with fewer
    labelled patients than these says so.

    Shapes: crops and bases as in ``VoCo``; patches (B · patches, C, *size) with class indices (B · patches, *size).

    Args:
        encoder: a volume encoder; the decoder takes all of its maps.
        mask: name of the mask, see ``medssl cohort info``.
        classes: the mask's labels and the background.
        semi_supervised: masks and pseudo-masks only, see above.
        patches: labelled patches for each recording of the batch; all of one recording, drawn anew each time.
        foreground: share of patches about a labelled voxel; the others lie about any voxel of the body.
        pseudo_from: share of the training after which there are pseudo-masks; 1 for never.
        crop, grid, crops, crop_mm, fit, encoder_size: see ``VoCo``; patches have the size and the scale of ``crop``.
        projector, mask_empty_bases, teacher_momentum, feature_dropout: see ``VoCo``, ``v2``.
        flip, turn, shift, shift_probability: see ``VoCo``; patches are shifted with probability 0.1.
        optim: optimiser settings.
    """

    labeller_made: Tensor

    def __init__(
        self,
        encoder: Encoder,
        mask: str,
        classes: int,
        *,
        semi_supervised: bool = False,
        patches: int = 1,
        foreground: float = 0.9,
        pseudo_from: float = 0.5,
        crop: Size = (64, 64, 64),
        grid: Size = (1, 3, 3),
        crops: int = 4,
        crop_mm: Extent | None = None,
        fit: Literal["crop", "resize"] = "crop",
        encoder_size: Size | None = None,
        projector: tuple[int, int] = (1024, 1024),
        mask_empty_bases: bool = True,
        teacher_momentum: float = 0.9,
        feature_dropout: float = 0.0,
        flip: float = 0.2,
        turn: float = 0.2,
        shift: float = 0.1,
        shift_probability: float = 0.5,
        optim: Optim | None = None,
    ) -> None:
        if classes < 2 or patches < 1 or not (0 <= foreground <= 1 and 0 <= pseudo_from <= 1):
            raise ConfigError(
                "VoCoOmni needs 2 or more classes (the background is one), 1 or more patches, and foreground and "
                f"pseudo_from from 0 to 1; not {classes}, {patches}, {foreground} and {pseudo_from}"
            )
        super().__init__(
            encoder, crop=crop, grid=grid, crops=crops, crop_mm=crop_mm, fit=fit, encoder_size=encoder_size,
            variant=None if semi_supervised else "v2", projector=projector, mask_empty_bases=mask_empty_bases,
            teacher_momentum=teacher_momentum, feature_dropout=feature_dropout, flip=flip, turn=turn, shift=shift,
            shift_probability=shift_probability, optim=optim,
        )  # fmt: skip
        self.mask, self.classes, self.semi_supervised = mask, classes, semi_supervised
        self.patches, self.foreground, self.pseudo_from = patches, foreground, pseudo_from
        self.decoder = Decoder(encoder, classes)
        # there from the start, so that a checkpoint of any step has the same tensors
        self.labeller_encoder = frozen(copy.deepcopy(encoder))
        self.labeller_decoder = frozen(copy.deepcopy(self.decoder))
        self.register_buffer("labeller_made", torch.tensor(False))
        self._cohorts: list[Cohort] = []
        self._labelled = np.empty((0, 3), np.int64)  # item of the run, cohort, row
        self._class_of = np.empty(0, np.uint8)

    @property
    def decoder_exported(self) -> Decoder:
        """The trained decoder of the exported encoder's maps."""
        return self.decoder

    @property
    def labels_used(self) -> tuple[int, ...]:
        """See ``Method.labels_used``: all recordings with the mask."""
        return tuple(self._labelled[:, 0].tolist())

    def prepare(self, source: Readable, *, batch: int) -> None:
        """See ``Method.prepare``: finds the recordings that have the mask.

        Raises:
            ConfigError: none has it, cohorts differ in what its values mean, or ``classes`` does not count them.
        """
        super().prepare(source, batch=batch)
        self._cohorts = list(source.cohorts)
        found = [self.mask in (m if m is not None else ()) for m in source.manifest["masks"]]
        places = [(i, *place) for i, (place, has) in enumerate(zip(source.places, found, strict=True)) if has]
        if not places:
            known = sorted({name for c in self._cohorts for name in c.info.masks})
            raise ConfigError(
                f"no recording of this run has the mask '{self.mask}' (masks of the cohort: "
                f"{', '.join(known) or 'none'}; test patients are left out): choose another mask, or VoCo, which needs "
                "none"
            )
        if len(places) == len(found) and self.pseudo_from < 1:
            print("every recording has the mask, so that there will be no pseudo-masks", file=sys.stderr)
        self._labelled = np.array(places, np.int64)
        self._class_of = self._class_table([self._cohorts[c].info.masks[self.mask] for c in {c for _, c, _ in places}])

    def _class_table(self, tables: list[Mapping[str, str]]) -> np.ndarray:
        """(256,) class of every stored mask value: labels in the order of their values from 1, all else 0."""
        values = sorted(int(v) for v in tables[0] if int(v) != 0)
        if any(dict(t) != dict(tables[0]) for t in tables):
            raise ConfigError(
                f"the values of mask '{self.mask}' mean different things in the cohorts; prepare them alike"
            )
        if len(values) + 1 != self.classes:
            raise ConfigError(
                f"mask '{self.mask}' has {len(values)} labels, which with the background are {len(values) + 1} "
                f"classes, not {self.classes}; set method.classes to that"
            )
        table = np.zeros(256, np.uint8)
        table[values] = np.arange(1, len(values) + 1)
        return table

    def draw(self, reader: Reader, rng: np.random.Generator) -> Sample:
        """What ``VoCo`` draws, and labelled patches of some recording that has the mask.

        Returns:
            Also ``masked`` (whether this recording has the mask), ``patch`` (patches, C, *size) stored integers with
            ``patch_scale``, ``patch_offset``, ``patch_range``, and ``patch_label`` (patches, *size) class indices.
        """
        if not len(self._labelled):
            raise ConfigError("VoCoOmni draws labelled patches only after prepare() has found where they are")
        sample = super().draw(reader, rng)
        _, cohort, row = self._labelled[rng.integers(len(self._labelled))]
        source = self._cohorts[cohort].reader(int(row))
        images, labels = zip(*(self._patch(source, rng) for _ in range(self.patches)), strict=True)
        fields = source.input_fields()
        return {
            **sample,
            "masked": np.array(self.mask in reader.masks),
            "patch": np.stack(images),
            "patch_label": self._class_of[np.stack(labels)],
            **{f"patch_{name}": fields[f"input_{name}"] for name in ("scale", "offset", "range")},
        }

    def _patch(self, reader: Reader, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Stored integers (C, *size) and mask values (*size) of one patch."""
        extent = covered(reader, self.crop, self.crop_mm)
        points = reader.foreground(self.mask) if rng.random() < self.foreground else reader.foreground()
        if len(points):
            start = centred_start(reader.shape, extent, points[rng.integers(len(points))], rng)
        else:
            start = uniform_start(reader.shape, extent, rng)
        place = (start.tolist(), extent, self.input_size)
        return read_fitted(reader, *place), read_fitted(reader, *place, key=f"mask:{self.mask}")[0]

    def loss(self, batch: Batch) -> Losses:
        """Positions, masks and pseudo-masks, each where there is something to learn from."""
        return self._without_positions(batch) if self.semi_supervised else self._with_positions(batch)

    def _with_positions(self, batch: Batch) -> Losses:
        crops = self.cut(batch)
        rows, _ = self.augment(crops.rows, crops.spans)
        features = self.encoder(rows)
        losses = self.contrast(crops, rows, embedded(self.encoder, features))
        supervised, terms, _ = self._supervised(batch)
        losses = Losses(losses.total + supervised, {**losses.terms, **terms}, losses.embeddings)
        chosen = self._guessed(batch)
        if not len(chosen):
            return losses
        return _with(losses, "pseudo", self._pseudo(rows[chosen], [m[chosen].detach() for m in features.maps]))

    def _without_positions(self, batch: Batch) -> Losses:
        losses = Losses(*self._supervised(batch))
        chosen = self._guessed(batch)
        if not len(chosen):
            return losses
        crops = self.cut(batch)
        rows, _ = self.augment(crops.rows[chosen], crops.spans[chosen])
        return _with(losses, "pseudo", self._pseudo(rows, self.encoder(rows).maps))

    def _guessed(self, batch: Batch) -> Tensor:
        """Rows of the random crops that get pseudo-masks: those of recordings without a mask, once it is time."""
        unmasked: Tensor = ~batch["masked"].bool()
        if not self._pseudo_due():
            unmasked = torch.zeros_like(unmasked)
        return unmasked.repeat_interleave(self.crops).nonzero().squeeze(1)

    def _pseudo_due(self) -> bool:
        """Whether there are pseudo-masks in this step; what makes them is copied when they begin."""
        if bool(self.labeller_made):
            return True
        if not self.training or self.pseudo_from == 1 or self.progress < self.pseudo_from:
            return False
        self.labeller_encoder.load_state_dict(self.encoder.state_dict())
        self.labeller_decoder.load_state_dict(self.decoder.state_dict())
        self.labeller_made.fill_(True)
        return True

    def _supervised(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Loss of the labelled patches, its terms, and the patches' features."""
        fields = {f"input_{name}": batch[f"patch_{name}"] for name in ("scale", "offset", "range")}
        rows = to_input(batch["patch"], fields).flatten(0, 1)
        span = (fields["input_range"][:, 1] - fields["input_range"][:, 0]).float()
        masks = batch["patch_label"].flatten(0, 1).unsqueeze(1)
        rows, masks = self.augment(rows, span.repeat_interleave(self.patches), probability=PATCH_SHIFT, masks=masks)
        features = self.encoder(rows)
        assert masks is not None
        loss, dice = self._segmentation(rows, features.maps, masks[:, 0].long())
        terms = {"supervised": loss.detach(), "supervised_dice": 1 - dice.detach()}
        return loss, terms, features.pooled.detach().float()

    def _pseudo(self, rows: Tensor, maps: list[Tensor]) -> Tensor:
        """Loss of rows against what the frozen network says of them."""
        self.labeller_encoder.eval(), self.labeller_decoder.eval()
        with torch.no_grad():
            answers: Tensor = self.labeller_decoder(rows, self.labeller_encoder(rows).maps)[0].argmax(1)
        return self._segmentation(rows, maps, answers)[0]

    def _segmentation(self, rows: Tensor, maps: list[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
        """Dice without background plus cross-entropy, and Dice alone, in float32."""
        logits = self.decoder(rows, maps)[0]
        with full_precision(logits.device):
            dice, entropy = dice_and_cross_entropy(logits.float(), labels, batch_dice=False)
        return dice + entropy, dice


def _with(losses: Losses, name: str, term: Tensor) -> Losses:
    """The losses with one more term."""
    return Losses(losses.total + term, {**losses.terms, name: term.detach()}, losses.embeddings)
