"""MoCHi against synthetic negatives that are really made, its limits, and who may be mixed with whom."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from medssl.errors import ConfigError
from medssl.objectives.hard_mixing import Mixing, MoCHi, draw_mixing, hardest_keys, mixed_similarity, mochi


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=-1)


def mixing_of(n: int, hardest: int, s: int, t: int, seed: int = 5) -> Mixing:
    drawn = draw_mixing(
        (n,), torch.full((n,), hardest), pairs=s, with_query=t, generator=torch.Generator().manual_seed(seed)
    )
    return Mixing(*(part.double() if part.is_floating_point() else part for part in drawn))


def reference(
    query: Tensor, key: Tensor, queue: Tensor, *, temperature: float, hardest: int, mixing: Mixing | None
) -> Tensor:
    """The definition, one query after the other, with synthetic negatives that are made and detached."""
    losses = []
    for i in range(len(query)):
        q, k = unit(query[i]), unit(key[i])
        nearest = sorted((unit(n) for n in queue), key=lambda n: -(q @ n).item())[:hardest]
        made = []
        if mixing is not None:
            for a, b, share in zip(*(part[i].tolist() for part in mixing[:3]), strict=True):
                made.append(unit(share * nearest[a] + (1 - share) * nearest[b]).detach())
            for a, share in zip(*(part[i].tolist() for part in mixing[3:]), strict=True):
                made.append(unit(share * q + (1 - share) * nearest[a]).detach())
        logits = torch.stack([q @ x for x in [k, *(unit(n) for n in queue), *made]]) / temperature
        losses.append(logits.logsumexp(0) - logits[0])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("temperature", [0.05, 0.5])
@pytest.mark.parametrize(("s", "t"), [(0, 0), (6, 0), (0, 4), (6, 4)])
def test_equals_negatives_that_are_made_in_value_and_gradient(s: int, t: int, temperature: float) -> None:
    fast, slow = (random(4, 5).requires_grad_() for _ in range(2))
    key, queue = random(4, 5, seed=1), random(20, 5, seed=2)
    mixing = mixing_of(4, 8, s, t) if s + t else None
    found = mochi(fast, key, queue, temperature=temperature, hardest=8, mixing=mixing)
    wanted = reference(slow, key, queue, temperature=temperature, hardest=8, mixing=mixing)
    found.backward()
    wanted.backward()
    assert found.item() == pytest.approx(wanted.item(), abs=1e-12)
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-12, rtol=1e-10)


def one(n: int, value: float, *, s: int) -> Mixing:
    """Key number 0, 1, … of the hardest, mixed with the next by a share that is the same for all."""
    places = torch.arange(s).expand(n, s)
    share = torch.full((n, s), value, dtype=torch.float64)
    return Mixing(places, (places + 1) % s, share, places, torch.zeros_like(share))


def test_shares_of_one_and_zero_repeat_the_queue() -> None:
    query, key, queue = random(4, 5), random(4, 5, seed=1), random(6, 5, seed=2)
    copies = Mixing(*(part[:, :0] if i > 2 else part for i, part in enumerate(one(4, 1.0, s=6))))
    found = mochi(query, key, queue, temperature=0.2, hardest=6, mixing=copies)
    assert found.item() == pytest.approx(mochi(query, key, torch.cat([queue, queue]), temperature=0.2).item())
    thrice = mochi(query, key, queue, temperature=0.2, hardest=6, mixing=one(4, 1.0, s=6))  # h' with β = 0 as well
    assert thrice.item() == pytest.approx(mochi(query, key, torch.cat([queue] * 3), temperature=0.2).item())
    few = mochi(query, key, queue, temperature=0.2, hardest=2, mixing=one(4, 1.0, s=2))
    assert mochi(query, key, queue, temperature=0.2).item() < few.item() < thrice.item()


def test_opposite_points_that_mix_to_nothing_stay_finite() -> None:
    query = torch.tensor([[1.0, 0.0]], requires_grad=True)
    keys = torch.tensor([[0.0, 1.0], [0.0, -1.0], [-1.0, 0.0]])
    half = torch.full((1, 1), 0.5)
    mixing = Mixing(torch.tensor([[0]]), torch.tensor([[1]]), half, torch.tensor([[2]]), half)
    similarity = query @ keys.T
    hardest = hardest_keys(similarity, torch.ones(1, 3, dtype=torch.bool), 3)
    found = mixed_similarity(query, similarity, keys, hardest, mixing)
    found.sum().backward()
    assert found.abs().max() <= 1.001 and query.grad is not None and query.grad.isfinite().all()


def test_draws_keep_to_the_keys_there_are() -> None:
    known = torch.tensor([0, 1, 3, 50])
    drawn = draw_mixing((2, 4), known, pairs=400, with_query=300, generator=torch.Generator().manual_seed(0))
    for places, width in ((drawn.i, 400), (drawn.j, 400), (drawn.k, 300)):
        assert places.shape == (2, 4, width) and places.min() == 0
        assert places.amax((0, 2)).tolist() == [0, 0, 2, 49]
    assert drawn.alpha.min() >= 0 and drawn.alpha.max() < 1 and drawn.alpha.mean() == pytest.approx(0.5, abs=0.02)
    assert drawn.beta.min() >= 0 and drawn.beta.max() < 0.5 and drawn.beta.mean() == pytest.approx(0.25, abs=0.02)


def test_only_allowed_keys_are_among_the_hardest() -> None:
    similarity = torch.tensor([[0.9, 0.8, 0.1, 0.5]])
    assert hardest_keys(similarity, torch.tensor([[False, True, True, True]]), 2).tolist() == [[1, 3]]
    assert hardest_keys(similarity, torch.ones(1, 4, dtype=torch.bool), 9).tolist() == [[0, 1, 3, 2]]


# --- the objective ------------------------------------------------------------------------------------------------


def objective(**options: Any) -> MoCHi:
    made = MoCHi(**{"queue": 12, "hardest": 4, "mixed": 5, "mixed_with_query": 3, "start": 0.0, **options})
    made.fit_width(5)
    return made.double()


def run(made: MoCHi, x: Tensor, keys: Tensor, index: Tensor, **more: Any) -> Any:
    return made(x, targets=keys, index=index, generator=torch.Generator().manual_seed(3), **more)


def looped(x: Tensor, keys: Tensor, earlier: Tensor, allowed: list[list[int]], temperature: float) -> Tensor:
    """MoCo over ordered pairs of views; ``allowed``: for each sample the other samples and queue places it may meet."""
    k, n, _ = x.shape
    losses = []
    for i in range(n):
        others = [unit(keys[b, j]) for b in range(k) for j in allowed[i] if j < n]
        others += [unit(earlier[j - n]) for j in allowed[i] if j >= n]
        for a in range(k):
            q = unit(x[a, i])
            for b in range(k):
                if a != b:
                    logits = torch.stack([q @ unit(keys[b, i]), *(q @ other for other in others)]) / temperature
                    losses.append(logits.logsumexp(0) - logits[0])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("chunk", [0, 2])
@pytest.mark.parametrize("k", [2, 3])
def test_without_mixing_it_is_moco_with_the_batch_and_the_queue(k: int, chunk: int) -> None:
    made = objective(mixed=0, mixed_with_query=0, chunk=chunk)
    keys = [random(k, 4, 5, seed=s) for s in range(3)]
    for step, index in enumerate((torch.tensor([0, 1, 2, 3]), torch.tensor([4, 1, 5, 6]))):
        run(made, random(k, 4, 5, seed=20 + step), keys[step], index)
    fast, slow = (random(k, 4, 5, seed=9).requires_grad_() for _ in range(2))
    earlier = torch.cat([keys[0][0], keys[1][0]])
    ids = [0, 1, 2, 3, 4, 1, 5, 6]
    index = [1, 6, 7, 8]
    allowed = [
        [j for j in range(4) if j != i] + [4 + j for j, known in enumerate(ids) if known != index[i]] for i in range(4)
    ]
    found = run(made, fast, keys[2], torch.tensor(index)).loss
    wanted = looped(slow, keys[2], earlier, allowed, 0.2)
    found.backward()
    wanted.backward()
    assert found.item() == pytest.approx(wanted.item(), abs=1e-12)
    torch.testing.assert_close(fast.grad, slow.grad, atol=1e-12, rtol=1e-10)
    assert made.queue is not None
    assert torch.equal(made.queue.read(), unit(torch.cat([earlier, keys[2][0]]))), "nothing but the teacher's keys"


def test_a_chunk_changes_nothing_though_negatives_are_mixed() -> None:
    values = []
    for chunk in (0, 1, 3):
        made = objective(chunk=chunk)
        run(made, random(2, 4, 5), random(2, 4, 5, seed=1), torch.arange(4))
        x = random(2, 4, 5, seed=2).requires_grad_()
        loss = run(made, x, random(2, 4, 5, seed=3), torch.arange(4, 8)).loss
        loss.backward()
        assert x.grad is not None
        values.append(torch.cat([loss.detach().view(1), x.grad.flatten()]))
    torch.testing.assert_close(values[1], values[0], atol=1e-12, rtol=0)
    torch.testing.assert_close(values[2], values[0], atol=1e-12, rtol=0)


def test_mixing_makes_the_task_harder_and_begins_after_the_warm_up() -> None:
    x, keys, index = random(2, 4, 5), random(2, 4, 5, seed=1), torch.arange(4)
    late = objective(start=0.3).eval()
    before, after = (run(late, x, keys, index, progress=p) for p in (0.29, 0.3))
    plain = run(objective(mixed=0, mixed_with_query=0).eval(), x, keys, index)
    assert before.loss.item() == plain.loss.item() < after.loss.item()
    assert before.logs["synthetic_negatives"] == 0 and after.logs["synthetic_negatives"] == 8


def test_keys_of_the_own_group_are_neither_negatives_nor_mixed() -> None:
    """A queue full of the group's own keys, which are the hardest, changes nothing."""
    group = torch.tensor([0, 0, 1, 2])
    x, keys = random(2, 4, 5, seed=4), random(2, 4, 5, seed=5)
    losses = []
    for near in (1.0, -1.0):
        made = objective(hardest=2)
        earlier = near * unit(x[:, :1]).mean(0).expand(4, 5)
        assert made.queue is not None
        made.queue.push(unit(earlier), group=torch.zeros(4, dtype=torch.long))
        one_group = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
        losses.append(run(made.eval(), x, keys, torch.arange(4), group=group, weights=one_group).loss.item())
    assert losses[0] == losses[1] > 0


