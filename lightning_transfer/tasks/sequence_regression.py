"""One number for a text."""

import warnings

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from torchmetrics.regression import PearsonCorrCoef, R2Score, SpearmanCorrCoef

from lightning_transfer.tasks.transfer_module import TransferModule


class SequenceRegression(TransferModule):
    """Rate a text: mean squared error, judged by correlation.

    Metrics are ``pearson``, ``spearman`` and ``r2``; where the labels name bands of the scale,
    also ``accuracy`` and ``macro_f1`` of the band that the predicted rating falls into.

    Args:
        backbone: See :class:`TransferModule`.
        head: With one output.
        labels: Of kind ``rating``.
        recipe: See :class:`TransferModule`.
        objectives: See :class:`TransferModule`.

    Raises:
        ValueError: If the labels are classes.

    Example:
        >>> from lightning_transfer.heads import LinearHead
        >>> from lightning_transfer.utils import Labels
        >>> task = SequenceRegression(nn.Identity(), LinearHead(4, 1), labels=Labels("regression"))
        >>> task.loss(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 4.0])).item()
        2.0
    """

    monitor = "val/pearson"

    def build_metrics(self) -> MetricCollection:
        """Return correlations and, with named bands, accuracy and macro-F1."""
        if self.labels.kind != "regression":
            raise ValueError(
                f"SequenceRegression needs labels of kind 'regression', got {self.labels.kind!r}; "
                "use task=sequence_classification or data.label.kind=regression"
            )
        with warnings.catch_warnings():  # Spearman says that it keeps all values; it must
            warnings.simplefilter("ignore", UserWarning)
            metrics: dict[str, Metric | MetricCollection] = {
                "pearson": PearsonCorrCoef(),
                "spearman": SpearmanCorrCoef(),
                "r2": R2Score(),
            }
        if self.labels.names:
            classes = len(self.labels.names)
            metrics["accuracy"] = MulticlassAccuracy(classes, average="micro")
            metrics["macro_f1"] = MulticlassF1Score(classes, average="macro")
        # Bands are ints and ratings floats: compute groups would have to compare them.
        return MetricCollection(metrics, compute_groups=False)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared error of logits (batch, 1) to ratings (batch,)."""
        return nn.functional.mse_loss(logits.squeeze(-1), targets.to(logits.dtype))

    def update_metrics(self, metrics: MetricCollection, logits: Tensor, targets: Tensor) -> None:
        """Feed predicted and true ratings, and the bands that hold them."""
        ratings, targets = logits.squeeze(-1), targets.float()
        cutoffs = ratings.new_tensor(self.labels.cutoffs)
        for name, metric in metrics.items(keep_base=True):
            if name in ("accuracy", "macro_f1"):
                metric.update(torch.bucketize(ratings, cutoffs), torch.bucketize(targets, cutoffs))
            else:
                metric.update(ratings, targets)
