"""The loggers of stages, built from the config of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger

from lightning_transfer import slots
from lightning_transfer.loggers import RunName, finish, kept_id, logger_arguments
from lightning_transfer.parts import build
from lightning_transfer.plan import StageRun
from lightning_transfer.training import next_log_folder


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
        slots.check(spec, "logger", where=where)
        return build(spec, "logger", where, **logger_arguments(spec, self.folder, about))
