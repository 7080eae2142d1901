"""ROUGE of the sentences that a model chooses."""

from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_transfer.extras import check_installed

Rouge = Literal["rouge1", "rouge2", "rougeL"]


class Extraction(Protocol):
    """Documents of which sentences are chosen, such as ``data.extraction.Extraction``."""

    references: Any

    def summaries(self, rows: np.ndarray, scores: np.ndarray) -> Any:
        """Return document -> its summary, for rows of a table and their scores."""
        ...


@runtime_checkable
class HasExtraction(Protocol):
    """A DataModule whose rows are sentences to choose from."""

    @property
    def extraction(self) -> Extraction:
        """Which sentence of which document each row is."""
        ...


class SummaryRouge(Metric):
    """ROUGE (F-measure, with Porter's stemmer) of chosen sentences, mean over documents.

    By Google's ``rouge-score``, which follows Lin, "ROUGE: A Package for Automatic Evaluation of
    Summaries", 2004. The sentences are chosen when all of a document's are scored, on whatever
    device.

    Args:
        rouge: ``rouge1``, ``rouge2`` (shared words, pairs of words) or ``rougeL`` (longest common
            subsequence).

    Raises:
        ImportError: If rouge-score is not installed.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    rows: list[Tensor]
    scores: list[Tensor]

    def __init__(self, rouge: Rouge) -> None:
        """See the class."""
        super().__init__()
        check_installed("rouge_score", "ROUGE", extra="summaries")
        self.rouge = rouge
        self.extraction: Extraction | None = None  # the task sets it
        self.add_state("rows", [], dist_reduce_fx="cat")
        self.add_state("scores", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, rows: Tensor) -> None:
        """Keep the scores of some sentences.

        Args:
            scores: Float (batch,), the higher the better.
            rows: Rows of the table that they belong to, int64 (batch,).
        """
        self.scores.append(scores)
        self.rows.append(rows)

    def compute(self) -> Tensor:
        """Return the mean over the documents of which there are sentences, in [0, 1].

        Raises:
            RuntimeError: If nobody said what the rows are.
        """
        if self.extraction is None:
            raise RuntimeError("no extraction: a DataModule with `extraction` says what rows are")
        # nltk is slow to import
        from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]

        rows, scores = (dim_zero_cat(state).cpu().numpy() for state in (self.rows, self.scores))
        scorer = RougeScorer([self.rouge], use_stemmer=True)
        found = [
            scorer.score(self.extraction.references[document], summary)[self.rouge].fmeasure
            for document, summary in self.extraction.summaries(rows, scores).items()
        ]
        return torch.tensor(found, device=self.device).mean()
