import copy
import logging
import random

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tokenizers import AddedToken

from lightning_transfer.data import Splits, TargetColumns, TextToText, Tokens
from lightning_transfer.utils import Labels
from tests.conftest import WORDS

SEP, IGNORED = 3, -100


def make_pairs(count, seed=0):
    rng = random.Random(seed)
    lengths = [rng.randint(1, 14) for _ in range(count)]
    texts = [" ".join([*rng.choices(WORDS, k=k), str(number)]) for number, k in enumerate(lengths)]
    targets = [
        " ".join([*rng.choices(WORDS, k=rng.randint(1, k)), f"t{number}"])
        for number, k in enumerate(lengths)
    ]
    return {"text": texts, "target": targets}


def domain(**table):
    class Pairs(TextToText):
        def load_rows(self):
            return table

    return Pairs


@pytest.fixture
def pairs():
    return domain(**make_pairs(100))


def ready(kind, tokenizer, **arguments):
    data = kind(**{"batch_size": 8, **arguments})
    data.tokenizer = tokenizer
    data.prepare_data()
    data.setup("fit")
    return data


def test_batches_have_both_texts_and_the_positions_of_their_rows(pairs, tokenizer):
    data = ready(pairs, tokenizer)
    assert data.labels == Labels("text")
    assert (data.n_train, data.n_val, data.n_test) == (70, 10, 20)
    seen = []
    for split, loader in (
        ("train", data.train_dataloader()),
        ("validation", data.val_dataloader()),
        ("test", data.test_dataloader()),
        ("test", data.predict_dataloader()),
    ):
        rows = data.rows(split)
        for batch in loader:
            assert all(batch[n].dtype == torch.int64 for n in ("input_ids", "labels", "row"))
            for at, (index, row) in enumerate(zip(batch["index"], batch["row"], strict=True)):
                text, target = rows[int(index)]["text"], rows[int(index)]["target"]
                ids = batch["input_ids"][at][batch["attention_mask"][at] == 1]
                assert ids.tolist() == tokenizer(text)["input_ids"]
                assert ids.tolist() == data.token_table.row(int(row))["input_ids"].tolist()
                labels = batch["labels"][at]
                length = int((labels != IGNORED).sum())
                wanted = tokenizer(target, add_special_tokens=False)["input_ids"]
                assert labels[:length].tolist() == [*wanted, SEP]
                assert (labels[length:] == IGNORED).all()
            assert (batch["labels"] != IGNORED).any(0).all()  # padded to its longest row only
            seen.append((split, batch["index"].tolist()))
    for split, count in (("train", 70), ("validation", 10), ("test", 40)):
        index = [i for name, batch in seen if name == split for i in batch]
        assert len(index) == count
        assert set(index) == set(range(len(data.rows(split))))


def test_target_texts_may_have_another_tokenizer(pairs, tokenizer):
    other = copy.deepcopy(tokenizer)
    other.add_tokens([AddedToken("t5", single_word=True)])
    data = ready(pairs, tokenizer)
    before = data.token_table.fingerprint
    data.target_tokenizer = other
    data.setup("fit")
    assert data.token_table.fingerprint == before
    new = other.convert_tokens_to_ids("t5")
    batches = [*data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader()]
    assert sum(int((batch["labels"] == new).sum()) for batch in batches) == 1
    assert not any((batch["input_ids"] == new).any() for batch in batches)


def test_no_text_and_no_target_text_is_in_two_splits():
    rng = random.Random(0)
    pool = [f"{word} {number}" for number in range(60) for word in ("film", "plot")]
    table = {
        "text": [rng.choice(pool[:100]) for _ in range(80)],
        "target": [rng.choice(pool) for _ in range(80)],
    }
    data = domain(**table)(splits=Splits(val=5, test=5))
    data.setup("fit")
    splits_of = {}
    for split in ("train", "validation", "test"):
        for row in data.rows(split):
            for side in ("text", "target"):
                assert splits_of.setdefault((side, row[side]), split) == split
    assert data.n_test >= 5
    assert data.n_val >= 5


