"""Weight transfer between stages, with layers, tokens and labels matched by name."""

from lightning_transfer.weight_transfer.head_weights import align_outputs
from lightning_transfer.weight_transfer.transfer import transfer_weights
from lightning_transfer.weight_transfer.vocabularies import Tokenizers
from lightning_transfer.weight_transfer.vocabulary_config import config_for
from lightning_transfer.weight_transfer.weight_transfer_report import (
    TransferredPart,
    WeightTransferReport,
)
from lightning_transfer.weight_transfer.weight_transfer_spec import WeightTransferSpec

__all__ = [
    "Tokenizers",
    "TransferredPart",
    "WeightTransferReport",
    "WeightTransferSpec",
    "align_outputs",
    "config_for",
    "transfer_weights",
]
