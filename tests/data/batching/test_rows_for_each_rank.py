"""Error on all processes if an evaluated split has fewer rows than there are processes."""

from types import SimpleNamespace

import pytest
from lightning.pytorch.strategies import DDPStrategy
from torch.multiprocessing import ProcessRaisedException

from lightning_transfer.data import (
    BlockSpec,
    LabelSpec,
    RawText,
    Splits,
    TextDataModule,
    TextToText,
)
from tests.data.readers.test_documents import Listed, stories
from tests.data.test_tagged_text import Tags
from tests.tasks.test_token_classification import make_task
from tests.tiny import make_trainer

TEXTS = [f"text {number}" for number in range(20)]


class Labelled(TextDataModule):
    default_label = LabelSpec("single_label", names=["a", "b"])

    def load_rows(self):
        return {"text": TEXTS, "label": ["a", "b"] * 10}


class Paired(TextToText):
    def load_rows(self):
        return {"text": TEXTS, "target": TEXTS}


def raw(splits):
    return RawText(Listed(*stories(20)), splits=splits, blocks=BlockSpec(20))


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("kind", [Labelled, Paired, Tags, raw])
def test_fewer_rows_than_processes_are_an_error_before_the_first_batch(tokenizer, kind, stage):
    split, option = ("test", "test") if stage in ("test", "predict") else ("validation", "val")

    def set_up(rows, processes):
        data = kind(splits=Splits(**{"val": 5, "test": 5, option: rows}))
        data.tokenizer = tokenizer
        if processes:
            data.trainer = SimpleNamespace(global_rank=0, world_size=processes, overfit_batches=0)
        data.setup(stage)

    set_up(2, None)
    set_up(2, 1)
    set_up(2, 2)
    if stage == "fit":
        set_up(0, 3)  # not evaluated
    if stage == "predict":
        set_up(2, 3)  # in prediction, no process waits for another
        return
    with pytest.raises(
        ValueError, match=rf"{split} row\(s\) for .*; set data.splits\.{option}=50 or more, or"
    ):
        set_up(1, 50)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_processes_with_one_row_do_not_wait_for_each_other(tokenizer):
    data = Tags(splits=Splits(val=5, test=1), batch_size=4)
    data.tokenizer = tokenizer
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo")
    trainer = make_trainer(devices=2, strategy=strategy, use_distributed_sampler=False)
    with pytest.raises(ProcessRaisedException, match=r"Tags: 1 test row\(s\) for 2 processes"):
        trainer.test(make_task(), datamodule=data, verbose=False)
