"""Plan of an experiment: chains of stages, their baselines and the test rows that score them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from lightning_transfer.utils.suggestions import closest, did_you_mean


@dataclass(frozen=True)
class Point:
    """One point of a learning curve: a stage and its number of training rows.

    Args:
        stage: Name of the stage.
        train_size: Replaces ``data.train_size`` of the stage, in the same forms: a count (64), a
            fraction in (0, 1] (0.1), or a count per class (``8/class``).
    """

    stage: str
    train_size: int | float | str


@dataclass(frozen=True)
class StageRun:
    """One stage trained with one seed, after the stages before it.

    Equal stage runs are the same work: they share a folder and are trained once.

    Args:
        stage: Name of the stage.
        seed: Seed of weights, dropout, batch order and the draw of training rows.
        previous: Source of the initial weights; None for the first stage run of a chain.
        train_size: Training rows at a point of a learning curve; None: ``data.train_size``.
    """

    stage: str
    seed: int
    previous: "StageRun | None" = None
    train_size: int | float | str | None = None

    @property
    def folder(self) -> PurePosixPath:
        """Folder below the run folder."""
        parent = self.previous.folder if self.previous else PurePosixPath("stages")
        # "8/class" would be two folders.
        size = "" if self.train_size is None else f"-{self.train_size}".replace("/", "-per-")
        return parent / f"{self.stage}{size}-seed{self.seed}"

    @property
    def title(self) -> str:
        """Display name, such as ``target after source · seed 0``."""
        after = f" after {self.previous.label}" if self.previous else ""
        return f"{self.label}{after} · seed {self.seed}"

    @property
    def label(self) -> str:
        """Name of the stage, with the size at a point of a learning curve (``target@64``)."""
        return self.stage + ("" if self.train_size is None else f"@{self.train_size}")

    @property
    def chain(self) -> "tuple[StageRun, ...]":
        """All stage runs up to this one, first to last."""
        return (*(self.previous.chain if self.previous else ()), self)


@dataclass(frozen=True)
class PlannedRow:
    """A row of the results table: a chain of stages, and the stage whose test rows score it.

    Args:
        name: Unique name of the row, such as ``transfer``, ``no_source`` or ``transfer@64``.
        order: Stages of the chain, first to last.
        test: Stage whose test rows score the last stage of the chain.
        point: Point of the learning curve; None for a row without a size.
    """

    name: str
    order: tuple[str, ...]
    test: str
    point: Point | None = None

    @property
    def base(self) -> str:
        """Name without the size; rows of the same base form one curve."""
        return self.name.removesuffix(f"@{self.point.train_size}") if self.point else self.name

    def expand(self, curve: Sequence[Point]) -> "list[PlannedRow]":
        """Return one row per point of a curve, or only this row if it does not train its stage."""
        # `zero_shot`, for instance, has the same score at each size of the target stage.
        points = [point for point in curve if point.stage in self.order]
        return [replace(self, name=f"{self.name}@{p.train_size}", point=p) for p in points] or [
            self
        ]

    @property
    def trained_on_target(self) -> bool:
        """True if the chain ends with the stage whose test rows score it."""
        return self.order[-1] == self.test

    def stage_run(self, seed: int, pinned: Mapping[str, int | None]) -> StageRun:
        """Return the last stage run of the chain for one seed.

        Args:
            seed: Seed of the stages without a fixed one.
            pinned: Stage name to its fixed seed, or None.
        """
        run: StageRun | None = None
        for stage in self.order:
            own = pinned.get(stage)
            point = self.point if self.point and self.point.stage == stage else None
            size = point.train_size if point else None
            # A chain that starts with fixed seeds is equal for all seeds, so it is trained once.
            run = StageRun(stage, seed if own is None else own, run, size)
        assert run is not None  # `plan_rows` plans no row without stages
        return run


def plan_rows(
    order: Sequence[str],
    stages: Mapping[str, Mapping[str, Any]],
    baselines: Mapping[str, Mapping[str, Any]],
    curve: Mapping[str, Any] | None = None,
) -> list[PlannedRow]:
    """Return the rows of an experiment: each earlier stage, the baselines, and the transfer last.

    An earlier stage is scored on its own test rows. Skipped stages are removed from every chain. A
    baseline is dropped if no stage is left in it, if its test stage is skipped, or if it equals
    the transfer. With a learning curve, each row that trains its stage is repeated for each size,
    so the last row is the transfer with the last size.

    Args:
        order: Stage names, first to last.
        stages: Stage name to its settings; only ``skip`` is read.
        baselines: Row name to ``order`` and ``test``; ``test`` defaults to the last of ``order``.
        curve: ``stage``, and the list ``train_size``; no curve if that is empty.

    Raises:
        ValueError: If a name is unknown or occurs twice, if every stage is skipped, or if no row
            trains the stage of the curve.
    """
    _check_names(order, stages, "order")
    kept = tuple(name for name in order if not stages[name].get("skip"))
    if not kept:
        raise ValueError("every stage is skipped; set skip=false in a stage of order")
    # One stage is no transfer.
    main = PlannedRow("transfer" if len(kept) > 1 else kept[-1], kept, kept[-1])
    rows = [PlannedRow(name, kept[: i + 1], name) for i, name in enumerate(kept[:-1])]
    for name, baseline in baselines.items():
        extra = set(baseline) - {"order", "test"}
        if extra or "order" not in baseline:
            raise ValueError(
                f"baselines.{name} must be a mapping {{order: [stages], test: stage}}, got "
                f"{dict(baseline)}"
            )
        # The default is the configured last stage: if it is skipped, so is the baseline.
        test = str(baseline.get("test", order[-1]))
        _check_names(baseline["order"], stages, f"baselines.{name}.order")
        _check_names([test], stages, f"baselines.{name}.test")
        chain = tuple(s for s in baseline["order"] if not stages[s].get("skip"))
        row = PlannedRow(name, chain, test)
        if name in {main.name, *(r.name for r in rows)}:
            raise ValueError(f"baselines.{name} has the name of another row; rename it")
        # Without the source stage, `no_source` is the transfer itself.
        if chain and not stages[test].get("skip") and (chain, test) != (main.order, main.test):
            rows.append(row)
    points = read_curve(curve or {}, stages)
    rows = [at for row in [*rows, main] for at in row.expand(points)]
    if points and not any(row.point for row in rows) and not stages[points[0].stage].get("skip"):
        raise ValueError(
            f"curve.stage={points[0].stage!r} is trained in no row; use a stage of order: "
            f"{', '.join(order)}"
        )
    return rows


def read_curve(curve: Mapping[str, Any], stages: Mapping[str, Any]) -> list[Point]:
    """Return the points of a learning curve in their order.

    Args:
        curve: See :func:`plan_rows`.
        stages: Stages of the run by name.

    Raises:
        ValueError: If a key or the stage is unknown, or ``train_size`` is not a list of different
            sizes without null.
    """
    if extra := set(curve) - {"stage", "train_size"}:
        raise ValueError(
            f"unknown keys of curve: {', '.join(sorted(extra))}; its keys are stage, train_size"
        )
    sizes = curve.get("train_size") or []
    if isinstance(sizes, str) or not isinstance(sizes, Sequence):
        raise ValueError(
            "curve.train_size must be a list of sizes such as [8/class, 32/class] or [64, 256], "
            f"got {sizes!r}"
        )
    if not sizes:
        return []
    # As texts, since 64 and "64" give the same folder.
    if len({str(size) for size in sizes}) != len(sizes):
        raise ValueError(f"curve.train_size must hold different sizes, got {list(sizes)}")
    # null means all rows elsewhere, but the row of the table needs a size in its name.
    if None in sizes:
        raise ValueError(
            f"curve.train_size must hold sizes, got null in {list(sizes)}; use 1.0 for all rows"
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
            raise ValueError(
                f"{where}: unknown stage {name!r}{near} Stages: {', '.join(sorted(stages))}"
            )
    if len(set(names)) != len(names):
        raise ValueError(f"{where} must name each stage once, got {list(names)}")
