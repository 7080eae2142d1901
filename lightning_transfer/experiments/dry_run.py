"""Dry run: build and check every stage before training, to find mistakes at once."""

import logging
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

from lightning_transfer.adapters.adapter import applied
from lightning_transfer.checkpoints.adapter_files import check_adapter_transfer
from lightning_transfer.config.instantiate import scheduler_key
from lightning_transfer.experiments.plan import PlannedRow
from lightning_transfer.experiments.results import LOWER_IS_BETTER
from lightning_transfer.experiments.stage_runner import BuiltStage, StageRunner
from lightning_transfer.utils.labels import Labels, match_outputs
from lightning_transfer.utils.suggestions import closest, did_you_mean
from lightning_transfer.weight_transfer import align_outputs

log = logging.getLogger(__name__)


class DryRun:
    """Builds each stage once without training: data, labels, heads, callbacks, Trainer arguments.

    An experiment may train for hours before its last stage. The dry run raises the errors of all
    stages first.

    Args:
        runner: Builds the stages. Its DataModules are read here and reused by the training.
        rows: Planned rows of the experiment.
        seeds: Seeds of the experiment; the dry run uses the first one.
        pinned: Stage name to its fixed seed; None for stages that use the seed of the run.
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
        # One entry per size of a learning curve: each size is a separate draw of training rows and
        # may fail on its own, for instance with fewer rows of a class than requested.
        self._sizes = dict.fromkeys((run.stage, run.train_size) for run in runs)
        self._labels: dict[str, Labels] = {}
        self._built: dict[str, BuiltStage] = {}

    def check(self) -> None:
        """Build all stages in their order, and check each against the previous one.

        Raises:
            ValueError: If stages, data, labels or monitored metrics do not fit together.
            OSError: If a file does not exist.
            ImportError: If a ``_target_`` cannot be imported.
        """
        self._warn_unused()
        for stage in dict.fromkeys([*self._runs, *(row.test for row in self.rows)]):
            self._read(stage)
        for stage, run in self._runs.items():
            own = self.runner.config["stages"][stage].get("init_from")
            # With `init_from` the initial weights are those of a file.
            previous = self._built[run.previous.stage] if run.previous and not own else None
            self._built[stage] = self.runner.build_untrained(run, self._labels[stage], previous)
            self._tokenize(stage, self._built[stage].tokenizer)
            self._check_monitor(stage)
        for row in self.rows:
            self._check_labels(row)
            self._check_adapters(row)
            # The test rows of a baseline are tokenized by the tokenizer of the scored model.
            self._tokenize(row.test, self._built[row.order[-1]].tokenizer)

    def _warn_unused(self) -> None:
        stages = self.runner.config["stages"]
        used = {*self._runs, *(row.test for row in self.rows)}
        for name, settings in stages.items():
            if name not in used and not settings.get("skip"):
                log.warning(
                    "stage %s is not run: neither order nor a baseline names it; add it to order",
                    name,
                )

    def _read(self, stage: str) -> None:
        """Read and split the rows of a stage."""
        data = self.runner.data(stage, self._seeds.get(stage, 0))
        try:
            for size in [size for name, size in self._sizes if name == stage]:
                # The same DataModule, set to another size; `setup` draws its rows.
                self.runner.data(stage, self._seeds[stage], train_size=size)
                data.setup("fit")
            if any(row.test == stage for row in self.rows):
                data.setup("test")
        except ValueError as error:
            raise ValueError(f"stages.{stage}.data: {error}") from error
        self._labels[stage] = data.labels

    def _tokenize(self, stage: str, tokenizer: Any) -> None:
        """Write the tokens of a stage to the token cache, for the training to read."""
        data = self.runner.data(stage, self._seeds.get(stage, 0), tokenizer)
        try:
            data.prepare_data()
            data.setup("fit" if stage in self._runs else "test")
        except ValueError as error:
            raise ValueError(f"stages.{stage}.data: {error}") from error

    def _check_monitor(self, stage: str) -> None:
        """Raise if the monitored metric does not exist, or has no validation rows."""
        settings = self.runner.config["stages"][stage]
        needs = {
            "patience": settings.get("patience") is not None,
            scheduler_key(settings): self._built[stage].task.recipe.watches_metric,
        }
        for name in (name for name, is_needed in needs.items() if is_needed):
            if not self.runner.data(stage, self._seeds[stage]).n_val:
                raise ValueError(
                    f"stages.{stage}.{name} needs validation rows, got 0; set "
                    f"stages.{stage}.data.splits.val=0.1 or stages.{stage}.{name}=null"
                )
        monitor = self.runner.monitor(stage)
        known = ["val/loss", *map(str, self._built[stage].task.val_metrics)]
        if monitor not in known:
            near = did_you_mean(closest(monitor, known))
            raise ValueError(
                f"stages.{stage}.monitor: unknown validation metric {monitor!r}{near} Metrics of "
                f"the task: {', '.join(known)}"
            )

    def _check_labels(self, row: PlannedRow) -> None:
        """Match the labels of a chain, then those of its last stage with those of the test rows."""
        stages = self.runner.config["stages"]
        for before, after in pairwise(row.order):
            # With `init_from`, `build_untrained` has matched the labels of the checkpoint already.
            own = stages[after].get("init_from")
            # Labels may differ freely if the head is not transferred.
            if not own and self.runner.weight_transfer_spec(after).head:
                label_map = stages[after].get("label_map")
                match_outputs(self._labels[before], self._labels[after], label_map)
        # Such a row is scored by a head trained for the labels of another stage.
        if not row.trained_on_target:
            align_outputs(self._built[row.order[-1]].task, self._labels[row.test])

    def _check_adapters(self, row: PlannedRow) -> None:
        """Raise if a stage would lose the trained adapter of the previous stage."""
        for before, after in pairwise(row.order):
            own = self.runner.config["stages"][after].get("init_from")
            # Adapters of `init_from` are checked when its weights are read. Without any backbone
            # weights to transfer, the adapter is dropped on purpose.
            if own or not self.runner.weight_transfer_spec(after).any_of_backbone:
                continue
            adapters = [applied(self._built[stage].task.backbone) for stage in (before, after)]
            try:
                check_adapter_transfer(*adapters)
            except ValueError as error:
                raise ValueError(f"stages.{after}.finetuning.adapter: {error}") from error

    def check_comparison(self, metric: str, compared: Collection[str]) -> None:
        """Check the metric of the comparison against the rows.

        Args:
            metric: Name of the metric, without a split.
            compared: Names of the rows, without their sizes on a learning curve.

        Raises:
            ValueError: If a row lacks the metric, or a lower value of it is better.
        """
        if metric in LOWER_IS_BETTER:
            raise ValueError(
                "comparison.metric must be a metric for which higher is better, got "
                f"{metric!r}; lower is better for {', '.join(sorted(LOWER_IS_BETTER))}"
            )
        for row in self.rows:
            if row.base in compared:
                # Its metrics are those of the test labels, as in the test itself.
                task = align_outputs(self._built[row.order[-1]].task, self._labels[row.test])
                known = [str(name).removeprefix("test/") for name in task.test_metrics]
                if metric not in known:
                    near = did_you_mean(closest(metric, known))
                    raise ValueError(
                        f"comparison.metric: unknown metric {metric!r} of row {row.name!r}{near} "
                        f"Metrics: {', '.join(known)}"
                    )
