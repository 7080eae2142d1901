"""Lead-n baseline of summarization: scores, checkpoints and errors."""

import pytest
from torchmetrics.functional.text import rouge_score, sacre_bleu_score

from lightning_transfer.checkpoints.loading import load
from lightning_transfer.data import Splits, TextToText
from lightning_transfer.heads import DecoderHead
from lightning_transfer.heads.factory import make_head
from lightning_transfer.tasks import LeadText
from lightning_transfer.utils import Labels
from tests.seq2seq import TEXT
from tests.tiny import OwnBackbone, OwnHead, make_trainer
from tests.tiny_seq2seq import make_seq2seq

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


class Stories(TextToText):
    def load_rows(self):
        return {
            "text": [
                f"The film {n} is good. It was {n % 3} times dull. The end." for n in range(30)
            ],
            "target": [f"Film {n} is dull {n % 3} times." for n in range(30)],
        }


def make_data(tokenizer):
    data = Stories(splits=Splits(val=4, test=7), batch_size=3)
    data.tokenizer = tokenizer
    data.setup("fit")
    return data


def make_task(backbone=None, **arguments):
    return LeadText(backbone or OwnBackbone(), OwnHead(16, 1), labels=TEXT, **arguments)


@pytest.mark.parametrize("count", [1, 2])
def test_the_first_sentences_are_scored_as_generated_texts(tokenizer, count):
    data = make_data(tokenizer)
    task = make_task(sentences=count, scores=["bleu", "rouge1", "rougeL"])
    [found] = make_trainer().test(task, datamodule=data, verbose=False)
    rows = data.rows("test")
    leads = [". ".join(text.split(". ")[:count]) + "." for text in rows["text"]]
    targets = list(rows["target"])
    score = rouge_score(leads, targets, rouge_keys=("rouge1", "rougeL"))
    bleu = sacre_bleu_score(leads, [[target] for target in targets])
    assert found == {
        "test/bleu": pytest.approx(100 * float(bleu)),
        "test/rouge1": pytest.approx(100 * float(score["rouge1_fmeasure"]), rel=1e-5),
        "test/rougeL": pytest.approx(100 * float(score["rougeL_fmeasure"]), rel=1e-5),
    }
    [validated] = make_trainer().validate(task, datamodule=data, verbose=False)
    assert set(validated) == {"val/bleu", "val/rouge1", "val/rougeL"}


def test_a_checkpoint_gives_the_same_scores(tokenizer, tmp_path):
    data, trainer = make_data(tokenizer), make_trainer(max_steps=0)
    backbone = make_seq2seq("bart")
    head = make_head(DecoderHead, backbone, 0)
    task = LeadText(backbone, head, labels=TEXT, sentences=2)
    trainer.fit(task, datamodule=data)
    trainer.save_checkpoint(tmp_path / "lead.ckpt", weights_only=True)
    again = load(tmp_path / "lead.ckpt").task
    assert again.sentences == 2
    scores = [make_trainer().test(one, datamodule=data, verbose=False) for one in (task, again)]
    assert scores[0] == scores[1]


def test_training_is_an_error(tokenizer):
    data = make_data(tokenizer)
    with pytest.raises(ValueError, match=r"LeadText has nothing to train; .*trainer.max_steps=0"):
        make_trainer(max_steps=1).fit(make_task(), datamodule=data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sentences": 0}, r"sentences must be >= 1, got 0; set task.sentences=1"),
        (
            {"scores": ["rougeX"]},
            r"unknown score 'rougeX' in task.scores; did you mean rouge.* scores: bleu, chrf",
        ),
        (
            {"labels": Labels("regression")},
            r"needs labels of kind 'text', got 'regression'; use texts with target texts",
        ),
    ],
)
def test_wrong_arguments_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        LeadText(OwnBackbone(), OwnHead(16, 1), **{"labels": TEXT, **arguments})
