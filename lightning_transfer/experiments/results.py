"""Results of a run: metrics over seeds, the comparison with a baseline, and its verdict."""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning_transfer.utils.atomic_files import atomic_write
from lightning_transfer.utils.tables import ColumnKind, make_table

if TYPE_CHECKING:
    from rich.table import Table

Verdict = Literal["positive", "not significant", "negative"]
Interval = tuple[float, float] | tuple[None, None]

TRANSFER = "transfer"  # name of the row of the whole chain
LOWER_IS_BETTER = frozenset(
    {"loss", "mlm_loss", "lm_loss", "unigram_loss", "mse", "rmse", "mae", "perplexity"}
)


@functools.cache
def _t_quantile(degrees: int) -> float:
    from scipy.stats import t  # late: the import takes a second, and one seed needs no quantile

    return float(t.ppf(0.975, degrees))


@dataclass(frozen=True)
class Metric:
    """One metric of one row, with its 95 % interval over seeds.

    Args:
        values: One value per seed, in the order of the run's seeds. NaN if the metric is undefined,
            such as the correlation of a constant prediction.

    Raises:
        ValueError: If ``values`` is empty.

    Example:
        >>> metric = Metric((0.70, 0.71, 0.72))
        >>> f"{metric}"
        '0.710 [0.685, 0.735]'
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        """Convert the values, which may be tensors or numpy scalars, to floats."""
        object.__setattr__(self, "values", tuple(float(value) for value in self.values))
        if not self.values:
            raise ValueError("values must hold at least one value, got none")

    @property
    def mean(self) -> float:
        """Mean over the seeds; NaN if a value is NaN."""
        return math.fsum(self.values) / len(self.values)

    @property
    def ci95(self) -> Interval:
        """Student's t interval of the mean at 95 %.

        ``(None, None)`` for a single seed, since it has no variance, and if a value is NaN.
        """
        count, mean = len(self.values), self.mean
        if count < 2 or not math.isfinite(mean):
            return None, None
        # n - 1, since the seeds are a sample.
        variance = math.fsum((value - mean) ** 2 for value in self.values) / (count - 1)
        half = _t_quantile(count - 1) * math.sqrt(variance / count)
        return mean - half, mean + half

    def __str__(self) -> str:
        """Return ``mean [low, high]``, or the mean alone without an interval."""
        return " ".join(self.lines())

    def lines(self) -> list[str]:
        """Return the mean and the interval, if there is one, rounded to 3 digits."""
        low, high = self.ci95
        mean = f"{self.mean:.3f}" if math.isfinite(self.mean) else "undefined"
        return [mean] if low is None or high is None else [mean, f"[{low:.3f}, {high:.3f}]"]


@dataclass(frozen=True)
class Row:
    """Test scores of the transfer, of a baseline or of an earlier stage.

    Args:
        name: Name of the row, such as ``transfer``, ``no_source`` or ``zero_shot``.
        stage: Name of the stage whose test rows score the model.
        n_train: Training rows of that stage; 0 if the model was not trained on it.
        n_test: Number of test rows.
        seconds: Wall-clock time of all trainings of the row and its test in seconds, mean over the
            seeds.
        metrics: Metric by name.
    """

    name: str
    stage: str
    n_train: int
    n_test: int
    seconds: float
    metrics: Mapping[str, Metric]


@dataclass(frozen=True)
class Comparison:
    """Difference of one metric between a candidate row and a baseline row, paired by seed.

    Args:
        metric: Name of the metric; a higher value is better.
        baseline: Name of the baseline row.
        value: The difference: mean over the seeds of candidate minus baseline.
        ci95: Student's t interval of the difference at 95 %; ``(None, None)`` for one seed.
        verdict: ``positive`` if the whole interval is above 0, ``negative`` if it is below 0, else
            ``not significant``. Without an interval it is ``not significant``.
        candidate: Name of the candidate row, without its size on a learning curve. JSON has this
            key only if the candidate is not ``transfer``.
    """

    metric: str
    baseline: str
    value: float
    ci95: Interval
    verdict: Verdict
    candidate: str = TRANSFER

    @classmethod
    def between(cls, row: Row, baseline: Row, *, metric: str) -> "Comparison":
        """Compare two rows with values of the same seeds.

        If an interrupted run has fewer values in one row, only the first values are paired.

        Args:
            row: The candidate row.
            baseline: The baseline row.
            metric: Name of the metric.

        Raises:
            ValueError: If a row lacks the metric, or a lower value of it is better.

        Example:
            >>> a = Row("transfer", "target", 128, 500, 9.0, {"pearson": Metric((0.7, 0.8))})
            >>> b = Row("no_source", "target", 128, 500, 5.0, {"pearson": Metric((0.5, 0.6))})
            >>> Comparison.between(a, b, metric="pearson").verdict
            'positive'
        """
        if metric.rpartition("/")[2] in LOWER_IS_BETTER:
            raise ValueError(
                f"metric must be a metric for which higher is better, got {metric!r}; lower is "
                f"better for {', '.join(sorted(LOWER_IS_BETTER))}"
            )
        for one in (row, baseline):
            if metric not in one.metrics:
                raise ValueError(
                    f"unknown metric {metric!r} of row {one.name!r}. Metrics: "
                    f"{', '.join(one.metrics)}"
                )
        pairs = zip(row.metrics[metric].values, baseline.metrics[metric].values, strict=False)
        # Paired: the spread between seeds is common to both rows and cancels.
        difference = Metric(tuple(value - reference for value, reference in pairs))
        verdict = _verdict(difference.ci95)
        return cls(
            metric, baseline.name, difference.mean, difference.ci95, verdict, _base(row.name)
        )

    @property
    def title(self) -> str:
        """Rows of the difference, such as ``transfer - no_source``."""
        return f"{self.candidate} - {self.baseline}"

    def __str__(self) -> str:
        """Return the difference, such as ``transfer - no_source: r2 +0.149 [+0.078, +0.219]``."""
        low, high = self.ci95
        interval = "" if low is None else f" [{low:+.3f}, {high:+.3f}]"
        return f"{self.title}: {self.metric} {self.value:+.3f}{interval}"


@dataclass(frozen=True)
class Results:
    """Results of a run, as written to ``results.json`` and ``results.md``.

    Args:
        experiment: Name of the experiment.
        seeds: Requested seeds.
        rows: Tested rows with unique names.
        comparison: Comparison of the transfer, or of another candidate, with a baseline; None if
            one of the two rows is missing. On a learning curve it is that of the last size.
        missing: Names of the unfinished rows of an interrupted run. JSON has this key only if it
            is not empty.
        weight_transfer: One mapping per stage run, in order: ``run`` (its folder), ``stage``,
            ``seed``, ``from`` (the folder of the previous stage run, or None) and ``parts``, each
            with the fields of :class:`lightning_transfer.weight_transfer.TransferredPart`. JSON
            has this key only if it is not empty.
        comparisons: Size to the comparison at that point of a learning curve. JSON has this key
            only if it is not empty.

    Raises:
        ValueError: If two rows have the same name.
    """

    experiment: str
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    comparison: Comparison | None = None
    missing: tuple[str, ...] = ()
    weight_transfer: tuple[Mapping[str, Any], ...] = ()
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Convert sequences to tuples and check the row names."""
        for name in ("seeds", "rows", "missing", "weight_transfer"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        names = [row.name for row in self.rows]
        if len(set(names)) < len(names):
            raise ValueError(f"row names must be unique, got {names}")

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``results.json``; NaN and infinite numbers become None."""
        data: dict[str, Any] = _plain(self)
        # A run without these features has only the four documented keys.
        empty = {name for name in ("missing", "weight_transfer", "comparisons") if not data[name]}
        return {name: value for name, value in data.items() if name not in empty}

    def to_json(self) -> str:
        """Return the text of ``results.json``, with numbers at full precision."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Results":
        """Parse the text of :meth:`to_json`.

        Means and intervals of the rows are computed from the values again; those of the text are
        ignored.

        Raises:
            ValueError: If the text is not JSON, or a key is missing or of another type.
        """
        try:
            data = json.loads(text)
            return cls(
                data["experiment"],
                tuple(data["seeds"]),
                tuple(_row_from_dict(row) for row in data["rows"]),
                None if data["comparison"] is None else _comparison_from_dict(data["comparison"]),
                tuple(data.get("missing", ())),
                tuple(data.get("weight_transfer", ())),
                {
                    size: _comparison_from_dict(comparison)
                    for size, comparison in data.get("comparisons", {}).items()
                },
            )
        # Another JSON file may hold any types, so attribute and type errors are errors of the file.
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"not in the format of results.json: {error!r}") from None

    @classmethod
    def read(cls, path: str | Path) -> "Results":
        """Read ``results.json``.

        Args:
            path: The file, or the run folder with that file.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If the file is not in the format of ``results.json``.
        """
        path = Path(path)
        file = path / "results.json" if path.is_dir() else path
        try:
            return cls.from_json(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None

    def write(self, folder: str | Path) -> None:
        """Write ``results.json`` and ``results.md`` to ``folder``, each file atomically."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / "results.json", self.to_json())
        atomic_write(folder / "results.md", self.to_markdown())

    def metric_names(self) -> list[str]:
        """Return the names of all metrics, in the order of their first row."""
        return list(dict.fromkeys(name for row in self.rows for name in row.metrics))

    def sentence(self) -> str:
        """Return the verdict in a sentence: positive, not significant or negative."""
        interrupted = f"the run was interrupted ({', '.join(self.missing)} missing)"
        if self.comparison is None:
            reason = interrupted if self.missing else "there is no baseline to compare it with"
            return f"No verdict on the transfer: {reason}."
        metric = self.comparison.metric
        scores = {row.name: row.metrics[metric] for row in self.rows if metric in row.metrics}
        verdict = _describe(self.comparison, scores, len(self.seeds))
        return f"{verdict}; {interrupted}, so this may change." if self.missing else f"{verdict}."

    def to_markdown(self) -> str:
        """Return the text of ``results.md``: the verdict and the table."""
        metrics = self.metric_names()
        lines = [f"# {self.experiment}", "", self.sentence(), ""]
        header = ["run", *metrics, "n_train", "n_test", "seconds"]
        lines += [_markdown_line(header), _markdown_line(["---", *["---:"] * (len(header) - 1)])]
        for row in self.rows:
            cells = [str(row.metrics[name]) if name in row.metrics else "" for name in metrics]
            lines.append(_markdown_line([row.name, *cells, *_counts(row)]))
        # Markdown would join the lines of a paragraph anyway.
        return "\n".join([*lines, "", self.caption().replace("\n", "; "), ""])

    def to_table(self) -> "Table":
        """Return the table for ``rich``."""
        names = self.metric_names()
        columns: list[tuple[str, ColumnKind]] = [("run", "name")]
        columns += [(name, "score") for name in names]
        columns += [(name, "number") for name in ("n_train", "n_test", "seconds")]
        rows = []
        for row in self.rows:
            cells = [row.metrics[name].lines() if name in row.metrics else [] for name in names]
            # The interval is below the mean, so that three metrics fit into 80 columns.
            rows.append([row.name, *("\n".join(cell) for cell in cells), *_counts(row)])
        return make_table(columns, rows, title=self.experiment, caption=self.caption())

    def caption(self) -> str:
        """Return the caption of the table: the unit of its cells, then one line per comparison."""
        count = len(self.seeds)
        unit = f"mean over {count} seeds [95 % interval]" if count > 1 else "one seed: no interval"
        comparisons = list(self.comparisons.values())
        if not comparisons and self.comparison is not None:
            comparisons = [self.comparison]
        return "\n".join([unit, *map(str, comparisons)])


def _base(name: str) -> str:
    """Return the name of a row without its size on a learning curve."""
    return name.partition("@")[0]


def _verdict(ci95: Interval) -> Verdict:
    low, high = ci95
    if low is not None and low > 0:
        return "positive"
    return "negative" if high is not None and high < 0 else "not significant"


def _describe(comparison: Comparison, scores: dict[str, Metric], count: int) -> str:
    """Return the verdict with its numbers, without a full stop.

    Args:
        comparison: The comparison.
        scores: Row name to the compared metric.
        count: Number of seeds.
    """
    if not math.isfinite(comparison.value):
        return f"Transfer is not significant: {comparison.metric} is undefined in at least one run"
    numbers = f"{comparison.metric} changes by {comparison.value:+.3f}"
    # `candidate` has no size; on a learning curve the verdict is that of the last size.
    name = next((name for name in reversed(scores) if _base(name) == comparison.candidate), "")
    candidate, baseline = scores.get(name), scores.get(comparison.baseline)
    if candidate and baseline:
        # A row with a single value for all seeds is paired with each value of the other row.
        count = min((len(m.values) for m in (candidate, baseline) if len(m.values) > 1), default=1)
        numbers = (
            f"{comparison.metric} is {candidate.mean:.3f} with {name} and {baseline.mean:.3f} with "
            f"{comparison.baseline}, a difference of {comparison.value:+.3f}"
        )
    low, high = comparison.ci95
    if low is None or high is None:
        return f"Transfer is not significant: {numbers}, but one seed gives no interval"
    interval = f"(95 % interval {low:+.3f} to {high:+.3f} over {count} seeds)"
    start = {
        "positive": "Positive transfer",
        "negative": "Negative transfer, the source stage hurts",
        "not significant": "Transfer is not significant",
    }[comparison.verdict]
    return f"{start}: {numbers} {interval}"


def _counts(row: Row) -> list[str]:
    return [str(row.n_train), str(row.n_test), f"{row.seconds:.1f}"]


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _plain(value: Any) -> Any:
    """Convert results, or a part of them, to the types of JSON."""
    if isinstance(value, Metric):
        return _plain({"mean": value.mean, "ci95": value.ci95, "values": value.values})
    if is_dataclass(value):
        # Keys of results.json are the names of the fields, in their order.
        plain = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        if isinstance(value, Comparison) and value.candidate == TRANSFER:
            del plain["candidate"]
        return plain
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    # JSON has no NaN and no infinity.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _row_from_dict(data: Mapping[str, Any]) -> Row:
    metrics = {
        name: Metric(tuple(_number(value) for value in metric["values"]))
        for name, metric in data["metrics"].items()
    }
    seconds = _number(data["seconds"])
    return Row(data["name"], data["stage"], data["n_train"], data["n_test"], seconds, metrics)


def _comparison_from_dict(data: Mapping[str, Any]) -> Comparison:
    low, high = data["ci95"]
    value = _number(data["value"])
    candidate = data.get("candidate", TRANSFER)
    return Comparison(
        data["metric"], data["baseline"], value, (low, high), data["verdict"], candidate
    )
