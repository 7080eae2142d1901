"""Records of the jobs of a sweep: one small file in the folder of each job.

A sweep may be running, killed or finished: its state is read from these files and from the results
of the jobs only. Needs neither hydra nor torch.
"""

import contextlib
import fnmatch
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lightning_transfer.experiments.results import Metric
from lightning_transfer.experiments.run_folder import MAY_CHANGE
from lightning_transfer.utils.atomic_files import atomic_write

RECORD = "job.json"
MULTIRUN = "multirun.yaml"
"""Hydra's own file in the folder of a sweep."""
STUDY = "sweep"
"""Name of the Optuna study of a sweep."""
JOURNAL = "optuna.journal"
"""File of the study in the folder of the sweep."""
Status = Literal["done", "pruned", "failed", "unfinished"]
STATUSES: tuple[Status, ...] = ("done", "pruned", "unfinished", "failed")
"""Statuses of a job, in the order of the table."""


class Pruned(Exception):
    """Raised if a job is pruned, because its validation scores are worse than in other jobs."""


class JobFailed(RuntimeError):
    """Raised for a failed job whose error was already reported.

    It holds plain values only, so it can be pickled and sent between processes.

    Args:
        message: The error in one line.
        code: Exit code.
    """

    def __init__(self, message: str, code: int = 1) -> None:
        """See the class."""
        super().__init__(message, code)  # all arguments, since pickle calls the class with them
        self.code = code


@dataclass(frozen=True)
class JobRecord:
    """State and score of one job.

    Args:
        overrides: Overrides of the job, ``key=value``, with those added by the sweeper.
        status: ``done``, ``pruned``, ``failed`` or ``unfinished``.
        metric: Metric that ranks the job, such as ``val/pearson``.
        mode: ``max`` if a higher value of the metric is better, else ``min``.
        values: One value per seed.
        seconds: Wall-clock time of all attempts in seconds. A killed attempt counts 0.
        error: Error of a failed job in one line.

    Raises:
        ValueError: If the status is unknown.
    """

    overrides: tuple[str, ...]
    status: Status = "unfinished"
    metric: str | None = None
    mode: str = "max"
    values: tuple[float, ...] = ()
    seconds: float = 0.0
    error: str | None = None

    def __post_init__(self) -> None:
        """Convert lists of JSON to tuples, and null to NaN; check the status."""
        numbers = (math.nan if value is None else float(value) for value in self.values)
        object.__setattr__(self, "values", tuple(numbers))
        object.__setattr__(self, "overrides", tuple(self.overrides))
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}, got {self.status!r}")

    @property
    def finished(self) -> bool:
        """True if the job needs no further attempt: it is done or pruned."""
        return self.status in ("done", "pruned")

    @property
    def score(self) -> Metric | None:
        """Mean of the values with its interval; None without values."""
        return Metric(self.values) if self.values else None

    @property
    def rank(self) -> float:
        """Mean of the values, negated if lower is better; -inf without a finite mean."""
        if self.score is None or not math.isfinite(self.score.mean):
            return -math.inf
        return self.score.mean if self.mode == "max" else -self.score.mean


@dataclass(frozen=True)
class SweepJob:
    """A job found in the folder of a sweep.

    Args:
        name: Folder of the job below that of the sweep.
        folder: Full path of that folder.
        record: Record of the job.
    """

    name: str
    folder: Path
    record: JobRecord = field(repr=False)


def read(folder: str | os.PathLike[str]) -> JobRecord | None:
    """Return the record in the folder of a job, or None without one.

    Raises:
        ValueError: If the file is not a record.
    """
    file = Path(folder) / RECORD
    try:
        return JobRecord(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} is not the record of a sweep's job: {error}") from None


def write(folder: str | os.PathLike[str], record: JobRecord) -> None:
    """Write the record of a job atomically."""
    # JSON has no NaN.
    values = [value if math.isfinite(value) else None for value in record.values]
    content = json.dumps({**asdict(record), "values": values}, indent=2, ensure_ascii=False)
    atomic_write(Path(folder) / RECORD, content + "\n")


