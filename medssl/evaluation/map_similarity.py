"""What single places of a feature map know without any training: segmentation by prompt, likeness within objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "THRESHOLDS",
    "ObjectSimilarity",
    "PromptScores",
    "cell_labels",
    "cell_of",
    "central_prompt",
    "enlarged_maps",
    "object_similarity",
    "prompt_maps",
    "prompt_scores",
    "summarise",
]  # fmt: skip

THRESHOLDS = tuple(round(-0.2 + 0.05 * i, 2) for i in range(24))
"""-0.2 to 0.95 in steps of 0.05: the grid over which one threshold is chosen on validation data."""

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
BINS = 50
BLOCK_ELEMENTS = 2**24  # similarities in memory at once


class PromptScores(NamedTuple):
    """How well thresholded similarity maps cover objects.

    Attributes:
        jaccard: (P, T) of P prompts at T thresholds, 0 to 1; 1 where mask and object are both empty.
        dice: (P, T).
    """

    jaccard: Tensor
    dice: Tensor


class ObjectSimilarity(NamedTuple):
    """Cosines of pairs of cells, scalars; NaN where there is no such pair.

    Attributes:
        intra_mean: within one object.
        inter_mean: across objects.
        gap: their difference; larger is better.
        overlap: of the two histograms, 0 (apart) to 1 (alike).
    """

    intra_mean: Tensor
    inter_mean: Tensor
    gap: Tensor
    overlap: Tensor


def central_prompt(mask: Tensor, *, spacing: Sequence[float] | None = None) -> Tensor:
    """Voxel of the object that lies nearest to its centroid; the first in raster order where several do.

    Args:
        mask: (*size) booleans with at least one true.
        spacing: of the voxels along each axis; None: alike.

    Returns:
        (axes,) int64.

    Raises:
        ValueError: an empty mask.

    >>> central_prompt(torch.tensor([[1, 1, 1], [1, 0, 1]]).bool())
    tensor([0, 1])
    """
    places = mask.nonzero()
    if len(places) == 0:
        raise ValueError("there is no object to prompt: the mask is empty")
    steps = torch.tensor([1.0] * mask.ndim if spacing is None else list(spacing), dtype=torch.float64)
    position = places.double() * steps.to(places.device)
    return places[(position - position.mean(0)).square().sum(1).argmin()]


def cell_of(voxel: Tensor, size: Sequence[int], grid: Sequence[int]) -> Tensor:
    """The cell of the map that covers a voxel.

    Args:
        voxel: (..., axes) int64.
        size: of the image.
        grid: of the map.

    Returns:
        Like ``voxel``.
    """
    cells, extent = (torch.tensor(list(v), device=voxel.device) for v in (grid, size))
    return voxel * cells // extent


def prompt_maps(features: Tensor, prompts: Tensor) -> Tensor:
    r"""Cosine of every cell with the prompted cell, :math:`s_i = \cos(f_i, f_p)` (Wu et al., 2023).

    Args:
        features: (D, *grid) of one image.
        prompts: (P, axes) cells, int64.

    Returns:
        (P, *grid), 1 at the prompt.
    """
    cells = functional.normalize(features.flatten(1), dim=0)
    grid = features.shape[1:]
    place = torch.zeros(len(prompts), dtype=torch.int64, device=features.device)
    for axis, length in enumerate(grid):
        place = place * length + prompts[:, axis]
    return (cells[:, place].T @ cells).view(-1, *grid)


def enlarged_maps(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps at the size of the image, (P, *grid) → (P, *size): linear between cell centres (corners not aligned)."""
    mode = MODES[len(size)]
    return functional.interpolate(maps.unsqueeze(1), size=tuple(size), mode=mode, align_corners=False).squeeze(1)


def prompt_scores(scores: Tensor, objects: Tensor, thresholds: Sequence[float] = THRESHOLDS) -> PromptScores:
    """Jaccard and Dice of ``scores ≥ t`` with the prompted objects.

    Args:
        scores: (P, *size), see ``enlarged_maps``.
        objects: (P, *size) booleans.
        thresholds: T values.
    """
    rows, truth = scores.flatten(1), objects.flatten(1)
    masks, hits = [], []
    for threshold in thresholds:
        mask = rows >= threshold
        masks.append(mask.sum(1))
        hits.append((mask & truth).sum(1))
    mask_size, both = torch.stack(masks, 1).double(), torch.stack(hits, 1).double()
    total = mask_size + truth.sum(1, keepdim=True)
    union = total - both
    return PromptScores(
        torch.where(union > 0, both / union.clamp_min(1), 1.0),
        torch.where(total > 0, 2 * both / total.clamp_min(1), 1.0),
    )


def summarise(scores: Tensor, chosen: int | None = None) -> dict[str, float]:
    """What is reported of many prompts.

    Args:
        scores: (P, T) Jaccard or Dice of all prompts at all thresholds.
        chosen: place of the threshold that was chosen on other (validation) data; None leaves ``at_threshold`` out.

    Returns:
        ``at_threshold``: mean at the chosen threshold; ``best_threshold``: largest of the means over prompts, which is
        optimistic; ``oracle``: mean of each prompt's own best, an upper bound.
    """
    means = scores.mean(0)
    found = {"best_threshold": float(means.max()), "oracle": float(scores.amax(1).mean())}
    return found if chosen is None else {"at_threshold": float(means[chosen]), **found}


def cell_labels(labels: Tensor, grid: Sequence[int]) -> Tensor:
    """Label at the centre of each cell, (*size) → (*grid)."""
    for axis, (length, cells) in enumerate(zip(labels.shape, grid, strict=True)):
        centre = (2 * torch.arange(cells, device=labels.device) + 1) * length // (2 * cells)
        labels = labels.index_select(axis, centre)
    return labels


def object_similarity(features: Tensor, labels: Tensor) -> ObjectSimilarity:
    """Do cells of one object resemble each other more than cells of different objects?

    Over all pairs of different cells of objects of one image; histograms have 50 bins on [-1, 1], and their overlap is
    ``Σ min`` of the shares.

    Args:
        features: (D, *grid) of one image.
        labels: (*grid) integers, see ``cell_labels``; 0 is background, which is left out.
    """
    known = labels.flatten() > 0
    names = labels.flatten()[known]
    cells = functional.normalize(features.flatten(1)[:, known], dim=0)
    count = len(names)
    histograms = torch.zeros(2, BINS, dtype=torch.float64, device=features.device)
    sums, pairs = histograms.new_zeros(2), histograms.new_zeros(2)
    rows = max(1, BLOCK_ELEMENTS // max(1, count))
    for first in range(0, count, rows):
        block = slice(first, first + rows)
        similarity = (cells[:, block].T @ cells).clamp(-1, 1)
        later = torch.ones_like(similarity, dtype=torch.bool).triu(first + 1)
        same = names[block].unsqueeze(1) == names
        for which, kind in enumerate((later & same, later & ~same)):
            values = similarity[kind].double()
            sums[which] += values.sum()
            pairs[which] += len(values)
            histograms[which] += torch.histc(values, BINS, -1, 1)
    intra, inter = (sums / pairs).unbind()
    overlap = torch.minimum(*(histograms / pairs.unsqueeze(1)).unbind()).sum()
    return ObjectSimilarity(intra, inter, intra - inter, overlap)
