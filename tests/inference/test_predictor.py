"""Prediction of labels with a trained task, in memory and from file to file."""

import csv
import io
import json
import logging
import math
import random
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn

from lightning_transfer.backbones import Backbone
from lightning_transfer.checkpoints.model_folder import export
from lightning_transfer.data import Tokens
from lightning_transfer.heads import LinearHead, MLPHead
from lightning_transfer.inference import Predictor
from lightning_transfer.inference.predictor import Prediction
from lightning_transfer.tasks import SequenceClassification, SequenceRegression, TransferModule
from lightning_transfer.utils import Labels
from tests.conftest import WORDS, make_tokenizer, tiny_config

SENTIMENT = Labels("single_label", ("negative", "neutral", "positive"))


def make_task(labels: Labels, *, seed: int = 0, mlp: bool = False) -> TransferModule:
    torch.manual_seed(seed)
    config = tiny_config(initializer_range=0.5)  # large, so that scores differ
    head = (MLPHead if mlp else LinearHead)(16, labels.num_outputs)
    nn.init.normal_(head.out.weight, std=1.0)
    task_class = SequenceRegression if labels.kind == "regression" else SequenceClassification
    return task_class(Backbone.from_config(config), head, labels=labels)


def make_predictor(labels: Labels = SENTIMENT, **options: Any) -> Predictor:
    return Predictor(make_task(labels), make_tokenizer(), Tokens(max_length=12), **options)


def make_texts(count: int, *, seed: int = 0) -> list[str]:
    drawn = random.Random(seed)
    return [" ".join(drawn.choices(WORDS, k=drawn.randint(1, 20))) for _ in range(count)]


def short_texts(count: int) -> list[str]:
    """Return texts of at most 10 words, which are not truncated."""
    return [" ".join(text.split()[:10]) for text in make_texts(count)]


@torch.no_grad()
def direct_logits(task: TransferModule, text: str, pair: str | None = None) -> Tensor:
    """Return the logits of one text, without batches, padding and truncation."""
    encoded = make_tokenizer()(text, pair, return_tensors="pt")
    return task.eval()(encoded)[0]


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_single_label_gives_the_most_probable_class_and_its_probability() -> None:
    predictor = make_predictor()
    texts = short_texts(60)

    predictions = predictor.predict(texts)

    for text, prediction in zip(texts, predictions, strict=True):
        expected = direct_logits(predictor.task, text).softmax(dim=-1)
        assert prediction.label == SENTIMENT.names[int(expected.argmax())]
        assert prediction.score == pytest.approx(expected.max().item(), abs=1e-6)
    assert {prediction.label for prediction in predictions} == set(SENTIMENT.names)


def test_regression_gives_the_value_as_score_and_its_bin_as_label() -> None:
    texts, task = short_texts(60), make_task(Labels("regression"))
    values = sorted(direct_logits(task, text).item() for text in texts)
    cutoffs = (sum(values[19:21]) / 2, sum(values[39:41]) / 2)
    predictor = make_predictor(Labels("regression", SENTIMENT.names, cutoffs))

    predictions = predictor.predict(texts)

    for text, prediction in zip(texts, predictions, strict=True):
        value = direct_logits(predictor.task, text).item()
        assert prediction.score == pytest.approx(value, abs=1e-5)
        assert prediction.label == SENTIMENT.names[sum(value > cut for cut in cutoffs)]
    assert {prediction.label for prediction in predictions} == set(SENTIMENT.names)


def test_regression_without_bins_has_the_label_value() -> None:
    (prediction,) = make_predictor(Labels("regression")).predict(["good film"])

    assert prediction.label == "value"


def test_multi_label_joins_classes_above_one_half_with_the_lowest_score() -> None:
    labels = Labels("multi_label", ("plot", "cast", "music"))
    predictor = make_predictor(labels)
    texts = short_texts(60)
    kept_counts = set()

    for text, prediction in zip(texts, predictor.predict(texts), strict=True):
        scores = direct_logits(predictor.task, text).sigmoid().tolist()
        kept = [(n, s) for n, s in zip(labels.names, scores, strict=True) if s > 0.5]
        kept_counts.add(len(kept))
        assert prediction.label == "|".join(name for name, _ in kept)
        lowest = min((score for _, score in kept), default=max(scores))
        assert prediction.score == pytest.approx(lowest, abs=1e-6)
    assert {0, 1, 2} <= kept_counts