def test_training_rows_with_a_text_of_a_given_test_row_are_dropped(caplog):
    table = {
        "text": ["a dog", "A dog!", "a cat", "a cow", "a cow"],
        "target": ["ein Hund", "der Hund", "Ein Hund.", "eine Kuh", "eine Kuh"],
        "split": ["test", "train", "train", "train", "train"],
    }
    data = domain(**table)(splits=Splits(val=0))
    with caplog.at_level(logging.INFO):
        data.setup("fit")
    assert data.rows("train")["text"][:] == ["a cow"]
    assert data.rows("test")["target"][:] == ["ein Hund"]
    assert caplog.messages == [
        "Pairs: 1 train, 0 validation, 1 test rows; dropped 1 duplicate pairs and 2 pairs that "
        "share a text or group with another split"
    ]


def test_the_split_of_a_row_does_not_depend_on_the_order_of_the_rows():
    table = make_pairs(60)
    table["text"][7] = table["text"][3]
    backwards = {name: column[::-1] for name, column in table.items()}
    found = []
    for one in (table, backwards):
        data = domain(**one)()
        data.setup("fit")
        found.append([sorted(data.rows(split)["target"]) for split in ("train", "test")])
    assert found[0] == found[1]


def test_rows_of_a_group_stay_in_one_split():
    table = {**make_pairs(60), "group": [f"project {row // 6}" for row in range(60)]}
    data = domain(**table)(columns=TargetColumns(group="group"))
    data.setup("fit")
    splits_of = {}
    for split in ("train", "validation", "test"):
        for place in data.rows(split)["row"]:
            group = (int(place.rpartition(" ")[2]) - 1) // 6
            assert splits_of.setdefault(group, split) == split
    assert len(splits_of) == 10


def test_a_larger_training_subset_contains_a_smaller_one(pairs):
    drawn = []
    for size in (10, 0.5, None):
        data = pairs(train_size=size)
        data.setup("fit")
        drawn.append(set(data.rows("train")["text"]))
    assert list(map(len, drawn)) == [10, 35, 70]
    assert drawn[0] < drawn[1] < drawn[2]
    data = pairs(train_size=10)
    data.seed = 1
    data.setup("fit")
    assert set(data.rows("train")["text"]) != drawn[0]
    with pytest.raises(ValueError, match="train_size=71 asks for more than the 70 training rows"):
        pairs(train_size=71).setup("fit")


def test_max_tokens_counts_both_texts(pairs, tokenizer):
    data = ready(pairs, tokenizer, batch_size=64, max_tokens=120)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        batches = list(loader)
        assert len(batches) == len(loader) > 1
        for batch in batches:
            assert batch["input_ids"].numel() + batch["labels"].numel() <= 120


def test_a_batch_of_texts_without_padding_is_marked(pairs, tokenizer):
    data = ready(pairs, tokenizer)
    for batch in data.test_dataloader():
        marked = data.on_before_batch_transfer(batch, 0)
        assert ("full" in marked) == bool(batch["attention_mask"].all())


def test_a_second_run_reads_tokens_from_the_cache(pairs, tokenizer, monkeypatch):
    def batches():
        return [b["labels"].tolist() for b in ready(pairs, tokenizer).train_dataloader()]

    first = batches()
    monkeypatch.setattr("lightning_transfer.data.tokenization.token_cache.tokenize", None)
    monkeypatch.setattr("lightning_transfer.data.tokenization.token_cache.tokenize_targets", None)
    assert batches() == first


def test_training_texts_are_both_texts_of_the_rows_in_use(pairs):
    data = pairs(train_size=10)
    data.setup("fit")
    rows = data.rows("train")
    texts = list(data.training_texts())
    assert sorted(texts) == sorted([*rows["text"], *rows["target"]])
    assert sorted(data.training_texts(("target",))) == sorted(rows["target"])
    digest = data.training_digest()
    assert pairs(train_size=10).training_digest() == digest
    assert data.training_digest(("text",)) != digest
    assert pairs(train_size=11).training_digest() != digest
    with pytest.raises(ValueError, match="sides must be text or target, got label"):
        list(data.training_texts(("label",)))


