"""Prediction of labels with a trained task, in memory or from file to file."""

import dataclasses
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import nn
from transformers import PreTrainedTokenizerBase

from lightning_transfer.adapters import Adapter
from lightning_transfer.checkpoints.loading import HeadFactory, Loaded, load
from lightning_transfer.data import LengthBatchSampler, Tokens
from lightning_transfer.data.batching.tokenized_split import Collate, TokenizedSplit
from lightning_transfer.data.readers import table_files
from lightning_transfer.data.readers.rows import text_fault
from lightning_transfer.data.readers.table_files import Row
from lightning_transfer.data.tokenization.token_table import TokenTable, tokenize
from lightning_transfer.inference import table_writer
from lightning_transfer.inference.prediction_files import (
    TextColumns,
    added_column_names,
    resolve_output,
)
from lightning_transfer.tasks import TransferModule
from lightning_transfer.utils import Labels
from lightning_transfer.utils.modes import evaluating

log = logging.getLogger(__name__)

# Class for each kind of labels, Predictor for all others. Names only, because the classes are
# subclasses of Predictor in modules that import this one.
_CLASS_NAMES = {"tags": "Tagger", "text": "TextGenerator"}


@dataclass(frozen=True)
class Prediction:
    """Predicted label of one text.

    Args:
        label: For ``single_label``, the most probable class. For ``multi_label``, the classes with
            a probability above 0.5 in the order of the label names, joined by ``|``; empty if there
            are none. For ``regression``, the name of the bin of the value, or ``value`` if the
            labels have no bins.
        score: For ``single_label``, the probability of the class, in [0, 1]. For ``multi_label``,
            the lowest probability of the predicted classes, or the highest of all classes if none
            is predicted. For ``regression``, the predicted value in the units of the training data.
            Shortest decimal number equal to the float32 output of the model.
    """

    label: str
    score: float

    def __str__(self) -> str:
        """Return label and score as one line."""
        return f"{self.label}\t{self.score:.4f}"


