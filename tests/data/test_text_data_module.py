import copy
import logging
import math
import random
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.data import extract_batch_size

from lightning_transfer.data import Columns, LabelSpec, Splits, TextDataModule, Tokens
from lightning_transfer.utils import Labels

MOODS = ["negative", "neutral", "positive"]
BINS = LabelSpec("regression", names=MOODS, cutoffs=[-0.5, 0.5])
WORDS = "good great fine fun warm bad poor dull cold sad film movie plot actor scene".split()


def make_texts(count):
    rng = random.Random(0)
    return [
        " ".join([*rng.choices(WORDS, k=rng.randint(2, 20)), f"{number}"])
        for number in range(count)
    ]


def domain(**table):
    """Return a DataModule class with these columns. It counts how often they are loaded."""

    class Domain(TextDataModule):
        loads = 0

        def load_rows(self):
            type(self).loads += 1
            return Dataset.from_dict(table)

    return Domain


@pytest.fixture
def numbers():
    values = [(row % 9) - 4 for row in range(200)]
    return domain(text=make_texts(200), label=values)


def batches_of(loader):
    return list(loader)


def test_batches_have_the_inputs_and_targets_of_the_task(numbers, tokenizer):
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    data = numbers(label=BINS, batch_size=8)
    data.tokenizer = tokenizer
    data.setup("fit")
    batches = batches_of(data.train_dataloader())
    assert [len(batch["index"]) for batch in batches].count(8) == 140 // 8
    for batch in batches:
        shape = batch["input_ids"].shape
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            assert batch[name].dtype == torch.int64
            assert batch[name].shape == shape
        assert batch["attention_mask"].sum(1).max() == shape[1]
        assert (batch["input_ids"][batch["attention_mask"] == 0] == tokenizer.pad_token_id).all()
        assert batch["labels"].dtype == torch.float32
        assert batch["index"].dtype == torch.int64
    row = data.rows("train")[int(batches[0]["index"][0])]
    length = batches[0]["attention_mask"][0].sum()
    assert batches[0]["input_ids"][0, :length].tolist() == tokenizer(row["text"])["input_ids"]
    assert batches[0]["labels"][0] == row["label"]


