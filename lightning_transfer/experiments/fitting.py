"""Training of one task: Trainer, checkpoints and resume point, ending in one file of weights."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, Timer
from lightning.pytorch.loggers import Logger

from lightning_transfer.backbones.cpu import release_freed_memory
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
_LARGE_MODEL = 10_000_000  # parameters

FINAL = "final.ckpt"


@dataclass(frozen=True)
class FittedStage:
    """Result of a trained stage, as written to ``fit.json``.

    Args:
        checkpoint: Path of the weights below the run folder.
        n_train: Number of training rows.
        seconds: Wall-clock time of training and validation over all attempts, in seconds.
        epochs: Epochs started.
        steps: Optimizer steps.
        best: Monitored validation metric of the saved weights; None if they are those of the last
            step.
        weight_transfer: Status of each part of the initial weights, see
            :meth:`lightning_transfer.weight_transfer.WeightTransferReport.to_rows`.
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
    """Choice of the weights to save, and the interval of resume points.

    Args:
        monitor: Validation metric such as ``val/pearson``.
        mode: ``max`` or ``min``.
        keep_best: True to save the weights with the best validation metric, False to save those of
            the last step.
        resume_every: Optimizer steps between two resume points, >= 1.
        resume: True to resume from the resume point, if there is one.
    """

    monitor: str
    mode: str
    keep_best: bool = True
    resume_every: int = 100
    resume: bool = False


def fit_task(
    task: TransferModule,
    data: StageData,
    root: Path,
    subfolder: PurePosixPath,
    *,
    arguments: Mapping[str, Any],
    callbacks: Sequence[Callback],
    loggers: Sequence[Logger],
    policy: CheckpointPolicy,
) -> FittedStage:
    """Train a task and save its weights.

    The resume point is left for the caller to remove once the result is written.

    Args:
        task: The task to train.
        data: DataModule, already set up for fitting.
        root: The run folder.
        subfolder: Folder of the stage run below ``root``.
        arguments: Arguments of Lightning's Trainer.
        callbacks: Callbacks in their order; timer, checkpoint and resume point are added at the
            end.
        loggers: Loggers of the stage run. They are finished here, as failed if the training fails.
        policy: Choice of the weights to save.

    Returns:
        The result; its ``weight_transfer`` is empty.
    """
    if sum(p.numel() for p in task.parameters()) > _LARGE_MODEL:
        release_freed_memory()  # 0.3 s, too long for a small model
    folder = root / subfolder
    # Without validation rows no step is better than another.
    best = _best_checkpoint(folder, policy) if policy.keep_best and data.n_val > 0 else None
    # Lightning adds a Timer for `max_time` only if there is none; this one also counts `seconds`.
    timer = Timer(arguments.get("max_time"))
    resume_point = ResumePoint(folder, every_n_steps=policy.resume_every)
    # The resume point is last: it saves the states of the other callbacks at the same moment.
    own: list[Callback] = [timer, *([best] if best else []), resume_point]
    trainer = make_trainer(arguments, folder=folder, callbacks=[*callbacks, *own], loggers=loggers)
    start = resume_point.path if policy.resume and resume_point.path.is_file() else None
    if start is not None:
        log.info("resuming from the resume point in %s", folder)
    try:
        run_trainer(trainer, "fit", task, datamodule=data, ckpt_path=start)
    except BaseException:
        finish(loggers, failed=True)
        raise
    finish(loggers)
    epochs, steps = trainer.fit_loop.epoch_progress.current.ready, trainer.global_step
    if not resume_point.trained_here:
        epochs, steps = _read_progress(resume_point.path, [timer, *([best] if best else [])])
    _save_final(trainer, best, folder)
    score = None if best is None else best.best_model_score
    return FittedStage(
        checkpoint=str(subfolder / FINAL),
        n_train=data.n_train,
        seconds=timer.time_elapsed("train"),
        epochs=epochs,
        steps=steps,
        best=None if score is None else float(score),
    )


def _best_checkpoint(folder: Path, policy: CheckpointPolicy) -> ModelCheckpoint:
    return ModelCheckpoint(
        folder,
        filename="best",
        monitor=policy.monitor,
        mode=policy.mode,
        save_weights_only=True,
        # A resumed run may find its own best.ckpt, and would write best-v1.ckpt beside it.
        enable_version_counter=False,
    )


def _read_progress(path: Path, callbacks: Sequence[Callback]) -> tuple[int, int]:
    """Restore callbacks from the last resume point, and return the epochs and steps in it.

    Forked ranks (``ddp_fork``) train in child processes, so this process has seen no step.
    """
    saved = read_checkpoint(path)
    for callback in callbacks:
        callback.load_state_dict(saved["callbacks"][callback.state_key])
    epochs = saved["loops"]["fit_loop"]["epoch_progress"]["current"]["ready"]
    return epochs, saved["global_step"]


def _save_final(trainer: pl.Trainer, best: ModelCheckpoint | None, folder: Path) -> None:
    """Save the final weights, or rename the best checkpoint to them, and merge the csv logs."""
    if best is None or not best.best_model_path:
        if best is not None:
            log.warning("no validation was run; saving the weights of the last step")
        # On all ranks: saving a checkpoint is collective in Lightning.
        trainer.save_checkpoint(folder / FINAL, weights_only=True)
    elif is_rank_zero() and Path(best.best_model_path).is_file():
        # It is missing if this run was resumed after the rename and before fit.json was written.
        Path(best.best_model_path).replace(folder / FINAL)
    if is_rank_zero():
        merge_logs(folder)
    trainer.strategy.barrier("stage finished")
