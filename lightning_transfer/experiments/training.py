"""One Trainer run: its arguments, loggers and logs."""

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
    """Whether this process is the one that writes."""
    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0


_ELSEWHERE = {
    "callbacks": "stages.*.callbacks",
    "logger": "logger=…",
    "default_root_dir": "hydra.run.dir=…",
}
"""Arguments of the Trainer that have another place in the config."""


def trainer_arguments(
    shared: Mapping[str, Any], own: Mapping[str, Any], *, where: str, epochs: int | None = None
) -> dict[str, Any]:
    """Merge the shared Trainer arguments with a stage's own.

    Args:
        shared: Arguments of every stage.
        own: Arguments of one stage; stronger.
        where: Dotted key of ``own`` for error messages.
        epochs: Used where nothing sets ``max_epochs``.

    Raises:
        ValueError: If the Trainer has no such argument; the message names the closest one.
    """
    known = set(inspect.signature(pl.Trainer.__init__).parameters) - {"self", *_ELSEWHERE}
    for arguments, place in ((shared, "trainer"), (own, where)):
        for name in arguments:
            if name in _ELSEWHERE:
                raise ValueError(f"{place}.{name} is not set here; use {_ELSEWHERE[name]}")
            if name not in known:
                near = did_you_mean(closest(name, known, count=1))
                raise ValueError(f"{place}.{name} is no argument of Lightning's Trainer{near}")
    merged = {**shared, **own}
    if merged.get("max_epochs") is None:
        merged["max_epochs"] = epochs
    return merged


def clippable(optimizer: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return an optimizer's config, not fused where mixed precision would have to clip it.

    Lightning refuses that: a fused optimizer unscales the gradients itself, after the clipping.
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
    """Build a Trainer whose checkpoints are written atomically.

    Args:
        arguments: Trainer arguments.
        folder: Default folder of whatever the Trainer writes.
        callbacks: In order.
        loggers: None at all if empty.
    """
    chosen = dict(arguments)
    bar = chosen.pop("enable_progress_bar", None)
    plugins = chosen.pop("plugins", None) or []
    has_bar = any(isinstance(c, pl.callbacks.ProgressBar) for c in callbacks)
    return pl.Trainer(
        **chosen,
        default_root_dir=folder,
        callbacks=list(callbacks),
        logger=list(loggers) or False,
        plugins=[
            *(plugins if isinstance(plugins, list) else [plugins]),
            AtomicCheckpointIO(),
        ],
        enable_progress_bar=has_bar if bar is None else bar,
    )


# What Lightning warns of and a user of this package can do nothing about.
_NOISE = (
    r".*does not have many workers",  # rows are tokenized ahead: workers would only wait
    r"Checkpoint directory .* exists and is not empty",  # as it should be after a resume
    r".*LeafSpec",  # Lightning 2.6 with torch 2.13
    r"Total length of `list` across ranks is zero",  # no validation rows were asked for
    r".*could not find the monitored key",  # stages says so where it matters
    r"The number of training batches .* is smaller than the logging interval",
)


def run_trainer(trainer: pl.Trainer, method: str, *args: Any, **kwargs: Any) -> Any:
    """Call a Trainer method; Ctrl-C surfaces as KeyboardInterrupt, SIGTERM as exit code 143.

    Lightning turns Ctrl-C into ``sys.exit(1)`` and leaves it ignored; what was finished before
    could then not be written down.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        with warnings.catch_warnings():
            for message in _NOISE:
                warnings.filterwarnings("ignore", message=message)
            return getattr(trainer, method)(*args, **kwargs)
    except SIGTERMException:  # whose exit code would be 0, as if all had been done
        raise SystemExit(128 + signal.SIGTERM) from None
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if handler is not None and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, handler)


class Patience(EarlyStopping):
    """Early stopping that stays stopped.

    Lightning forgets over a resume that training had ended: a run that was killed between its last
    step and its results would train for another epoch.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop again if that was settled before the resume."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True


def next_log_folder(folder: Path) -> Path:
    """Return a fresh folder for the csv log of this attempt; Lightning empties one that exists."""
    return folder / LOGS / str(max(_attempts(folder), default=-1) + 1)


def merge_logs(folder: Path) -> Path | None:
    """Join the csv logs of a stage's attempts to one ``metrics.csv``; later attempts are stronger.

    Returns:
        The joined file, or None where nothing was logged.
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
    columns = sorted({name for row in rows for name in row if name})  # as Lightning has them
    with atomic_path(folder / METRICS) as temp, temp.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return folder / METRICS


def _attempts(folder: Path) -> list[int]:
    return [int(p.name) for p in (folder / LOGS).glob("*") if p.name.isdigit()]