def test_scores_are_the_shortest_decimals_of_float32() -> None:
    (prediction,) = make_predictor().predict(["good film"])

    assert len(str(prediction.score)) <= 12
    assert float(str(torch.tensor(prediction.score).numpy())) == prediction.score


def test_predictions_are_in_the_order_of_the_texts() -> None:
    predictor = make_predictor(batch_size=4)
    texts = make_texts(50)

    together = predictor.predict(texts)

    for text, prediction in zip(texts, together, strict=True):
        (alone,) = predictor.predict([text])
        assert prediction.label == alone.label
        assert prediction.score == pytest.approx(alone.score, abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_size_changes_no_prediction(batch_size: int) -> None:
    texts = make_texts(40)
    expected = make_predictor(batch_size=16).predict(texts)

    predictions = make_predictor(batch_size=batch_size).predict(texts)

    assert [p.label for p in predictions] == [p.label for p in expected]
    assert [p.score for p in predictions] == pytest.approx([p.score for p in expected], abs=1e-6)


def test_batches_contain_texts_of_similar_length() -> None:
    predictor = make_predictor(batch_size=10)
    shapes = []
    predictor.task.register_forward_pre_hook(
        lambda _, arguments: shapes.append(arguments[0]["attention_mask"].float().mean().item())
    )

    predictor.predict(make_texts(100))

    assert len(shapes) == 10
    assert min(shapes) > 0.75


@pytest.mark.parametrize("max_tokens", [1, 50, None])
def test_max_tokens_limits_the_batches_and_changes_no_prediction(max_tokens: int | None) -> None:
    texts = make_texts(100)
    expected = make_predictor(batch_size=16).predict(texts)
    predictor = make_predictor(batch_size=40, max_tokens=max_tokens)
    shapes = []
    predictor.task.register_forward_pre_hook(
        lambda _, arguments: shapes.append(tuple(arguments[0]["input_ids"].shape))
    )

    predictions = predictor.predict(texts)

    assert sum(rows for rows, _ in shapes) == 100
    if max_tokens is None:
        assert [rows for rows, _ in shapes] == [40, 40, 20]
    else:
        assert all(rows == 1 or rows * width <= max_tokens for rows, width in shapes)
        assert max(rows for rows, _ in shapes) == {1: 1, 50: 10}[max_tokens]
    assert [p.label for p in predictions] == [p.label for p in expected]
    assert [p.score for p in predictions] == pytest.approx([p.score for p in expected], abs=1e-6)


def test_max_tokens_below_one_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"max_tokens must be >= 1, got 0"):
        make_predictor(max_tokens=0)


def test_texts_are_truncated_as_in_training() -> None:
    task, tokenizer = make_task(SENTIMENT), make_tokenizer()
    text = "good good good dull dull bad bad bad"

    def score(given: str, tokens: Tokens) -> Prediction:
        return Predictor(task, tokenizer, tokens).predict([given])[0]

    both = Tokens(max_length=6, truncation="head+tail", head_fraction=0.5)
    assert score(text, both) == score("good good bad bad", Tokens())
    assert score(text, Tokens(max_length=5)) == score("good good good", Tokens())
    assert score(text, Tokens(max_length=5, truncation="tail")) == score("bad bad bad", Tokens())


def test_a_pair_is_not_predicted_as_one_joined_text() -> None:
    predictor = make_predictor()

    (prediction,) = predictor.predict(["good film"], ["bad plot"])

    expected = direct_logits(predictor.task, "good film", "bad plot").softmax(dim=-1)
    assert prediction.score == pytest.approx(expected.max().item(), abs=1e-6)
    assert prediction != predictor.predict(["good film bad plot"])[0]


def test_dropout_is_disabled_and_each_module_keeps_its_mode() -> None:
    predictor = make_predictor()
    predictor.task.train()
    predictor.task.backbone.eval()  # like a frozen backbone

    first, second = predictor.predict(["good film"]), predictor.predict(["good film"])

    assert first == second
    assert predictor.task.training
    assert predictor.task.head.training
    assert not any(module.training for module in predictor.task.backbone.modules())


def test_no_graph_is_built_for_gradients() -> None:
    predictor = make_predictor()
    outputs = []
    predictor.task.register_forward_hook(lambda *arguments: outputs.append(arguments[2]))

    predictor.predict(["good film"])

    assert outputs[0].is_inference()


