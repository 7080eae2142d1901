"""Table of a sweep: all jobs, best first, read from their folders only."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_transfer.experiments.results import Comparison, Metric, Results
from lightning_transfer.experiments.sweeps import job_records
from lightning_transfer.utils.atomic_files import atomic_path
from lightning_transfer.utils.file_locks import locked
from lightning_transfer.utils.tables import ColumnKind, console_for, make_table

if TYPE_CHECKING:
    from rich.table import Table

FILE = "sweep.csv"
_LOCK = ".sweep.csv.lock"
# Columns of sweep.csv; those of the swept keys are between them.
_FIRST_COLUMNS = ("job", "status")
_LAST_COLUMNS = (
    *("metric", "value", "ci95_low", "ci95_high"),
    *("test_metric", "test", "difference", "difference_low", "difference_high", "verdict"),
    *("seconds", "folder", "error"),
)


@dataclass(frozen=True)
class SweepRow:
    """One job in the table of a sweep.

    Args:
        job: The job.
        test_metric: Name of the test metric.
        test: Test score of the transfer. It is shown, but jobs are not ranked by it.
        comparison: Comparison of the transfer with its baseline.
    """

    job: job_records.SweepJob
    test_metric: str | None = None
    test: Metric | None = None
    comparison: Comparison | None = None

    @classmethod
    def from_job(cls, job: job_records.SweepJob) -> "SweepRow":
        """Read the results of a job, if it is done."""
        if job.record.status != "done":
            return cls(job)
        try:
            results = Results.read(job.folder)
        except (OSError, ValueError):  # the user has deleted or changed them
            return cls(job)
        metrics = results.rows[-1].metrics
        # The metric of the comparison, else the test metric of the same name as the validation
        # metric, else the first one.
        own = (job.record.metric or "").rpartition("/")[2]
        chosen = results.comparison.metric if results.comparison else own
        name = next((name for name in (chosen, own, *metrics) if name in metrics), None)
        return cls(job, name, metrics[name] if name else None, results.comparison)


@dataclass(frozen=True)
class SweepTable:
    """All jobs of a sweep, best first.

    Args:
        folder: Folder of the sweep.
        rows: One row per job.
        keys: Overridden keys with different values in the jobs.
    """

    folder: Path
    rows: tuple[SweepRow, ...]
    keys: tuple[str, ...]

    @classmethod
    def read(cls, folder: str | Path) -> "SweepTable":
        """Read the folder of a sweep; the sweep may still be running.

        Raises:
            ValueError: If the folder does not exist, or contains no jobs of a sweep.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ValueError(f"no folder {folder}; give that of a sweep, multirun/NAME/TIME")
        jobs = job_records.find(folder)
        if not jobs:
            # The default folders are multirun/NAME/TIME; the user may have given a parent.
            sweeps = [
                *folder.glob(f"*/{job_records.MULTIRUN}"),
                *folder.glob(f"*/*/{job_records.MULTIRUN}"),
            ]
            latest = [str(file.parent) for file in sorted(sweeps, key=lambda f: f.stat().st_mtime)]
            near = f"; the latest sweep in it is {latest[-1]}" if latest else ""
            raise ValueError(
                f"{folder} is not the folder of a sweep: it contains no job with a "
                f"{job_records.RECORD}; give a folder such as multirun/NAME/TIME{near}"
            )
        rows = sorted((SweepRow.from_job(job) for job in jobs), key=_sort_key)
        return cls(folder, tuple(rows), tuple(_differing([job.record for job in jobs])))

    @property
    def best(self) -> SweepRow | None:
        """The best finished job; None if no finished job has a score."""
        first = self.rows[0] if self.rows else None
        is_done = first is not None and first.job.record.status == "done"
        return first if first and is_done and math.isfinite(first.job.record.rank) else None

    def write(self) -> None:
        """Write ``sweep.csv`` atomically."""
        with atomic_path(self.folder / FILE) as temp, temp.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*_FIRST_COLUMNS, *self.keys, *_LAST_COLUMNS])
            writer.writerows(_csv_cells(row, self.keys) for row in self.rows)

    def to_table(self) -> "Table":
        """Return the table for ``rich``, without empty columns."""
        columns: list[tuple[str, ColumnKind]] = [("job", "name"), ("status", "word")]
        columns += [(key, "text") for key in _short(self.keys)]
        columns += [(heading, "score") for heading in self._score_headings()]
        cells = []
        for row in self.rows:
            record, values = row.job.record, _values(row.job.record)
            # Rounded for the terminal only; the csv file has all digits.
            shown = [_rounded(values.get(key, "")) for key in self.keys]
            seconds = f"{record.seconds:.1f}"
            cells.append([row.job.name, record.status, *shown, *self._score_cells(row), seconds])
        count = "1 job" if len(self.rows) == 1 else f"{len(self.rows)} jobs"
        title = f"sweep · {count}"
        return make_table([*columns, ("seconds", "number")], cells, title=title, title_left=True)

    def _score_headings(self) -> list[str]:
        """Return the headings of the score columns: validation score, test score, difference."""
        metrics = dict.fromkeys(row.job.record.metric for row in self.rows)
        headings = ["/".join(name for name in metrics if name) or "score"]
        if tests := dict.fromkeys(row.test_metric for row in self.rows if row.test):
            headings.append("/".join(f"test {name}" for name in tests))
        if titles := dict.fromkeys(row.comparison.title for row in self.rows if row.comparison):
            headings.append("/".join(titles))
        return headings

    def _score_cells(self, row: SweepRow) -> list[str]:
        """Return the cells of a row below :meth:`_score_headings`."""
        cells = [_metric_cell(row.job.record.score)]
        if any(other.test for other in self.rows):
            cells.append(_metric_cell(row.test))
        if any(other.comparison for other in self.rows):
            comparison = row.comparison
            cells.append(f"{comparison.value:+.3f}\n{comparison.verdict}" if comparison else "")
        return cells

    def caption(self) -> str:
        """Return the metric of the ranking, as a sentence."""
        records = [row.job.record for row in self.rows]
        ways = {(record.metric, record.mode) for record in records if record.metric}
        if not ways:
            return "no job has a score yet"
        if len(ways) > 1:
            return "the jobs have different metrics, so their order has no meaning"
        [(metric, mode)] = ways
        way = "higher" if mode == "max" else "lower"
        if str(metric).startswith("val/"):
            return f"best first by {metric}, {way} is better; test scores were not used"
        return f"best first by {metric} on the TEST split, as there is no validation score"

    def render(self) -> None:
        """Print the table, the errors of failed jobs, and the next commands."""
        table = self.to_table()
        console = console_for(table)
        console.print(table)
        lines = [self.caption()]
        for row in self.rows:
            if row.job.record.status == "failed":
                lines.append(f"job {row.job.name} failed: {row.job.record.error}")
        # Commands stay on one line, to be copied; errors may contain brackets, rich's markup.
        for line in [*lines, *self._next_steps()]:
            console.print(line, soft_wrap=True, markup=False, highlight=False)

    def _next_steps(self) -> list[str]:
        """Return the best job, the command to use it, and the command to resume the sweep."""
        lines = []
        best = self.best
        if best is not None:
            overrides = job_records.identity(best.job.record.overrides)
            # A sweep of one job has no differing keys.
            own = [o for o in overrides if job_records.key_of(o) in self.keys] or overrides
            lines.append(f"Best: job {best.job.name}: {' '.join(own)}")
            use = f'predict ckpt={best.job.folder} text="…"'
            lines.append(f"Use it: python -m lightning_transfer {use}")
        unfinished = [row for row in self.rows if not row.job.record.finished]
        if unfinished:
            lines.append(
                f"{len(unfinished)} of {len(self.rows)} jobs not finished; to resume, run the same "
                f"command with hydra.sweep.dir={self.folder}"
            )
        return [*lines, f"Sweep folder: {self.folder}"]