@pytest.mark.parametrize(
    ("spec", "dtype", "shape", "first"),
    [
        (LabelSpec("regression"), torch.float32, (4,), 3.0),
        (LabelSpec("binned", names=["low", "high"], cutoffs=[2]), torch.int64, (4,), 1),
        (LabelSpec("single_label"), torch.int64, (4,), 2),
        (LabelSpec("multi_label", names=["1", "2", "3"]), torch.float32, (4, 3), [0, 0, 1]),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_targets_of_each_label_kind(tokenizer, spec, dtype, shape, first):
    texts = ["good", "bad film", "sad film plot", "a very warm scene"]
    data = domain(text=texts, label=["1", "2", "3", "3"])(
        label=spec, splits=Splits(val=0, test=1.0), batch_size=4
    )
    data.tokenizer = tokenizer
    data.setup("test")
    [batch] = data.test_dataloader()
    assert batch["labels"].dtype == dtype
    assert batch["labels"].shape == shape
    assert batch["labels"][0].tolist() == first  # the longest text comes first
    assert list(data.val_dataloader()) == []


def test_evaluation_has_each_row_once_and_prediction_has_the_test_rows(numbers, tokenizer):
    data = numbers(label=BINS, batch_size=8)
    data.tokenizer = tokenizer
    data.setup("test")
    for loader, count in ((data.val_dataloader(), 20), (data.test_dataloader(), 40)):
        index = torch.cat([batch["index"] for batch in loader])
        assert sorted(index.tolist()) == list(range(count))
    index = torch.cat([batch["index"] for batch in data.predict_dataloader()])
    assert sorted(index.tolist()) == list(range(40))


def test_max_tokens_limits_all_batches(numbers, tokenizer):
    data = numbers(label=BINS, batch_size=64, max_tokens=90)
    data.tokenizer = tokenizer
    data.setup("fit")
    data.setup("test")
    loaders = {
        140: data.train_dataloader(),
        20: data.val_dataloader(),
        40: data.test_dataloader(),
    }
    for count, loader in loaders.items():
        batches = list(loader)
        assert len(batches) == len(loader) > 1
        assert max(batch["input_ids"].numel() for batch in batches) <= 90
        assert sum(len(batch["index"]) for batch in batches) == count
    assert max(batch["input_ids"].numel() for batch in data.predict_dataloader()) <= 90


def test_several_rows_at_once_are_the_same_as_single_rows(numbers, tokenizer):
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    data = numbers(label=BINS)
    data.tokenizer = tokenizer
    data.setup("fit")
    split = data.train_dataloader().dataset
    together = split[[7, 0, 7, 139]]
    alone = [split[position] for position in (7, 0, 7, 139)]
    assert together["lengths"].tolist() == [len(row["input_ids"]) for row in alone]
    for name in ("input_ids", "token_type_ids"):
        joined = [token for row in alone for token in row[name].tolist()]
        assert together[name].tolist() == joined
    for name in ("labels", "index", "row"):
        assert together[name].tolist() == [row[name] for row in alone]


def test_a_second_run_reads_tokens_from_the_cache(numbers, tokenizer, monkeypatch):
    def batches():
        data = numbers(label=BINS, batch_size=8)
        data.tokenizer = tokenizer
        data.prepare_data()
        data.setup("fit")
        return [batch["input_ids"].tolist() for batch in data.train_dataloader()]

    first = batches()

    def refuse(*_, **__):
        raise AssertionError("tokenized again")

    monkeypatch.setattr(type(tokenizer), "__call__", refuse)
    monkeypatch.setattr(type(tokenizer), "_encode_plus", refuse)
    assert batches() == first


def test_a_mapping_of_lists_gives_the_same_rows_as_a_data_set():
    table = {"text": make_texts(30), "label": [row % 3 for row in range(30)]}

    class Plain(TextDataModule):
        def load_rows(self):
            return table

    found = []
    for kind in (Plain, domain(**table)):
        data = kind(label=BINS, splits=Splits(val=5, test=5))
        data.setup("fit")
        found.append([data.rows(split)[:] for split in ("train", "validation", "test")])
    assert sum(len(rows["text"]) for rows in found[0]) == 30
    for rows in found[1]:
        rows["row"] = [place.replace("Domain", "Plain") for place in rows["row"]]
    assert found[0] == found[1]


def test_columns_of_different_lengths_are_an_error():
    class Plain(TextDataModule):
        def load_rows(self):
            return {"text": ["a", "b"], "label": [1]}

    message = "Plain: .* columns of equal length, got 2 x text, 1 x label"
    with pytest.raises(ValueError, match=message):
        Plain(label=BINS).setup("fit")


def test_row_is_the_position_in_the_table_of_all_splits(numbers, tokenizer):
    data = numbers(label=BINS, batch_size=8)
    data.tokenizer = tokenizer
    data.setup("fit")
    loaders = (
        data.train_dataloader(),
        data.val_dataloader(),
        data.test_dataloader(),
        data.predict_dataloader(),
    )
    rows = [[row for batch in loader for row in batch["row"].tolist()] for loader in loaders]
    assert sorted([*rows[0], *rows[1], *rows[2]]) == list(range(200))
    assert rows[3] == rows[2]
    for batch in loaders[0]:
        assert batch["row"].dtype == torch.int64
        for ids, mask, row in zip(
            batch["input_ids"], batch["attention_mask"], batch["row"].tolist(), strict=True
        ):
            assert ids[mask == 1].tolist() == data.token_table.row(row)["input_ids"].tolist()


def test_the_token_table_belongs_to_the_current_tokenizer(numbers, tokenizer):
    data = numbers(label=BINS)
    message = r"no tokens yet: set data.tokenizer, then call setup\(\)"
    with pytest.raises(RuntimeError, match=message):
        _ = data.token_table
    data.tokenizer = tokenizer
    data.setup("fit")
    assert len(data.token_table) == 200
    data.tokenizer = copy.deepcopy(tokenizer)
    with pytest.raises(RuntimeError, match=message):
        _ = data.token_table


def test_repeated_setup_does_not_load_or_tokenize_again(numbers, tokenizer, monkeypatch):
    data = numbers(label=BINS)
    data.tokenizer = tokenizer
    data.prepare_data()
    data.setup("fit")
    monkeypatch.setattr(type(tokenizer), "__call__", None)
    table = data._table
    data.setup("fit")
    data.setup("test")
    data.train_dataloader()
    assert data.loads == 1
    assert data._table is table
    again = numbers(label=BINS, splits=Splits(seed=3), train_size=10)
    again.tokenizer = tokenizer
    again.setup("fit")  # other splits, but the same tokens, from the cache
    assert again.n_train == 10


def test_another_seed_draws_other_training_rows_and_keeps_the_test_rows(numbers):
    data = numbers(label=BINS, train_size=30)
    data.setup("fit")
    train, test = data.rows("train")["text"][:], data.rows("test")["text"][:]
    data.seed = 1
    data.setup("fit")
    assert data.n_train == 30
    assert data.rows("train")["text"][:] != train
    assert data.rows("test")["text"][:] == test


@pytest.mark.parametrize(("train_size", "count"), [(30, 30), (0.5, 70), (1.0, 140), (None, 140)])
def test_train_size_keeps_the_proportions_of_the_bins(numbers, train_size, count):
    data = numbers(label=BINS, train_size=train_size)
    data.setup("fit")
    assert data.n_train == count
    whole = numbers(label=BINS)
    whole.setup("fit")
    for name, rows in whole.label_counts.items():
        assert abs(data.label_counts[name] - rows * count / 140) < 1
    assert sum(data.label_counts.values()) == count


def test_train_size_without_bins_keeps_the_range_of_values(numbers):
    data = numbers(label=LabelSpec("regression"), train_size=20)
    data.setup("fit")
    assert data.label_counts == {}
    assert min(data.rows("train")["label"]) < -1
    assert max(data.rows("train")["label"]) > 1


def test_train_size_with_several_labels_per_row(numbers):
    labels = ["a|b", "a", "b", ""] * 25
    data = domain(text=make_texts(100), label=labels)(label=LabelSpec("multi_label"), train_size=40)
    data.setup("fit")
    assert data.n_train == 40
    assert data.labels == Labels("multi_label", ("a", "b"))
    assert set(data.label_counts) == {"a", "b"}


def test_train_size_per_class(numbers):
    labels = ["ham"] * 80 + ["spam"] * 20
    data = domain(text=make_texts(100), label=labels)(
        label=LabelSpec("single_label"), train_size="4/class"
    )
    data.setup("fit")
    assert data.label_counts == {"ham": 4, "spam": 4}
    first, test = set(data.rows("train")["text"]), data.rows("test")["text"][:]
    data.train_size = "8/class"
    data.setup("fit")
    assert data.label_counts == {"ham": 8, "spam": 8}
    assert first < set(data.rows("train")["text"])
    assert data.rows("test")["text"][:] == test
    data.train_size = "30/class"
    with pytest.raises(
        ValueError, match=r"Domain: train_size=30/class asks for more than the \d+ t"
    ):
        data.setup("fit")
    binned = numbers(label=BINS, train_size="5/class")
    binned.setup("fit")
    assert set(binned.label_counts.values()) == {5}


@pytest.mark.parametrize(
    ("spec", "labels", "given"),
    [
        (LabelSpec("multi_label"), ["a|b", "a"] * 20, "several a row"),
        (LabelSpec("regression"), [1, 2] * 20, "numbers without bins"),
    ],
)
def test_train_size_per_class_needs_classes(spec, labels, given):
    data = domain(text=make_texts(40), label=labels)(label=spec, train_size="4/class")
    with pytest.raises(ValueError, match=f"needs one class a row, and the labels .* are {given}"):
        data.setup("fit")


def test_a_train_size_above_the_training_rows_is_an_error(numbers):
    data = numbers(label=BINS, train_size=141)
    with pytest.raises(ValueError, match="train_size=141 asks for more than the 140 training rows"):
        data.setup("fit")


def test_given_label_names_are_known_before_setup():
    table = domain(text=["a", "b"] * 3, label=["x", "y"] * 3)
    assert table(label=LabelSpec("single_label", names=["x", "y"])).labels.names == ("x", "y")
    data = table(label=LabelSpec("single_label"), splits=Splits(0, 0))
    with pytest.raises(RuntimeError, match="call setup"):
        _ = data.labels
    with pytest.raises(RuntimeError, match="call setup"):
        _ = data.n_train
    data.setup("fit")
    assert data.labels == Labels("single_label", ("x", "y"))


def test_loaders_without_a_tokenizer_are_an_error(numbers):
    data = numbers(label=BINS)
    data.setup("fit")
    assert (data.n_train, data.n_val, data.n_test) == (140, 20, 40)
    with pytest.raises(RuntimeError, match=r"no tokenizer: set data.tokenizer"):
        data.train_dataloader()


def test_dropped_and_truncated_rows_are_logged_once(tokenizer, caplog):
    texts = [*make_texts(50), "Good film", "good  FILM!", "bad " * 40]
    groups = [None] * 52 + ["g"]
    data = domain(text=texts, label=[0, 1] * 26 + [1], group=groups)(
        label=LabelSpec("regression"), tokens=Tokens(24, "tail"), splits=Splits(val=0, test=0)
    )
    data.tokenizer = tokenizer
    with caplog.at_level(logging.INFO):
        data.prepare_data()
        data.setup("fit")
        data.setup("fit")
    messages = [record.message for record in caplog.records]
    assert messages == [
        "Domain: 52 train, 0 validation, 0 test rows; dropped 1 duplicate texts (1 with another "
        "label) and 0 rows that share a text or group with another split",
        "tokenizing 53 texts",
        "Domain: truncated to 24 tokens, tail kept: 1 of 52 train, 0 of 0 validation, 0 of 0 test "
        "rows",
    ]


def test_rows_longer_than_the_limit_of_the_tokenizer_are_logged_as_a_warning(tokenizer, caplog):
    tokenizer.model_max_length = 8
    data = domain(text=["bad " * 20, "good"], label=[0, 1])(label=BINS, splits=Splits(0, 0))
    data.tokenizer = tokenizer
    data.setup("fit")
    [warning] = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(
        "Domain: the longest row has 22 tokens, the limit of the tokenizer is 8"
    )


def test_pairs_are_tokenized_and_compared_as_pairs(tokenizer):
    texts, pairs = ["good film"] * 3 + ["bad"], ["a", "b", "A!", "a"]
    data = domain(text=texts, label=[0, 1, 0, 1], text_pair=pairs)(
        label=LabelSpec("regression"), splits=Splits(0, 0)
    )
    data.tokenizer = tokenizer
    data.setup("fit")
    assert data.n_train == 3
    lengths = sorted(batch["attention_mask"].sum(1).tolist() for batch in data.train_dataloader())
    assert sorted(lengths[0]) == [5, 6, 6]


def test_each_rank_gets_its_part_of_the_global_batch(numbers, tokenizer):
    def index_of(rank, world_size, batch_size):
        data = numbers(label=BINS, batch_size=batch_size)
        data.tokenizer = tokenizer
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, overfit_batches=0.0)
        data.setup("fit")
        return [batch["index"].tolist() for batch in data.train_dataloader()]

    whole, first, second = index_of(0, 1, 16), index_of(0, 2, 8), index_of(1, 2, 8)
    assert [sorted(a + b) for a, b in zip(first, second, strict=True)] == list(map(sorted, whole))


def test_a_batch_without_padding_is_marked(numbers):
    data = numbers(label=BINS)
    full = {"attention_mask": torch.ones(2, 3), "index": torch.arange(2)}
    padded = {"attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]), "index": torch.arange(2)}
    marked = data.on_before_batch_transfer({"source": full, "target": padded}, 0)
    assert marked == {"source": {**full, "full": ()}, "target": padded}
    assert data.on_before_batch_transfer(full, 0) == {**full, "full": ()}
    assert data.on_before_batch_transfer([1, 2], 0) == [1, 2]
    assert extract_batch_size(marked) == extract_batch_size(full) == 2


class Bag(LightningModule):
    """Bag-of-embeddings regression model. It records the tested rows."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.EmbeddingBag(50, 4)
        self.head = torch.nn.Linear(4, 1)
        self.tested = []

    def forward(self, batch):
        return self.head(self.embedding(batch["input_ids"]))[:, 0]

    def training_step(self, batch, batch_idx):
        return (self(batch) - batch["labels"]).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))

    def test_step(self, batch, batch_idx):
        self.tested += batch["index"].tolist()

    def predict_step(self, batch, batch_idx):
        return batch["index"], self(batch)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters())


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval")
@pytest.mark.filterwarnings("ignore:.*LeafSpec")
@pytest.mark.parametrize("overfit", [0.0, 2])
def test_plain_lightning_trains_tests_and_predicts(numbers, tokenizer, tmp_path, overfit):
    data = numbers(label=BINS, train_size=64, batch_size=8)
    data.tokenizer = tokenizer
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        overfit_batches=overfit,
        default_root_dir=tmp_path,
    )
    model = Bag()
    trainer.fit(model, datamodule=data)
    assert trainer.global_step == (4 if overfit else 16)
    trainer.test(model, datamodule=data, verbose=False)
    assert sorted(model.tested) == list(range(40))
    predicted = trainer.predict(model, datamodule=data)
    assert sorted(torch.cat([index for index, _ in predicted]).tolist()) == list(range(40))
    assert data.loads == 1


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval")
@pytest.mark.filterwarnings("ignore:.*LeafSpec")
@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")
def test_plain_lightning_trains_without_validation_rows(numbers, tokenizer, tmp_path):
    data = numbers(label=BINS, splits=Splits(val=0, test=10))
    data.tokenizer = tokenizer
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Bag(), datamodule=data)
    assert trainer.global_step == -(-190 // 32)


GOOD = {"text": make_texts(20), "label": ["1", "-1"] * 10}
NAMES = LabelSpec("single_label", names=["spam", "ham"])


def bad(column, value, row=3):
    table = {name: list(values) for name, values in GOOD.items()}
    if column == "mood":
        table["label"] = ["spam", "ham"] * 10
        column = "label"
    table[column][row] = value
    table["row"] = [f"reviews.csv, line {number}" for number in range(2, 22)]
    return table


BAD_ROWS = [
    (bad("text", ""), BINS, "reviews.csv, line 5, column 'body': empty text"),
    (bad("text", " \n\t"), BINS, "reviews.csv, line 5, column 'body': empty text"),
    (bad("text", None), BINS, "reviews.csv, line 5, column 'body': no text"),
    (bad("text", "\ud800"), BINS, "reviews.csv, line 5, column 'body': unpaired surrogate"),
    (bad("label", "good"), BINS, "reviews.csv, line 5, column 'stars': 'good' is not a number"),
    (bad("label", "NaN"), BINS, "reviews.csv, line 5, column 'stars': 'NaN' is not a number"),
    (bad("label", ""), BINS, "reviews.csv, line 5, column 'stars': no label"),
    (bad("label", None), BINS, "reviews.csv, line 5, column 'stars': no label"),
    (
        bad("mood", "spma"),
        NAMES,
        "reviews.csv, line 5, column 'stars': unknown label 'spma'; known: spam, ham; did you mean "
        "spam?",
    ),
]


def with_table(table):
    """Return a DataModule class with columns that Arrow may reject, such as unpaired surrogates."""

    class Table(dict):
        column_names = tuple(table)

        def __len__(self):
            return len(table["text"])

    class Domain(TextDataModule):
        def load_rows(self):
            return Table(table)

    return Domain


@pytest.mark.parametrize(("table", "spec", "message"), BAD_ROWS)
def test_a_bad_row_is_an_error_with_file_line_and_column(table, spec, message):
    data = with_table(table)(label=spec, columns=Columns(text="body", label="stars"))
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the whole message is compared)
        data.setup("fit")
    assert str(error.value).startswith(message)
    fix = " Correct" if message.endswith("?") else "; correct"  # after a question, a new sentence
    assert str(error.value).endswith(f"{fix} the data or set data.on_bad_row=skip")


@pytest.mark.parametrize(("table", "spec", "message"), BAD_ROWS)
def test_a_bad_row_is_skipped_with_one_warning(table, spec, message, caplog):
    data = with_table(table)(
        label=spec, columns=Columns(text="body", label="stars"), on_bad_row="skip"
    )
    data.setup("fit")
    assert data.n_train + data.n_val + data.n_test == 19
    [warning] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert warning.message.startswith("Domain: skipped 1 bad rows of 20; the first: " + message)


def test_the_error_counts_further_bad_rows():
    table = bad("label", "x")
    table["label"][7] = "y"
    with pytest.raises(ValueError, match=r"line 5, .*'x' is not.*\(and 1 more bad rows of 20\)"):
        domain(**table)(label=BINS).setup("fit")


@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
@pytest.mark.parametrize(
    ("table", "spec", "message"),
    [
        ({"text": [], "label": []}, BINS, "Domain has no rows"),
        (
            {"text": ["a", "b"], "label": [math.nan, math.nan]},
            BINS,
            "Domain: no good row of 2; the first: Domain, row 1, column 'label': no label",
        ),
        (
            {"text": ["a", "b"], "label": ["nan", "nan"]},
            BINS,
            "Domain: no good row of 2; .* row 1, column 'label': 'nan' is not a number",
        ),
        (
            {"text": ["", " "], "label": [1, 2]},
            BINS,
            "no good row of 2; the first: Domain, row 1, column 'text': empty text",
        ),
        (
            {"text": ["a", "b"], "label": ["spam", "spam"]},
            NAMES,
            "column 'label': every row has the label 'spam'; at least 2 different labels",
        ),
        (
            {"text": ["a", "b"], "label": ["spam", "spam"]},
            LabelSpec("single_label"),
            r"Domain, column 'label': label.kind=single_label needs at least 2 classes.*\['spam'\]",
        ),
        (
            {"text": ["a", "b"], "label": [2.5, 2.5]},
            BINS,
            "column 'label': every row has the value 2.5",
        ),
        (
            {"text": ["a", "b"], "label": ["x|y", "y|x"]},
            LabelSpec("multi_label"),
            r"every row has the labels \['x', 'y'\]",
        ),
        ({"text": ["a", "b"]}, BINS, "must return the columns text and label, got text"),
        (
            {"text": ["a", "b"], "label": [1, 2], "split": ["train", "tets"]},
            BINS,
            "split must be one of train, validation, test, got 'tets'",
        ),
    ],
)
def test_data_without_rows_or_with_one_label_are_an_error(table, spec, message, on_bad_row):
    if on_bad_row == "skip" and "split" in table:
        message = "every row has the value 1"  # one good row is left
    with pytest.raises(ValueError, match=message):
        domain(**table)(label=spec, on_bad_row=on_bad_row).setup("fit")


def test_a_number_is_not_a_text():
    with pytest.raises(ValueError, match="row 1, column 'text': 7 is not text"):
        domain(text=[7, 8], label=[1, 2])(label=BINS).setup("fit")


def test_a_training_split_of_one_class_is_an_error():
    table = {"text": make_texts(5), "label": ["spam"] * 4 + ["ham"]}
    data = domain(**table)(label=NAMES, train_size=1, splits=Splits(0, 0))
    message = r"all of the 1 training rows are '(sp|h)am'; raise data.train_size"
    with pytest.raises(ValueError, match=message):
        data.setup("fit")


@pytest.mark.parametrize(
    ("stage", "splits", "split"),
    [
        ("fit", Splits(val=0.0, test=1.0), "train"),
        ("validate", Splits(val=0, test=1), "validation"),
        ("test", Splits(val=1, test=0), "test"),
    ],
)
def test_an_empty_split_for_a_stage_is_an_error(numbers, stage, splits, split):
    with pytest.raises(
        ValueError, match=rf"no {split} rows; change data.train_size, data.splits.val or"
    ):
        numbers(label=BINS, splits=splits).setup(stage)


def test_a_text_without_tokens_is_an_error(tokenizer):
    tokenizer.backend_tokenizer.post_processor = None  # no special tokens
    table = {"text": ["good film", "\u200b\u200b"], "label": [1, 2]}
    data = domain(**table)(label=BINS, splits=Splits(0, 0))
    data.tokenizer = tokenizer
    with pytest.raises(ValueError, match="row 2, column 'text': the tokenizer finds no token"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Domain has no default label; pass label=LabelSpec"),
        ({"label": BINS, "train_size": -1}, "train_size must be a count >= 0"),
        ({"label": BINS, "train_size": "8"}, "such as 8/class, got '8'"),
        ({"label": BINS, "batch_size": 0}, "batch_size must be >= 1, got 0; set data.batch_size"),
        ({"label": BINS, "max_tokens": 0}, "max_tokens must be >= 1, got 0; set data.max_tokens"),
        ({"label": BINS, "on_bad_row": "ignore"}, "must be error or skip, got 'ignore'"),
    ],
)
def test_bad_arguments_are_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        domain(text=[], label=[])(**arguments)


def test_a_subclass_without_load_rows_is_an_error():
    with pytest.raises(NotImplementedError, match="must define load_rows"):
        TextDataModule(label=BINS).setup("fit")


def test_an_unknown_split_is_an_error(numbers):
    data = numbers(label=BINS)
    data.setup("fit")
    with pytest.raises(ValueError, match="must be one of train, validation, test, got 'dev'"):
        data.rows("dev")
