"""Scores of entities and summaries on two gloo ranks and on one."""

import json

import lightning.pytorch as pl
import pytest
from lightning.pytorch.strategies import DDPStrategy

from lightning_transfer.tasks import LeadSentences
from tests.data.domains.test_highlighted_sentences import folder, make_data
from tests.tasks.test_sentence_extraction import make_task as make_extraction
from tests.tasks.test_token_classification import make_task as make_tagging
from tests.tasks.test_token_classification import tagged
from tests.tiny import make_trainer

__all__ = ["folder"]  # a fixture
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*sync_dist=True:UserWarning"),
]


class MetricsFile(pl.Callback):
    """Writes metrics to a file, because those of a forked process are lost with it."""

    def __init__(self, path):
        self.path = path

    def on_test_end(self, trainer, module):
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if trainer.is_global_zero:
            self.path.write_text(json.dumps(found))


@pytest.mark.parametrize("kind", ["tags", "summaries"])
def test_two_ranks_give_the_scores_of_one(kind, folder, tokenizer, tmp_path):
    found = []
    for ranks in (1, 2):
        if kind == "tags":
            task, data = make_tagging(), tagged(tokenizer)
        else:
            task, data = make_extraction(LeadSentences), make_data(folder, tokenizer)
        strategy = DDPStrategy(start_method="fork", process_group_backend="gloo")
        trainer = make_trainer(
            devices=ranks,
            strategy=strategy if ranks > 1 else "auto",
            use_distributed_sampler=False,
            callbacks=[MetricsFile(tmp_path / f"{ranks}.json")],
        )
        trainer.test(task, datamodule=data, verbose=False)
        found.append(json.loads((tmp_path / f"{ranks}.json").read_text()))
    names = {name for name in found[0] if not name.endswith("loss")}  # a mean over ranks
    assert len(names) >= 4
    assert {n: found[1][n] for n in names} == pytest.approx({n: found[0][n] for n in names})
    assert max(found[0][name] for name in names) > 0.05
