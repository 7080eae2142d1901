"""Lightning's Trainer: arguments, construction, interrupts, early stopping and csv logs."""

import csv
import inspect
import signal
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning_utilities.core.rank_zero import rank_zero_only

from lightning_transfer.checkpoints.checkpoint_io import AtomicCheckpointIO
from lightning_transfer.utils.atomic_files import atomic_path
from lightning_transfer.utils.suggestions import closest, did_you_mean

LOGS = "logs"
METRICS = "metrics.csv"


def is_rank_zero() -> bool:
    """Return True if this process has global rank 0, the only one that writes files."""
    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0


_OTHER_PLACES = {
    "callbacks": "stages.*.callbacks",
    "logger": "logger=…",
    "default_root_dir": "hydra.run.dir=…",
}
"""Trainer arguments that are set at another place of the config."""


def trainer_arguments(
    shared: Mapping[str, Any], own: Mapping[str, Any], *, where: str, epochs: int | None = None
) -> dict[str, Any]:
    """Merge the Trainer arguments shared by all stages with those of one stage.

    Args:
        shared: Arguments of all stages.
        own: Arguments of one stage; they replace the shared ones.
        where: Dotted key of ``own`` for error messages.
        epochs: Default of ``max_epochs``.

    Raises:
        ValueError: If the Trainer has no such argument, or it is set at another place of the
            config.
    """
    known = set(inspect.signature(pl.Trainer.__init__).parameters) - {"self", *_OTHER_PLACES}
    for arguments, place in ((shared, "trainer"), (own, where)):
        for name in arguments:
            if name in _OTHER_PLACES:
                raise ValueError(f"{place}.{name} cannot be set here; use {_OTHER_PLACES[name]}")
            if name not in known:
                near = did_you_mean([f"{place}.{c}" for c in closest(name, known, count=1)])
                raise ValueError(f"unknown argument of Lightning's Trainer: {place}.{name}{near}")
    merged = {**shared, **own}
    if merged.get("max_epochs") is None:
        merged["max_epochs"] = epochs
    return merged


def clippable(optimizer: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of an optimizer, with ``fused`` off if Lightning could not clip gradients.

    Under mixed precision a fused optimizer unscales the gradients itself, after the clipping, so
    Lightning raises if such an optimizer is combined with ``gradient_clip_val``.

    Args:
        optimizer: Config of the optimizer.
        arguments: Trainer arguments of the stage.
    """
    mixed = str(arguments.get("precision")) in ("16-mixed", "bf16-mixed", "16", "bf16")
    if optimizer.get("fused") and mixed and arguments.get("gradient_clip_val"):
        return {**optimizer, "fused": None}
    return dict(optimizer)


def make_trainer(
    arguments: Mapping[str, Any],
    *,
    folder: Path,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
) -> pl.Trainer:
    """Build a Trainer that writes its checkpoints atomically.

    Args:
        arguments: Trainer arguments; ``plugins`` are kept beside the atomic checkpoint writer.
        folder: Default folder of all files of the Trainer.
        callbacks: Callbacks in their order.
        loggers: Loggers; logging is off if there are none.
    """
    chosen = dict(arguments)
    bar = chosen.pop("enable_progress_bar", None)
    plugins = chosen.pop("plugins", None) or []
    has_bar = any(isinstance(c, pl.callbacks.ProgressBar) for c in callbacks)
    return pl.Trainer(
        **chosen,
        default_root_dir=folder,
        callbacks=list(callbacks),
        logger=list(loggers) or False,  # an empty list would be Lightning's default, a logger
        plugins=[
            *(plugins if isinstance(plugins, list) else [plugins]),
            AtomicCheckpointIO(),
        ],
        # Without one of ours no bar at all: Lightning would add its own.
        enable_progress_bar=has_bar if bar is None else bar,
    )


# Warnings of Lightning that the user of this package cannot act on.
_IGNORED_WARNINGS = (
    r".*does not have many workers",  # rows are tokenized ahead: workers would only wait
    r"Checkpoint directory .* exists and is not empty",  # normal after a resume
    r".*LeafSpec",  # deprecation in torch 2.13, caused by Lightning 2.6
    r"Total length of `list` across ranks is zero",  # a stage without validation rows
    r".*could not find the monitored key",  # fitting.py logs it if no validation was run at all
    r"The number of training batches .* is smaller than the logging interval",  # a short stage
)


def run_trainer(trainer: pl.Trainer, method: str, *args: Any, **kwargs: Any) -> Any:
    """Call a method of a Trainer, and let interrupts reach the caller.

    On Ctrl-C, Lightning ends the program by ``sys.exit(1)`` and ignores further ones. Here it
    raises KeyboardInterrupt, so that the caller can write the finished results.

    Args:
        trainer: The Trainer.
        method: Name of the method, such as ``fit`` or ``test``.
        args: Arguments of the method.
        kwargs: Keyword arguments of the method.

    Returns:
        The result of the method.

    Raises:
        KeyboardInterrupt: On Ctrl-C.
        SystemExit: On SIGTERM, with exit code 143.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        with warnings.catch_warnings():
            for message in _IGNORED_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            return getattr(trainer, method)(*args, **kwargs)
    except SIGTERMException:  # Lightning's exit code would be 0, that of a finished run
        raise SystemExit(128 + signal.SIGTERM) from None
    except SystemExit as stop:
        # Lightning raises it while it handles the KeyboardInterrupt.
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        # None: a handler that was not set from Python cannot be restored.
        if handler is not None and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, handler)


class Patience(EarlyStopping):
    """Early stopping that survives a resume.

    Lightning's EarlyStopping does not restore ``trainer.should_stop``. A run killed between its
    last step and its results would train for another epoch after the resume.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop at once if the patience had run out before the resume."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True


def next_log_folder(folder: Path) -> Path:
    """Return a new folder for the csv log of this attempt; Lightning empties an existing one."""
    return folder / LOGS / str(max(_attempts(folder), default=-1) + 1)


def merge_logs(folder: Path) -> Path | None:
    """Merge the csv logs of all attempts of a stage run to one ``metrics.csv``.

    A resumed attempt repeats the steps after its resume point, so its rows replace the rows of
    earlier attempts from its first step on.

    Args:
        folder: Folder of the stage run.

    Returns:
        The merged file; None if nothing was logged.
    """
    rows: list[dict[str, str]] = []
    for attempt in sorted(_attempts(folder)):
        file_of_attempt = folder / LOGS / str(attempt) / METRICS
        if not file_of_attempt.is_file():
            continue
        with file_of_attempt.open(newline="") as file:
            # A killed attempt may have left half a line, or no more than a header.
            new = [row for row in csv.DictReader(file) if str(row.get("step")).isdigit()]
        if new:
            first = min(int(row["step"]) for row in new)
            rows = [row for row in rows if int(row["step"]) < first] + new
    if not rows:
        return None
    columns = sorted({name for row in rows for name in row if name})  # the order of Lightning
    # restval: attempts may differ in their columns, if one ended before its first validation.
    with atomic_path(folder / METRICS) as temp, temp.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return folder / METRICS


def _attempts(folder: Path) -> list[int]:
    return [int(p.name) for p in (folder / LOGS).glob("*") if p.name.isdigit()]
