"""Loggers beside the csv files: what each run is called there, and how it ends."""

import inspect
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from lightning_transfer.files import atomic_write
from lightning_transfer.slots import locate
from lightning_transfer.training import is_rank_zero


@dataclass(frozen=True)
class RunName:
    """What a run is called in a logger.

    Args:
        below: Its folder below the run folder.
        title: Its name for people.
        kind: Name of the stage, or ``results``.
        id: The same after a resume, so that the logger goes on where it was; None: a new one.
    """

    below: PurePosixPath
    title: str
    kind: str
    id: str | None = None


def logger_arguments(spec: Mapping[str, Any], root: Path, run: RunName) -> dict[str, Any]:
    """Return the arguments of a logger that only the run knows; those in its config are stronger.

    In wandb every stage run is a run of its own, in the group of the run folder, and a resumed one
    goes on under its id. Tensorboard's files lie together, so that one command shows them all.

    Args:
        spec: The logger's config.
        root: The run folder.
        run: What it is called.
    """
    made = locate(spec["_target_"], "logger")
    offered: dict[str, Any] = {"save_dir": str(root), "name": run.title, "run_name": run.title}
    known = set(inspect.signature(made).parameters)
    if inspect.isclass(made) and issubclass(made, WandbLogger):
        offered |= {"group": root.name, "job_type": run.kind, "id": run.id}
        known |= {"group", "job_type"}
    elif inspect.isclass(made) and issubclass(made, TensorBoardLogger):
        offered = {"save_dir": str(root / "tensorboard"), "name": str(run.below), "version": ""}
    return {k: v for k, v in offered.items() if k in known and spec.get(k) is None}


def finish(loggers: Sequence[Logger], *, failed: bool = False) -> None:
    """End each wandb run, so that the next stage starts its own and a crash shows as one.

    Args:
        loggers: Of one Trainer run.
        failed: Whether it is to be marked as failed.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger) and logger._experiment is not None and is_rank_zero():
            logger.experiment.finish(exit_code=1 if failed else 0)


def kept_id(folder: Path) -> str:
    """Return the id of the run that logs to ``folder``, the same after a resume."""
    file = folder / "run-id"
    if not file.is_file():
        found = secrets.token_hex(4)
        if is_rank_zero():
            atomic_write(file, found)
        return found
    return file.read_text()
