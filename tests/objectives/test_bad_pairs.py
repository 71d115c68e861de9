"""Bad pair mining: what is flagged and when, whatever the order of batches, and across kills and processes."""

from __future__ import annotations

import functools
import importlib.util
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bad_pairs_toys import EPOCHS, N, feed, miner, table
from toys import joint

from medssl.errors import ConfigError
from medssl.methods.contrastive import Contrastive
from medssl.objectives.bad_pairs import BadPairMiner, bad_pair_weights, bad_pairs, repeats
from medssl.objectives.contrastive import InfoNCE

NOISY, FAULTY = slice(0, 10), slice(10, 20)


def flags(of: BadPairMiner) -> torch.Tensor:
    return torch.stack([of.noisy_pairs, of.faulty_pairs])


def test_planted_pairs_are_found_and_weigh_less() -> None:
    one = miner()
    weights = feed(one, table())
    mean = one.histories(EPOCHS)
    assert mean[NOISY].max() < mean[20:].min() and mean[20:].max() < mean[FAULTY].min()
    assert one.noisy_pairs.nonzero().flatten().tolist() == list(range(10))
    assert one.faulty_pairs.nonzero().flatten().tolist() == list(range(10, 20))
    assert weights[-1, 20:].eq(1).all() and weights[-1, :20].max() < 0.9
    one(table()[-1], torch.arange(N))
    logs = one.logs()
    assert (logs["noisy_pairs"], logs["faulty_pairs"]) == (10, 10) and logs["pair_weight"] < 1


def test_nothing_is_weighed_before_the_warm_up_ends_nor_beyond_all_thresholds() -> None:
    assert feed(miner(warmup=4), table())[:4].eq(1).all()
    assert not feed(miner(warmup=4), table())[4].eq(1).all()
    assert feed(miner(noisy=math.inf, faulty=math.inf), table()).eq(1).all()
    assert feed(miner(warmup=0), table())[0].eq(1).all(), "there is no history before the first epoch"


