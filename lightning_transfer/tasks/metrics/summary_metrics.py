"""ROUGE of extractive summaries."""

from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_transfer.tasks.metrics.text_scores import make_score

RougeKind = Literal["rouge1", "rouge2", "rougeL"]


class ExtractionLike(Protocol):
    """Documents, reference summaries and the document of each table row, such as ``Extraction``."""

    references: Any

    def summaries(self, rows: np.ndarray, scores: np.ndarray) -> Any:
        """Return the summary of each document, by the document's index.

        Args:
            rows: Table rows, int64 (rows,).
            scores: Scores of their sentences, float (rows,).
        """
        ...


@runtime_checkable
class HasExtraction(Protocol):
    """A DataModule with one table row per sentence of a document."""

    @property
    def extraction(self) -> ExtractionLike:
        """Documents, reference summaries, and document and position of each row."""
        ...


class SummaryRouge(Metric):
    """ROUGE F-measure of extractive summaries, averaged over documents.

    Computed by :class:`Rouge`, as for generated texts, without a stemmer.

    Args:
        rouge: ``rouge1`` or ``rouge2`` (common words or pairs of words), or ``rougeL`` (longest
            common subsequence).
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    rows: list[Tensor]
    scores: list[Tensor]

    def __init__(self, rouge: RougeKind) -> None:
        """See the class."""
        super().__init__()
        self.rouge = rouge
        self.extraction: ExtractionLike | None = None  # set by the task, from its DataModule
        # All scores are stored: the sentences of a document may be on several ranks, and its
        # summary needs all of them.
        self.add_state("rows", [], dist_reduce_fx="cat")
        self.add_state("scores", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, rows: Tensor) -> None:
        """Add the scores of the sentences of a batch.

        Args:
            scores: Float (batch,); sentences with high scores are in the summary.
            rows: Table row of each sentence, int64 (batch,).
        """
        self.scores.append(scores)
        self.rows.append(rows)

    def compute(self) -> Tensor:
        """Return the mean over the documents with at least one score, a scalar in [0, 100].

        Raises:
            RuntimeError: If ``extraction`` is not set.
        """
        if self.extraction is None:
            raise RuntimeError(
                "extraction is not set; set it to the `extraction` of a DataModule, such as "
                "HighlightedSentences"
            )
        rows, scores = (dim_zero_cat(state).cpu().numpy() for state in (self.rows, self.scores))
        summaries = self.extraction.summaries(rows, scores)
        score = make_score(self.rouge)
        references = [self.extraction.references[document] for document in summaries]
        score.update(list(summaries.values()), references)
        return score.compute().to(self.device)