class Predictor:
    """Predicts labels of texts with a trained task, tokenized as in training.

    Texts are sorted by length into batches to reduce padding, and predictions are returned in input
    order. The task runs in eval mode; afterwards each module is back in its previous mode.

    Args:
        task: A trained task; it is moved to ``device``.
        tokenizer: The tokenizer of the training.
        tokens: Length and truncation of texts; the length is limited to the positions of the
            backbone.
        batch_size: Maximum number of texts per batch, >= 1. This and ``max_tokens`` change the
            speed, and the scores by rounding errors only.
        max_tokens: Maximum number of tokens per batch, padding included, >= 1; None for no limit.
            With MiniLM on a CPU 1,000 to 2,000 tokens are fastest; 8,000 take 12 % longer, 250
            take 10 % longer. A GPU needs more.
        device: A torch device such as ``cpu``, or ``auto`` for a CUDA GPU if there is one.

    Raises:
        RuntimeError: If torch does not know the device.
        ValueError: If ``batch_size`` or ``max_tokens`` is below 1, or the kind of the task's labels
            is not one of ``label_kinds``.
    """

    added_columns: ClassVar[tuple[str, ...]] = ("label", "score")
    """Columns that ``predict_file`` adds."""
    label_kinds: ClassVar[tuple[str, ...]] = ("regression", "single_label", "multi_label")
    """Kinds of labels that this class predicts."""

    def __init__(
        self,
        task: TransferModule,
        tokenizer: PreTrainedTokenizerBase,
        tokens: Tokens,
        *,
        batch_size: int = 64,
        max_tokens: int | None = 2048,
        device: str = "auto",
    ) -> None:
        """See the class."""
        for name, value in (("batch_size", batch_size), ("max_tokens", max_tokens)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if task.labels.is_raw_text:
            raise ValueError(
                f"{type(task).__name__} predicts tokens of raw text and has no labels; train a "
                "stage with labels from it (stages.target.init_from=<this folder>), or open its "
                "model folder with AutoModelForMaskedLM or AutoModelForCausalLM of transformers"
            )
        kind = task.labels.kind
        if kind not in self.label_kinds:
            raise ValueError(
                f"the label kind for {type(self).__name__} must be one of "
                f"{', '.join(self.label_kinds)}, got {kind!r} of {type(task).__name__}; use "
                f"inference.{_CLASS_NAMES.get(kind, 'Predictor')}"
            )
        # Longer texts would raise an index error in the table of position embeddings.
        limit = getattr(task.backbone, "max_tokens", None)
        if limit is not None and limit < tokens.max_length:
            message = "max_length=%d exceeds the positions of the model; texts are truncated to %d"
            log.warning(message, tokens.max_length, limit)
            tokens = dataclasses.replace(tokens, max_length=limit)
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(auto if device == "auto" else device)
        self.task = task.to(self.device)
        self.tokenizer = tokenizer
        self.tokens = tokens
        self.batch_size = batch_size
        self.max_tokens = max_tokens

    @classmethod
    def from_path(
        cls,
        path: str | Path,
        *,
        head: HeadFactory | None = None,
        backbone: nn.Module | None = None,
        adapter: Adapter | None = None,
        batch_size: int = 64,
        max_tokens: int | None = 2048,
        max_length: int | None = None,
    ) -> "Predictor":
        """Load a predictor from a run folder, its ``model`` folder or a checkpoint file.

        Args:
            path: A run folder, its ``model`` folder or a checkpoint file.
            head: Only needed for a head of your own class, called with
                ``(hidden_size, num_outputs)``.
            backbone: Only needed for a backbone of your own class.
            adapter: Only needed for an adapter of your own class.
            batch_size: Maximum number of texts per batch, >= 1.
            max_tokens: Maximum number of tokens per batch, padding included; None for no limit.
            max_length: Maximum number of tokens per text; None for that of the training.

        Raises:
            FileNotFoundError: If there is no run, model folder or checkpoint at ``path``.
            ValueError: If the file is not a checkpoint of this package, contains no tokenizer, has
                a backbone, head or adapter of your own class that was not passed, or has labels of
                a kind for another class.
        """
        loaded = load(path, backbone=backbone, head=head, adapter=adapter)
        if loaded.tokenizer is None:
            raise ValueError(
                f"{path} contains no tokenizer, because its DataModule had none; pass the model "
                "folder of the run"
            )
        tokens = loaded.tokens
        if max_length is not None:
            tokens = dataclasses.replace(tokens, max_length=max_length)
        predictor = cls(
            loaded.task, loaded.tokenizer, tokens, batch_size=batch_size, max_tokens=max_tokens
        )
        predictor._set_loaded_parts(loaded)
        return predictor

    def _set_loaded_parts(self, loaded: Loaded) -> None:
        """Set parts of a checkpoint that only a subclass uses."""

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Prediction]:
        """Predict a label and a score for each text, in input order.

        Args:
            texts: Texts of any length; long ones are truncated as in training.
            pairs: Second text of each pair, for a task trained on pairs.

        Raises:
            TypeError: If ``texts`` or ``pairs`` is one string and not a list.
            ValueError: If a text is empty or not a string, ``texts`` and ``pairs`` differ in
                length, the model was trained on pairs and ``pairs`` is None, or an output of the
                model is NaN or infinite.
        """
        self.task.check_pairs(given=pairs is not None)
        for name, given in (("texts", texts), ("pairs", pairs)):
            if isinstance(given, str):
                raise TypeError(f"{name} must be a list of texts, got one string; pass [text]")
            for place, text in enumerate(given or ()):
                # The rule for texts in training data.
                if fault := text_fault(text):
                    raise ValueError(f"{name}[{place}]: {fault}")
        if pairs is not None and len(pairs) != len(texts):
            raise ValueError(
                "texts and pairs must have the same length, got "
                f"{len(texts)} texts and {len(pairs)} pairs"
            )
        return self._predict(texts, pairs)

    def predict_file(
        self,
        path: str | Path,
        out: str | Path | None = None,
        *,
        text: str = "text",
        text_pair: str | None = None,
        delimiter: str | None = None,
        encoding: str | None = None,
        on_bad_row: str = "error",
        chunk_rows: int = 8192,
    ) -> int:
        """Predict a label and a score for each row of a file, in constant memory.

        The output has the rows of the input in the same order with all of their columns, and the
        columns ``label`` and ``score``, or ``predicted_label`` and ``predicted_score`` if the input
        already has one of the former. The output file is written completely or not at all; standard
        output is written in chunks.

        Args:
            path: A csv, tsv, jsonl or parquet file (see ``read_batches``), or ``-`` for standard
                input.
            out: Output file, in the format of its extension; or ``-`` for standard output, as jsonl
                if the input is jsonl or parquet, else as csv. None for
                ``<stem>.predictions.<extension>`` beside the input (csv for a ``.txt``), or
                standard output if the input is standard input.
            text: Column of the texts.
            text_pair: Column of the second texts, for a task trained on pairs.
            delimiter: Delimiter of a csv; None to detect it.
            encoding: Encoding of the input; None to detect it. The output is UTF-8.
            on_bad_row: ``error``, or ``skip``: a row without text gets an empty label and score
                (null and NaN in parquet), and an unreadable row is omitted. The number of each is
                logged as a warning.
            chunk_rows: Rows that are in memory, and sorted into batches, at a time. Fewer rows
                cause more padding (27 tokens per row: 4 % with 2,048 rows, 2 % with 8,192).

        Returns:
            Number of rows written.

        Raises:
            FileNotFoundError: If the input or the folder of the output does not exist.
            ValueError: If ``out`` is the input or has an unknown extension, a column is missing,
                the model was trained on pairs and ``text_pair`` is None, a row is bad, or an output
                of the model is NaN or infinite.
        """
        self.task.check_pairs(given=text_pair is not None)
        target, stdout_format = resolve_output(path, out, delimiter)
        # Opens no file, but raises for a wrong target before the model runs.
        table_writer.RowWriter(target, ["label"], stdout_format=stdout_format)
        read = partial(table_files.read_batches, path, delimiter=delimiter, encoding=encoding)
        read = partial(read, on_bad_row=on_bad_row, batch_rows=chunk_rows)
        texts = TextColumns(path, text, text_pair, self._fault, skip=on_bad_row == "skip")
        # A file is read completely before the model starts, so that a bad row at its end raises at
        # once. Standard input cannot be read twice, and bad rows to skip would be reported twice.
        twice = on_bad_row == "error" and str(path) != "-" and Path(path).expanduser().is_file()
        columns = texts.read_columns(read()) if twice else []
        batches = read()
        first = next(batches)  # exists: `read_batches` raises for a file without rows
        columns = columns or texts.read_columns([first])
        count = 0
        new = added_column_names(columns, texts.name, self.added_columns)
        empty = self._empty_cells(Path(target).suffix.lower())
        output = table_writer.RowWriter(target, [*columns, *new], stdout_format=stdout_format)
        with output:
            for rows in chain([first], batches):
                texts.check_no_new_columns(rows, columns)
                for row, found in zip(rows, self._predict_rows(rows, texts), strict=True):
                    row |= zip(new, empty if found is None else self._cells(found), strict=True)
                output.write(rows)
                count += len(rows)
        texts.report(self.added_columns)
        log.info("%s rows: %s", f"{count:,}", "standard output" if str(target) == "-" else target)
        return count

    def _empty_cells(self, suffix: str) -> tuple[Any, ...]:
        """Return the added cells of a row without text, for a file with this extension."""
        # In parquet NaN for the score: a column with only nulls in its first rows gets the type of
        # text.
        return None, math.nan if suffix == ".parquet" else None

    def _cells(self, prediction: Any) -> tuple[Any, ...]:
        """Return the added cells of a row with a prediction."""
        return prediction.label, prediction.score

    def _fault(self, text: object) -> str | None:
        """Return the reason why a cell is not a valid text, or None for a valid one."""
        return text_fault(text)

    def _predict_rows(self, rows: Sequence[Row], texts: TextColumns) -> list[Any]:
        # Rows without text to skip are not passed to the model and keep None as prediction.
        good = [place for place, row in enumerate(rows) if texts.check(row)]
        pairs = [rows[place][texts.pair] for place in good] if texts.pair else None
        found = self._predict([rows[place][texts.text] for place in good], pairs)
        by_place = dict(zip(good, found, strict=True))
        return [by_place.get(place) for place in range(len(rows))]

    def _predict(self, texts: Sequence[Any], pairs: Sequence[str] | None) -> list[Any]:
        """Return the predictions for valid texts, in input order."""
        if not texts:
            return []
        table = self._tokenized(texts, pairs)
        by_place = {}
        for places, scores in self._scores(table):
            for place, row in zip(places, scores, strict=True):
                by_place[place] = _to_prediction(row, self.task.labels, texts[place])
        return [by_place[place] for place in range(len(texts))]

    def _tokenized(self, texts: Sequence[str], pairs: Sequence[str] | None) -> TokenTable:
        table = tokenize(texts, pairs, tokenizer=self.tokenizer, tokens=self.tokens)
        # Possible without special tokens. A batch needs at least one token per text.
        if not table.lengths.all():
            text = texts[int(table.lengths.argmin())]
            raise ValueError(f"the tokenizer finds no token in {text[:40]!r}; remove this text")
        return table

    def _scores(self, table: TokenTable) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield positions of rows and their scores, float32 (rows, …, outputs), batch by batch."""
        for places, batch in self._batches(table):
            # Not around `yield`: the caller's code would run in inference mode too.
            with torch.inference_mode(), evaluating(self.task):
                # float32, because numpy has no bfloat16.
                scores = self.task.probabilities(self.task(batch).float())  # (batch, …, outputs)
            yield places, scores.cpu().numpy()

    def _batches(self, table: TokenTable) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Yield positions of rows of similar length, and the batch of these rows on the device."""
        split = TokenizedSplit(table, np.arange(len(table)), None)
        sampler = LengthBatchSampler(
            table.lengths, self.batch_size, seed=0, shuffle=False, max_tokens=self.max_tokens
        )
        collate = Collate(self.tokenizer)
        for places in sampler:
            yield places, move_data_to_device(collate(split[places]), self.device)


def _to_prediction(scores: np.ndarray, labels: Labels, text: str) -> Prediction:
    """Return the prediction for the scores, float32 (num_outputs,), of a text."""
    if not np.isfinite(scores).all():
        raise ValueError(
            f"output of the model for {text[:40]!r} is {scores[~np.isfinite(scores)][0]}; the "
            "training diverged or the weights are damaged"
        )
    if labels.kind == "regression":
        value = _decimal(scores[0])
        return Prediction(labels.bin_name(value) if labels.names else "value", value)
    if labels.kind == "single_label":
        best = int(scores.argmax())
        return Prediction(labels.names[best], _decimal(scores[best]))
    chosen = np.flatnonzero(scores > 0.5)  # the threshold of the multi-label metrics
    score = scores[chosen].min() if len(chosen) else scores.max()
    return Prediction("|".join(labels.names[place] for place in chosen), _decimal(score))


def _decimal(value: np.float32) -> float:
    """Return the shortest decimal of a float32: 0.1 and not 0.10000000149011612."""
    return float(str(value))
