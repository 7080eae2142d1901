"""The table of a sweep: all its jobs, best first, told from their folders alone."""

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
_BEFORE = ("job", "status")
_AFTER = (
    *("metric", "value", "ci95_low", "ci95_high"),
    *("test_metric", "test", "difference", "difference_low", "difference_high", "verdict"),
    *("seconds", "folder", "error"),
)


@dataclass(frozen=True)
class SweepRow:
    """One job in the table.

    Args:
        job: The job.
        test_metric: Name of the test score that is shown.
        test: Test score of the transfer; nothing is ranked by it.
        gain: Comparison of the transfer over its baseline.
    """

    job: job_records.SweptJob
    test_metric: str | None = None
    test: Metric | None = None
    comparison: Comparison | None = None

    @classmethod
    def of(cls, job: job_records.SweptJob) -> "SweepRow":
        """Gather what a job's folder tells."""
        if job.record.status != "done":
            return cls(job)
        try:
            results = Results.read(job.folder)
        except (OSError, ValueError):  # taken away since
            return cls(job)
        metrics = results.rows[-1].metrics
        own = (job.record.metric or "").rpartition("/")[2]
        chosen = results.comparison.metric if results.comparison else own
        name = next((name for name in (chosen, own, *metrics) if name in metrics), None)
        return cls(job, name, metrics[name] if name else None, results.comparison)


@dataclass(frozen=True)
class SweepTable:
    """All jobs of a sweep, best first.

    Args:
        folder: The sweep's folder.
        lines: A line for each job.
        keys: The keys in whose values the jobs differ.
    """

    folder: Path
    lines: tuple[SweepRow, ...]
    keys: tuple[str, ...]

    @classmethod
    def read(cls, folder: str | Path) -> "SweepTable":
        """Read a sweep's folder, also while the sweep runs.

        Raises:
            ValueError: If the folder is not there, or holds no jobs of a sweep.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder; give a sweep's, multirun/NAME/TIME")
        found = job_records.find(folder)
        if not found:
            below = [
                *folder.glob(f"*/{job_records.MULTIRUN}"),
                *folder.glob(f"*/*/{job_records.MULTIRUN}"),
            ]
            latest = [str(file.parent) for file in sorted(below, key=lambda f: f.stat().st_mtime)]
            known = f"; the latest below it is {latest[-1]}" if latest else ""
            raise ValueError(
                f"{folder} is no sweep's folder: no job has left its {job_records.RECORD} there; give "
                f"one such as multirun/NAME/TIME{known}"
            )
        lines = sorted((SweepRow.of(job) for job in found), key=_place)
        return cls(folder, tuple(lines), tuple(_differing([job.record for job in found])))

    @property
    def best(self) -> SweepRow | None:
        """The best finished job, if it has a score."""
        first = self.lines[0] if self.lines else None
        ranked = first is not None and first.job.record.status == "done"
        return first if first and ranked and math.isfinite(first.job.record.rank) else None

    def write(self) -> None:
        """Write ``sweep.csv`` whole or not at all."""
        with atomic_path(self.folder / FILE) as temp, temp.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*_BEFORE, *self.keys, *_AFTER])
            writer.writerows(_cells(line, self.keys) for line in self.lines)

    def to_table(self) -> "Table":
        """Return the table for ``rich``; what no job has is left out, to fit 80 columns."""
        columns: list[tuple[str, ColumnKind]] = [("job", "name"), ("status", "word")]
        columns += [(key, "text") for key in _short(self.keys)]
        columns += [(name, "score") for name in self._scores()]
        rows = []
        for line in self.lines:
            record, values = line.job.record, _values(line.job.record)
            shown = [_rounded(values.get(key, "")) for key in self.keys]
            scores = self._scores(line)
            seconds = f"{record.seconds:.1f}"
            rows.append([line.job.name, record.status, *shown, *scores, seconds])
        jobs_are = "1 job" if len(self.lines) == 1 else f"{len(self.lines)} jobs"
        title = f"sweep · {jobs_are}"
        return make_table([*columns, ("seconds", "number")], rows, title=title, title_left=True)

    def _scores(self, line: SweepRow | None = None) -> list[str]:
        """Return the heads of the columns of scores, or the cells of a line."""
        metrics = dict.fromkeys(one.job.record.metric for one in self.lines)
        heads = ["/".join(name for name in metrics if name) or "score"]
        cells = ["" if line is None else _told(line.job.record.score)]
        tests = dict.fromkeys(one.test_metric for one in self.lines if one.test)
        if tests:
            heads.append("/".join(f"test {name}" for name in tests))
            cells.append("" if line is None else _told(line.test))
        if any(one.comparison for one in self.lines):
            heads.append("difference")
            comparison = line.comparison if line else None
            cells.append(f"{comparison.value:+.3f}\n{comparison.verdict}" if comparison else "")
        return heads if line is None else cells

    def caption(self) -> str:
        """Say what the ranking goes by."""
        ways = {(r.metric, r.mode) for r in (line.job.record for line in self.lines) if r.metric}
        if not ways:
            return "no job has a score yet"
        if len(ways) > 1:
            return "jobs with different metrics: their order says little"
        [(metric, mode)] = ways
        way = "higher" if mode == "max" else "lower"
        if str(metric).startswith("val/"):
            return f"best first by {metric}, {way} is better; the test split chose nothing"
        return f"best first by {metric} on the TEST split, as there is no validation score"

    def render(self) -> None:
        """Print the table, what failed, and what to do next."""
        table = self.to_table()
        console = console_for(table)
        console.print(table)
        told = [self.caption()]
        for line in self.lines:
            if line.job.record.status == "failed":
                told.append(f"job {line.job.name} failed: {line.job.record.error}")
        for text in [*told, *self._next()]:
            console.print(text, soft_wrap=True, markup=False, highlight=False)

    def _next(self) -> list[str]:
        """Say which job is best, how to use it, and how a sweep that is not done goes on."""
        told = []
        best = self.best
        if best is not None:
            overrides = job_records.identity(best.job.record.overrides)
            own = [o for o in overrides if job_records.key_of(o) in self.keys] or overrides
            told.append(f"Best: job {best.job.name}: {' '.join(own)}")
            use = f'predict ckpt={best.job.folder} text="…"'
            told.append(f"Use it: python -m lightning_transfer {use}")
        left = [line for line in self.lines if not line.job.record.finished]
        if left:
            again = f"the same command with hydra.sweep.dir={self.folder}"
            told.append(f"{len(left)} of {len(self.lines)} jobs not finished; {again} goes on")
        return [*told, f"Sweep folder: {self.folder}"]


def write(folder: str | Path) -> None:
    """Write the table of a sweep; jobs that end at the same moment take turns."""
    with locked(Path(folder) / _LOCK):
        SweepTable.read(folder).write()


def _place(line: SweepRow) -> tuple[int, float]:
    """Order by status, then best first; what has no score keeps the jobs' order."""
    record = line.job.record
    return job_records.STATUSES.index(record.status), -record.rank if record.finished else 0.0


