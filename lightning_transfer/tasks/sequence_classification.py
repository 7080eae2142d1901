"""Sequence classification with one class or several classes per text."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassMatthewsCorrCoef,
    MultilabelAccuracy,
    MultilabelF1Score,
    MultilabelMatthewsCorrCoef,
)

from lightning_transfer.objectives import Weighted
from lightning_transfer.optim import Recipe
from lightning_transfer.tasks.transfer_module import TransferModule
from lightning_transfer.utils import Labels

# Tasks for the kinds of labels that are not classes of a text.
_TASKS = {
    "regression": "sequence_regression",
    "tags": "token_classification",
    "text": "sequence_to_sequence",
    "masked_tokens": "masked_language_modelling",
    "next_tokens": "causal_language_modelling",
}


class SequenceClassification(TransferModule):
    """Sequence classification with one class or several classes per text.

    The loss is cross-entropy for ``single_label`` labels and binary cross-entropy for
    ``multi_label`` labels. Metrics are ``accuracy``, ``macro_f1`` and ``mcc`` (Matthews correlation
    coefficient).

    Args:
        backbone: See :class:`TransferModule`.
        head: Head with one output per class.
        labels: Labels of kind ``single_label`` or ``multi_label``.
        recipe: See :class:`TransferModule`.
        objectives: See :class:`TransferModule`.
        class_weights: Weights of the classes in the loss, by name, each > 0; 1 for classes without
            an entry. ``balanced`` for weights inverse to the class counts of the training rows.
            None for equal weights.
        label_smoothing: Fraction of the target distribution spread over all classes, in [0, 1).

    Raises:
        ValueError: If the labels are of another kind, ``class_weights`` is another string, a weight
            has an unknown class name or is not positive, or ``label_smoothing`` is out of range.
    """

    monitor = "val/macro_f1"

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        *,
        labels: Labels,
        recipe: Recipe | None = None,
        objectives: Mapping[str, Weighted] | None = None,
        class_weights: Mapping[str, float] | str | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        """See the class."""
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"label_smoothing must be in [0, 1), got {label_smoothing}; "
                "set task.label_smoothing=0.1"
            )
        if isinstance(class_weights, str) and class_weights != "balanced":
            raise ValueError(
                "class_weights must be null, balanced or {label: weight}, got "
                f"{class_weights!r}; set task.class_weights=balanced"
            )
        super().__init__(backbone, head, labels=labels, recipe=recipe, objectives=objectives)
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights
        weights = torch.ones(len(labels.names))
        if isinstance(class_weights, Mapping):
            weights = self._weights_from({k: float(v) for k, v in class_weights.items()})
        # Not a buffer: weight averaging copies buffers before `setup` computes balanced weights.
        self.loss_weights = weights

    def build_metrics(self) -> MetricCollection:
        """Return accuracy, macro-F1 and Matthews correlation coefficient."""
        count = len(self.labels.names)
        if self.labels.kind == "single_label":
            return MetricCollection(
                {
                    "accuracy": MulticlassAccuracy(count, average="micro"),
                    "macro_f1": MulticlassF1Score(count, average="macro"),
                    "mcc": MulticlassMatthewsCorrCoef(count),
                }
            )
        if self.labels.kind == "multi_label":
            return MetricCollection(
                {
                    "accuracy": MultilabelAccuracy(count, average="micro"),
                    "macro_f1": MultilabelF1Score(count, average="macro"),
                    "mcc": MultilabelMatthewsCorrCoef(count),
                }
            )
        kind = self.labels.kind
        task, rest = _TASKS[kind], ", or data.label.kind=binned" if kind == "regression" else ""
        raise ValueError(
            "SequenceClassification needs labels of kind 'single_label' or 'multi_label', got "
            f"{kind!r}; use task={task}{rest}"
        )

    def setup(self, stage: str) -> None:
        """Compute balanced class weights from the counts of the training rows.

        Raises:
            ValueError: If ``class_weights`` is ``balanced`` and the DataModule has no counts.
        """
        super().setup(stage)
        if stage != "fit" or self.class_weights != "balanced":
            return
        counts = getattr(getattr(self.trainer, "datamodule", None), "label_counts", None)
        if not counts:
            raise ValueError(
                "class_weights=balanced needs a DataModule with `label_counts`; pass weights by "
                f"name, such as task.class_weights={{{self.labels.names[0]}: 2.0}}"
            )
        # Each class has the same total weight. A class without a row counts as 1 row.
        mean = sum(counts.values()) / len(self.labels.names)
        balanced = {name: mean / max(1, counts.get(name, 0)) for name in self.labels.names}
        self.loss_weights = self._weights_from(balanced)

    def _weights_from(self, by_name: Mapping[str, float]) -> Tensor:
        weights = torch.ones(len(self.labels.names))
        for name, weight in by_name.items():
            if weight <= 0:
                raise ValueError(f"class_weights must be > 0, got {weight} for {name!r}")
            weights[self.labels.index(name)] = weight
        return weights

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch, a scalar.

        Args:
            logits: Float (batch, classes).
            targets: Class positions, int64 (batch,); for ``multi_label`` labels multi-hot, float
                (batch, classes).
        """
        # Cross-entropy of torch needs logits and weights of one dtype; 16 bits would round the
        # weights.
        logits = logits.to(torch.promote_types(logits.dtype, self.loss_weights.dtype))
        weights = self.loss_weights.to(logits)
        if self.labels.kind == "single_label":
            return nn.functional.cross_entropy(
                logits, targets, weights, label_smoothing=self.label_smoothing
            )
        # Binary cross-entropy of torch has no label smoothing. There are 2 classes per output, so
        # half of the spread fraction is for each of them.
        smooth = targets.to(logits.dtype) * (1 - self.label_smoothing) + self.label_smoothing / 2
        return nn.functional.binary_cross_entropy_with_logits(logits, smooth, pos_weight=weights)

    def update_metrics(self, metrics: MetricCollection, logits: Tensor, targets: Tensor) -> None:
        """Update the metrics with scores (batch, classes) and targets."""
        targets = targets.long()  # multi-hot targets are float for the loss
        metrics.update(self.probabilities(logits), targets)
