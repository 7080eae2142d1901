"""What can go wrong is looked for before the first step: a mistake must not cost a stage first."""

import logging
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

from lightning_transfer.adapters.adapter import applied
from lightning_transfer.checkpoints.adapter_files import check_adapter_transfer
from lightning_transfer.experiments.plan import PlannedRow
from lightning_transfer.experiments.results import LOWER_IS_BETTER
from lightning_transfer.experiments.stage_runner import BuiltStage, StageRunner
from lightning_transfer.utils.labels import Labels, match_outputs
from lightning_transfer.utils.suggestions import closest, did_you_mean
from lightning_transfer.weight_transfer import align_outputs

log = logging.getLogger(__name__)


class DryRun:
    """Builds every stage once, without training: data, labels, heads, callbacks, Trainer arguments.

    Args:
        runner: Its DataModules are read here, and used again by the run itself.
        rows: What the experiment is going to do.
        seeds: Its seeds.
        pinned: Stage name to its own seed, or None.
    """

    def __init__(
        self,
        runner: StageRunner,
        rows: Sequence[PlannedRow],
        *,
        seeds: Sequence[int],
        pinned: Mapping[str, int | None],
    ) -> None:
        """See the class."""
        self.runner = runner
        self.rows = rows
        runs = [run for row in rows for run in row.stage_run(seeds[0], pinned).chain]
        self._runs = {run.stage: run for run in runs}
        self._seeds = {stage: run.seed for stage, run in self._runs.items()}
        # Each number of training rows that a stage is trained with; one after the other is drawn.
        self._sizes = dict.fromkeys((run.stage, run.train_size) for run in runs)
        self._labels: dict[str, Labels] = {}
        self._built: dict[str, BuiltStage] = {}

    def check(self) -> None:
        """Raise what the stages would raise in mid-run.

        Raises:
            ValueError: If stages, data, labels or monitored metrics do not fit together.
            OSError: If a file is not there.
            ImportError: If a ``_target_`` cannot be imported.
        """
        self._tell_unused()
        for stage in dict.fromkeys([*self._runs, *(row.test for row in self.rows)]):
            self._read(stage)
        for stage, run in self._runs.items():
            own = self.runner.config["stages"][stage].get("init_from")
            before = self._built[run.before.stage] if run.before and not own else None
            self._built[stage] = self.runner.build_untrained(run, self._labels[stage], before)
            self._tokenize(stage, self._built[stage].tokenizer)
            self._check_monitor(stage)
        for row in self.rows:
            self._check_labels(row)
            self._check_adapters(row)
            self._tokenize(row.test, self._built[row.order[-1]].tokenizer)

    def _tell_unused(self) -> None:
        stages = self.runner.config["stages"]
        used = {*self._runs, *(row.test for row in self.rows)}
        for name, settings in stages.items():
            if name not in used and not settings.get("skip"):
                log.warning(
                    "stage %s is in no order, so it is not run: order=[…] names the stages", name
                )

    def _read(self, stage: str) -> None:
        """Read and split the rows of a stage."""
        data = self.runner.data(stage, self._seeds.get(stage, 0))
        try:
            for size in [size for name, size in self._sizes if name == stage]:
                self.runner.data(stage, self._seeds[stage], train_size=size)
                data.setup("fit")
            if any(row.test == stage for row in self.rows):
                data.setup("test")
        except ValueError as error:
            raise ValueError(f"stages.{stage}.data: {error}") from error
        self._labels[stage] = data.labels

    def _tokenize(self, stage: str, tokenizer: Any) -> None:
        """Fill the cache of tokens; the run finds them there."""
        data = self.runner.data(stage, self._seeds.get(stage, 0), tokenizer)
        try:
            data.prepare_data()
            data.setup("fit" if stage in self._runs else "test")
        except ValueError as error:
            raise ValueError(f"stages.{stage}.data: {error}") from error

    def _check_monitor(self, stage: str) -> None:
        needs = {
            "patience": self.runner.config["stages"][stage].get("patience") is not None,
            "scheduler": self._built[stage].task.recipe.watches_metric,
        }
        for name in (name for name, is_needed in needs.items() if is_needed):
            if not self.runner.data(stage, self._seeds[stage]).n_val:
                raise ValueError(
                    f"stages.{stage}.{name} needs validation rows, there are none; set "
                    f"stages.{stage}.data.splits.val, or {name}=null"
                )
        monitor = self.runner.monitor(stage)
        known = ["val/loss", *map(str, self._built[stage].task.val_metrics)]
        if monitor not in known:
            near = did_you_mean(closest(monitor, known))
            raise ValueError(
                f"stages.{stage}.monitor={monitor!r} is no validation metric of this task: "
                f"{', '.join(known)}{near}"
            )

    def _check_labels(self, row: PlannedRow) -> None:
        """Match the labels along a chain, and those of its end with those it is tested on."""
        stages = self.runner.config["stages"]
        for before, after in pairwise(row.order):
            own = stages[after].get("init_from")  # whose labels have been matched already
            if not own and self.runner.take(after).head:
                label_map = stages[after].get("label_map")
                match_outputs(self._labels[before], self._labels[after], label_map)
        if not row.saw_labels:
            align_outputs(self._built[row.order[-1]].task, self._labels[row.test])

    def _check_adapters(self, row: PlannedRow) -> None:
        """Raise if a stage could only drop what the adapter of the one before has learned."""
        for before, after in pairwise(row.order):
            own = self.runner.config["stages"][after].get("init_from")
            if own or not self.runner.take(after).any_of_backbone:
                continue  # checked with the weights themselves; or nothing is to live on
            held = [applied(self._built[stage].task.backbone) for stage in (before, after)]
            try:
                check_adapter_transfer(*held)
            except ValueError as error:
                raise ValueError(f"stages.{after}.finetuning.adapter: {error}") from error

    def check_comparison(self, metric: str, compared: Collection[str]) -> None:
        """Raise if the rows that are compared do not have a metric to be compared in.

        Args:
            metric: Its name.
            compared: Names of the rows, without their sizes on a learning curve.

        Raises:
            ValueError: If a row lacks the metric, or a lower value of it is better.
        """
        if metric in LOWER_IS_BETTER:
            raise ValueError(
                f"comparison.metric={metric!r}: a lower value of it is better; choose another"
            )
        for row in self.rows:
            if row.base in compared:
                task = align_outputs(self._built[row.order[-1]].task, self._labels[row.test])
                known = [str(name).removeprefix("test/") for name in task.test_metrics]
                if metric not in known:
                    near = did_you_mean(closest(metric, known))
                    raise ValueError(
                        f"comparison.metric={metric!r} is no metric of row {row.name!r}: "
                        f"{', '.join(known)}{near}"
                    )
