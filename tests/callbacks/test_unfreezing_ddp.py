"""Gradual unfreezing on two gloo ranks.

Lightning's own callback lets the ranks diverge without an error (pytorch-lightning #20340).
"""

import json

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lightning_transfer.callbacks import GradualUnfreezing
from tests.tiny import make_trainer

WIDTH, ROWS, BATCH = 4, 32, 8
PHASES = [{"from_depth": 3}, {"from_depth": 2, "at_epoch": 1}, {"from_depth": 0, "at_step": 9}]
SCHEDULES = {
    "gradual": PHASES,
    "chain-thaw": "chain-thaw",
    "plateau": [
        {"from_depth": "head"},
        {"from_depth": 1, "at_plateau": {"monitor": "val/loss", "min_delta": 9.0}},
    ],
}
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*fork:DeprecationWarning", "ignore:.*sync_dist=True:UserWarning"
)


class Plain(pl.LightningModule):
    """A module without dropout, with different rows on each rank."""

    def __init__(self, optimizer=torch.optim.SGD, ranks=1):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(
            *(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(3))
        )
        self.head = nn.Linear(WIDTH, 1)
        self.optimizer = optimizer
        self.ranks = ranks

    @property
    def layers(self):
        return list(self.backbone)

    def training_step(self, batch, batch_idx):
        return nn.functional.mse_loss(self.head(self.backbone(batch[0])), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        optimizer = self.optimizer(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]

    def train_dataloader(self):
        return self._loader()

    def val_dataloader(self):
        return self._loader()

    def _loader(self):
        x = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(1))
        rows = TensorDataset(x, x.prod(1, keepdim=True) + x.sum(1, keepdim=True))
        if self.ranks == 1:
            return DataLoader(rows, batch_size=BATCH)
        sampler = DistributedSampler(rows, self.ranks, self.global_rank, shuffle=False)
        return DataLoader(rows, batch_size=BATCH // self.ranks, sampler=sampler)


class Counting(DDPStrategy):
    """Count the gradient values sent in each backward pass."""

    strategy_name = "counting"

    def configure_ddp(self):
        super().configure_ddp()
        self.sent = []

        def counted(state, bucket):
            self.sent.append(bucket.buffer().numel())
            work = torch.distributed.all_reduce(bucket.buffer(), async_op=True).get_future()
            return work.then(lambda done: done.value()[0] / 2)

        self.model.register_comm_hook(None, counted)


class Note(pl.Callback):
    """Save the weights of each rank after each epoch, and the traffic of each step."""

    def __init__(self, folder):
        self.folder = folder
        self.sent, self.trains = [], []

    def on_train_batch_end(self, trainer, module, *_):
        self.trains.append(sum(p.numel() for p in module.parameters() if p.requires_grad))
        strategy = trainer.strategy
        if isinstance(strategy, Counting):
            self.sent.append(sum(strategy.sent))
            strategy.sent.clear()

    def on_train_epoch_end(self, trainer, module):
        name = f"epoch{trainer.current_epoch}-rank{trainer.global_rank}"
        torch.save(module.state_dict(), self.folder / f"{name}.pt")
        found = {"sent": self.sent, "trains": self.trains}
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(found))


def fit(folder, callback, *, ranks=1, epochs=5, optimizer=torch.optim.SGD, **arguments):
    if ranks > 1:
        strategy = Counting(start_method="fork", process_group_backend="gloo")
        arguments = {"devices": ranks, "strategy": strategy, **arguments}
    trainer = make_trainer(
        max_epochs=epochs,
        callbacks=[callback, Note(folder)],
        use_distributed_sampler=False,
        **arguments,
    )
    trainer.fit(Plain(optimizer, ranks))
    return folder


def weights(folder, epoch, rank):
    return torch.load(folder / f"epoch{epoch}-rank{rank}.pt", weights_only=True)


def largest_difference(one, other):
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_ranks_stay_equal_and_equal_one_device(tmp_path, schedule, optimizer):
    callbacks = [GradualUnfreezing(schedule, layers="layers") for _ in range(2)]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = fit(tmp_path / "one", callbacks[0], optimizer=optimizer)
    two = fit(tmp_path / "two", callbacks[1], optimizer=optimizer, ranks=2)
    for epoch in range(5):
        ranks = [weights(two, epoch, rank) for rank in range(2)]
        assert largest_difference(*ranks) == 0
        # Not exact: Adam normalises gradients, even those that are only rounding errors.
        assert largest_difference(weights(one, epoch, 0), ranks[0]) < 1e-5
    moved = largest_difference(weights(two, 0, 0), weights(two, 4, 0))
    assert moved > 0.01


def test_frozen_parameters_cause_no_traffic(tmp_path):
    fit(tmp_path, GradualUnfreezing(PHASES, layers="layers"), ranks=2)
    for rank in range(2):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text())
        layer, head = WIDTH * WIDTH + WIDTH, WIDTH + 1
        expected = [head] * 4 + [head + layer] * 5 + [head + 3 * layer] * 11
        assert found["trains"] == expected
        assert found["sent"] == expected


def test_ranks_stay_equal_under_gradient_accumulation(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    phases = [{"from_depth": 3}, {"from_depth": 1, "at_step": 3}]
    for name, ranks in (("one", 1), ("two", 2)):
        callback = GradualUnfreezing(phases, layers="layers")
        fit(tmp_path / name, callback, ranks=ranks, accumulate_grad_batches=2)
    ranks = [weights(tmp_path / "two", 4, rank) for rank in range(2)]
    assert largest_difference(*ranks) == 0
    assert largest_difference(weights(tmp_path / "one", 4, 0), ranks[0]) < 1e-5


class Peer(BackboneFinetuning):
    """The same schedule with Lightning's own callback."""

    def __init__(self):
        super().__init__(unfreeze_backbone_at_epoch=1, lambda_func=lambda epoch: 1.0)


def of_trainable(parameters, lr):
    """Return an optimizer of the trainable parameters, as BackboneFinetuning requires."""
    return torch.optim.SGD([p for p in parameters if p.requires_grad], lr=lr)


def test_ranks_diverge_with_lightnings_callback(tmp_path):
    """These tests can fail: they detect the divergence."""
    fit(tmp_path, Peer(), ranks=2, optimizer=of_trainable)
    assert largest_difference(weights(tmp_path, 0, 0), weights(tmp_path, 0, 1)) == 0
    assert largest_difference(weights(tmp_path, 4, 0), weights(tmp_path, 4, 1)) > 1e-4
