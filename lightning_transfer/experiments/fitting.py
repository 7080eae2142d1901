"""Train a task until it is done, and leave one file of weights."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, Timer
from lightning.pytorch.loggers import Logger

from lightning_transfer.backbones.cpu import give_back_freed_memory
from lightning_transfer.callbacks import ResumePoint
from lightning_transfer.checkpoints.checkpoint_io import read_checkpoint
from lightning_transfer.data import StageData
from lightning_transfer.experiments.run_loggers import finish
from lightning_transfer.experiments.training import (
    is_rank_zero,
    make_trainer,
    merge_logs,
    run_trainer,
)
from lightning_transfer.tasks import TransferModule

log = logging.getLogger(__name__)
_MANY = 10_000_000  # parameters

FINAL = "final.ckpt"


@dataclass(frozen=True)
class FittedStage:
    """What a trained stage leaves behind.

    Args:
        checkpoint: Path below the run folder.
        n_train: Training rows.
        seconds: Time of the training with its validations, over all attempts.
        epochs: Epochs begun.
        steps: Optimizer steps.
        best: The monitored validation metric of the weights that were kept; None if that was not
            what they were kept for.
        weight_transfer: What became of each part of the weights that it started from, as
            :meth:`handover.WeightTransferReport.to_rows` has it.
    """

    checkpoint: str
    n_train: int
    seconds: float
    epochs: int
    steps: int
    best: float | None
    weight_transfer: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class CheckpointPolicy:
    """Which weights are kept, and how.

    Args:
        monitor: Validation metric such as ``val/pearson``.
        mode: ``max`` or ``min``.
        best: Whether the weights that validated best are kept, or else the last ones.
        resume_every: Optimizer steps between two resume points.
        resume: Whether to go on from a resume point, if there is one.
    """

    monitor: str
    mode: str
    best: bool = True
    resume_every: int = 100
    resume: bool = False


def fit_task(
    task: TransferModule,
    data: StageData,
    root: Path,
    below: PurePosixPath,
    *,
    arguments: Mapping[str, Any],
    callbacks: Sequence[Callback],
    loggers: Sequence[Logger],
    keeping: CheckpointPolicy,
) -> FittedStage:
    """Train a task; its resume point stays, for the caller to remove.

    Args:
        task: What is trained.
        data: Set up for fitting.
        root: The run folder.
        below: Where below it everything goes.
        arguments: Of Lightning's Trainer.
        callbacks: In order; those that time and save come behind them.
        loggers: Ended here, as failed if the training fails.
        keeping: Which weights are kept.
    """
    if sum(p.numel() for p in task.parameters()) > _MANY:
        give_back_freed_memory()  # takes a third of a second, which is much for a small model
    folder = root / below
    # Without validation rows there is no best.
    best = _best(folder, keeping) if keeping.best and data.n_val > 0 else None
    timer = Timer(arguments.get("max_time"))  # Lightning's own gives way to any other
    point = ResumePoint(folder, every_n_steps=keeping.resume_every)
    own: list[Callback] = [timer, *([best] if best else []), point]
    trainer = make_trainer(arguments, folder=folder, callbacks=[*callbacks, *own], loggers=loggers)
    start = point.path if keeping.resume and point.path.is_file() else None
    if start is not None:
        log.info("going on from the resume point in %s", folder)
    try:
        run_trainer(trainer, "fit", task, datamodule=data, ckpt_path=start)
    except BaseException:
        finish(loggers, failed=True)
        raise
    finish(loggers)
    epochs, steps = trainer.fit_loop.epoch_progress.current.ready, trainer.global_step
    if not point.trained_here:
        epochs, steps = _recover(point.path, [timer, *([best] if best else [])])
    _keep(trainer, best, folder)
    score = None if best is None else best.best_model_score
    return FittedStage(
        checkpoint=str(below / FINAL),
        n_train=data.n_train,
        seconds=timer.time_elapsed("train"),
        epochs=epochs,
        steps=steps,
        best=None if score is None else float(score),
    )


def _best(folder: Path, keeping: CheckpointPolicy) -> ModelCheckpoint:
    return ModelCheckpoint(
        folder,
        filename="best",
        monitor=keeping.monitor,
        mode=keeping.mode,
        save_weights_only=True,
        enable_version_counter=False,
    )


def _recover(path: Path, callbacks: Sequence[Callback]) -> tuple[int, int]:
    """Take from the last resume point what the forked processes that trained took with them."""
    saved = read_checkpoint(path)
    for callback in callbacks:
        callback.load_state_dict(saved["callbacks"][callback.state_key])
    epochs = saved["loops"]["fit_loop"]["epoch_progress"]["current"]["ready"]
    return epochs, saved["global_step"]


def _keep(trainer: pl.Trainer, best: ModelCheckpoint | None, folder: Path) -> None:
    """Leave one file of weights."""
    if best is None or not best.best_model_path:
        if best is not None:
            log.warning("no validation took place; the weights of the last step are kept")
        trainer.save_checkpoint(folder / FINAL, weights_only=True)
    elif is_rank_zero() and Path(best.best_model_path).is_file():
        Path(best.best_model_path).replace(folder / FINAL)  # else a resumed run did it before
    if is_rank_zero():
        merge_logs(folder)
    trainer.strategy.barrier("stage finished")
