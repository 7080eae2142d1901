"""Sequence regression: one number per text."""

import warnings

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from torchmetrics.regression import PearsonCorrCoef, R2Score, SpearmanCorrCoef

from lightning_transfer.tasks.transfer_module import TransferModule


class SequenceRegression(TransferModule):
    """Sequence regression with the mean squared error.

    Metrics are ``pearson``, ``spearman`` and ``r2``. If the labels have names of bins, ``accuracy``
    and ``macro_f1`` compare the bins of predicted and true values.

    Args:
        backbone: See :class:`TransferModule`.
        head: Head with one output.
        labels: Labels of kind ``regression``.
        recipe: See :class:`TransferModule`.
        objectives: See :class:`TransferModule`.

    Raises:
        ValueError: If the labels are of another kind.

    Example:
        >>> from lightning_transfer.heads import LinearHead
        >>> from lightning_transfer.utils import Labels
        >>> task = SequenceRegression(nn.Identity(), LinearHead(4, 1), labels=Labels("regression"))
        >>> task.loss(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 4.0])).item()
        2.0
    """

    monitor = "val/pearson"

    def build_metrics(self) -> MetricCollection:
        """Return correlations and R² and, for named bins, accuracy and macro-F1."""
        if self.labels.kind != "regression":
            raise ValueError(
                f"SequenceRegression needs labels of kind 'regression', got {self.labels.kind!r}; "
                "use task=sequence_classification or data.label.kind=regression"
            )
        with warnings.catch_warnings():
            # SpearmanCorrCoef warns that it stores all values. A rank correlation needs them.
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
        # Metrics of values and of bins are updated with different arguments and share no state.
        return MetricCollection(metrics, compute_groups=False)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared error, a scalar.

        Args:
            logits: Float (batch, 1).
            targets: True values, float (batch,).
        """
        return nn.functional.mse_loss(logits.squeeze(-1), targets.to(logits.dtype))

    def update_metrics(self, metrics: MetricCollection, logits: Tensor, targets: Tensor) -> None:
        """Update the metrics with predicted and true values, or with their bins."""
        values, targets = logits.squeeze(-1), targets.float()  # (batch,)
        # `bucketize` puts a value equal to a cutoff into the lower bin, like `Labels.bin_index`.
        cutoffs = values.new_tensor(self.labels.cutoffs)
        for name, metric in metrics.items(keep_base=True):
            if name in ("accuracy", "macro_f1"):
                metric.update(torch.bucketize(values, cutoffs), torch.bucketize(targets, cutoffs))
            else:
                metric.update(values, targets)