def _values(record: job_records.JobRecord) -> dict[str, str]:
    """Return an override's value by its key, Hydra's and the sweeper's own left out."""
    own = set(job_records.identity(record.overrides))
    pairs = {job_records.key_of(o): o.partition("=")[2] for o in record.overrides if o in own}
    return {key: "left out" if key[:1] == "~" else value for key, value in pairs.items()}


def _rounded(value: str) -> str:
    """Return a number that a sampler proposed with as many digits as can be read."""
    try:
        return (
            value if len(value) < 8 or float(value) == int(float(value)) else f"{float(value):.4g}"
        )
    except (ValueError, OverflowError):
        return value


def _differing(records: Sequence[job_records.JobRecord]) -> list[str]:
    """Return the keys whose values are not the same in all jobs, as their overrides have them."""
    values = [_values(record) for record in records]
    order = dict.fromkeys(job_records.key_of(o) for record in records for o in record.overrides)
    return [
        key
        for key in order
        if any(key in one for one in values) and len({one.get(key) for one in values}) > 1
    ]


def _short(keys: Sequence[str]) -> list[str]:
    """Return the keys' last parts, with as much before them as tells them apart."""
    parts = [key.partition("@")[0] if "@" in key else key for key in keys]
    short = []
    for position, part in enumerate(parts):
        names = part.split(".")
        others = [other.split(".") for i, other in enumerate(parts) if i != position]
        depth = 1
        while depth < len(names) and any(o[-depth:] == names[-depth:] for o in others):
            depth += 1
        name = ".".join(names[-depth:])
        short.append(name if parts.count(part) == 1 else keys[position])
    return short


def _told(metric: Metric | None) -> str:
    return "\n".join(metric.lines()) if metric else ""


def _cells(line: SweepRow, keys: Sequence[str]) -> list[object]:
    record, values = line.job.record, _values(line.job.record)
    score, comparison = record.score, line.comparison
    low, high = score.ci95 if score else (None, None)
    difference_low, difference_high = comparison.ci95 if comparison else (None, None)
    return [
        *(line.job.name, record.status, *(values.get(key, "") for key in keys)),
        *(record.metric, score.mean if score else None, low, high),
        *(line.test_metric, line.test.mean if line.test else None),
        *(
            comparison.value if comparison else None,
            difference_low,
            difference_high,
            comparison.verdict if comparison else None,
        ),
        *(round(record.seconds, 1), line.job.folder, record.error),
    ]
