"""Scoring of a trained model on the validation or test rows of a DataModule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback

from lightning_transfer.checkpoints.loading import Loaded, same_tokenizer
from lightning_transfer.data import StageData
from lightning_transfer.experiments.training import make_trainer, run_trainer
from lightning_transfer.weight_transfer import align_outputs

# Main metric of each kind of task first. torchmetrics returns the names in alphabetical order.
_METRIC_ORDER = (
    *("pearson", "entity_f1", "rouge1", "rouge2", "rougeL"),
    *("accuracy", "macro_f1", "mcc", "spearman", "r2"),
)


@dataclass(frozen=True)
class TestedStage:
    """Test scores of a stage run, as written to ``test-<stage>.json``.

    Args:
        metrics: Metric value by name, without a split.
        n_test: Number of test rows.
        seconds: Wall-clock time of the test in seconds.
    """

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
    """Score a model on one split of the data.

    Args:
        loaded: A trained task with its tokenizer.
        data: DataModule to score on. It is set up here, with the tokenizer of the model if it has
            none.
        split: ``validation`` or ``test``.
        arguments: Arguments of Lightning's Trainer.
        folder: Default folder of the Trainer.
        callbacks: Callbacks of the Trainer, such as a progress bar.

    Returns:
        Metric values by name, without a split, and the number of rows.

    Raises:
        ValueError: If the labels of model and data do not match, or the model has no tokenizer.
    """
    if loaded.tokenizer is None:
        raise ValueError(
            "the checkpoint contains no tokenizer; give the run folder or the model folder instead"
        )
    if data.tokenizer is None:
        data.tokenizer = loaded.tokenizer
    _set_target_tokenizer(data, loaded)
    data.prepare_data()
    data.setup("validate" if split == "validation" else "test")
    task = align_outputs(loaded.task, data.labels)
    trainer = make_trainer(arguments, folder=folder, callbacks=callbacks)
    method = "validate" if split == "validation" else "test"
    # One dict, since there is one loader.
    [values] = run_trainer(trainer, method, task, datamodule=data, verbose=False)
    rows = data.n_val if split == "validation" else data.n_test
    # Logged as "val/pearson" or "test/pearson".
    metrics = {name.partition("/")[2]: float(value) for name, value in values.items()}
    names = [name for name in _METRIC_ORDER if name in metrics]
    return {name: metrics[name] for name in (*names, *sorted(set(metrics) - set(names)))}, rows


def _set_target_tokenizer(data: Any, loaded: Loaded) -> None:
    """Tokenize the target texts of ``data`` by the target tokenizer of the model."""
    target = loaded.target_tokenizer
    # Token tables are reused for the same tokenizer object, so an equal one is not assigned.
    if hasattr(data, "target_tokenizer") and not (
        target is not None and same_tokenizer(target, data.target_tokenizer)
    ):
        data.target_tokenizer = target
