"""Loggers beside the csv files: what each run is called there, and how it ends."""

import inspect
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from lightning_transfer.config.instantiate import build
from lightning_transfer.config.private_apis import has_run
from lightning_transfer.experiments.plan import StageRun
from lightning_transfer.experiments.training import is_rank_zero, next_log_folder
from lightning_transfer.utils import allowed_targets
from lightning_transfer.utils.allowed_targets import locate
from lightning_transfer.utils.atomic_files import atomic_write


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
        if isinstance(logger, WandbLogger) and has_run(logger) and is_rank_zero():
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


class StageLoggers:
    """Builds the loggers of each stage run, and those of the results.

    Args:
        config: The whole config of a run as plain values.
        folder: The run folder.
        rows: Stage run to the names of the rows that need it.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        folder: Path,
        *,
        rows: Mapping[StageRun, Sequence[str]],
    ) -> None:
        """See the class."""
        self.config = config
        self.folder = folder
        self.rows = rows

    def check(self, run: StageRun) -> None:
        """Build the loggers of a stage run beside the csv files, and write nothing.

        Raises:
            ValueError: If the config of one is wrong.
        """
        for name, spec in self._wanted():
            self._logger(name, spec, RunName(run.folder, run.title, run.stage))

    def of(self, run: StageRun) -> list[Logger]:
        """Return the loggers of a stage run; they know its config by then."""
        logs = next_log_folder(self.folder / run.folder)
        built: list[Logger] = []
        if (self.config.get("logger") or {}).get("csv"):
            built.append(CSVLogger(logs.parent, name="", version=logs.name))
        about = {
            "stage": run.stage,
            "seed": run.seed,
            "after": None if run.before is None else run.before.title,
            "rows": list(self.rows.get(run, ())),
        }
        for name, spec in self._wanted():
            called = RunName(run.folder, run.title, run.stage, kept_id(logs.parent))
            logger = self._logger(name, spec, called)
            logger.log_hyperparams({**self.config, "stage_run": about})
            built.append(logger)
        return built

    def log_results(self, values: Mapping[str, float]) -> None:
        """Give the results of the whole experiment to the loggers, as a run of their own."""
        called = RunName(PurePosixPath("results"), str(self.config["name"]), "results")
        for name, spec in self._wanted():
            logger = self._logger(name, spec, called)
            logger.log_hyperparams(dict(self.config))
            logger.log_metrics(dict(values), step=0)
            logger.finalize("success")
            finish([logger])

    def _wanted(self) -> list[tuple[str, Any]]:
        """Return name and config of the loggers beside the csv files."""
        return [(k, v) for k, v in (self.config.get("logger") or {}).items() if k != "csv"]

    def _logger(self, name: str, spec: Any, about: RunName) -> Logger:
        where = f"logger.{name}"
        allowed_targets.check(spec, "logger", where=where)
        return build(spec, "logger", where, **logger_arguments(spec, self.folder, about))
