"""Classes for a text, one or several."""

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


class SequenceClassification(TransferModule):
    """Classify a text: cross-entropy for one class, binary cross-entropy for several.

    Which of the two follows from the labels' kind. Metrics are ``accuracy``, ``macro_f1`` and
    ``mcc`` (Matthews).

    Args:
        backbone: See :class:`TransferModule`.
        head: With one output a class.
        labels: Of kind ``single`` or ``multi``.
        recipe: See :class:`TransferModule`.
        objectives: See :class:`TransferModule`.
        class_weights: Weight of each class by name in the loss (a class left out weighs 1);
            ``balanced`` weighs inversely to the training counts; None weighs all alike.
        label_smoothing: Share of the target spread over all classes, in [0, 1).

    Raises:
        ValueError: If the labels are ratings, a weight names an unknown class or is not
            positive, or the smoothing is out of its range.
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
                "set task.label_smoothing"
            )
        if isinstance(class_weights, str) and class_weights != "balanced":
            raise ValueError(
                f"class_weights must be null, balanced or {{label: weight}}, got {class_weights!r}"
            )
        super().__init__(backbone, head, labels=labels, recipe=recipe, objectives=objectives)
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights
        weights = torch.ones(len(labels.names))
        if isinstance(class_weights, Mapping):
            weights = self._weights_from({k: float(v) for k, v in class_weights.items()})
        # No buffer: averages of the weights copy these before they are balanced.
        self.loss_weights = weights

    def build_metrics(self) -> MetricCollection:
        """Return accuracy, macro-F1 and Matthews' coefficient."""
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
        kinds = {"regression": "numbers", "tags": "a tag for each word"}
        given = kinds.get(self.labels.kind, "text without labels")
        raise ValueError(
            f"SequenceClassification needs labels that are classes, got {given}; "
            "use task=sequence_regression, or data.label.kind=binned"
        )

    def setup(self, stage: str) -> None:
        """Balance the class weights by the training counts, if asked."""
        super().setup(stage)
        if stage != "fit" or self.class_weights != "balanced":
            return
        counts = getattr(getattr(self.trainer, "datamodule", None), "label_counts", None)
        if not counts:
            raise ValueError(
                "class_weights=balanced needs a DataModule with `label_counts`; "
                "give the weights by name instead"
            )
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
        """Return the mean loss of logits (batch, classes).

        Targets are class positions, int64 (batch,), or for several classes a multi-hot float
        (batch, classes).
        """
        logits = logits.to(torch.promote_types(logits.dtype, self.loss_weights.dtype))
        weights = self.loss_weights.to(logits)
        if self.labels.kind == "single_label":
            return nn.functional.cross_entropy(
                logits, targets, weights, label_smoothing=self.label_smoothing
            )
        smooth = targets.to(logits.dtype) * (1 - self.label_smoothing) + self.label_smoothing / 2
        return nn.functional.binary_cross_entropy_with_logits(logits, smooth, pos_weight=weights)

    def update_metrics(self, metrics: MetricCollection, logits: Tensor, targets: Tensor) -> None:
        """Feed scores (batch, classes) and targets."""
        targets = targets.long()
        metrics.update(self.probabilities(logits), targets)
