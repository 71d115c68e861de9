"""``metrics.csv`` stays readable across kills, continuations and new columns."""

from __future__ import annotations

from pathlib import Path

from medssl.training.metrics_log import MetricsFile, read_metrics


def test_values_keep_every_digit_and_new_columns_are_added(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path, upto=0)
    file.add(1, {"loss": 0.1 + 0.2})
    file.add(2, {"loss": 1.0, "rankme": 7.5})
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.1 + 0.2}, {"step": 2, "loss": 1.0, "rankme": 7.5}]
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0] == "step,loss,rankme"


def test_values_of_one_step_share_a_row(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path, upto=0)
    file.add(5, {"loss": 1.0})
    file.add(5, {"rankme": 3.0})
    assert read_metrics(tmp_path) == [{"step": 5, "loss": 1.0, "rankme": 3.0}]


def test_continuing_drops_rows_of_the_lost_part(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path, upto=0)
    for step in (1, 2, 3):
        file.add(step, {"loss": float(step)})
    MetricsFile(tmp_path, upto=2).add(3, {"loss": 30.0})
    assert [row["loss"] for row in read_metrics(tmp_path)] == [1.0, 2.0, 30.0]


def test_a_row_cut_short_by_a_kill_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss\n1,0.5\n2,0.")
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.5}]
    assert read_metrics(tmp_path / "nowhere") == []
