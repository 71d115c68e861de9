"""Prompted segmentation and likeness within objects: loops, limits, any number of axes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medssl.evaluation.map_similarity import (
    THRESHOLDS,
    cell_labels,
    cell_of,
    central_prompt,
    enlarged_maps,
    object_similarity,
    prompt_maps,
    prompt_scores,
    summarise,
)

GRIDS: list[tuple[int, ...]] = [(9,), (5, 4), (3, 4, 2)]
grids = pytest.mark.parametrize("grid", GRIDS)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@grids
def test_maps_are_cosines_with_the_prompted_cell(grid: tuple[int, ...]) -> None:
    features = random(6, *grid)
    prompts = torch.tensor([[0] * len(grid), [g - 1 for g in grid]])
    maps = prompt_maps(features, prompts)
    assert maps.shape == (2, *grid)
    for p, prompt in enumerate(prompts.tolist()):
        wanted = functional.cosine_similarity(
            features, features[(slice(None), *prompt)].view(6, *[1] * len(grid)), dim=0
        )
        torch.testing.assert_close(maps[p], wanted)
        assert maps[(p, *prompt)].item() == pytest.approx(1)


@grids
def test_scores_equal_the_loops(grid: tuple[int, ...]) -> None:
    scores, objects = random(3, *grid).tanh(), random(3, *grid, seed=1) > 0
    found = prompt_scores(scores, objects, (-0.5, 0.0, 0.5))
    for p in range(3):
        for t, threshold in enumerate((-0.5, 0.0, 0.5)):
            mask = scores[p] >= threshold
            both, union = (mask & objects[p]).sum().item(), (mask | objects[p]).sum().item()
            assert found.jaccard[p, t].item() == pytest.approx(both / union)
            assert found.dice[p, t].item() == pytest.approx(2 * both / (mask.sum() + objects[p].sum()).item())


def test_limits_of_prompted_segmentation() -> None:
    objects = torch.zeros(1, 8, 8, dtype=torch.bool)
    objects[0, 2:5, 3:7] = True
    perfect = torch.where(objects[0], torch.tensor([[[1.0]], [[0.0]]]), torch.tensor([[[0.0]], [[1.0]]]))
    maps = prompt_maps(perfect, torch.tensor([[3, 4]]))
    assert prompt_scores(maps, objects, (0.5,)).jaccard.item() == 1
    everything = prompt_scores(maps, objects, (-1.0,)).jaccard.item()
    assert everything == pytest.approx(objects.float().mean().item()), "a threshold of -1 takes all"
    alike = prompt_maps(torch.ones(4, 8, 8), torch.tensor([[3, 4]]))
    scores = prompt_scores(alike, objects, (0.5, 1.1)).jaccard[0]
    assert scores[0].item() == pytest.approx(objects.float().mean().item()), "identical features: the prevalence"
    assert scores[1].item() == 0
    nothing = prompt_scores(alike, torch.zeros_like(objects), (1.1,))
    assert nothing.jaccard.item() == nothing.dice.item() == 1


def test_the_prompt_is_the_object_s_voxel_nearest_to_its_centroid() -> None:
    ring = torch.ones(5, 5, dtype=torch.bool)
    ring[1:4, 1:4] = False
    row, column = central_prompt(ring).tolist()
    assert ring[row, column] and abs(row - 2) + abs(column - 2) == 2
    bar = torch.zeros(3, 9, 3, dtype=torch.bool)
    bar[1, 2:7, 1] = True
    assert central_prompt(bar).tolist() == [1, 4, 1]
    three = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0]]).bool()
    assert central_prompt(three, spacing=(10.0, 1.0)).tolist() == [0, 0]
    assert central_prompt(three, spacing=(0.1, 1.0)).tolist() == [2, 1]
    with pytest.raises(ValueError, match="empty"):
        central_prompt(torch.zeros(3, 3, dtype=torch.bool))


def test_the_cell_of_a_voxel() -> None:
    voxels = torch.tensor([[0, 0], [7, 9], [3, 5], [4, 4]])
    assert cell_of(voxels, (8, 10), (2, 5)).tolist() == [[0, 0], [1, 4], [0, 2], [1, 2]]


@grids
def test_enlarging_keeps_the_range_and_the_mean_place(grid: tuple[int, ...]) -> None:
    maps = random(2, *grid).tanh()
    size = tuple(4 * g for g in grid)
    large = enlarged_maps(maps, size)
    assert large.shape == (2, *size)
    assert maps.min() <= large.min() and large.max() <= maps.max()
    torch.testing.assert_close(enlarged_maps(maps, grid), maps)


def test_labels_of_cells_are_those_of_their_centres() -> None:
    labels = torch.arange(8).view(1, 8).expand(4, 8)
    assert cell_labels(labels, (2, 4))[0].tolist() == [1, 3, 5, 7]
    assert cell_labels(torch.arange(9), (3,)).tolist() == [1, 4, 7]
    assert torch.equal(cell_labels(labels, (4, 8)), labels)


def test_summary_of_thresholds() -> None:
    scores = torch.tensor([[0.2, 0.8, 0.1], [0.6, 0.4, 0.3]], dtype=torch.float64)
    found = summarise(scores, 0)
    assert found == pytest.approx({"at_threshold": 0.4, "best_threshold": 0.6, "oracle": 0.7})
    assert set(summarise(scores)) == {"best_threshold", "oracle"}
    assert THRESHOLDS[0] == -0.2 and THRESHOLDS[-1] == 0.95 and len(THRESHOLDS) == 24


@grids
def test_similarity_of_objects_equals_the_loops(grid: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    features = random(4, *grid)
    labels = torch.randint(0, 3, grid, generator=torch.Generator().manual_seed(2))
    cells, names = features.flatten(1).T, labels.flatten()
    pairs: tuple[list[float], list[float]] = [], []
    for i in range(len(names)):
        for j in range(i):
            if names[i] > 0 and names[j] > 0:
                pairs[int(names[i] != names[j])].append(float(functional.cosine_similarity(cells[i], cells[j], dim=0)))
    found = object_similarity(features, labels)
    intra, inter = (sum(p) / len(p) for p in pairs)
    assert found.intra_mean.item() == pytest.approx(intra) and found.inter_mean.item() == pytest.approx(inter)
    assert found.gap.item() == pytest.approx(intra - inter)
    histograms = []
    for values in pairs:
        counts = [0.0] * 50
        for value in values:
            counts[min(49, int((value + 1) * 25))] += 1 / len(values)
        histograms.append(counts)
    wanted = sum(min(a, b) for a, b in zip(*histograms, strict=True))
    assert found.overlap.item() == pytest.approx(wanted)
    monkeypatch.setattr("medssl.evaluation.map_similarity.BLOCK_ELEMENTS", 8)
    torch.testing.assert_close(torch.stack(object_similarity(features, labels)), torch.stack(found))


def test_limits_of_similarity() -> None:
    labels = torch.tensor([1, 1, 1, 2, 2, 2])
    alike = object_similarity(torch.ones(3, 6), labels)
    assert alike.overlap.item() == pytest.approx(1) and alike.gap.item() == pytest.approx(0, abs=1e-6)
    apart = object_similarity(torch.eye(2)[:, labels - 1], labels)
    assert apart.overlap.item() == 0 and apart.gap.item() == pytest.approx(1)
    alone = object_similarity(random(3, 6), torch.ones(6, dtype=torch.int64))
    assert math.isnan(alone.inter_mean.item()) and math.isfinite(alone.intra_mean.item())
