"""What a transfer consists of: chains of stages, their controls, and what each is scored on."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any


@dataclass(frozen=True)
class StageRun:
    """One stage trained with one seed, after the stages before it.

    Equal stage runs are the same work: they share a folder and are done once.

    Args:
        stage: Name of the stage.
        seed: Seed of weights, dropout, batch order and the draw of training rows.
        before: The stage run whose weights it starts from.
    """

    stage: str
    seed: int
    before: "StageRun | None" = None

    @property
    def folder(self) -> PurePosixPath:
        """Folder below the run folder."""
        parent = self.before.folder if self.before else PurePosixPath("stages")
        return parent / f"{self.stage}-seed{self.seed}"

    @property
    def title(self) -> str:
        """Name for people."""
        after = f" after {self.before.stage}" if self.before else ""
        return f"{self.stage}{after} · seed {self.seed}"

    @property
    def chain(self) -> "tuple[StageRun, ...]":
        """This run and those before it, first to last."""
        return (*(self.before.chain if self.before else ()), self)


@dataclass(frozen=True)
class PlannedRow:
    """A row of the results: a chain of stages, and the stage whose test split scores it."""

    name: str
    order: tuple[str, ...]
    test: str

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
            run = StageRun(stage, seed if own is None else own, run)
        assert run is not None  # a row without stages is never planned
        return run


def plan_rows(
    order: Sequence[str],
    stages: Mapping[str, Mapping[str, Any]],
    controls: Mapping[str, Mapping[str, Any]],
) -> list[PlannedRow]:
    """List the rows: stages on the way at home, the controls, and the transfer itself.

    Skipped stages are taken out of every chain; a control that then has no stage left, or is the
    same as the transfer, is no control any more and is left out.

    Args:
        order: Stage names, first to last.
        stages: Stage name to its settings; ``skip`` is read.
        controls: Row name to ``order`` and ``test``.

    Raises:
        ValueError: If a name is unknown or occurs twice, or nothing is left to run.
    """
    _check_names(order, stages, "order")
    kept = tuple(name for name in order if not stages[name].get("skip"))
    if not kept:
        raise ValueError("every stage is skipped; nothing is left to run")
    main = PlannedRow("transfer" if len(kept) > 1 else kept[-1], kept, kept[-1])
    rows = [PlannedRow(name, kept[: i + 1], name) for i, name in enumerate(kept[:-1])]
    for name, control in controls.items():
        extra = set(control) - {"order", "test"}
        if extra or "order" not in control:
            raise ValueError(f"controls.{name} has the keys order and test, got {dict(control)}")
        test = str(control.get("test", order[-1]))
        _check_names(control["order"], stages, f"controls.{name}.order")
        _check_names([test], stages, f"controls.{name}.test")
        chain = tuple(s for s in control["order"] if not stages[s].get("skip"))
        row = PlannedRow(name, chain, test)
        if name in {main.name, *(r.name for r in rows)}:
            raise ValueError(f"controls.{name} has the name of another row; rename it")
        if chain and not stages[test].get("skip") and (chain, test) != (main.order, main.test):
            rows.append(row)
    return [*rows, main]


def _check_names(names: Sequence[str], stages: Mapping[str, Any], where: str) -> None:
    if isinstance(names, str) or not names:
        raise ValueError(f"{where} must be a list of stage names, got {names!r}")
    for name in names:
        if name not in stages:
            close = difflib.get_close_matches(str(name), stages, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{where} names the stage {name!r}, known: {sorted(stages)}{hint}")
    if len(set(names)) != len(names):
        raise ValueError(f"{where} names a stage twice: {list(names)}")
