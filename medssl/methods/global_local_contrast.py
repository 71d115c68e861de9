"""Contrast of slices by their place in the volume, then of regions by their place in the slice, in two stages."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medssl.encoders.base import Encoder
from medssl.encoders.slice_wise import SliceWise
from medssl.errors import CohortError, ConfigError
from medssl.heads.decoder import Decoder
from medssl.methods.base import Losses, Method, Readable
from medssl.methods.teacher import frozen
from medssl.objectives.base import positive
from medssl.objectives.foreground import pooled_cells
from medssl.objectives.global_local import (
    Regions,
    gather_regions,
    gather_volumes,
    global_domain,
    global_negatives,
    global_random,
    local_domain,
    local_random,
    regions,
)
from medssl.optim import Optim
from medssl.views.base import Batch, Sample, to_input
from medssl.views.partitions import apply_slice_intensity, apply_zoom, draw_slice_parameters, partition_bounds
from medssl.views.placement import foreground_box, read_crops, window_start
from medssl.views.volume_augment import VolumeAugmentation, apply_intensity, draw_parameters

if TYPE_CHECKING:
    from medssl.cohort import CohortInfo, Reader

__all__ = ["GlobalLocalContrast"]

CELLS = 6  # of the coarsest map that the first head takes, along each axis: a slice of 192² in the paper
WIDTH = 128  # of a region's vector


class _MapHead(nn.Sequential):
    """The published head of the encoder: the whole coarsest map, Linear → ReLU → Linear without biases."""

    def __init__(self, encoder: Encoder, size: Sequence[int], hidden: int, out: int) -> None:
        grid = (min(CELLS, -(-s // d)) for s, d in zip(size, encoder.strides[-1], strict=True))
        width = encoder.channels[-1] * math.prod(grid)
        super().__init__(nn.Linear(width, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, out, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, *grid) → (N, out)."""
        projected: Tensor = super().forward(pooled_cells(x, CELLS).flatten(1))
        return projected