def test_samples_of_one_label_are_further_positives() -> None:
    made, x, keys = objective(mixed=0, mixed_with_query=0).eval(), random(2, 4, 5), random(2, 4, 5, seed=1)
    labels = [0, 0, 1, 2]
    found = run(made, x, keys, torch.arange(4), labels=torch.tensor(labels)).loss
    q, k = unit(x), unit(keys)
    losses = []
    for i in range(4):
        for a in range(2):
            others = (
                torch.stack([q[a, i] @ k[b, j] for b in range(2) for j in range(4) if labels[j] != labels[i]]) / 0.2
            )
            positives = [(1 - a, i)] + [(b, j) for b in range(2) for j in range(4) if j != i and labels[j] == labels[i]]
            terms = [(others.exp().sum() / (q[a, i] @ k[b, j] / 0.2).exp()).log1p() for b, j in positives]
            losses.append(torch.stack(terms).mean())
    assert found.item() == pytest.approx(torch.stack(losses).mean().item(), abs=1e-12)


def test_free_embeddings_follow_their_keys_and_leave_the_others() -> None:
    torch.manual_seed(0)
    made = MoCHi(queue=64, hardest=8, mixed=16, mixed_with_query=8, start=0.0)
    made.fit_width(8)
    x = torch.randn(2, 16, 8, requires_grad=True)
    optimiser = torch.optim.Adam([x], lr=1e-2)
    for step in range(200):
        output = made(x, targets=x.detach(), index=torch.arange(16), generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
    z = unit(x.detach())
    assert (z[0] * z[1]).sum(-1).mean() > 0.9 and output.logs["pair_accuracy"] > 0.9
    assert (z[0] @ z[0].T).square().mean() < 0.3


def test_by_hand() -> None:
    same = torch.ones(3, 4, dtype=torch.float64)
    assert mochi(same, same, same, temperature=0.3).item() == pytest.approx(math.log(4))
    mixing = mixing_of(3, 3, 5, 2)
    assert mochi(same, same, same, temperature=0.3, hardest=3, mixing=mixing).item() == pytest.approx(math.log(11))


def test_bad_arguments_are_refused() -> None:
    for options, what in (
        ({"temperature": 0.0}, "temperature"), ({"hardest": 0}, "hardest"), ({"mixed": -1}, "mixes 0 or more"),
        ({"start": 1.5}, "from 0 to 1"), ({"queue": -1}, "queue"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=what):
            MoCHi(**options)  # type: ignore[arg-type]
