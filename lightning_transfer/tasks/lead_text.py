"""Lead-n baseline of summarization: the first sentences of the input text."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_transfer.data.tokenization.sentences import first_sentences
from lightning_transfer.objectives import Weighted
from lightning_transfer.optim import Recipe
from lightning_transfer.tasks.metrics.text_scores import check_scores, make_score
from lightning_transfer.tasks.row_texts import RowTexts
from lightning_transfer.tasks.transfer_module import Batch, TransferModule
from lightning_transfer.utils import Labels


class LeadText(TransferModule):
    """Lead-n baseline of summarization (lead-1, lead-3): the first sentences of each text.

    It has nothing to train and uses neither backbone nor head; run it with ``trainer.max_steps=0``.
    The metrics are those of generated texts in :class:`SequenceToSequence`, for comparison.

    Args:
        backbone: See :class:`TransferModule`; unused.
        head: See :class:`TransferModule`; unused.
        labels: Labels of kind ``text``.
        recipe: See :class:`TransferModule`.
        objectives: See :class:`TransferModule`.
        sentences: Number of sentences, >= 1.
        scores: Metrics: ``bleu``, ``chrf``, ``rouge1``, ``rouge2``, ``rougeL``.

    Raises:
        ValueError: If ``sentences`` is below 1, a score is unknown, or the labels are of another
            kind.
    """

    monitor = "val/rougeL"
    reads_targets = True

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        *,
        labels: Labels,
        recipe: Recipe | None = None,
        objectives: Mapping[str, Weighted] | None = None,
        sentences: int = 1,
        scores: Sequence[str] = ("rouge1", "rouge2", "rougeL"),
    ) -> None:
        """See the class."""
        if sentences < 1:
            raise ValueError(f"sentences must be >= 1, got {sentences}; set task.sentences=1")
        check_scores(scores, key="task.scores")
        if labels.kind != "text":
            raise ValueError(
                f"{type(self).__name__} needs labels of kind 'text', got {labels.kind!r}; use "
                "texts with target texts, such as data=paper_titles"
            )
        self.sentences, self.scores = sentences, tuple(scores)
        # After these attributes, because it builds the metrics.
        super().__init__(backbone, head, labels=labels, recipe=recipe, objectives=objectives)

    def build_metrics(self) -> MetricCollection:
        """Return the metrics of the texts."""
        # Compute groups would merge metrics with equal values in the first batch, such as two
        # variants of ROUGE that are 0.
        return MetricCollection(
            {name: make_score(name) for name in self.scores}, compute_groups=False
        )

    @property
    def args(self) -> dict[str, Any]:
        """Arguments stored in a checkpoint, beside backbone, head and labels; plain values."""
        return {"sentences": self.sentences, "scores": list(self.scores)}

    def setup(self, stage: str) -> None:
        """Get access to the texts of the DataModule."""
        super().setup(stage)
        self._row_texts = RowTexts(self.trainer.datamodule)  # type: ignore[attr-defined]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Raise an error, because there is nothing to train.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"{type(self).__name__} has nothing to train; set trainer.max_steps=0 for its stage, "
            "such as +stages.target.trainer.max_steps=0"
        )

    def _evaluate(self, batch: Batch, metrics: MetricCollection, name: str) -> None:
        phase = name.partition("/")[0]
        texts = self._row_texts.get(batch, phase, "text")
        leads = [first_sentences(text, self.sentences) for text in texts]
        metrics.update(leads, self._row_texts.get(batch, phase, "target"))
        self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=len(texts))
