"""Scores of generated texts on two ranks and on one."""

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Subset

from tests.seq2seq import Pairs, make_task
from tests.tiny import make_trainer


class UnequalPairs(Pairs):
    """Distributes rows to ranks, one more to the first."""

    def _loader(self):
        whole = super()._loader()
        trainer: Trainer = self.trainer
        world, rank = trainer.world_size, trainer.global_rank
        rows = [r for r in range(len(whole.dataset)) if r % world == rank]
        return DataLoader(Subset(whole.dataset, rows), batch_size=3, collate_fn=self._collate)

    test_dataloader = _loader


@pytest.mark.slow
def test_two_ranks_give_the_scores_of_one(tmp_path):
    def test(**arguments):
        torch.manual_seed(0)
        trainer = make_trainer(use_distributed_sampler=False, **arguments)
        task = make_task("bart")
        trainer.test(task, datamodule=UnequalPairs(rows=11), verbose=False)
        return {k: float(v) for k, v in trainer.callback_metrics.items()}

    alone = test()
    assert alone["test/chrf"] > 0
    assert test(devices=2, strategy="ddp_fork") == pytest.approx(alone, rel=1e-5)
