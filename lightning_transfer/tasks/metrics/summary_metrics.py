"""ROUGE of the sentences that a model chooses."""

from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_transfer.tasks.metrics.text_scores import make_score

Rouge = Literal["rouge1", "rouge2", "rougeL"]


class ExtractionLike(Protocol):
    """Documents of which sentences are chosen, such as ``data.extraction.Extraction``."""

    references: Any

    def summaries(self, rows: np.ndarray, scores: np.ndarray) -> Any:
        """Return document -> its summary, for rows of a table and their scores."""
        ...


@runtime_checkable
class HasExtraction(Protocol):
    """A DataModule whose rows are sentences to choose from."""

    @property
    def extraction(self) -> ExtractionLike:
        """Which sentence of which document each row is."""
        ...


class SummaryRouge(Metric):
    """ROUGE of chosen sentences (F-measure, without a stemmer), mean over documents.

    Counted as :class:`Rouge` does for generated text. The sentences are chosen when all of a
    document's are scored, on whatever device.

    Args:
        rouge: ``rouge1``, ``rouge2`` (shared words, pairs of words) or ``rougeL`` (longest common
            subsequence).
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    rows: list[Tensor]
    scores: list[Tensor]

    def __init__(self, rouge: Rouge) -> None:
        """See the class."""
        super().__init__()
        self.rouge = rouge
        self.extraction: ExtractionLike | None = None  # the task sets it
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
        """Return the mean over the documents of which there are sentences, in [0, 100].

        Raises:
            RuntimeError: If nobody said what the rows are.
        """
        if self.extraction is None:
            raise RuntimeError("no extraction: a DataModule with `extraction` says what rows are")
        rows, scores = (dim_zero_cat(state).cpu().numpy() for state in (self.rows, self.scores))
        summaries = self.extraction.summaries(rows, scores)
        score = make_score(self.rouge)
        references = [self.extraction.references[document] for document in summaries]
        score.update(list(summaries.values()), references)
        return score.compute().to(self.device)