def test_truncation_of_both_texts_is_logged_once(tokenizer, caplog):
    data = domain(text=["good film", "bad " * 9], target=["good " * 7, "bad"])(
        splits=Splits(0, 0), tokens=Tokens(8), target_tokens=Tokens(5, "tail")
    )
    data.tokenizer = tokenizer
    with caplog.at_level(logging.INFO):
        data.setup("fit")
        data.setup("fit")
    counts = "of 2 train, 0 of 0 validation, 0 of 0 test rows"
    assert caplog.messages[-2:] == [
        f"Pairs: truncated to 8 tokens, head kept: 1 {counts}",
        f"Pairs: targets truncated to 5 tokens, tail kept: 1 {counts}",
    ]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"text": ["a"]}, "Pairs: load_rows.. must return the columns text and target, got text"),
        ({"text": ["a", "b"], "target": ["x"]}, "equal length, got 2 x text, 1 x target"),
        ({"text": [], "target": []}, "Pairs has no rows"),
        (
            {"text": ["a", "b"], "target": ["x", " "]},
            r"row 2, column 'target': empty text; correct",
        ),
        ({"text": ["a", None], "target": ["x", "y"]}, r"row 2, column 'text': no text"),
        ({"text": ["a", "b"], "target": ["x", 3]}, r"row 2, column 'target': 3 is not text"),
        ({"text": ["a"], "target": ["x"], "split": ["dev"]}, "split must be one of .* got 'dev'"),
    ],
)
def test_a_bad_row_is_an_error_with_its_place(table, message):
    with pytest.raises(ValueError, match=message):
        domain(**table)().setup("fit")


def test_bad_rows_are_skipped_with_a_warning(caplog):
    table = {"text": ["a b", "", "c d"], "target": ["x", "y", "z"], "group": ["g", None, ""]}
    data = domain(**table)(on_bad_row="skip", splits=Splits(0, 0))
    data.setup("fit")
    assert sorted(data.rows("train")["target"]) == ["x", "z"]
    assert "skipped 1 bad rows of 3; the first: Pairs, row 2, column 'text'" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be >= 1, got 0; set data.batch_size"),
        ({"max_tokens": 0}, "max_tokens must be >= 1, got 0"),
        ({"train_size": -1}, "train_size must be a count >= 0"),
        ({"on_bad_row": "drop"}, "on_bad_row must be error or skip, got 'drop'"),
    ],
)
def test_bad_arguments_are_an_error(pairs, arguments, message):
    with pytest.raises(ValueError, match=message):
        pairs(**arguments)


def test_an_empty_split_and_a_missing_tokenizer_are_errors(pairs):
    data = pairs(splits=Splits(val=0))
    with pytest.raises(
        ValueError, match=r"no validation rows; change data.train_size, data.splits.val"
    ):
        data.setup("validate")
    with pytest.raises(RuntimeError, match=r"no tokenizer: set data.tokenizer"):
        data.train_dataloader()
    with pytest.raises(ValueError, match="source of Pairs must be one path, got"):
        _ = pairs({"train": "a"}).source_path


class Recorder(LightningModule):
    """Records the rows of its training batches."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, step):
        self.seen.append(batch["row"].tolist())
        return self.weight * batch["labels"].shape[1]

    def validation_step(self, batch, step):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(Callback):
    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def fit(data, *, callbacks=(), checkpoint=None):
    recorder = Recorder()
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=list(callbacks),
    )
    trainer.fit(recorder, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return recorder.seen


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval")
@pytest.mark.filterwarnings("ignore:.*LeafSpec")
@pytest.mark.parametrize("step", [4, 13])
def test_training_resumes_in_the_middle_of_an_epoch(pairs, tokenizer, tmp_path, step):
    path = tmp_path / "mid.ckpt"
    whole = fit(ready(pairs, tokenizer), callbacks=[SaveAt(step, path)])
    assert len(whole) == 18
    assert whole[:9] != whole[9:]
    assert fit(ready(pairs, tokenizer), checkpoint=path) == whole[step:]
