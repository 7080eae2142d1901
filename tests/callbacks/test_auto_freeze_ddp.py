"""AutoFreeze on two gloo ranks: equal freezing steps, equal weights, no needless traffic."""

import json

import pytest
import torch

from lightning_transfer.callbacks import AutoFreeze
from tests.callbacks.test_unfreezing_ddp import WIDTH, fit, largest_difference, weights

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*fork:DeprecationWarning", "ignore:.*sync_dist=True:UserWarning"
)


def recorded(folder, rank):
    return json.loads((folder / f"rank{rank}.json").read_text())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_ranks_freeze_at_the_same_step_and_equal_one_device(tmp_path, accumulate):
    for name, ranks in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        callback = AutoFreeze(70, every=2, start=0, layers="layers")
        fit(
            tmp_path / name,
            callback,
            ranks=ranks,
            optimizer=torch.optim.AdamW,
            accumulate_grad_batches=accumulate,
        )
    one, two = tmp_path / "one", tmp_path / "two"
    trains = recorded(one, 0)["trains"]
    assert trains == recorded(two, 0)["trains"] == recorded(two, 1)["trains"]
    layer, head = WIDTH * WIDTH + WIDTH, WIDTH + 1
    assert trains[0] == 3 * layer + head
    assert trains == sorted(trains, reverse=True)
    assert trains[-1] == layer + head
    for epoch in range(5):
        ranks = [weights(two, epoch, rank) for rank in range(2)]
        assert largest_difference(*ranks) == 0
        assert largest_difference(weights(one, epoch, 0), ranks[0]) < 1e-5


def test_frozen_layers_cause_no_traffic(tmp_path):
    fit(tmp_path, AutoFreeze(70, every=2, start=0, layers="layers"), ranks=2)
    for rank in range(2):
        found = recorded(tmp_path, rank)
        assert found["sent"] == found["trains"]
        assert len(set(found["trains"])) > 1