class _RegionHead(nn.Module):
    """The published head of the decoder: two pointwise convolutions, and a linear layer on regions of many cells."""

    def __init__(self, width: int, cells: int) -> None:
        super().__init__()
        self.cells = nn.Sequential(
            nn.Conv3d(width, width, 1, bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(),
            nn.Conv3d(width, width, 1, bias=False),
        )
        self.linear = nn.Linear(cells * width, WIDTH, bias=False) if cells > 1 else nn.Identity()

    def forward(self, x: Tensor, table: Regions) -> Tensor:
        """(N, C, Z, Y, X) → (N, P, D)."""
        vectors: Tensor = self.linear(gather_regions(self.cells(x), table.cells))
        return vectors


class GlobalLocalContrast(Method):
    """Global and local contrast (Chaitanya et al., NeurIPS 2020), for volumes that share a rough pose and coverage.

    *Stage "encoder"*: slices of one relative depth show the same anatomy in every patient, so they are never negatives
    and may be positives. *Stage "decoder"*, which starts from a run of the first (`--init-from RUN`): the encoder is
    left as it is, and the first blocks of the segmentation decoder learn to tell regions of one slice apart. It exports
    the encoder with the decoder's blocks, from which fine-tuning for segmentation starts.

    With a 2-D encoder the method sees single slices, as published, and exports the encoder for volumes (``SliceWise``);
    its decoder works on slices too. With a 3-D encoder it sees blocks of slices, and regions are blocks of cells.

    Shapes: B volumes × S slices or blocks (C, *size), as several members; embeddings (B, members, S, D); regions
    (B·S, places, D).

    Args:
        encoder: 2-D (for slices) or 3-D (for blocks of slices).
        stage: what is trained.
        size: slices (1, y, x) or blocks (z, y, x) that are read. Thin blocks keep the parts of a volume apart.
        partitions: S, parts of a volume along the axial axis; each gives one slice.
        global_loss: ``"random"`` is SimCLR on slices of any depth; ``"negatives"`` knows that the same part is no
            negative; ``"domain"`` that it is a positive, of the next volume of the batch.
        local_loss: ``"random"`` finds regions again in another view; ``"domain"`` also in the same part of the other
            volumes of the batch.
        decoder_blocks: that are trained, from the coarsest.
        region: edge of a region in cells of their last map, 3 or 1.
        regions: in the plane, 13 or 9.
        negatives: of a region; ``"listed"`` near-by ones as in the released code, ``"all"`` that do not overlap it as
            in the paper.
        temperature: τ.
        crop: edge of the random window of a view in the plane, as a share of ``size``; stage "encoder" alone.
        brightness: largest shift of a view, as a share of the input range.
        contrast: largest departure of a view's contrast from 1.
        intensity: further changes of intensity of a view (blur, noise, gamma; none in the paper). The instance norm of
            most encoders here undoes brightness and contrast, so that without any, both views of stage "decoder" are
            nearly the same to the network, and its loss soon nothing.
        projector: hidden and output features of the head on the encoder.
        optim: optimiser settings.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        stage: Literal["encoder", "decoder"] = "encoder",
        size: tuple[int, int, int] = (1, 192, 192),
        partitions: int = 4,
        global_loss: Literal["random", "negatives", "domain"] = "domain",
        local_loss: Literal["random", "domain"] = "random",
        decoder_blocks: int = 3,
        region: Literal[3, 1] = 3,
        regions: Literal[13, 9] = 13,
        negatives: Literal["listed", "all"] = "listed",
        temperature: float = 0.1,
        crop: float = 0.52,
        brightness: float = 0.3,
        contrast: float = 0.3,
        intensity: VolumeAugmentation | None = None,
        projector: tuple[int, int] = (1024, 128),
        optim: Optim | None = None,
    ) -> None:
        published = Optim(lr=1e-3, weight_decay=0.0, schedule="constant", warmup=0)
        super().__init__(_of_volumes(encoder, size), optim or published)
        positive("GlobalLocalContrast", temperature=temperature, crop=crop)
        if partitions < 2:
            raise ConfigError(
                f"GlobalLocalContrast tells parts of a volume apart and needs at least 2 partitions, not {partitions}"
            )
        if crop > 1 or min(brightness, contrast) < 0 or contrast >= 1:
            raise ConfigError(
                "GlobalLocalContrast takes a crop of at most 1, a brightness of at least 0 and a contrast from 0 to "
                f"below 1, not {crop}, {brightness} and {contrast}"
            )
        self.stage, self.size, self.partitions = stage, tuple(size), partitions
        self.global_loss, self.local_loss, self.temperature = global_loss, local_loss, temperature
        self.region, self.regions, self.negatives = region, regions, negatives
        self.crop, self.brightness, self.contrast, self.intensity = crop, brightness, contrast, intensity
        if stage == "encoder":
            self.head = _MapHead(self.encoder, self.size, *projector)
        else:
            frozen(self.encoder)
            self.decoder = Decoder(self.encoder, None, blocks=decoder_blocks)
            depth, *_ = map_size = self._map_size()
            self._table(map_size)  # refuses maps that are too small
            self.region_head = _RegionHead(self.decoder.channels[0], region**2 * min(region, depth))
        self.train()

    @property
    def input_size(self) -> tuple[int, ...]:
        """Size of the slices or blocks."""
        return self.size

    @property
    def decoder_exported(self) -> Decoder | None:
        """See ``Method.decoder_exported``."""
        return self.decoder if self.stage == "decoder" else None

    @property
    def across(self) -> bool:
        """Whether volumes of a batch are compared with each other as positives."""
        return (self.global_loss if self.stage == "encoder" else self.local_loss) == "domain"

    @property
    def anywhere(self) -> bool:
        """Whether slices are drawn without regard to parts."""
        return (self.global_loss if self.stage == "encoder" else self.local_loss) == "random"

    def train(self, mode: bool = True) -> GlobalLocalContrast:
        """As in torch, but an encoder that is left as it is stays in evaluation mode."""
        super().train(mode)
        if self.stage == "decoder":
            self.encoder.eval()
        return self

    def check(self, info: CohortInfo) -> None:
        """See ``Method.check``: volumes only."""
        if info.kind != "volume":
            raise ConfigError(f"GlobalLocalContrast takes slices of volumes; this cohort holds {info.kind}s")
        if self.across and info.n_recordings == 1:
            raise ConfigError(
                "GlobalLocalContrast compares parts of different volumes, but this cohort holds 1; choose a loss that "
                "does not (global_loss negatives or random, local_loss random)"
            )
        super().check(info)

    def prepare(self, source: Readable, *, batch: int) -> None:
        """See ``Method.prepare``: all volumes must be thick enough, and several in a batch that compares them."""
        _refuse_few(self, batch)
        depths = np.array([shape[0] for shape in source.manifest["shape"]])
        thin = np.flatnonzero(depths - self.size[0] + 1 < self.partitions)
        if len(thin):
            name = source.manifest["recording"].iloc[int(thin[0])]
            more = f" ({len(thin)} recordings are too thin)" if len(thin) > 1 else ""
            raise CohortError(_too_thin(self, name, int(depths[thin[0]])) + more)

    def draw(self, reader: Reader, rng: np.random.Generator) -> Sample:
        """One slice or block of each part, all from one place in the plane.

        Returns:
            ``x`` (S, C, *size) stored integers, and the input fields.
        """
        box = foreground_box(reader)
        plane = window_start(reader.shape, (reader.shape[0], *self.size[1:]), box, rng)[1:]
        starts = [np.array([z, *plane]) for z in self._depths(reader, int(box[0][0]), int(box[1][0]), rng)]
        return {**reader.input_fields(), "x": read_crops(reader, starts, self.size)}

    def loss(self, batch: Batch) -> Losses:
        """Members of every slice, their embeddings or regions, and the stage's contrast."""
        x = to_input(batch["x"], batch)
        bounds = batch["input_range"].float().repeat_interleave(self.partitions, 0)
        return self._global(x, bounds) if self.stage == "encoder" else self._local(x, bounds)

    def embed(self, rows: Tensor) -> Tensor:
        """(N, C, *size) → (N, D), or (N, D, places) of regions; float32."""
        maps = self.encoder(rows).maps
        if self.stage == "encoder":
            embedded: Tensor = self.head(maps[-1])
            return embedded.float()
        decoded = self.decoder(rows, maps)[0]
        vectors: Tensor = self.region_head(decoded, self._table(decoded.shape[2:]))
        return vectors.float().transpose(1, 2)

    def _global(self, x: Tensor, bounds: Tensor) -> Losses:
        """Of (B, S, C, *size)."""
        volumes, rows = len(x), x.flatten(0, 1)
        original = [] if self.global_loss == "random" else [rows]
        views = 1 if self.global_loss == "domain" else 2
        members = torch.stack([*original, *(self._view(rows, bounds, zoom=True) for _ in range(views))])
        embedded = self.embed(members.flatten(0, 1))
        z = gather_volumes(embedded.unflatten(0, (len(members), volumes, self.partitions)).transpose(0, 1))
        _refuse_few(self, len(z))
        loss = {"random": global_random, "negatives": global_negatives, "domain": global_domain}[self.global_loss]
        return Losses(loss(z, temperature=self.temperature), {}, embedded.detach())

    def _local(self, x: Tensor, bounds: Tensor) -> Losses:
        """Of (B, S, C, *size)."""
        volumes, rows = len(x), x.flatten(0, 1)
        _refuse_few(self, volumes)
        views = torch.cat([self._view(rows, bounds, zoom=False) for _ in range(2)])
        with torch.no_grad():
            maps = self.encoder(views).maps
        decoded = self.decoder(views, maps)[0]
        table = self._table(decoded.shape[2:])
        vectors = self.region_head(decoded, table).float()
        first, second = vectors.chunk(2)
        if self.local_loss == "random":
            total = local_random(first, second, table, temperature=self.temperature)
        else:
            parts = (volumes, self.partitions)
            total = local_domain(
                first.unflatten(0, parts), second.unflatten(0, parts), table, temperature=self.temperature
            )
        return Losses(total, {}, vectors.detach().flatten(0, 1))

    def _view(self, rows: Tensor, bounds: Tensor, *, zoom: bool) -> Tensor:
        """A view of every row, each changed for itself."""
        drawn = draw_slice_parameters(len(rows), self.generator, brightness=self.brightness, contrast=self.contrast)
        view = apply_slice_intensity(apply_zoom(rows, drawn, self.crop) if zoom else rows, drawn, bounds)
        if self.intensity is None:
            return view
        return apply_intensity(view, draw_parameters(tuple(view.shape), self.intensity, self.generator))

    def _depths(self, reader: Reader, first: int, stop: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """First slices of the S blocks: one of each part of the body, or of the volume where the body is too thin."""
        starts = stop - first - self.size[0] + 1
        if starts < self.partitions:
            first, starts = 0, reader.shape[0] - self.size[0] + 1
        if starts < self.partitions:
            raise CohortError(_too_thin(self, reader.recording, reader.shape[0]))
        if self.anywhere:
            chosen = np.sort(rng.choice(np.arange(starts), self.partitions, replace=False))
        else:
            low, high = partition_bounds(starts, self.partitions).T
            chosen = rng.integers(low, high)
        return chosen + first

    def _map_size(self) -> tuple[int, ...]:
        """Of the finest map of the trained blocks."""
        stride = (1, *self.decoder.strides[0]) if self.decoder.slice_wise else self.decoder.strides[0]
        return tuple(-(-s // d) for s, d in zip(self.size, stride, strict=True))

    def _table(self, size: Sequence[int]) -> Regions:
        """The regions of maps of this size, on the module's device."""
        return _table(tuple(size), self.region, self.regions, self.negatives, self.device)


@functools.lru_cache
def _table(
    size: tuple[int, ...], edge: Literal[3, 1], count: Literal[13, 9], negatives: Literal["listed", "all"],
    device: torch.device,
) -> Regions:  # fmt: skip
    """Made and copied to the device once, not in every step."""
    return Regions(*(t.to(device) for t in regions(size, edge=edge, count=count, negatives=negatives)))


def _of_volumes(encoder: Encoder, size: Sequence[int]) -> Encoder:
    """The encoder, for volumes."""
    if encoder.dims not in (2, 3) or len(size) != 3 or (encoder.dims == 2 and size[0] != 1):
        raise ConfigError(
            "GlobalLocalContrast takes a 2-D encoder and slices of size (1, y, x), or a 3-D encoder and blocks of size "
            f"(z, y, x); got {type(encoder).__name__} with {encoder.dims} axes and {tuple(size)}"
        )
    return SliceWise(encoder) if encoder.dims == 2 else encoder


def _too_thin(method: GlobalLocalContrast, recording: object, depth: int) -> str:
    least = method.partitions + method.size[0] - 1
    return (
        f"recording {recording} has {depth} slice{'s' * (depth != 1)}, but blocks of {method.size[0]} from "
        f"{method.partitions} partitions need at least {least}; leave it out, or use fewer partitions or thinner blocks"
    )


def _refuse_few(method: GlobalLocalContrast, volumes: int) -> None:
    if method.across and volumes < 2:
        loss = "global_loss" if method.stage == "encoder" else "local_loss"
        raise ConfigError(
            f"{loss} 'domain' compares different volumes, but a batch holds {volumes}; raise the batch size to at "
            f"least 2, or choose another {loss}"
        )
