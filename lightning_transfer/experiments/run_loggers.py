"""Loggers of stage runs: their names, their arguments, and how they finish."""

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
    """Names of a stage run, or of the results, in a logger.

    Args:
        folder: Folder below the run folder.
        title: Display name.
        job_type: Name of the stage, or ``results``.
        id: Identifier of a logger run, equal for all attempts of a stage run, so that a resumed
            one continues it; None starts a new logger run.
    """

    folder: PurePosixPath
    title: str
    job_type: str
    id: str | None = None


def logger_arguments(spec: Mapping[str, Any], root: Path, name: RunName) -> dict[str, Any]:
    """Return the run-dependent arguments of a logger; values in its config win.

    Each stage run is one run of wandb, grouped by run folder. A resumed stage run continues under
    its id. TensorBoard files share one folder, so one command shows all stage runs.

    Args:
        spec: Config of the logger.
        root: The run folder.
        name: Names of the run.
    """
    target = locate(spec["_target_"], "logger")
    # The display name is the argument `name`, or `run_name` in MLFlowLogger.
    offered: dict[str, Any] = {"save_dir": str(root), "name": name.title, "run_name": name.title}
    known = set(inspect.signature(target).parameters)
    if inspect.isclass(target) and issubclass(target, WandbLogger):
        offered |= {"group": root.name, "job_type": name.job_type, "id": name.id}
        known |= {"group", "job_type"}  # WandbLogger passes its **kwargs on to wandb.init
    elif inspect.isclass(target) and issubclass(target, TensorBoardLogger):
        # An empty version: a resumed stage run writes to the same folder, not to version_1.
        offered = {"save_dir": str(root / "tensorboard"), "name": str(name.folder), "version": ""}
    return {k: v for k, v in offered.items() if k in known and spec.get(k) is None}


def finish(loggers: Sequence[Logger], *, failed: bool = False) -> None:
    """Finish the wandb runs of a stage run.

    Otherwise the next stage would continue the open run, and wandb would show a crashed run as
    finished.

    Args:
        loggers: Loggers of one Trainer run.
        failed: True to mark the runs as failed.
    """
    for logger in loggers:
        # Without a run, `logger.experiment` would start one.
        if isinstance(logger, WandbLogger) and has_run(logger) and is_rank_zero():
            logger.experiment.finish(exit_code=1 if failed else 0)


def stored_run_id(folder: Path) -> str:
    """Return the id of the logger run of a stage run; it is created once and kept over resumes."""
    file = folder / "run-id"
    if not file.is_file():
        new_id = secrets.token_hex(4)
        if is_rank_zero():
            atomic_write(file, new_id)
        return new_id
    return file.read_text()


class StageLoggers:
    """Builds the loggers of each stage run and of the results.

    Args:
        config: The whole config of a run as plain values.
        folder: The run folder.
        rows: Stage run to the names of its rows.
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
        """Build the loggers of a stage run without writing anything; csv needs no check.

        Raises:
            ValueError: If the config of a logger is wrong.
            ImportError: If the library of a logger is not installed.
        """
        for name, spec in self._specs():
            self._logger(name, spec, RunName(run.folder, run.title, run.stage))

    def for_run(self, run: StageRun) -> list[Logger]:
        """Return the loggers of a stage run, with its config logged to them."""
        logs = next_log_folder(self.folder / run.folder)
        built: list[Logger] = []
        if (self.config.get("logger") or {}).get("csv"):
            built.append(CSVLogger(logs.parent, name="", version=logs.name))
        stage_run = {
            "stage": run.stage,
            "seed": run.seed,
            "after": None if run.previous is None else run.previous.title,
            "rows": list(self.rows.get(run, ())),
        }
        for name, spec in self._specs():
            # The id is in the folder of all attempts: `logs` is that of this attempt.
            run_name = RunName(run.folder, run.title, run.stage, stored_run_id(logs.parent))
            logger = self._logger(name, spec, run_name)
            logger.log_hyperparams({**self.config, "stage_run": stage_run})
            built.append(logger)
        return built

    def log_results(self, values: Mapping[str, float]) -> None:
        """Log the results of the experiment as a separate run of each logger."""
        run_name = RunName(PurePosixPath("results"), str(self.config["name"]), "results")
        for name, spec in self._specs():
            logger = self._logger(name, spec, run_name)
            logger.log_hyperparams(dict(self.config))
            logger.log_metrics(dict(values), step=0)
            logger.finalize("success")  # no Trainer does it here
            finish([logger])

    def _specs(self) -> list[tuple[str, Any]]:
        """Return name and config of each logger except csv."""
        # `csv` is a switch instead of a `_target_`: its folder changes with each attempt.
        return [(k, v) for k, v in (self.config.get("logger") or {}).items() if k != "csv"]

    def _logger(self, name: str, spec: Any, run_name: RunName) -> Logger:
        where = f"logger.{name}"
        # Before `logger_arguments`, which imports the target.
        allowed_targets.check(spec, "logger", where=where)
        return build(spec, "logger", where, **logger_arguments(spec, self.folder, run_name))
