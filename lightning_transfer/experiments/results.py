"""What a run found: metrics over seeds, the gain of the transfer, and what to call it."""

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

TRANSFER = "transfer"  # the row of the whole chain
LOWER_IS_BETTER = frozenset(
    {"loss", "mlm_loss", "lm_loss", "unigram_loss", "mse", "rmse", "mae", "perplexity"}
)


@functools.cache
def _t_quantile(degrees: int) -> float:
    from scipy.stats import t  # takes a second to import

    return float(t.ppf(0.975, degrees))


@dataclass(frozen=True)
class Metric:
    """One metric of one row of the results, with its spread over seeds.

    Args:
        values: One value for each seed, in the order of the run's seeds; NaN where the metric is
            undefined, such as the correlation of a constant prediction.

    Raises:
        ValueError: If there are no values.

    Example:
        >>> metric = Metric((0.70, 0.71, 0.72))
        >>> f"{metric}"
        '0.710 [0.685, 0.735]'
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        """Make plain floats of what may be tensors' or numpy's."""
        object.__setattr__(self, "values", tuple(float(value) for value in self.values))
        if not self.values:
            raise ValueError("a metric needs at least one value, got none")

    @property
    def mean(self) -> float:
        """Mean over the seeds; NaN if one of the values is."""
        return math.fsum(self.values) / len(self.values)

    @property
    def ci95(self) -> Interval:
        """Student's t interval of the mean at 95 %.

        ``(None, None)`` for a single seed, which tells nothing of the spread, and where a value is
        not a number.
        """
        count, mean = len(self.values), self.mean
        if count < 2 or not math.isfinite(mean):
            return None, None
        variance = math.fsum((value - mean) ** 2 for value in self.values) / (count - 1)
        half = _t_quantile(count - 1) * math.sqrt(variance / count)
        return mean - half, mean + half

    def __str__(self) -> str:
        """Return ``mean [lo, hi]``, or the mean alone without an interval."""
        return " ".join(self.lines())

    def lines(self) -> list[str]:
        """Return the mean and, if there is one, the interval, rounded to 3 digits."""
        lo, hi = self.ci95
        mean = f"{self.mean:.3f}" if math.isfinite(self.mean) else "undefined"
        return [mean] if lo is None or hi is None else [mean, f"[{lo:.3f}, {hi:.3f}]"]


@dataclass(frozen=True)
class Row:
    """One way of getting to the target task, tested.

    Args:
        name: What it is called: ``transfer``, ``no_source``, ``zero_shot`` …
        stage: Name of the stage whose model was tested.
        n_train: Training rows of that stage, 0 if it saw none.
        n_test: Rows it was tested on.
        seconds: Wall-clock time of the row's stages and test, mean over the seeds, in seconds.
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
    """How much better one row is than another, seed by seed.

    Args:
        metric: Name of the metric; a higher value is better.
        baseline: Name of the row that is compared with.
        value: Mean of the paired differences.
        ci95: Student's t interval of that mean at 95 %.
        verdict: ``positive`` if the whole interval lies above 0, ``negative`` if it lies below,
            else ``not significant``, as it is without an interval.
        candidate: Name of the row that is compared, without its size on a learning curve. The key is in
            the JSON only if that is not ``transfer``.
    """

    metric: str
    baseline: str
    value: float
    ci95: Interval
    verdict: Verdict
    candidate: str = TRANSFER

    @classmethod
    def between(cls, row: Row, baseline: Row, *, metric: str) -> "Comparison":
        """Compare two rows whose values belong to the same seeds.

        Where one has fewer values, because the run was cut off, the first ones are paired.

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
                f"a gain needs a metric where higher is better, got {metric!r}; known as the "
                f"other way round: {', '.join(sorted(LOWER_IS_BETTER))}"
            )
        for side in (row, baseline):
            if metric not in side.metrics:
                raise ValueError(
                    f"row {side.name!r} has no metric {metric!r}; it has {', '.join(side.metrics)}"
                )
        pairs = zip(row.metrics[metric].values, baseline.metrics[metric].values, strict=False)
        paired = Metric(tuple(ours - theirs for ours, theirs in pairs))
        verdict = _verdict(paired.ci95)
        return cls(metric, baseline.name, paired.mean, paired.ci95, verdict, _base(row.name))


@dataclass(frozen=True)
class Results:
    """Everything a run reports.

    Args:
        experiment: Name of the experiment.
        seeds: Seeds that the run was asked for.
        rows: What was tested, one row each, names unique.
        gain: Comparison of the row ``transfer``, or of another that was asked for, over a baseline, if
            both are there; of a learning curve at its last size.
        comparisons: The same at each size of a learning curve; the key is in the JSON of such a run only.
        missing: Names of the rows, or ``row (seed 2)``, that a run which was cut off did not get
            to. The key ``missing`` is in the JSON of such a run only.
        weight_transfer: For each stage run, in order: ``run`` (its folder), ``stage``, ``seed``, ``from``
            (the folder of the run before it, or None) and ``parts``, each with ``part``,
            ``status``, ``parameters`` and ``why``, as a :class:`handover.TransferredPart` has them.

    Raises:
        ValueError: If two rows have one name.
    """

    experiment: str
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    comparison: Comparison | None = None
    missing: tuple[str, ...] = ()
    weight_transfer: tuple[Mapping[str, Any], ...] = ()
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the names."""
        for name in ("seeds", "rows", "missing", "weight_transfer"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        names = [row.name for row in self.rows]
        if len(set(names)) < len(names):
            raise ValueError(f"rows need names that differ, got {names}")

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``results.json``; what is not a number is None."""
        data: dict[str, Any] = _plain(self)
        empty = {name for name in ("missing", "weight_transfer", "comparisons") if not data[name]}
        return {name: value for name, value in data.items() if name not in empty}

    def to_json(self) -> str:
        """Return ``results.json``, numbers at full precision."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Results":
        """Rebuild results from :meth:`to_json`.

        Means and intervals follow from the values, so those in the text are not looked at.

        Raises:
            ValueError: If the text is not JSON of that form; the message says what is amiss.
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
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"not of the form of results.json: {error!r}") from None

    @classmethod
    def read(cls, path: str | Path) -> "Results":
        """Read ``results.json``, given itself or the run folder that holds it.

        Raises:
            FileNotFoundError: If it isn't there.
            ValueError: If it is no results file.
        """
        path = Path(path)
        file = path / "results.json" if path.is_dir() else path
        try:
            return cls.from_json(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None

    def write(self, folder: str | Path) -> None:
        """Write ``results.json`` and ``results.md`` to ``folder``, each whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / "results.json", self.to_json())
        atomic_write(folder / "results.md", self.to_markdown())

    def metric_names(self) -> list[str]:
        """Return the names of all metrics, in the order in which rows bring them up."""
        return list(dict.fromkeys(name for row in self.rows for name in row.metrics))

    def sentence(self) -> str:
        """Return the one sentence that calls the transfer positive, not significant or negative."""
        cut_off = f"the run was cut off ({', '.join(self.missing)} missing)"
        if self.comparison is None:
            why = cut_off if self.missing else "there is no baseline to compare it with"
            return f"Nothing can be said of the transfer: {why}."
        metric = self.comparison.metric
        found = {row.name: row.metrics[metric] for row in self.rows if metric in row.metrics}
        told = _tell(self.comparison, found, len(self.seeds))
        return f"{told}; {cut_off}, so it may yet change." if self.missing else f"{told}."

    def to_markdown(self) -> str:
        """Return ``results.md``: the table and the sentence."""
        metrics = self.metric_names()
        lines = [f"# {self.experiment}", "", self.sentence(), ""]
        header = ["run", *metrics, "n_train", "n_test", "seconds"]
        lines += [_markdown_line(header), _markdown_line(["---", *["---:"] * (len(header) - 1)])]
        for row in self.rows:
            cells = [str(row.metrics[name]) if name in row.metrics else "" for name in metrics]
            lines.append(_markdown_line([row.name, *cells, *_counts(row)]))
        return "\n".join([*lines, "", self.caption().replace("\n", "; "), ""])

    def to_table(self) -> "Table":
        """Return the table for ``rich``: a mean with its interval below, to fit 80 columns."""
        names = self.metric_names()
        columns: list[tuple[str, ColumnKind]] = [("run", "name")]
        columns += [(name, "score") for name in names]
        columns += [(name, "number") for name in ("n_train", "n_test", "seconds")]
        rows = []
        for row in self.rows:
            cells = [row.metrics[name].lines() if name in row.metrics else [] for name in names]
            rows.append([row.name, *("\n".join(cell) for cell in cells), *_counts(row)])
        return make_table(columns, rows, title=self.experiment, caption=self.caption())

    def caption(self) -> str:
        """Say what the numbers in the table are, and the gain."""
        count = len(self.seeds)
        told = f"mean over {count} seeds [95 % interval]" if count > 1 else "one seed: no interval"
        comparisons = self.comparisons.values() or [
            comparison for comparison in (self.comparison,) if comparison is not None
        ]
        return "\n".join(
            [
                told,
                *(
                    f"{comparison.candidate} over {_short(comparison)}"
                    for comparison in comparisons
                ),
            ]
        )


