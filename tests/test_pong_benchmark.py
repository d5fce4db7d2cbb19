"""benchmarks/pong.py, from which the numbers of the study come: stopped, gone on with, and ended."""

from pathlib import Path

import pytest


@pytest.fixture
def pong(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return pytest.importorskip("pong")


def train(pong, folder, steps):
    arguments = pong.setting(
        "dqn", steps, {"batch_size": 8, "gradient_steps": 1, "compile": False, "amp": False}, "cpu"
    )
    pong.train(0, steps, arguments, folder / "dqn_0.csv", folder / "checkpoint")


def test_a_run_that_has_ended_is_not_made_again(pong, tmp_path):
    """Nor do rows of games after the last checkpoint stay, which nobody knows the weights of."""
    table = tmp_path / "dqn_0.csv"
    train(pong, tmp_path, 8_400)
    first = table.read_text()
    rows = pong.read(table)
    assert rows
    train(pong, tmp_path, 8_400)
    assert table.read_text() == first
    pong.write(table, [*rows, rows[-1] | {"env_steps": 9_000.0}])
    train(pong, tmp_path, 8_400)
    assert pong.read(table) == rows
    train(pong, tmp_path, 17_000)  # goes on
    assert len(pong.read(table)) > len(rows)
    assert pong.read(table)[: len(rows)] == rows


def test_results_without_checkpoints_are_not_written_over(pong, tmp_path):
    table = tmp_path / "dqn_0.csv"
    pong.write(table, [dict.fromkeys(pong.FIELDS, 1.0)])
    before = table.read_text()
    with pytest.raises(ValueError, match="--results"):
        train(pong, tmp_path, 8_400)
    assert table.read_text() == before