def test_no_texts_give_no_predictions() -> None:
    assert make_predictor().predict([]) == []


@pytest.mark.parametrize(
    ("texts", "pairs", "error", "message"),
    [
        ("good film", None, TypeError, r"texts must be a list of texts, got one string"),
        (["a"], "b", TypeError, r"pairs must be a list of texts, got one string"),
        (["good", "  "], None, ValueError, r"texts\[1\]: empty text"),
        (["good"], [""], ValueError, r"pairs\[0\]: empty text"),
        ([None], None, ValueError, r"texts\[0\]: no text"),
        ([float("nan")], None, ValueError, r"texts\[0\]: no text"),
        ([7], None, ValueError, r"texts\[0\]: 7 is not text"),
        (
            ["go\ud800od"],
            None,
            ValueError,
            r"texts\[0\]: unpaired surrogate \(half a character\) in",
        ),
        (["good", "bad"], ["film"], ValueError, r"same length, got 2 texts and 1 pairs"),
    ],
)
def test_bad_texts_are_errors(texts: Any, pairs: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_predictor().predict(texts, pairs)


def test_a_text_without_a_token_is_an_error() -> None:
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A")
    predictor = Predictor(make_task(SENTIMENT), tokenizer, Tokens(max_length=12))

    assert predictor.predict(["good film"])
    with pytest.raises(ValueError, match=r"finds no token in '\\u200b'; remove this text"):
        predictor.predict(["good", "\u200b"])


def test_an_output_that_is_nan_is_an_error() -> None:
    predictor = make_predictor()
    nn.init.constant_(predictor.task.get_parameter("head.out.bias"), math.nan)

    with pytest.raises(
        ValueError, match=r"output of the model for 'good film' is nan; the training diverged"
    ):
        predictor.predict(["good film"])


def test_batch_size_below_one_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"batch_size must be >= 1, got 0"):
        make_predictor(batch_size=0)


def test_texts_are_truncated_to_the_positions_of_the_model(
    caplog: pytest.LogCaptureFixture,
) -> None:
    task, tokenizer = make_task(SENTIMENT), make_tokenizer()
    text = " ".join(make_texts(20))

    predictor = Predictor(task, tokenizer, Tokens(max_length=500))

    assert "max_length=500 exceeds the positions of the model; texts are truncated to 32" in (
        caplog.text
    )
    expected = Predictor(task, tokenizer, Tokens(max_length=32)).predict([text])
    assert predictor.predict([text]) == expected


@pytest.mark.parametrize(
    "labels",
    [
        SENTIMENT,
        Labels("multi_label", ("plot", "cast")),
        Labels("regression", ("negative", "positive"), (0.0,)),
    ],
    ids=lambda labels: labels.kind,
)
@pytest.mark.parametrize("mlp", [True, False])
def test_a_model_folder_predicts_as_the_exported_task(
    tmp_path: Path, labels: Labels, mlp: bool
) -> None:
    task, tokens, texts = make_task(labels, mlp=mlp), Tokens(max_length=7), make_texts(20)
    is_hf_folder = export(task, make_tokenizer(), tmp_path / "run" / "model", tokens=tokens)
    assert is_hf_folder == mlp

    predictor = Predictor.from_path(tmp_path / "run", batch_size=5)

    expected = Predictor(task, make_tokenizer(), tokens).predict(texts)
    predictions = predictor.predict(texts)
    assert [p.label for p in predictions] == [p.label for p in expected]
    assert [p.score for p in predictions] == pytest.approx([p.score for p in expected], abs=1e-6)


def test_max_length_replaces_that_of_the_training(tmp_path: Path) -> None:
    export(make_task(SENTIMENT), make_tokenizer(), tmp_path / "model", tokens=Tokens(max_length=7))
    words = "good bad film plot dull"

    predictor = Predictor.from_path(tmp_path, max_length=5)

    assert predictor.predict([words]) == predictor.predict(["good bad film"])


def test_a_checkpoint_without_a_tokenizer_is_an_error(tmp_path: Path) -> None:
    from lightning_transfer.utils.checkpoint_format import KEY, describe_task

    task, path = make_task(SENTIMENT), tmp_path / "last.ckpt"
    described = describe_task(task, tokenizer=None, tokens=None)
    torch.save({"state_dict": task.state_dict(), KEY: described}, path)

    with pytest.raises(ValueError, match=r"last\.ckpt contains no tokenizer"):
        Predictor.from_path(path)