def update(folder: str | os.PathLike[str], **changes: Any) -> None:
    """Change fields of the record in a folder, if there is one."""
    stored = read(folder)
    if stored is not None:
        write(folder, replace(stored, **changes))


def find(sweep: str | os.PathLike[str]) -> list[SweepJob]:
    """Return the jobs of a sweep, numbered jobs first and in their order.

    Jobs of other sweeps in subfolders are left out.

    Args:
        sweep: Folder of the sweep.

    Raises:
        ValueError: If a ``job.json`` is not a record.
    """
    jobs = []
    for parent, folders, files in os.walk(sweep):
        if MULTIRUN in files and Path(parent) != Path(sweep):
            folders.clear()  # another sweep
        elif RECORD in files:
            folders.clear()  # a job contains no other jobs, but many files
            record = read(parent)
            if record is not None:  # the folder may be deleted meanwhile
                name = Path(parent).relative_to(sweep).as_posix()
                jobs.append(SweepJob(name, Path(parent), record))
    return sorted(jobs, key=_sort_key)


def _sort_key(job: SweepJob) -> tuple[int, int, str]:
    """Sort numbered jobs by number, then the others by name."""
    number = int(job.name) if job.name.isdigit() else -1
    return int(number < 0), number, job.name


def identity(overrides: Sequence[str]) -> tuple[str, ...]:
    """Return the identifying overrides of a job, to find it when a sweep is started again.

    The number of a job may change. Its result depends neither on the order of the overrides, nor
    on the keys of ``MAY_CHANGE``, nor on the sweeper.

    Example:
        >>> identity(["seed=1", "a.b=2", "sweep=random", "resume=true"])
        ('a.b=2', 'seed=1')
    """
    # `sweep` is the config group of the sweeper; hydra's keys do not reach the run.
    patterns = ("sweep", "hydra.*", "hydra/*", *MAY_CHANGE)
    return tuple(
        sorted(
            override
            for override in overrides
            if not any(fnmatch.fnmatchcase(key_of(override), pattern) for pattern in patterns)
        )
    )


def key_of(override: str) -> str:
    """Return the key of an override: ``seed`` for ``+seed=1``; ``~seed`` is unchanged."""
    return override.partition("=")[0].lstrip("+")


@contextlib.contextmanager
def recorded(
    folder: Path, overrides: Sequence[str], *, error_line: Callable[[Exception], str]
) -> Iterator[None]:
    """Keep the record of a job up to date while the job runs in this context.

    Args:
        folder: Folder of the job.
        overrides: Overrides of the job.
        error_line: Returns an error as one line of text.

    Raises:
        Pruned: Instead of any error of a job with the status ``pruned``. Ranks that were forked
            raise another error for it.
    """
    stored = read(folder)
    # A finished job keeps its record, even if its second start fails, for instance because a
    # default of the config has changed.
    is_new = stored is None or not stored.finished
    spent = stored.seconds if stored else 0.0
    if is_new:
        write(folder, JobRecord(tuple(overrides), seconds=spent))
    started = time.monotonic()
    try:
        yield
    except BlockingIOError:  # another process runs the same job, and keeps its record
        raise
    except Exception as error:
        # Read again: rank 0 writes `pruned` from within the job.
        current = read(folder)
        if is_new and current is not None and current.status == "pruned":
            update(folder, seconds=spent + time.monotonic() - started)
            raise Pruned(str(error)) from error
        if is_new:
            seconds = spent + time.monotonic() - started
            update(folder, status="failed", error=error_line(error), seconds=seconds)
        raise
    except BaseException:  # Ctrl-C or SIGTERM: the job stays `unfinished`
        update(folder, seconds=spent + time.monotonic() - started)
        raise
    if is_new:
        update(folder, seconds=spent + time.monotonic() - started)
