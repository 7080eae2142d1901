"""Whole runs share the stored outputs of equal frozen layers."""

import pytest

from lightning_transfer.callbacks.activation_cache.activation_store import SUMS
from tests.runs import results

FROZEN = "finetuning@stages.target.finetuning=frozen"


@pytest.fixture(autouse=True)
def stores(runs, tmp_path):
    """Return the checksums of all stored rows, by file."""
    runs.environment["LIGHTNING_TRANSFER_CACHE"] = str(tmp_path / "cache")
    folder = tmp_path / "cache" / "activations"
    return lambda: {path: path.read_bytes() for path in folder.glob(f"*/{SUMS}")}


def count(sums: bytes) -> int:
    return sum(any(sums[at : at + 4]) for at in range(0, len(sums), 4))


def scores(folder):
    [row] = results(folder)["rows"]
    return {name: values["values"] for name, values in row["metrics"].items()}


def test_a_sweep_over_a_frozen_backbone_computes_no_row_twice(runs, stores, tmp_path):
    runs.target(tmp_path / "one", overrides=[FROZEN])
    [(path, first)] = stores().items()
    assert count(first) == 32 + 16 + 40  # training, validation and test rows
    rate = [FROZEN, "stages.target.optimizer.lr=0.003"]
    runs.target(tmp_path / "two", overrides=rate)
    assert stores() == {path: first}
    runs.target(tmp_path / "without", overrides=[*rate, "activation_cache=null"])
    for name, values in scores(tmp_path / "without").items():
        assert scores(tmp_path / "two")[name] == pytest.approx(values, rel=1e-4), name


def test_a_run_with_another_seed_computes_only_new_rows(runs, stores, tmp_path):
    runs.target(tmp_path / "one", overrides=[FROZEN])
    [(path, first)] = stores().items()
    runs.target(tmp_path / "two", overrides=[FROZEN, "seed=1"])
    [(again, both)] = stores().items()
    assert again == path
    assert count(first) < count(both) < 2 * 32 + 16 + 40


def test_full_fine_tuning_stores_nothing(runs, stores, tmp_path):
    runs.target(tmp_path)
    assert stores() == {}