def write(folder: str | Path) -> None:
    """Write the table of a sweep; jobs that end at the same time wait for each other."""
    with locked(Path(folder) / _LOCK):
        SweepTable.read(folder).write()


def _sort_key(row: SweepRow) -> tuple[int, float]:
    """Sort by status, then finished jobs best first; the others stay in the order of the jobs."""
    record = row.job.record
    return job_records.STATUSES.index(record.status), -record.rank if record.finished else 0.0


def _values(record: job_records.JobRecord) -> dict[str, str]:
    """Map the keys of a job's identifying overrides to their values."""
    own = set(job_records.identity(record.overrides))
    pairs = {job_records.key_of(o): o.partition("=")[2] for o in record.overrides if o in own}
    # "~key" deletes a key and has no value.
    return {key: "left out" if key[:1] == "~" else value for key, value in pairs.items()}


def _rounded(value: str) -> str:
    """Return a long number with 4 digits, as a sampler may propose it; other text unchanged."""
    try:
        return (
            value if len(value) < 8 or float(value) == int(float(value)) else f"{float(value):.4g}"
        )
    except (ValueError, OverflowError):  # a text; inf
        return value


def _differing(records: Sequence[job_records.JobRecord]) -> list[str]:
    """Return the keys with different values in the jobs, in the order of the overrides."""
    values = [_values(record) for record in records]
    order = dict.fromkeys(job_records.key_of(o) for record in records for o in record.overrides)
    return [
        key
        for key in order
        if any(key in one for one in values) and len({one.get(key) for one in values}) > 1
    ]


def _short(keys: Sequence[str]) -> list[str]:
    """Return dotted keys without their parents, as far as they stay unique."""
    # A config group such as data@stages.a.data is shown by its group.
    parts = [key.partition("@")[0] if "@" in key else key for key in keys]
    short = []
    for position, part in enumerate(parts):
        names = part.split(".")
        others = [other.split(".") for i, other in enumerate(parts) if i != position]
        depth = 1
        while depth < len(names) and any(o[-depth:] == names[-depth:] for o in others):
            depth += 1
        name = ".".join(names[-depth:])
        # Two stages with the same group: only the whole key is unique.
        short.append(name if parts.count(part) == 1 else keys[position])
    return short


def _metric_cell(metric: Metric | None) -> str:
    """Return a mean with its interval below it."""
    return "\n".join(metric.lines()) if metric else ""


def _csv_cells(row: SweepRow, keys: Sequence[str]) -> list[object]:
    """Return the cells of a row of ``sweep.csv``; None is an empty cell."""
    record, values = row.job.record, _values(row.job.record)
    score, comparison = record.score, row.comparison
    low, high = score.ci95 if score else (None, None)
    difference_low, difference_high = comparison.ci95 if comparison else (None, None)
    return [
        *(row.job.name, record.status, *(values.get(key, "") for key in keys)),
        *(record.metric, score.mean if score else None, low, high),
        *(row.test_metric, row.test.mean if row.test else None),
        *(
            comparison.value if comparison else None,
            difference_low,
            difference_high,
            comparison.verdict if comparison else None,
        ),
        *(round(record.seconds, 1), row.job.folder, record.error),
    ]
