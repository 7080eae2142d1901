"""One run of a command: what Hydra calls with each composed config."""

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
    WithoutHydra,
    as_this_program,
    full_errors,
    process,
    ranks_of_one_job,
)
from lightning_transfer.experiments.sweeps import job_records, sweep_table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One run of a command: what Hydra calls with each composed config.

    A class of its own, so that launchers can send it to other processes.

    Args:
        target: ``module:function`` of the command.
        line: The command line.
        words: Its words as typed.
        verbose: Whether errors are shown with their tracebacks.
        pid: Process of the command line; a job may run in another one.
    """

    target: str
    line: CommandLine
    words: tuple[str, ...]
    verbose: bool
    pid: int = field(default_factory=os.getpid)

    def __call__(self, config: Any) -> Any:
        """Run the command, and report its error where the job is known."""
        with self._place(), ranks_of_one_job():
            try:
                with self._recorded():
                    module, _, function = self.target.partition(":")
                    return getattr(importlib.import_module(module), function)(config)
            except job_records.Pruned:  # said and written down by rank 0
                return None
            except Exception as error:
                code = error_messages.report(error, self.verbose, self._name())
                # Reported here; not every error survives the way from one process to another.
                failed = job_records.JobFailed(_line(error), code)
        # Hydra says the same again on the way out; main puts the stream back.
        sys.stderr = WithoutHydra(sys.stderr)
        raise failed

    def _words(self) -> list[str]:
        """Return the command line of this job alone: Lightning starts its other ranks by it."""
        hydra = _sweep()
        if hydra is None:
            return list(self.words)
        from omegaconf import read_write

        with read_write(hydra):  # Lightning hands it on, so that all ranks share the job's folder
            hydra.run.dir = hydra.runtime.output_dir
        flags = {name: value for name, value in self.line.flags.items() if name != "--multirun"}
        own = [o for o in hydra.overrides.hydra if not o.startswith("hydra.mode=")]
        overrides = (*own, "hydra.mode=RUN", *hydra.overrides.task)
        line = replace(self.line, flags=flags, overrides=overrides)
        own_flags = ["--verbose"] if self.verbose else []
        return [str(self.line.command), *own_flags, *line.hydra_words]

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """Show the job, and the ranks it starts, a process that runs this job and nothing else."""
        elsewhere = self.pid != os.getpid()
        program = as_this_program() if elsewhere else contextlib.nullcontext()
        with process(self._words()), full_errors(self.verbose), program:
            yield

    @contextlib.contextmanager
    def _recorded(self) -> Iterator[None]:
        """Keep the record of a sweep's job, and the table of the sweep beside it."""
        hydra = _sweep()
        if hydra is None or self.line.command != "fit":
            yield
            return
        folder, sweep = Path(hydra.runtime.output_dir), Path(hydra.runtime.cwd, hydra.sweep.dir)
        log.info("job %s: %s", folder.name, " ".join(self._swept(hydra)))
        try:
            with job_records.recorded(folder, list(hydra.overrides.task), line=_line):
                yield
        finally:
            sweep_table.write(sweep)

    def _name(self) -> str:
        """Return what errors of a sweep's job begin with."""
        hydra = _sweep()
        if hydra is None:
            return ""
        return f"job {Path(hydra.runtime.output_dir).name} ({' '.join(self._swept(hydra))}): "

    def _swept(self, hydra: Any) -> list[str]:
        """Return those of the job's overrides that it does not share with the others."""
        from hydra.core.override_parser.overrides_parser import OverridesParser

        overrides = OverridesParser.create().parse_overrides(list(self.line.overrides))
        keys = {o.get_key_element() for o in overrides if o.is_sweep_override()}
        keys |= set(hydra.sweeper.get("params") or {})
        own = [o for o in hydra.overrides.task if o.partition("=")[0] in keys]
        return own or list(hydra.overrides.task)


def _sweep() -> Any:
    """Return Hydra's own config of a sweep's job; None outside of one."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    return hydra if hydra is not None and str(hydra.mode).endswith("MULTIRUN") else None


def _line(error: Exception) -> str:
    """Return an error in one line."""
    return " ".join(error_messages.told(error).split()) or type(error).__name__
