"""The mean loss of a split counts each row once, independent of the number of rows per rank."""

import pytest
from lightning.pytorch import LightningDataModule
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from lightning_transfer.heads import MLPHead
from lightning_transfer.tasks import SequenceClassification
from lightning_transfer.utils import Labels
from tests.tiny import HIDDEN, make_backbone, make_loader, make_trainer

LABELS = Labels("single_label", ("a", "b"))


class UnequalRanks(LightningDataModule):
    """Nine rows, five of them for the first of two ranks."""

    def test_dataloader(self):
        world, rank = self.trainer.world_size, self.trainer.global_rank
        rows = list(make_loader("single_label", rows=9).dataset)[rank::world]
        return DataLoader(rows, batch_size=2)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_ranks_log_the_loss_of_one():
    def loss(**arguments):
        head = MLPHead(HIDDEN, LABELS.num_outputs)
        task = SequenceClassification(make_backbone(), head, labels=LABELS).eval()
        for parameter in head.parameters():
            parameter.data.fill_(0.5).view(-1)[::2] = -0.7
        trainer = make_trainer(use_distributed_sampler=False, **arguments)
        trainer.test(task, datamodule=UnequalRanks(), verbose=False)
        return float(trainer.callback_metrics["test/loss"])

    ranks = DDPStrategy(start_method="fork", process_group_backend="gloo")
    assert loss(devices=2, strategy=ranks) == pytest.approx(loss(), rel=1e-5)
