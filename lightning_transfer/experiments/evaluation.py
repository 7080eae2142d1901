"""Score a trained model on a split of a DataModule's rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback

from lightning_transfer.checkpoints.loading import Loaded, same_tokenizer
from lightning_transfer.data import StageData
from lightning_transfer.experiments.training import make_trainer, run_trainer
from lightning_transfer.weight_transfer import align_outputs

# The order in which people read them; torchmetrics sorts by name.
_FIRST = (
    *("pearson", "entity_f1", "rouge1", "rouge2", "rougeL"),
    *("accuracy", "macro_f1", "mcc", "spearman", "r2"),
)


@dataclass(frozen=True)
class TestedStage:
    """What a test gave."""

    metrics: dict[str, float]
    n_test: int
    seconds: float


def score(
    loaded: Loaded,
    data: StageData,
    split: Literal["validation", "test"],
    *,
    arguments: Mapping[str, Any],
    folder: Path,
    callbacks: Sequence[Callback] = (),
) -> tuple[dict[str, float], int]:
    """Score a model.

    Args:
        loaded: A trained task with its tokenizer.
        data: A DataModule; it is set up here, with the model's tokenizer if it has none.
        split: Which rows.
        arguments: Arguments of Lightning's Trainer.
        folder: Default folder of the Trainer.
        callbacks: For instance a progress bar.

    Returns:
        Metric values by name, and the number of rows.

    Raises:
        ValueError: If the model's labels are not the data's, or the model has no tokenizer.
    """
    if loaded.tokenizer is None:
        raise ValueError("the checkpoint holds no tokenizer; pass the run folder or model folder")
    if data.tokenizer is None:
        data.tokenizer = loaded.tokenizer
    _give_target(data, loaded)
    data.prepare_data()
    data.setup("validate" if split == "validation" else "test")
    task = align_outputs(loaded.task, data.labels)
    trainer = make_trainer(arguments, folder=folder, callbacks=callbacks)
    method = "validate" if split == "validation" else "test"
    [values] = run_trainer(trainer, method, task, datamodule=data, verbose=False)
    rows = data.n_val if split == "validation" else data.n_test
    metrics = {name.partition("/")[2]: float(value) for name, value in values.items()}
    names = [name for name in _FIRST if name in metrics]
    return {name: metrics[name] for name in (*names, *sorted(set(metrics) - set(names)))}, rows


def _give_target(data: Any, loaded: Loaded) -> None:
    """Let texts that are to be written be tokenized as the model writes them."""
    target = loaded.target_tokenizer
    if hasattr(data, "target_tokenizer") and not (
        target is not None and same_tokenizer(target, data.target_tokenizer)
    ):
        data.target_tokenizer = target
