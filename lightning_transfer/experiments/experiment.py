"""A whole experiment: every row of its table, trained, scored, compared and written down."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_transfer.backbones import Backbone
from lightning_transfer.checkpoints.loading import load
from lightning_transfer.checkpoints.model_folder import export
from lightning_transfer.config.instantiate import own_parts
from lightning_transfer.config.settings import check_settings
from lightning_transfer.experiments.dry_run import DryRun
from lightning_transfer.experiments.plan import PlannedRow, StageRun, plan_rows
from lightning_transfer.experiments.report.curves import Curve, plot_curves, plot_sizes
from lightning_transfer.experiments.results import LOWER_IS_BETTER, Comparison, Metric, Results, Row
from lightning_transfer.experiments.stage_runner import FittedStage, StageRunner, TestedStage
from lightning_transfer.experiments.training import METRICS, is_rank_zero
from lightning_transfer.utils.tables import console_for

log = logging.getLogger(__name__)


class Experiment:
    """The rows of an experiment over its seeds.

    Args:
        config: The composed config as plain values; see ``conf/fit.yaml``.
        folder: The run folder.
        resume: Whether to go on with what the folder holds.
        again: What a command that goes on with the run has to add, for the message after a Ctrl-C.

    Raises:
        ValueError: If seeds, stages, baselines or the gain do not fit together.
    """

    def __init__(
        self, config: Mapping[str, Any], folder: Path, *, resume: bool, again: str | None = None
    ) -> None:
        """See the class."""
        self.again = again or f"resume=true hydra.run.dir={folder}"
        self.config = config
        self.folder = folder
        self.seeds = _check_seeds(config["seeds"])
        baselines, curve = config.get("baselines") or {}, config.get("curve") or {}
        self.rows = plan_rows(config["order"], config["stages"], baselines, curve)
        self.comparison_metric, self.candidate, self.baseline = self._check_comparison(
            config.get("comparison") or {}
        )
        check_settings(config)
        self.pinned = {name: stage.get("seed") for name, stage in config["stages"].items()}
        self.runner = StageRunner(config, folder, resume=resume, rows=self._rows_of_runs())
        self.scores: dict[str, dict[StageRun, tuple[FittedStage, TestedStage]]] = {}

    def _rows_of_runs(self) -> dict[StageRun, list[str]]:
        """Return stage run to the rows that need it."""
        rows: dict[StageRun, list[str]] = {}
        for row in self.rows:
            runs = {r for s in self.seeds for r in row.stage_run(s, self.pinned).chain}
            for run in runs:
                rows.setdefault(run, []).append(row.name)
        return rows

    def _check_comparison(
        self, comparison: Mapping[str, Any]
    ) -> tuple[str | None, str, str | None]:
        """Return the metric, and the rows, without their sizes, of which one is held against one.

        A skipped stage may have taken a row away; there is nothing to be compared with then.
        """
        main, of, over = self.rows[-1].base, comparison.get("candidate"), comparison.get("baseline")
        if over is None:
            return None, main, None
        baselines = self.config.get("baselines") or {}
        for key, name in (("baseline", over), ("candidate", of)):
            if name not in (None, *baselines):
                raise ValueError(
                    f"comparison.{key}={name!r} is no baseline; baselines: {', '.join(baselines)}"
                )
        of = of or main
        planned = {row.base for row in self.rows} >= {of, over}
        return comparison.get("metric"), of, over if planned else None

    @property
    def metric(self) -> str:
        """The metric that the rows are compared in: the gain's, or else the monitored one."""
        return self.comparison_metric or self.runner.metric(self.rows[-1].order[-1])

    def ranking(self) -> tuple[str, str, Metric]:
        """Return what runs are told apart by: the metric's name, its mode, and its values.

        It is the validation score of the weights that were kept, since to choose among runs by
        their test scores would spoil these; the test score only where nothing was validated.
        """
        main = self.rows[-1]
        best = [fitted.best for fitted, _ in self.scores[main.name].values()]
        values = [value for value in best if value is not None]
        if len(values) == len(best):
            stage = main.order[-1]
            return self.runner.monitor(stage), self.runner.mode(stage), Metric(tuple(values))
        metric = self.metric
        mode = "min" if metric in LOWER_IS_BETTER else "max"
        return metric, mode, self._row(main).metrics[metric]

    def add_callback(self, name: str, spec: Mapping[str, Any]) -> None:
        """Add a callback that watches the transfer's last stage run, of the first seed.

        Args:
            name: What it is called among the callbacks of the stage.
            spec: Its config; the arguments ``run``, ``monitor`` and ``mode`` are added.
        """
        run = self.rows[-1].stage_run(self.seeds[0], self.pinned)
        settings = self.config["stages"][run.stage]
        ways = {"monitor": self.runner.monitor(run.stage), "mode": self.runner.mode(run.stage)}
        own = {**spec, "run": str(run.folder), **ways}
        settings["callbacks"] = {**(settings.get("callbacks") or {}), name: own}

    def check(self) -> None:
        """Build and read everything once without training, so that mistakes cost no stage.

        Raises:
            ValueError: If a part of the config is wrong, or parts do not fit together.
            OSError: If a file is not there.
            ImportError: If a ``_target_`` cannot be imported.
        """
        preflight = DryRun(self.runner, self.rows, seeds=self.seeds, pinned=self.pinned)
        preflight.check()
        if self.baseline is not None:
            preflight.check_comparison(self.metric, {self.candidate, self.baseline})

    def run(self) -> Results:
        """Train and score everything, seed by seed; write what there is, also when interrupted.

        Returns:
            The results of all rows.
        """
        try:
            for seed in self.seeds:
                for row in self.rows:
                    self._score(row, seed)
        except (KeyboardInterrupt, SystemExit):  # Ctrl-C; SIGTERM
            if is_rank_zero():
                log.warning(
                    "interrupted; writing down what is finished; the same command with %s goes on "
                    "from here",
                    self.again,
                )
            self._write(self.results())
            self._show(self.results())
            raise
        results = self.results()
        self._write(results)
        self._export()
        self._show(results)
        if is_rank_zero():
            self.runner.log_results(
                {f"{r.name}/{name}": m.mean for r in results.rows for name, m in r.metrics.items()}
            )
        return results

    def _score(self, row: PlannedRow, seed: int) -> None:
        run = row.stage_run(seed, self.pinned)
        scores = self.scores.setdefault(row.name, {})
        if run not in scores:
            fitted = self.runner.fit(run)
            scores[run] = (fitted, self.runner.test(run, row.test))

    def results(self) -> Results:
        """Gather the rows that have been scored so far."""
        rows = [self._row(row) for row in self.rows if self.scores.get(row.name)]
        compared = [row for row in self.rows if row.base == self.candidate]
        return Results(
            experiment=str(self.config["name"]),
            seeds=tuple(self.seeds),
            rows=tuple(rows),
            comparison=self._comparison(compared[-1]) if compared else None,
            missing=tuple(row.name for row in self.rows if not self._complete(row)),
            weight_transfer=tuple(self._handed_on()),
            comparisons=self._comparisons(),
        )

    def _comparisons(self) -> dict[str, Comparison]:
        """Return the gain at each size of the learning curve, as far as it is done."""
        comparisons = {
            r.point: self._comparison(r) for r in self.rows if r.point and r.base == self.candidate
        }
        return {
            str(p.train_size): comparison
            for p, comparison in comparisons.items()
            if p and comparison is not None
        }

    def _handed_on(self) -> Iterator[dict[str, Any]]:
        """Say of each stage run that is done what became of the weights before it."""
        scored = [run for scores in self.scores.values() for run in scores]
        for run in dict.fromkeys(one for last in scored for one in last.chain):
            yield {
                "run": str(run.folder),
                "stage": run.stage,
                "seed": run.seed,
                "from": None if run.before is None else str(run.before.folder),
                "parts": list(self.runner.fit(run).weight_transfer),
            }

    def _complete(self, row: PlannedRow) -> bool:
        wanted = {row.stage_run(seed, self.pinned) for seed in self.seeds}
        return wanted == set(self.scores.get(row.name, {}))

    def _row(self, row: PlannedRow, runs: Sequence[StageRun] | None = None) -> Row:
        """Gather a row: one value for each stage run, or for each of ``runs``.

        A chain of pinned stages is one run whatever the seed; its value is no sample of three.
        """
        scores = self.scores[row.name]
        scored = [(run, *scores[run]) for run in (scores if runs is None else runs)]
        names = [name for name in scored[0][2].metrics if name != "loss"]
        seconds = [self._seconds(run, tested) for run, _, tested in scored]
        return Row(
            name=row.name,
            stage=row.test,
            n_train=scored[0][1].n_train if row.saw_labels else 0,
            n_test=scored[0][2].n_test,
            seconds=sum(seconds) / len(seconds),
            metrics={
                name: Metric(tuple(tested.metrics[name] for _, _, tested in scored))
                for name in names
            },
        )

    def _seconds(self, run: StageRun, tested: TestedStage) -> float:
        """Return the time of a row's chain of trainings and of its test."""
        return sum(self.runner.fit(step).seconds for step in run.chain) + tested.seconds

    def _baseline(self, main: PlannedRow) -> PlannedRow | None:
        """Return the row that one is compared with: of the same size, or without a size."""
        baselines = [row for row in self.rows if row.base == self.baseline]
        return next((row for row in baselines if row.point in (main.point, None)), None)

    def _comparison(self, main: PlannedRow) -> Comparison | None:
        baseline = self._baseline(main)
        if baseline is None or not (self._complete(main) and self._complete(baseline)):
            return None
        # One pair a seed, but pairs of pinned chains only once: repeated, they would look certain.
        pairs = dict.fromkeys(
            (main.stage_run(seed, self.pinned), baseline.stage_run(seed, self.pinned))
            for seed in self.seeds
        )
        ours = self._row(main, [pair[0] for pair in pairs])
        theirs = self._row(baseline, [pair[1] for pair in pairs])
        return Comparison.between(ours, theirs, metric=self.metric)

    def _export(self) -> None:
        """Write the model folder: of the main row, the seed that validated best."""
        scores = self.scores[self.rows[-1].name]
        mode = self.runner.mode(self.rows[-1].order[-1])
        chosen = max(scores, key=lambda run: _rank(scores[run][0], mode))
        if not is_rank_zero():
            return
        loaded = load(
            self.folder / scores[chosen][0].checkpoint, **own_parts(self.config, chosen.stage)
        )
        if loaded.tokenizer is None or type(loaded.task.backbone) is not Backbone:
            log.info("no model folder: the backbone is not one of our Hugging Face backbones")
            return
        export(
            loaded.task,
            loaded.tokenizer,
            self.folder / "model",
            tokens=loaded.tokens,
            target_tokenizer=loaded.target_tokenizer,
            target_tokens=loaded.target_tokens,
            position=dict(loaded.position or {}),
        )
        log.info("model: %s (%s)", self.folder / "model", chosen.title)

    def _write(self, results: Results) -> None:
        """Write results.json, results.md and the curves."""
        if not is_rank_zero():
            return
        results.write(self.folder)
        logged = {
            run.title: self.folder / run.folder / METRICS
            for scores in self.scores.values()
            for run in scores
            if (self.folder / run.folder / METRICS).is_file()
        }
        if logged:
            metric = self.runner.monitor(self.rows[-1].order[-1])
            plot_curves(logged, self.folder / "learning_curves.png", metric=metric)
        if curves := self._curves(results):
            plot_sizes(curves, self.folder / "train_sizes.png", metric=self.metric)

    def _curves(self, results: Results) -> list[Curve]:
        """Return what is drawn over the training rows: all that is scored where the transfer is.

        Nothing is, if there is no learning curve.
        """
        if not any(row.point for row in self.rows):
            return []
        found = {row.name: row for row in results.rows}
        curves: dict[str, Curve] = {}
        for row in self.rows:
            if row.name in found and row.test == self.rows[-1].test:
                curve = curves.setdefault(row.base, Curve(row.base, {}))
                at = None if row.point is None else (self._n_train(row), str(row.point.train_size))
                curve.points[at] = found[row.name].metrics[self.metric]
        return list(curves.values())

    def _n_train(self, row: PlannedRow) -> int:
        """Return the training rows of the stage that a row's point is about."""
        run = next(iter(self.scores[row.name]))
        return next(
            self.runner.fit(step).n_train for step in run.chain if step.train_size is not None
        )

    def _show(self, results: Results) -> None:
        """Print the table and the sentence."""
        if not is_rank_zero():
            return
        table = results.to_table()
        console = console_for(table)
        console.print(table)
        console.print(results.sentence(), soft_wrap=True)
        console.print(f"Run folder: {self.folder}", soft_wrap=True, highlight=False)


def _rank(fitted: FittedStage, mode: str) -> float:
    if fitted.best is None:
        return float("-inf")
    return fitted.best if mode == "max" else -fitted.best


def _check_seeds(seeds: Sequence[Any]) -> list[int]:
    if isinstance(seeds, str) or not isinstance(seeds, Sequence) or not seeds:
        raise ValueError(f"seeds must be a list of numbers such as [0,1,2], got {seeds!r}")
    if any(not isinstance(s, int) or isinstance(s, bool) or s < 0 for s in seeds):
        raise ValueError(f"seeds must be whole numbers >= 0, got {list(seeds)}")
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must differ, got {list(seeds)}")
    return list(seeds)
