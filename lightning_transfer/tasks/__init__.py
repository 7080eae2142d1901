"""Tasks: LightningModules of a backbone and a head."""

from lightning_transfer.tasks.base import TransferModule
from lightning_transfer.tasks.masked_language_modelling import MaskedLanguageModelling
from lightning_transfer.tasks.sequence_classification import SequenceClassification
from lightning_transfer.tasks.sequence_regression import SequenceRegression
from lightning_transfer.tasks.token_classification import TokenClassification

__all__ = [
    "MaskedLanguageModelling",
    "SequenceClassification",
    "SequenceRegression",
    "TokenClassification",
    "TransferModule",
]
