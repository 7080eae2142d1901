"""The baseline of all texts that sum up another: its first sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_transfer.data.tokenization.sentences import first_sentences
from lightning_transfer.objectives import Weighted
from lightning_transfer.optim import Recipe
from lightning_transfer.tasks.metrics.text_scores import SCORES, make_score
from lightning_transfer.tasks.row_texts import RowTexts
from lightning_transfer.tasks.transfer_module import Batch, TransferModule
from lightning_transfer.utils import Labels


class LeadText(TransferModule):
    """Answer a text with its first sentences (lead-1, lead-3).

    Nothing is read and nothing is learned; train it for no step (``trainer.max_steps=0``). Scored
    as :class:`SequenceToSequence` scores what a model writes.

    Args:
        backbone: See :class:`TransferModule`; unused.
        head: See :class:`TransferModule`; unused.
        labels: Of kind ``text``.
        recipe: See :class:`TransferModule`.
        objectives: See :class:`TransferModule`.
        sentences: How many sentences, at least 1.
        scores: What is measured: ``bleu``, ``chrf``, ``rouge1``, ``rouge2``, ``rougeL``.

    Raises:
        ValueError: If there is to be no sentence, a score is unknown, or the labels are of another
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
            raise ValueError(f"sentences must be >= 1, got {sentences}; set task.sentences")
        if unknown := sorted({*scores} - {*SCORES}):
            raise ValueError(f"scores must be among {', '.join(SCORES)}, got {unknown[0]!r}")
        if labels.kind != "text":
            raise ValueError(
                f"{type(self).__name__} needs texts with target texts, got labels of kind "
                f"{labels.kind!r}; use data of pairs, such as paper_titles"
            )
        self.sentences, self.scores = sentences, tuple(scores)  # before the metrics
        super().__init__(backbone, head, labels=labels, recipe=recipe, objectives=objectives)

    def build_metrics(self) -> MetricCollection:
        """Return the scores."""
        return MetricCollection(
            {name: make_score(name) for name in self.scores}, compute_groups=False
        )

    @property
    def args(self) -> dict[str, Any]:
        """What rebuilds this task beside its backbone, head and labels: plain values."""
        return {"sentences": self.sentences, "scores": list(self.scores)}

    def setup(self, stage: str) -> None:
        """Find the texts."""
        super().setup(stage)
        self._texts = RowTexts(self.trainer.datamodule)  # type: ignore[attr-defined]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Refuse to learn.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"{type(self).__name__} has nothing to learn; set the stage's trainer.max_steps=0"
        )

    def _evaluate(self, batch: Batch, metrics: MetricCollection, name: str) -> None:
        phase = name.partition("/")[0]
        texts = self._texts.of(batch, phase, "text")
        leads = [first_sentences(text, self.sentences) for text in texts]
        metrics.update(leads, self._texts.of(batch, phase, "target"))
        self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=len(texts))
