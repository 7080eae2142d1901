"""What a transfer consists of: chains of stages, their baselines, and what each is scored on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from lightning_transfer.utils.suggestions import closest, did_you_mean


@dataclass(frozen=True)
class Point:
    """One point of a learning curve: a stage, and the training rows that it gets there.

    Args:
        stage: Name of the stage.
        train_size: In place of the stage's own, and of the same forms: 64, 0.1, ``8/class``.
    """

    stage: str
    train_size: int | float | str


@dataclass(frozen=True)
class StageRun:
    """One stage trained with one seed, after the stages before it.

    Equal stage runs are the same work: they share a folder and are done once.

    Args:
        stage: Name of the stage.
        seed: Seed of weights, dropout, batch order and the draw of training rows.
        before: The stage run whose weights it starts from.
        train_size: Training rows in place of the stage's own number; None: that.
    """

    stage: str
    seed: int
    before: "StageRun | None" = None
    train_size: int | float | str | None = None

    @property
    def folder(self) -> PurePosixPath:
        """Folder below the run folder."""
        parent = self.before.folder if self.before else PurePosixPath("stages")
        size = "" if self.train_size is None else f"-{self.train_size}".replace("/", "-per-")
        return parent / f"{self.stage}{size}-seed{self.seed}"

    @property
    def title(self) -> str:
        """Name for people."""
        after = f" after {self.before.called}" if self.before else ""
        return f"{self.called}{after} · seed {self.seed}"

    @property
    def called(self) -> str:
        """Name of the stage, with its training rows where they are not its own number."""
        return self.stage + ("" if self.train_size is None else f"@{self.train_size}")

    @property
    def chain(self) -> "tuple[StageRun, ...]":
        """This run and those before it, first to last."""
        return (*(self.before.chain if self.before else ()), self)


@dataclass(frozen=True)
class PlannedRow:
    """A row of the results: a chain of stages, and the stage whose test split scores it.

    Args:
        name: Unique among the rows.
        order: Stages of the chain, first to last.
        test: Stage whose test split scores it.
        point: Where on the learning curve it lies; None: it takes no part in one.
    """

    name: str
    order: tuple[str, ...]
    test: str
    point: Point | None = None

    @property
    def base(self) -> str:
        """What the row is called without its point: rows of one base are one curve."""
        return self.name.removesuffix(f"@{self.point.train_size}") if self.point else self.name

    def along(self, curve: Sequence[Point]) -> "list[PlannedRow]":
        """Return one row for each point of a curve, or the row alone if it trains no such stage."""
        points = [point for point in curve if point.stage in self.order]
        return [replace(self, name=f"{self.name}@{p.train_size}", point=p) for p in points] or [
            self
        ]

    @property
    def saw_labels(self) -> bool:
        """Whether the last stage is the one that is scored, and so has learned from its labels."""
        return self.order[-1] == self.test

    def stage_run(self, seed: int, pinned: Mapping[str, int | None]) -> StageRun:
        """Return the last stage run of the chain.

        Args:
            seed: Seed of the stages that have none of their own.
            pinned: Stage name to its own seed, or None.
        """
        run: StageRun | None = None
        for stage in self.order:
            own = pinned.get(stage)
            point = self.point if self.point and self.point.stage == stage else None
            size = point.train_size if point else None
            run = StageRun(stage, seed if own is None else own, run, size)
        assert run is not None  # a row without stages is never planned
        return run


def plan_rows(
    order: Sequence[str],
    stages: Mapping[str, Mapping[str, Any]],
    baselines: Mapping[str, Mapping[str, Any]],
    curve: Mapping[str, Any] | None = None,
) -> list[PlannedRow]:
    """List the rows: stages on the way at home, the baselines, and the transfer itself.

    Skipped stages are taken out of every chain; a baseline that then has no stage left, or is the
    same as the transfer, is no baseline any more and is left out. Each row whose chain trains the
    stage of a learning curve is there once for each size, the last row with the last size.

    Args:
        order: Stage names, first to last.
        stages: Stage name to its settings; ``skip`` is read.
        baselines: Row name to ``order`` and ``test``.
        curve: ``stage``, and its ``train_size`` as a list; no curve if that is empty.

    Raises:
        ValueError: If a name is unknown or occurs twice, nothing is left to run, or no row
            trains the stage of the curve.
    """
    _check_names(order, stages, "order")
    kept = tuple(name for name in order if not stages[name].get("skip"))
    if not kept:
        raise ValueError("every stage is skipped; nothing is left to run")
    main = PlannedRow("transfer" if len(kept) > 1 else kept[-1], kept, kept[-1])
    rows = [PlannedRow(name, kept[: i + 1], name) for i, name in enumerate(kept[:-1])]
    for name, baseline in baselines.items():
        extra = set(baseline) - {"order", "test"}
        if extra or "order" not in baseline:
            raise ValueError(f"baselines.{name} has the keys order and test, got {dict(baseline)}")
        test = str(baseline.get("test", order[-1]))
        _check_names(baseline["order"], stages, f"baselines.{name}.order")
        _check_names([test], stages, f"baselines.{name}.test")
        chain = tuple(s for s in baseline["order"] if not stages[s].get("skip"))
        row = PlannedRow(name, chain, test)
        if name in {main.name, *(r.name for r in rows)}:
            raise ValueError(f"baselines.{name} has the name of another row; rename it")
        if chain and not stages[test].get("skip") and (chain, test) != (main.order, main.test):
            rows.append(row)
    points = read_curve(curve or {}, stages)
    rows = [at for row in [*rows, main] for at in row.along(points)]
    if points and not any(row.point for row in rows) and not stages[points[0].stage].get("skip"):
        raise ValueError(
            f"curve.stage={points[0].stage!r} is trained in no row; order is {list(order)}"
        )
    return rows


def read_curve(curve: Mapping[str, Any], stages: Mapping[str, Any]) -> list[Point]:
    """Return the points of a learning curve, in their order.

    Args:
        curve: See :func:`plan_rows`.
        stages: The stages that there are.

    Raises:
        ValueError: If a key or the stage is unknown, the sizes are no list of different ones, or
            one of them is none.
    """
    if extra := set(curve) - {"stage", "train_size"}:
        raise ValueError(f"curve has the keys stage and train_size, got {sorted(extra)} beside")
    sizes = curve.get("train_size") or []
    if isinstance(sizes, str) or not isinstance(sizes, Sequence):
        raise ValueError(
            "curve.train_size must be a list of sizes such as [8/class, 32/class] or [64, 256], "
            f"got {sizes!r}"
        )
    if not sizes:
        return []
    if len({str(size) for size in sizes}) != len(sizes):
        raise ValueError(f"curve.train_size names a size twice: {list(sizes)}")
    if None in sizes:  # elsewhere all rows; a row of the table would have no size to be named by
        raise ValueError(
            f"curve.train_size must hold sizes, got null in {list(sizes)}; give 1.0 for all rows"
        )
    stage = str(curve.get("stage"))
    _check_names([stage], stages, "curve.stage")
    return [Point(stage, size) for size in sizes]


def _check_names(names: Sequence[str], stages: Mapping[str, Any], where: str) -> None:
    if isinstance(names, str) or not names:
        raise ValueError(f"{where} must be a list of stage names, got {names!r}")
    for name in names:
        if name not in stages:
            near = did_you_mean(closest(str(name), stages, count=1))
            raise ValueError(f"{where} names the stage {name!r}, known: {sorted(stages)}{near}")
    if len(set(names)) != len(names):
        raise ValueError(f"{where} names a stage twice: {list(names)}")