def _base(name: str) -> str:
    """Return a row's name without its size on a learning curve."""
    return name.partition("@")[0]


def _short(comparison: Comparison) -> str:
    lo, hi = comparison.ci95
    interval = "" if lo is None else f" [{lo:+.3f}, {hi:+.3f}]"
    return f"{comparison.baseline}: {comparison.metric} {comparison.value:+.3f}{interval}"


def _verdict(ci95: Interval) -> Verdict:
    lo, hi = ci95
    if lo is not None and lo > 0:
        return "positive"
    return "negative" if hi is not None and hi < 0 else "not significant"


def _tell(comparison: Comparison, found: dict[str, Metric], count: int) -> str:
    """Call a gain what it is, with its numbers, given what each row found."""
    if not math.isfinite(comparison.value):
        return f"Transfer is not significant: {comparison.metric} is undefined in at least one run"
    numbers = f"{comparison.metric} changes by {comparison.value:+.3f}"
    name = next((name for name in reversed(found) if _base(name) == comparison.candidate), "")
    ours, theirs = found.get(name), found.get(comparison.baseline)
    if ours and theirs:
        # A row with one value for all seeds is paired with each of the other's.
        count = min((len(m.values) for m in (ours, theirs) if len(m.values) > 1), default=1)
        numbers = (
            f"{comparison.metric} is {ours.mean:.3f} with {name} and {theirs.mean:.3f} with "
            f"{comparison.baseline}, a difference of {comparison.value:+.3f}"
        )
    lo, hi = comparison.ci95
    if lo is None or hi is None:
        return f"Transfer is not significant: {numbers}, but one seed gives no interval"
    interval = f"(95 % interval {lo:+.3f} to {hi:+.3f} over {count} seeds)"
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
    """Return results, or a part of them, as JSON knows it."""
    if isinstance(value, Metric):
        return _plain({"mean": value.mean, "ci95": value.ci95, "values": value.values})
    if is_dataclass(value):
        plain = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        if isinstance(value, Comparison) and value.candidate == TRANSFER:
            del plain["candidate"]
        return plain
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
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
    lo, hi = data["ci95"]
    value = _number(data["value"])
    candidate = data.get("candidate", TRANSFER)
    return Comparison(data["metric"], data["baseline"], value, (lo, hi), data["verdict"], candidate)