def test_a_checkpoint_with_a_tokenizer_predicts(tmp_path: Path) -> None:
    from lightning_transfer.utils.checkpoint_format import KEY, describe_task

    task, path, texts = make_task(SENTIMENT), tmp_path / "last.ckpt", make_texts(9)
    described = describe_task(task, tokenizer=make_tokenizer(), tokens=Tokens(max_length=7))
    torch.save({"state_dict": task.state_dict(), KEY: described}, path)

    predictions = Predictor.from_path(path).predict(texts)

    expected = Predictor(task, make_tokenizer(), Tokens(max_length=7)).predict(texts)
    assert predictions == expected


def test_predict_file_keeps_rows_columns_and_order(tmp_path: Path) -> None:
    texts = make_texts(25)
    rows = [{"id": f"{place:03}", "text": text, "a b": "x, y"} for place, text in enumerate(texts)]
    source, out = write_csv(tmp_path / "reviews.csv", rows), tmp_path / "labelled.csv"
    predictor = make_predictor(batch_size=4)

    count = predictor.predict_file(source, out, chunk_rows=7)

    written = read_csv(out.read_text())
    expected = predictor.predict(texts)
    assert count == 25
    assert list(written[0]) == ["id", "text", "a b", "label", "score"]
    assert [{k: row[k] for k in rows[0]} for row in written] == rows
    assert [row["label"] for row in written] == [p.label for p in expected]
    scores = [float(row["score"]) for row in written]
    assert scores == pytest.approx([p.score for p in expected], abs=1e-6)


@pytest.mark.parametrize("extension", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_is_written(tmp_path: Path, extension: str) -> None:
    texts = ["good film", "bad plot", 'a "very" dull\nend; the, end']
    source = tmp_path / "reviews.jsonl"
    source.write_text("".join(json.dumps({"n": n, "text": t}) + "\n" for n, t in enumerate(texts)))
    out, predictor = tmp_path / f"out.{extension}", make_predictor()

    assert predictor.predict_file(source, out) == 3

    if extension == "parquet":
        rows = pq.read_table(out).to_pylist()
    elif extension == "jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        with out.open(newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t" if extension == "tsv" else ","))
    assert [row["text"] for row in rows] == texts
    assert [int(row["n"]) for row in rows] == [0, 1, 2]
    assert [row["label"] for row in rows] == [p.label for p in predictor.predict(texts)]
    typed = extension in ("jsonl", "parquet")
    assert all(isinstance(row["score"], float if typed else str) for row in rows)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("reviews.csv", "reviews.predictions.csv"),
        ("reviews.2024.TSV", "reviews.2024.predictions.TSV"),
        ("reviews.txt", "reviews.predictions.csv"),
    ],
)
def test_the_output_is_beside_the_input_by_default(
    tmp_path: Path, name: str, expected: str
) -> None:
    source = tmp_path / name
    source.write_text("text\ngood film\n")

    make_predictor().predict_file(source)

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, expected])


def test_delimiter_encoding_and_columns_are_options(tmp_path: Path) -> None:
    source, out = tmp_path / "reviews.csv", tmp_path / "out.jsonl"
    source.write_bytes("Kritik|zweite\ngood schön|bad\n".encode("latin-1"))
    predictor = make_predictor()

    predictor.predict_file(
        source, out, text="Kritik", text_pair="zweite", delimiter="|", encoding="latin-1"
    )

    (expected,) = predictor.predict(["good schön"], ["bad"])
    assert json.loads(out.read_text()) == {
        "Kritik": "good schön",
        "zweite": "bad",
        "label": expected.label,
        "score": expected.score,
    }


@pytest.mark.parametrize("taken", ["label", "score"])
def test_columns_of_the_input_are_not_overwritten(tmp_path: Path, taken: str) -> None:
    source = write_csv(tmp_path / "r.csv", [{"text": "good film", taken: "mine"}])
    out = tmp_path / "out.csv"

    make_predictor().predict_file(source, out)

    (row,) = read_csv(out.read_text())
    assert list(row) == ["text", taken, "predicted_label", "predicted_score"]
    assert row[taken] == "mine"
    with pytest.raises(ValueError, match=r"out\.csv already has columns for label and score: "):
        make_predictor().predict_file(out, tmp_path / "again.csv")


