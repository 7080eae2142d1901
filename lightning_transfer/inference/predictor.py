"""Labels for new texts, from a trained task: in memory, or file to file."""

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
from lightning_transfer.inference.prediction_files import TextColumns, choose_target, new_columns
from lightning_transfer.tasks import TransferModule
from lightning_transfer.utils import Labels
from lightning_transfer.utils.modes import evaluating

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """What a model says about one text.

    Args:
        label: One class of several: the most probable. Several classes: those with a probability
            above 0.5, joined by ``|`` in the order of the label names; empty if there is none. A
            rating: the name of the band that holds it, or ``rating`` if the labels name no bands.
        score: One class: its probability in [0, 1]. Several classes: the lowest probability of
            those kept, or the highest of all if none is kept. A rating: the rating itself, in the
            units of the training data. The shortest decimal that stands for the model's float32.
    """

    label: str
    score: float

    def __str__(self) -> str:
        """Return label and score as one line."""
        return f"{self.label}\t{self.score:.4f}"


class Predictor:
    """Labels texts with a trained task, the way it was trained: same tokenizer, same cut.

    Texts are sorted by length into batches, since padding costs as much as text, and come back in
    the order in which they went in. Dropout is off while predicting, and each module is then put
    back into the mode in which it was.

    Args:
        task: A trained task; it is moved to ``device``.
        tokenizer: The tokenizer that it was trained with.
        tokens: How texts are cut; never longer than the backbone has positions for.
        batch_size: Texts per batch at most, at least 1. It and ``max_tokens`` change the speed, and
            scores by rounding only.
        max_tokens: Tokens per batch at most, padding counted, at least 1: long texts come in
            smaller batches. None: any number. MiniLM on a CPU is fastest, per token, with 1,000 to
            2,000 tokens in a batch; 8,000 take 12 % longer, 250 take 10 %. A GPU wants more.
        device: A device of torch such as ``cpu``, or ``auto`` for a CUDA GPU where there is one.

    Raises:
        RuntimeError: If torch knows no such device.
        ValueError: If ``batch_size`` or ``max_tokens`` is below 1, or the task has no labels of
            this kind to predict.
    """

    added: ClassVar[tuple[str, ...]] = ("label", "score")  # columns of predict_file
    kinds: ClassVar[tuple[str, ...]] = (
        "regression",
        "single_label",
        "multi_label",
    )  # labels that it can give

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
                f"a {type(task).__name__} has learned text without labels, and has none to give; "
                "train a stage with labels from it (stages.target.init_from=<this folder>), or "
                "open its model folder with transformers' AutoModelForMaskedLM or "
                "AutoModelForCausalLM"
            )
        if task.labels.kind not in self.kinds:
            raise ValueError(
                f"a {type(task).__name__} is not for a {type(self).__name__}; texts are written by "
                "inference.TextGenerator, labelled by inference.Predictor, and their words by inference.Tagger"
            )
        limit = getattr(task.backbone, "max_tokens", None)
        if limit is not None and limit < tokens.max_length:
            said = "max_length=%d is more than the model has positions for; texts are cut to %d"
            log.warning(said, tokens.max_length, limit)
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
            path: What :func:`lightning_transfer.checkpoints.loading.load` opens.
            head: Needed where the head is your own class; see ``load``.
            backbone: Needed where the backbone is a module of your own.
            adapter: Needed where the adapter is of your own class.
            batch_size: Texts per batch at most.
            max_tokens: Tokens per batch at most; None: any number.
            max_length: Tokens per text at most; None: as in training.

        Raises:
            FileNotFoundError: If nothing that can be loaded is there.
            ValueError: If the file is no checkpoint of this package, lacks a tokenizer, or needs
                a part passed in.
        """
        loaded = load(path, backbone=backbone, head=head, adapter=adapter)
        if loaded.tokenizer is None:
            raise ValueError(
                f"{path} holds no tokenizer (its DataModule had none); pass the run's model folder"
            )
        tokens = loaded.tokens
        if max_length is not None:
            tokens = dataclasses.replace(tokens, max_length=max_length)
        made = cls(
            loaded.task, loaded.tokenizer, tokens, batch_size=batch_size, max_tokens=max_tokens
        )
        made._equip(loaded)
        return made

    def _equip(self, loaded: Loaded) -> None:
        """Take what else came with the weights."""

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Prediction]:
        """Predict one label and score for each text, in the order given.

        Args:
            texts: Texts of any length; long ones are cut as in training.
            pairs: Second text of each, for a task on pairs.

        Raises:
            TypeError: If one string is passed in place of a list.
            ValueError: If a text is empty or no text, the pairs are not as many as the texts, the
                model was trained on pairs and there are none, or its output is not a number.
        """
        self.task.check_pairs(given=pairs is not None)
        for name, given in (("texts", texts), ("pairs", pairs)):
            if isinstance(given, str):
                raise TypeError(f"{name} must be a list of texts, got one string; write [text]")
            for place, text in enumerate(given or ()):
                if fault := text_fault(text):
                    raise ValueError(f"{name}[{place}]: {fault}")
        if pairs is not None and len(pairs) != len(texts):
            raise ValueError(f"each text needs its pair: {len(texts)} texts, {len(pairs)} pairs")
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

        The output holds the rows of the input in their order with all of their columns, then
        ``label`` and ``score``, or ``predicted_label`` and ``predicted_score`` if the input has
        one of those already. It appears whole or not at all; standard output is written as the
        rows come. With ``on_bad_row="error"`` a file is read through before the model starts: a
        bad row at its end does not cost hours.

        Args:
            path: A csv, tsv, jsonl or parquet file (see ``read_batches``), or ``-`` for stdin.
            out: File whose extension says its format, or ``-`` for standard output (as jsonl if
                the input is jsonl or parquet, else csv). None: ``<stem>.predictions.<extension>``
                beside the input (csv for a ``.txt``), or standard output for standard input.
            text: Column of the texts.
            text_pair: Column of the second texts, for a task on pairs.
            delimiter: Of a csv; detected by default.
            encoding: Of the input; detected by default. Output is UTF-8.
            on_bad_row: ``error``, or ``skip``: a row without text gets an empty label and score
                (parquet: null and NaN), counted in one warning, and a row that cannot be read is
                left out, counted in another.
            chunk_rows: Rows in memory, and sorted into batches, at a time: the fewer, the more
                padding (of 27 tokens a row: 4 % in 2,048 rows, 2 % in 8,192).

        Returns:
            Rows written.

        Raises:
            FileNotFoundError: If the input or the output's folder does not exist.
            ValueError: If ``out`` is the input or has an unknown extension, a column is missing,
                the model was trained on pairs and no column of second texts is named, a row is
                bad, or the model's output is not a number.
        """
        self.task.check_pairs(given=text_pair is not None)
        target, form = choose_target(path, out, delimiter)
        table_writer.RowWriter(target, ["label"], form=form)  # opens nothing, but checks the target
        read = partial(table_files.read_batches, path, delimiter=delimiter, encoding=encoding)
        read = partial(read, on_bad_row=on_bad_row, batch_rows=chunk_rows)
        texts = TextColumns(path, text, text_pair, self._fault, skip=on_bad_row == "skip")
        # A stream cannot be read twice, and the reader would warn twice of what it skips.
        twice = on_bad_row == "error" and str(path) != "-" and Path(path).expanduser().is_file()
        columns = texts.survey(read()) if twice else []
        batches = read()
        first = next(batches)
        columns = columns or texts.survey([first])
        count = 0
        new = new_columns(columns, texts.name, self.added)
        nothing = self._nothing(Path(target).suffix.lower())
        with table_writer.RowWriter(target, [*columns, *new], form=form) as writer:
            for rows in chain([first], batches):
                texts.check_late(rows, columns)
                for row, said in zip(rows, self._predict_rows(rows, texts), strict=True):
                    row |= zip(new, nothing if said is None else self._cells(said), strict=True)
                writer.write(rows)
                count += len(rows)
        texts.report(self.added)
        log.info("%s rows: %s", f"{count:,}", "standard output" if str(target) == "-" else target)
        return count

    def _nothing(self, suffix: str) -> tuple[Any, ...]:
        """Return the cells of a row without text."""
        # A parquet column that begins with nulls alone would be taken for text.
        return None, math.nan if suffix == ".parquet" else None

    def _cells(self, said: Any) -> tuple[Any, ...]:
        """Return the cells that a prediction adds to its row."""
        return said.label, said.score

    def _fault(self, text: object) -> str | None:
        """Return what makes a cell unfit to be predicted of, or None."""
        return text_fault(text)

    def _predict_rows(self, rows: Sequence[Row], texts: TextColumns) -> list[Any]:
        good = [place for place, row in enumerate(rows) if texts.check(row)]
        pairs = [rows[place][texts.pair] for place in good] if texts.pair else None
        found = self._predict([rows[place][texts.text] for place in good], pairs)
        by_place = dict(zip(good, found, strict=True))
        return [by_place.get(place) for place in range(len(rows))]

    def _predict(self, texts: Sequence[Any], pairs: Sequence[str] | None) -> list[Any]:
        """Predict for texts that are known to be good."""
        if not texts:
            return []
        table = self._tokenized(texts, pairs)
        by_place = {}
        for places, scores in self._scores(table):
            for place, row in zip(places, scores, strict=True):
                by_place[place] = _name(row, self.task.labels, texts[place])
        return [by_place[place] for place in range(len(texts))]

    def _tokenized(self, texts: Sequence[str], pairs: Sequence[str] | None) -> TokenTable:
        table = tokenize(texts, pairs, tokenizer=self.tokenizer, tokens=self.tokens)
        if not table.lengths.all():
            text = texts[int(table.lengths.argmin())]
            raise ValueError(f"the tokenizer finds no token in {text[:40]!r}; take it out")
        return table

    def _scores(self, table: TokenTable) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield rows of a table and their scores, float32 (rows, …, outputs), batch by batch."""
        for places, batch in self._batches(table):
            with torch.inference_mode(), evaluating(self.task):
                scores = self.task.probabilities(self.task(batch).float())  # (batch, …, outputs)
            yield places, scores.cpu().numpy()

    def _batches(self, table: TokenTable) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Yield rows of a table of like length, and their batch on the device."""
        split = TokenizedSplit(table, np.arange(len(table)), None)
        sampler = LengthBatchSampler(
            table.lengths, self.batch_size, seed=0, shuffle=False, max_tokens=self.max_tokens
        )
        collate = Collate(self.tokenizer)
        for places in sampler:
            yield places, move_data_to_device(collate(split[places]), self.device)


def _name(scores: np.ndarray, labels: Labels, text: str) -> Prediction:
    """Turn the scores (num_outputs,) of a text into a prediction."""
    if not np.isfinite(scores).all():
        raise ValueError(
            f"the model's output for {text[:40]!r} is {scores[~np.isfinite(scores)][0]}, which is "
            "no score; its training diverged or its weights are damaged"
        )
    if labels.kind == "regression":
        rating = _decimal(scores[0])
        return Prediction(labels.band(rating) if labels.names else "value", rating)
    if labels.kind == "single_label":
        best = int(scores.argmax())
        return Prediction(labels.names[best], _decimal(scores[best]))
    kept = np.flatnonzero(scores > 0.5)  # as the metrics count
    score = scores[kept].min() if len(kept) else scores.max()
    return Prediction("|".join(labels.names[place] for place in kept), _decimal(score))


def _decimal(value: np.float32) -> float:
    """Return the shortest decimal, for tables: 0.1 and not 0.10000000149011612."""
    return float(str(value))
