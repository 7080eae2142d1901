"""What a sweep keeps of each of its jobs: a small file in the job's own folder.

Everything that is told of a sweep, also of one that is running or was killed, comes from these
files and from the jobs' results. No hydra, no torch.
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
"""Hydra's own file in a sweep's folder."""
STUDY = "sweep"
"""Name of an Optuna sweep's study."""
JOURNAL = "optuna.journal"
"""File of the study in the sweep's folder."""
Status = Literal["done", "pruned", "failed", "unfinished"]
STATUSES: tuple[Status, ...] = ("done", "pruned", "unfinished", "failed")
"""What may have become of a job, in the order in which a table shows them."""


class Pruned(Exception):
    """A job was stopped because its validation scores lie behind those of the other jobs."""


class JobFailed(RuntimeError):
    """A job of a sweep failed, and has told its error; plain enough to be sent between processes.

    Args:
        message: The error in one line.
        code: Exit code.
    """

    def __init__(self, message: str, code: int = 1) -> None:
        """See the class."""
        super().__init__(message, code)
        self.code = code


@dataclass(frozen=True)
class JobRecord:
    """What is known of one job.

    Args:
        overrides: Its overrides, ``key=value``, those of the sweeper included.
        status: What became of it.
        metric: What it is ranked by, such as ``val/pearson``.
        mode: ``max`` or ``min``: which way that is better.
        values: One value for each seed.
        seconds: Wall-clock time over all attempts; of one that was killed nothing is known.
        error: Of a failed job: the error in one line.
    """

    overrides: tuple[str, ...]
    status: Status = "unfinished"
    metric: str | None = None
    mode: str = "max"
    values: tuple[float, ...] = ()
    seconds: float = 0.0
    error: str | None = None

    def __post_init__(self) -> None:
        """Make tuples of what JSON knows as lists, and NaN of what it knows as null."""
        numbers = (math.nan if value is None else float(value) for value in self.values)
        object.__setattr__(self, "values", tuple(numbers))
        object.__setattr__(self, "overrides", tuple(self.overrides))
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}, got {self.status!r}")

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.status in ("done", "pruned")

    @property
    def score(self) -> Metric | None:
        """The values as a mean with its interval; None without any."""
        return Metric(self.values) if self.values else None

    @property
    def rank(self) -> float:
        """The mean, turned so that higher is better; the lowest there is for none."""
        if self.score is None or not math.isfinite(self.score.mean):
            return -math.inf
        return self.score.mean if self.mode == "max" else -self.score.mean


@dataclass(frozen=True)
class SweptJob:
    """A job that a sweep's folder holds.

    Args:
        name: Its folder below the sweep's.
        folder: The same as a whole path.
        record: What is known of it.
    """

    name: str
    folder: Path
    record: JobRecord = field(repr=False)


def read(folder: str | os.PathLike[str]) -> JobRecord | None:
    """Return the record in a job's folder, or None if there is none.

    Raises:
        ValueError: If the file there is not a record.
    """
    file = Path(folder) / RECORD
    try:
        return JobRecord(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} is not the record of a sweep's job: {error}") from None


def write(folder: str | os.PathLike[str], record: JobRecord) -> None:
    """Write a job's record whole or not at all."""
    values = [value if math.isfinite(value) else None for value in record.values]
    content = json.dumps({**asdict(record), "values": values}, indent=2, ensure_ascii=False)
    atomic_write(Path(folder) / RECORD, content + "\n")


def update(folder: str | os.PathLike[str], **changes: Any) -> None:
    """Change fields of the record that a folder holds."""
    kept = read(folder)
    if kept is not None:
        write(folder, replace(kept, **changes))


def find(sweep: str | os.PathLike[str]) -> list[SweptJob]:
    """Return the jobs below a sweep's folder, numbered ones in their order.

    Those of other sweeps below it are not among them.
    """
    found = []
    for parent, folders, files in os.walk(sweep):
        if MULTIRUN in files and Path(parent) != Path(sweep):
            folders.clear()
        elif RECORD in files:
            folders.clear()  # a job holds no jobs, but many files
            record = read(parent)
            if record is not None:
                name = Path(parent).relative_to(sweep).as_posix()
                found.append(SweptJob(name, Path(parent), record))
    return sorted(found, key=_in_order)


def _in_order(job: SweptJob) -> tuple[int, int, str]:
    number = int(job.name) if job.name.isdigit() else -1
    return int(number < 0), number, job.name


def identity(overrides: Sequence[str]) -> tuple[str, ...]:
    """Return what makes a job this job and no other, whatever its number.

    The order of its overrides does not, nor do keys that no result depends on, nor which sweeper
    came up with it.

    Example:
        >>> identity(["seed=1", "a.b=2", "sweep=random", "resume=true"])
        ('a.b=2', 'seed=1')
    """
    patterns = ("sweep", "hydra.*", "hydra/*", *MAY_CHANGE)
    return tuple(
        sorted(
            override
            for override in overrides
            if not any(fnmatch.fnmatchcase(key_of(override), pattern) for pattern in patterns)
        )
    )


def key_of(override: str) -> str:
    """Return an override's key: ``seed`` of ``+seed=1``; ``~seed`` stays as it is."""
    return override.partition("=")[0].lstrip("+")


@contextlib.contextmanager
def recorded(
    folder: Path, overrides: Sequence[str], *, line: Callable[[Exception], str]
) -> Iterator[None]:
    """Keep the record of a job while it runs; what becomes of it is told by its folder alone.

    Args:
        folder: The job's folder.
        overrides: Its overrides.
        line: Says an error in one line.

    Raises:
        Pruned: In place of any error of a job whose record says that it was pruned: ranks that
            were forked raise something else.
    """
    before = read(folder)
    fresh = before is None or not before.finished
    spent = before.seconds if before else 0.0
    if fresh:
        write(folder, JobRecord(tuple(overrides), seconds=spent))
    began = time.monotonic()
    try:
        yield
    except BlockingIOError:  # another process runs this very job, and keeps its record
        raise
    except Exception as error:
        now = read(folder)
        if fresh and now is not None and now.status == "pruned":
            update(folder, seconds=spent + time.monotonic() - began)
            raise Pruned(str(error)) from error
        if fresh:
            seconds = spent + time.monotonic() - began
            update(folder, status="failed", error=line(error), seconds=seconds)
        raise
    except BaseException:
        update(folder, seconds=spent + time.monotonic() - began)
        raise
    if fresh:
        update(folder, seconds=spent + time.monotonic() - began)