def test_columns_of_later_rows_only_are_kept(tmp_path: Path) -> None:
    source, out = tmp_path / "r.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "good"}\n{"text": "bad"}\n{"text": "dull", "place": "Rome"}\n')

    make_predictor().predict_file(source, out, chunk_rows=1)

    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["place"] for row in rows] == [None, None, "Rome"]


def test_a_new_column_in_a_later_chunk_of_a_stream_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = b'{"text": "good"}\n{"text": "dull", "place": "Rome"}\n'
    stream = io.BufferedReader(io.BytesIO(lines))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))

    with pytest.raises(ValueError, match=r"line 2: the key 'place' is not in the first rows"):
        make_predictor().predict_file("-", "-", chunk_rows=1)
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize("stream_format", ["csv", "jsonl"])
def test_standard_streams_keep_their_format(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stream_format: str
) -> None:
    given = (
        b"text,n\ngood film,1\n" if stream_format == "csv" else b'{"text": "good film", "n": 1}\n'
    )
    stream = io.BufferedReader(io.BytesIO(given))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))
    predictor = make_predictor()

    assert predictor.predict_file("-") == 1

    (expected,) = predictor.predict(["good film"])
    written = capsys.readouterr().out
    row: dict[str, Any] = read_csv(written)[0] if stream_format == "csv" else json.loads(written)
    assert row["text"] == "good film"
    assert int(row["n"]) == 1
    assert (row["label"], float(row["score"])) == (expected.label, expected.score)


def test_standard_output_has_the_format_of_the_input_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "r.jsonl"
    source.write_text('{"text": "good film", "tags": ["a", "b"]}\n')

    make_predictor().predict_file(source, "-")

    assert json.loads(capsys.readouterr().out)["tags"] == ["a", "b"]


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def record_batches(predictor: Predictor) -> list[int]:
    """Return a list with one entry for each batch of the model from now on."""
    seen: list[int] = []
    predictor.task.register_forward_pre_hook(lambda *_: seen.append(1))
    return seen


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (
            "r.csv",
            ValueError,
            r"r\.csv is the input file; set another file, such as out=r\.predictions\.csv",
        ),
        ("link.csv", ValueError, r"link\.csv is the input file"),
        ("out.xlsx", ValueError, r"unknown extension '\.xlsx'; allowed: \.csv, \.tsv, \.jsonl"),
        ("nowhere/out.csv", FileNotFoundError, r"there is no folder .*nowhere"),
        (".", IsADirectoryError, r"is a folder"),
    ],
)
def test_a_wrong_output_is_an_error_before_the_model_runs(
    tmp_path: Path, out: str, error: type[Exception], message: str
) -> None:
    source = write_csv(tmp_path / "r.csv", [{"text": "good film"}])
    (tmp_path / "link.csv").symlink_to(source)
    predictor = make_predictor()
    seen = record_batches(predictor)

    with pytest.raises(error, match=message):
        predictor.predict_file(source, tmp_path / out)
    assert seen == []
    assert source.read_text().split() == ["text", "good", "film"]
    assert leftovers(tmp_path) == ["link.csv", "r.csv"]