def test_a_share_of_the_run_ends_the_warm_up_once_it_is_known_how_long_that_is() -> None:
    unplanned, planned = miner(warmup=0.5), miner(warmup=0.5)
    planned.plan(EPOCHS * N // 5)
    assert feed(unplanned, table()).eq(1).all()
    weights = feed(planned, table())
    assert weights[: EPOCHS // 2].eq(1).all() and not weights[EPOCHS // 2].eq(1).all()


def test_the_loss_is_the_plain_mean_during_the_warm_up_and_its_gradient_has_no_part_of_the_weights() -> None:
    one, index = miner(warmup=3), torch.arange(N)
    feed(one, table()[:2])
    views = torch.randn(2, N, 4, generator=torch.Generator().manual_seed(0))
    objective = InfoNCE()
    weights = functools.partial(one, index=index)
    assert torch.equal(objective(views, weights=weights).loss, objective(views).loss)
    losses = table()[3].requires_grad_()
    (one(losses.detach(), index) * losses).mean().backward()
    assert losses.grad is not None and (flags(one).any())
    flagged = flags(one).any(0)
    expected = torch.where(flagged, bad_pair_weights(losses.detach(), flagged, one.mean, one.sd, "bounded"), 1.0) / N
    torch.testing.assert_close(losses.grad, expected)


def test_bounded_weights_lie_between_0_and_1_and_do_not_depend_on_the_scale() -> None:
    small, large = miner(), miner()
    a, b = feed(small, table()), feed(large, 1000 * table())
    assert torch.equal(flags(small), flags(large))
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
    assert a.min() > 0 and a.max() == 1
    mean, sd = torch.tensor(3.0), torch.tensor(0.1)
    at_mean = bad_pair_weights(mean.view(1), torch.tensor([True]), mean, sd, "bounded")
    assert at_mean == 1
    density = bad_pair_weights(mean.view(1), torch.tensor([True]), mean, sd, "paper")
    assert density.item() == pytest.approx(1 / (0.1 * math.sqrt(2 * math.pi)))
    assert bad_pair_weights(mean.view(1), torch.tensor([True]), mean, sd, "drop") == 0


def test_the_order_of_the_batches_does_not_matter() -> None:
    one, other = miner(), miner()
    a, b = feed(one, table(), seed=1), feed(other, table(), seed=2)
    assert torch.equal(flags(one), flags(other)) and torch.equal(one.histories(EPOCHS), other.histories(EPOCHS))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("history", ["mean", "epoch_weighted", "ema"])
def test_histories(history: Any) -> None:
    one = miner(history=history, ema_decay=0.5)
    feed(one, table())
    losses = table()
    share = torch.arange(1.0, EPOCHS + 1)
    wanted = losses[0]
    for row in losses[1:]:
        wanted = 0.5 * wanted + 0.5 * row
    known = {"mean": losses.mean(0), "epoch_weighted": (share @ losses) / share.sum(), "ema": wanted}
    torch.testing.assert_close(one.histories(EPOCHS), known[history])


def test_pairs_count_as_often_as_they_were_seen() -> None:
    one = miner(keep_history=True)
    one(torch.tensor([1.0, 5.0, torch.nan, 3.0]), torch.tensor([4, 4, 6, 7]))
    assert one.count[[4, 6, 7]].tolist() == [2, 0, 1] and one.count.sum() == 3
    assert one.histories(EPOCHS)[[4, 6, 7]].tolist() == [3.0, 0.0, 3.0]
    assert one.table[4].tolist() == [1.0, 5.0] and one.table[7].tolist() == [3.0, 0.0]
    assert repeats(torch.tensor([5, 5, 2, 5])).tolist() == [0, 1, 0, 2]


def test_pairs_that_were_never_seen_or_whose_loss_is_missing_are_not_weighed() -> None:
    one = miner()
    losses = table()
    for row in losses[:3]:
        one(row[5:], torch.arange(5, N))
        one.seen += 5  # the sampler left some out
    weights = one(losses[3], torch.arange(N))
    assert not flags(one)[:, :5].any() and weights[:5].eq(1).all() and flags(one)[:, 5:20].any(0).all()
    missing = torch.full((N,), torch.nan)
    assert one(missing, torch.arange(N)).eq(1).all()


@pytest.mark.parametrize("value", [0.0, 0.1, 2.3, 1e4])
def test_equal_histories_flag_nobody(value: float) -> None:
    one = miner(noisy=0.1, faulty=0.1)
    assert feed(one, torch.full((EPOCHS, N), value)).eq(1).all()
    alone = bad_pairs(torch.tensor([value]), torch.tensor([True]), noisy=0.1, faulty=0.1)
    assert not alone.noisy and not alone.faulty


def test_saved_and_loaded_in_the_middle_it_goes_on_alike() -> None:
    whole, first, second = (miner(keep_history=True) for _ in range(3))
    wanted = feed(whole, table())
    feed(first, table()[:3])
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(feed(second, table()[3:], first=3), wanted[3:], atol=0, rtol=0)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    torch.testing.assert_close(whole.table, table().T)


def test_two_processes_flag_what_one_would(tmp_path: Path) -> None:
    worker = Path(__file__).with_name("bad_pairs_worker.py")
    commands = [[sys.executable, str(worker), str(rank), str(tmp_path)] for rank in range(2)]
    running = [subprocess.Popen(c, stderr=subprocess.PIPE, text=True) for c in commands]
    complaints = [p.communicate(timeout=200)[1] for p in running]
    assert [p.returncode for p in running] == [0, 0], complaints
    wanted = miner(keep_history=True)
    weights, both = feed(wanted, table()), torch.full((EPOCHS, N), torch.nan)
    for rank in range(2):
        found = torch.load(tmp_path / f"found{rank}.pt", weights_only=True)
        both[found["weights"].isfinite()] = found["weights"][found["weights"].isfinite()]
        found.pop("weights")
        assert set(found) == set(wanted.state_dict())
        for name, value in wanted.state_dict().items():
            torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(both, weights)


def test_the_trainer_tells_how_long_it_takes_and_the_method_logs_what_is_flagged() -> None:
    case = joint(Contrastive, "signal", weighting=lambda: BadPairMiner(warmup=1))
    method: Any = case.make()
    method._trainer = SimpleNamespace(max_steps=10, accumulate_grad_batches=3)
    method.on_train_start()
    assert method.weighting._calls == 30
    method._trainer = None
    terms = method.loss(case.batch(method, size=4)).terms
    assert {"noisy_pairs", "faulty_pairs", "pair_weight"} <= set(terms)
    assert method.weighting.count.sum() == 4
    method.eval()
    method.loss(case.batch(method, size=4))
    assert method.weighting.count.sum() == 4, "it learns in training only"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"weighting": "gauss"}, "weighting"),
        ({"history": "median"}, "history"),
        ({"noisy": 0.0}, "noisy"),
        ({"faulty": -1.0}, "faulty"),
        ({"warmup": -1}, "warmup"),
        ({"ema_decay": 1.0}, "ema_decay"),
    ],
)
def test_bad_settings_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        BadPairMiner(**wrong)


def test_the_published_history_must_know_how_long_the_run_is() -> None:
    with pytest.raises(ConfigError, match="plan"):
        feed(miner(weighting="code"), table())


@pytest.mark.slow
def test_bad_pairs_planted_among_signals_are_found_while_a_network_is_trained() -> None:
    file = Path(__file__).resolve().parents[2] / "benchmarks" / "bad_pairs.py"
    found = importlib.util.spec_from_file_location("bad_pairs_benchmark", file)
    assert found is not None and found.loader is not None
    bench = importlib.util.module_from_spec(found)
    sys.modules[found.name] = bench  # named tuples look their module up
    found.loader.exec_module(bench)
    data = bench.planted(640, share=0.1, seed=0)
    mining = BadPairMiner(warmup=3, noisy=1.0, faulty=1.0)
    _, history = bench.train(data, miner=mining, epochs=8, seed=0)
    for row in history[3:]:
        assert row["noisy loss"] < row["clean loss"] < row["faulty loss"]
        assert row["faulty precision"] > 0.7 and row["faulty recall"] > 0.7
    assert max(row["noisy recall"] for row in history) > 0.2
    assert all(row["noisy precision"] > 0.6 for row in history if row["noisy recall"] > 0)
