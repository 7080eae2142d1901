"""Task function for Hydra: one run of a command."""

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lightning_transfer.cli import error_messages
from lightning_transfer.cli.arguments import CommandLine
from lightning_transfer.cli.process import (
    HydraErrorFilter,
    argv_and_path,
    hydra_full_error,
    isolated_job,
    launcher_worker,
)
from lightning_transfer.experiments.sweeps import job_records, sweep_table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One run of a command, called by Hydra with each composed config.

    A class instead of a closure, because launchers send the job to other processes by pickle.

    Args:
        target: ``module:function`` of the command.
        line: Parsed command line.
        arguments: Arguments as typed.
        verbose: True to print errors with their tracebacks.
        pid: Process of the command line. A launcher may run the job in another one.
    """

    target: str
    line: CommandLine
    arguments: tuple[str, ...]
    verbose: bool
    pid: int = field(default_factory=os.getpid)

    def __call__(self, config: Any) -> Any:
        """Run the command.

        An error is reported here, where the job is known, and raised as ``JobFailed``: not every
        exception can be pickled and sent back from another process.

        Args:
            config: Composed config of the job.

        Returns:
            The return value of the command's function; ``None`` for a pruned job.

        Raises:
            JobFailed: If the command raises an error.
        """
        with self._job_process(), isolated_job():
            try:
                with self._recorded():
                    module, _, function = self.target.partition(":")
                    # Imported here, because the module of the commands imports torch.
                    return getattr(importlib.import_module(module), function)(config)
            except job_records.Pruned:  # logged and recorded by rank 0
                return None
            except Exception as error:
                code = error_messages.report(error, self.verbose, self._error_prefix())
                failed = job_records.JobFailed(_one_line(error), code)
        # Hydra prints the error again after this call; `main` restores the stream.
        sys.stderr = HydraErrorFilter(sys.stderr)
        raise failed

    def _job_arguments(self) -> list[str]:
        """Return the arguments that run this job alone, without the other jobs of its sweep.

        Lightning starts the other ranks of the job with them.
        """
        hydra = _sweep_config()
        if hydra is None:
            return list(self.arguments)
        from omegaconf import read_write

        with read_write(hydra):  # Lightning passes run.dir on, so all ranks use the job's folder
            hydra.run.dir = hydra.runtime.output_dir
        flags = {name: value for name, value in self.line.flags.items() if name != "--multirun"}
        own = [o for o in hydra.overrides.hydra if not o.startswith("hydra.mode=")]
        # A config such as sweep=optuna sets the mode, so it is overridden here.
        overrides = (*own, "hydra.mode=RUN", *hydra.overrides.task)
        line = replace(self.line, flags=flags, overrides=overrides)
        own_flags = ["--verbose"] if self.verbose else []
        return [str(self.line.command), *own_flags, *line.hydra_arguments]

    @contextlib.contextmanager
    def _job_process(self) -> Iterator[None]:
        """Make this process look like a process with this job alone, for Lightning's launcher."""
        elsewhere = self.pid != os.getpid()
        worker = launcher_worker() if elsewhere else contextlib.nullcontext()
        with argv_and_path(self._job_arguments()), hydra_full_error(self.verbose), worker:
            yield

    @contextlib.contextmanager
    def _recorded(self) -> Iterator[None]:
        """Write the record of a sweep's job and update the table of the sweep."""
        hydra = _sweep_config()
        if hydra is None or self.line.command != "fit":
            yield
            return
        folder, sweep = Path(hydra.runtime.output_dir), Path(hydra.runtime.cwd, hydra.sweep.dir)
        log.info("job %s: %s", folder.name, " ".join(self._swept_overrides(hydra)))
        try:
            with job_records.recorded(folder, list(hydra.overrides.task), error_line=_one_line):
                yield
        finally:
            sweep_table.write(sweep)  # after each job, because a sweep may be killed

    def _error_prefix(self) -> str:
        """Return the prefix of error messages, ``job 1 (seed=1): ``; empty outside of a sweep."""
        hydra = _sweep_config()
        if hydra is None:
            return ""
        overrides = " ".join(self._swept_overrides(hydra))
        return f"job {Path(hydra.runtime.output_dir).name} ({overrides}): "

    def _swept_overrides(self, hydra: Any) -> list[str]:
        """Return the job's overrides that differ between the jobs of its sweep."""
        from hydra.core.override_parser.overrides_parser import OverridesParser

        overrides = OverridesParser.create().parse_overrides(list(self.line.overrides))
        keys = {o.get_key_element() for o in overrides if o.is_sweep_override()}
        keys |= set(hydra.sweeper.get("params") or {})
        own = [o for o in hydra.overrides.task if o.partition("=")[0] in keys]
        return own or list(hydra.overrides.task)  # a sweep of a single job varies no key


def _sweep_config() -> Any:
    """Return Hydra's own config of a sweep's job; ``None`` outside of a sweep."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    return hydra if hydra is not None and str(hydra.mode).endswith("MULTIRUN") else None


def _one_line(error: Exception) -> str:
    """Return the message of an error in one line."""
    return " ".join(error_messages.message_of(error).split()) or type(error).__name__