def test_a_missing_column_is_an_error_with_the_closest_names_first(tmp_path: Path) -> None:
    rows = [{"id": "1", "texts": "good film", "reply": "bad"}]
    source = write_csv(tmp_path / "r.csv", rows)

    message = (
        r"r\.csv has no column 'text'; set text=… \(data.text=… on the command line\) to one of "
        r"its columns, the closest first: texts, "
    )
    with pytest.raises(ValueError, match=message):
        make_predictor().predict_file(source)
    message = r"no column 'replies'; set text_pair=… .*, the closest first: reply, "
    with pytest.raises(ValueError, match=message):
        make_predictor().predict_file(source, text="texts", text_pair="replies")
    assert leftovers(tmp_path) == ["r.csv"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.csv", "text,n\n{}good,1\n ,2\n", r"r\.csv, line 9, column 'text': empty text; corr"),
        ("r.jsonl", '{}{{"text": 7}}\n', r"r\.jsonl, line 7, column 'text': 7 is not text"),
        ("r.jsonl", '{}{{"n": 7}}\n', r"r\.jsonl, line 7, column 'text': no text"),
        ("r.csv", "text,n\n{}good,1,2\n", r"r\.csv, line 8: 3 field\(s\) at delimiter ','"),
    ],
)
def test_a_bad_last_row_is_an_error_before_the_model_runs(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    good = "good,1\n" if name == "r.csv" else '{"text": "good"}\n'
    (tmp_path / name).write_text(content.format(good * 6))
    (tmp_path / "out.csv").write_text("older\n")
    predictor = make_predictor()
    seen = record_batches(predictor)

    with pytest.raises(ValueError, match=message):
        predictor.predict_file(tmp_path / name, tmp_path / "out.csv", chunk_rows=2)
    assert seen == []
    assert (tmp_path / "out.csv").read_text() == "older\n"
    assert leftovers(tmp_path) == sorted([name, "out.csv"])


def test_no_partial_output_is_left_if_the_model_fails(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "r.csv", [{"text": text} for text in make_texts(20)])
    predictor = make_predictor()
    seen = record_batches(predictor)

    def fail_late(*_: Any) -> None:
        if len(seen) == 3:
            raise MemoryError("too much")

    predictor.task.register_forward_hook(fail_late)
    with pytest.raises(MemoryError, match="too much"):
        predictor.predict_file(source, tmp_path / "out.csv", chunk_rows=5)
    assert len(seen) == 3
    assert leftovers(tmp_path) == ["r.csv"]


@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet"])
def test_skipped_rows_keep_their_place_without_a_label(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, extension: str
) -> None:
    texts = ["", " ", "good film", "", "bad plot"]
    rows = [{"text": text, "n": str(place)} for place, text in enumerate(texts)]
    source, out = write_csv(tmp_path / "r.csv", rows), tmp_path / f"out.{extension}"
    predictor = make_predictor()

    with caplog.at_level(logging.WARNING):
        assert predictor.predict_file(source, out, on_bad_row="skip", chunk_rows=2) == 5

    if extension == "csv":
        written: list[dict[str, Any]] = [*read_csv(out.read_text())]
    elif extension == "jsonl":
        written = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        written = pq.read_table(out).to_pylist()
    expected = predictor.predict(["good film", "bad plot"])
    assert [row["n"] for row in written] == ["0", "1", "2", "3", "4"]
    assert [row["label"] or None for row in written] == [
        None,
        None,
        expected[0].label,
        None,
        expected[1].label,
    ]
    empty = [row["score"] for row in written if not row["label"]]
    if extension == "parquet":
        assert all(math.isnan(score) for score in empty)
    else:
        assert empty == ["" if extension == "csv" else None] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "r.csv: 3 row(s) without text have an empty label and score; the first: r.csv, line 2, "
        "column 'text': empty text"
    ]


def test_unreadable_rows_are_omitted_if_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, out = tmp_path / "r.csv", tmp_path / "out.csv"
    source.write_text("text,n\ngood,1\nbad,2,3\ndull,4\n")

    assert make_predictor().predict_file(source, out, on_bad_row="skip") == 2

    assert [row["n"] for row in read_csv(out.read_text())] == ["1", "4"]
    assert caplog.text.count("skipped 1 bad row(s)") == 1


class StubBackbone(nn.Module):
    """A backbone without computation."""

    hidden_size = 4

    @property
    def layers(self) -> list[nn.Module]:
        return [self]

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Tensor) -> Tensor:
        return input_ids[:, :, None].expand(-1, -1, 4).float()  # (batch, seq, hidden)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    task = SequenceClassification(StubBackbone(), LinearHead(4, 3), labels=SENTIMENT)
    predictor = Predictor(task, make_tokenizer(), Tokens())

    def peak(count: int) -> int:
        rows = [{"text": f"good film {n} {'x' * 400}"} for n in range(count)]
        source = write_csv(tmp_path / "r.csv", rows)
        del rows
        tracemalloc.start()
        try:
            assert predictor.predict_file(source, tmp_path / "out.csv", chunk_rows=50) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(100)  # loads imports and caches
    small, large = peak(700), peak(2100)  # both longer than the sample for delimiter and encoding

    assert (tmp_path / "r.csv").stat().st_size > 850_000
    assert large < small + 100_000
