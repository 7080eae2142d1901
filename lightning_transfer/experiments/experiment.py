"""Experiment: train and score every row of the results table, compare rows, write the results."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_transfer.backbones import Backbone
from lightning_transfer.checkpoints.loading import load
from lightning_transfer.checkpoints.model_folder import export
from lightning_transfer.config.instantiate import load_arguments
from lightning_transfer.config.settings import check_settings
from lightning_transfer.experiments.dry_run import DryRun
from lightning_transfer.experiments.plan import PlannedRow, StageRun, plan_rows
from lightning_transfer.experiments.report.curves import (
    SizeCurve,
    plot_size_curves,
    plot_training_curves,
)
from lightning_transfer.experiments.results import LOWER_IS_BETTER, Comparison, Metric, Results, Row
from lightning_transfer.experiments.stage_runner import FittedStage, StageRunner, TestedStage
from lightning_transfer.experiments.training import METRICS, is_rank_zero
from lightning_transfer.utils.suggestions import closest, did_you_mean
from lightning_transfer.utils.tables import console_for

log = logging.getLogger(__name__)


class Experiment:
    """Trains and scores the rows of an experiment over its seeds.

    Rows are the transfer, its baselines, and each stage before the last one. A row is a chain of
    stages, scored on the test rows of one stage. Rows with a common stage run share its weights.

    Args:
        config: The composed config as plain values; see ``conf/fit.yaml``.
        folder: The run folder.
        resume: True to resume the run in ``folder``.
        resume_overrides: Overrides to add to the command to resume the run, for the message after
            Ctrl-C; None: ``resume=true`` and the run folder.

    Raises:
        ValueError: If seeds, stages, baselines or the comparison do not fit together.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        folder: Path,
        *,
        resume: bool,
        resume_overrides: str | None = None,
    ) -> None:
        """See the class."""
        self.resume_overrides = resume_overrides or f"resume=true hydra.run.dir={folder}"
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
        # Row name to its stage runs in the order of the seeds. A pinned chain has one for all.
        self.scores: dict[str, dict[StageRun, tuple[FittedStage, TestedStage]]] = {}

    def _rows_of_runs(self) -> dict[StageRun, list[str]]:
        """Map each stage run to the names of its rows."""
        rows: dict[StageRun, list[str]] = {}
        for row in self.rows:
            # A set: a stage run with a fixed seed is in the chains of all seeds.
            runs = {r for s in self.seeds for r in row.stage_run(s, self.pinned).chain}
            for run in runs:
                rows.setdefault(run, []).append(row.name)
        return rows

    def _check_comparison(
        self, comparison: Mapping[str, Any]
    ) -> tuple[str | None, str, str | None]:
        """Return metric, candidate and baseline of the comparison; rows without their sizes.

        The baseline is None without a comparison: if none is configured, or if a skipped stage
        removes one of the two rows.
        """
        transfer = self.rows[-1].base
        candidate, baseline = comparison.get("candidate"), comparison.get("baseline")
        if baseline is None:
            return None, transfer, None
        baselines = self.config.get("baselines") or {}
        for key, name in (("baseline", baseline), ("candidate", candidate)):
            if name not in (None, *baselines):
                near = did_you_mean(closest(str(name), baselines))
                raise ValueError(
                    f"comparison.{key}: unknown baseline {name!r}{near} Baselines: "
                    f"{', '.join(baselines) or 'none'}"
                )
        candidate = candidate or transfer
        is_planned = {row.base for row in self.rows} >= {candidate, baseline}
        return comparison.get("metric"), candidate, baseline if is_planned else None

    @property
    def metric(self) -> str:
        """Test metric to compare rows: ``comparison.metric``, or the metric of the last stage."""
        return self.comparison_metric or self.runner.metric(self.rows[-1].order[-1])

    def ranking(self) -> tuple[str, str, Metric]:
        """Return name, mode and values of the metric to rank runs by, for sweeps.

        It is the validation score of the saved weights. A choice among runs by their test scores
        would bias these, so the test score is used only if nothing was validated.
        """
        transfer = self.rows[-1]
        best = [fitted.best for fitted, _ in self.scores[transfer.name].values()]
        values = [value for value in best if value is not None]
        if len(values) == len(best):
            stage = transfer.order[-1]
            return self.runner.monitor(stage), self.runner.mode(stage), Metric(tuple(values))
        metric = self.metric
        mode = "min" if metric in LOWER_IS_BETTER else "max"
        return metric, mode, self._row(transfer).metrics[metric]

    def add_callback(self, name: str, spec: Mapping[str, Any]) -> None:
        """Add a callback for the last stage run of the transfer with the first seed.

        Args:
            name: Key of the callback in the config of the stage.
            spec: Config of the callback; the arguments ``run``, ``monitor`` and ``mode`` are added.
        """
        run = self.rows[-1].stage_run(self.seeds[0], self.pinned)
        settings = self.config["stages"][run.stage]
        monitor, mode = self.runner.monitor(run.stage), self.runner.mode(run.stage)
        complete = {**spec, "run": str(run.folder), "monitor": monitor, "mode": mode}
        # In the config of the run only: config.yaml of the run folder is written already, and a
        # resumed run adds the callback again.
        settings["callbacks"] = {**(settings.get("callbacks") or {}), name: complete}

    def check(self) -> None:
        """Do a dry run: build and read everything once without training.

        Raises:
            ValueError: If a part of the config is wrong, or parts do not fit together.
            OSError: If a file does not exist.
            ImportError: If a ``_target_`` cannot be imported.
        """
        dry_run = DryRun(self.runner, self.rows, seeds=self.seeds, pinned=self.pinned)
        dry_run.check()
        if self.baseline is not None:
            dry_run.check_comparison(self.metric, {self.candidate, self.baseline})

    def run(self) -> Results:
        """Train and score all rows seed by seed, and write the results, also after an interrupt.

        Returns:
            The results of all rows.
        """
        try:
            # Seeds outside: an interrupted run has complete tables of its first seeds.
            for seed in self.seeds:
                for row in self.rows:
                    self._score(row, seed)
        except (KeyboardInterrupt, SystemExit):  # Ctrl-C; SIGTERM
            if is_rank_zero():
                log.warning(
                    "interrupted; writing the finished results; to resume, run the same command "
                    "with %s",
                    self.resume_overrides,
                )
            self._write(self.results())
            self._print(self.results())
            raise
        results = self.results()
        self._write(results)  # before the model folder, so that a failed export loses no results
        self._export()
        self._print(results)
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
        """Return the results of the rows scored so far."""
        rows = [self._row(row) for row in self.rows if self.scores.get(row.name)]
        candidates = [row for row in self.rows if row.base == self.candidate]
        return Results(
            experiment=str(self.config["name"]),
            seeds=tuple(self.seeds),
            rows=tuple(rows),
            # On a learning curve the last size is the one of the verdict.
            comparison=self._comparison(candidates[-1]) if candidates else None,
            missing=tuple(row.name for row in self.rows if not self._is_complete(row)),
            weight_transfer=tuple(self._weight_transfers()),
            comparisons=self._comparisons(),
        )

    def _comparisons(self) -> dict[str, Comparison]:
        """Return the comparison at each finished size of the learning curve."""
        comparisons = {
            r.point: self._comparison(r) for r in self.rows if r.point and r.base == self.candidate
        }
        return {
            str(p.train_size): comparison
            for p, comparison in comparisons.items()
            if p and comparison is not None
        }

    def _weight_transfers(self) -> Iterator[dict[str, Any]]:
        """Yield the weight transfer report of each finished stage run."""
        scored = [run for scores in self.scores.values() for run in scores]
        for run in dict.fromkeys(step for last in scored for step in last.chain):
            yield {
                "run": str(run.folder),
                "stage": run.stage,
                "seed": run.seed,
                "from": None if run.previous is None else str(run.previous.folder),
                "parts": list(self.runner.fit(run).weight_transfer),
            }

    def _is_complete(self, row: PlannedRow) -> bool:
        wanted = {row.stage_run(seed, self.pinned) for seed in self.seeds}
        return wanted == set(self.scores.get(row.name, {}))

    def _row(self, row: PlannedRow, runs: Sequence[StageRun] | None = None) -> Row:
        """Return a row of the results with one value per stage run.

        Args:
            row: The planned row.
            runs: Stage runs in the order of the values; None: each stage run of the row once. A
                chain of pinned stages is one stage run for all seeds, so it has one value.
        """
        scores = self.scores[row.name]
        scored = [(run, *scores[run]) for run in (scores if runs is None else runs)]
        # The loss is excluded because it is not comparable across tasks.
        names = [name for name in scored[0][2].metrics if name != "loss"]
        seconds = [self._seconds(run, tested) for run, _, tested in scored]
        return Row(
            name=row.name,
            stage=row.test,
            n_train=scored[0][1].n_train if row.trained_on_target else 0,
            n_test=scored[0][2].n_test,
            seconds=sum(seconds) / len(seconds),
            metrics={
                name: Metric(tuple(tested.metrics[name] for _, _, tested in scored))
                for name in names
            },
        )

    def _seconds(self, run: StageRun, tested: TestedStage) -> float:
        """Return the seconds of all trainings of a chain and of its test."""
        return sum(self.runner.fit(step).seconds for step in run.chain) + tested.seconds

    def _baseline(self, candidate: PlannedRow) -> PlannedRow | None:
        """Return the baseline of the same size as the candidate, or the one without a size."""
        baselines = [row for row in self.rows if row.base == self.baseline]
        return next((row for row in baselines if row.point in (candidate.point, None)), None)

    def _comparison(self, candidate: PlannedRow) -> Comparison | None:
        """Compare a row with its baseline; None unless both are complete."""
        baseline = self._baseline(candidate)
        if baseline is None or not (self._is_complete(candidate) and self._is_complete(baseline)):
            return None
        # One pair per seed. A pair of two pinned chains is the same for all seeds and counts once:
        # repeated, it would have an interval of no width and look certain.
        pairs = dict.fromkeys(
            (candidate.stage_run(seed, self.pinned), baseline.stage_run(seed, self.pinned))
            for seed in self.seeds
        )
        candidate_row = self._row(candidate, [pair[0] for pair in pairs])
        baseline_row = self._row(baseline, [pair[1] for pair in pairs])
        return Comparison.between(candidate_row, baseline_row, metric=self.metric)

    def _export(self) -> None:
        """Write the model folder: the transfer with the seed of the best validation score."""
        scores = self.scores[self.rows[-1].name]
        mode = self.runner.mode(self.rows[-1].order[-1])
        chosen = max(scores, key=lambda run: _rank(scores[run][0], mode))
        if not is_rank_zero():
            return
        # The weights in memory may be those of another seed.
        loaded = load(
            self.folder / scores[chosen][0].checkpoint, **load_arguments(self.config, chosen.stage)
        )
        # A model folder is in the format of transformers, which other backbones do not have.
        if loaded.tokenizer is None or type(loaded.task.backbone) is not Backbone:
            log.info("no model folder: the backbone is not a Backbone of a Hugging Face model")
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
        """Write results.json, results.md and the plots."""
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
            plot_training_curves(logged, self.folder / "learning_curves.png", metric=metric)
        if curves := self._size_curves(results):
            plot_size_curves(curves, self.folder / "train_sizes.png", metric=self.metric)

    def _size_curves(self, results: Results) -> list[SizeCurve]:
        """Return the scores over the number of training rows, one curve per row without its size.

        Rows with other test rows than the transfer are left out, since their scores do not
        compare. The list is empty without a learning curve.
        """
        if not any(row.point for row in self.rows):
            return []
        found = {row.name: row for row in results.rows}
        curves: dict[str, SizeCurve] = {}
        for row in self.rows:
            if row.name in found and row.test == self.rows[-1].test:
                curve = curves.setdefault(row.base, SizeCurve(row.base, {}))
                at = None if row.point is None else (self._n_train(row), str(row.point.train_size))
                curve.points[at] = found[row.name].metrics[self.metric]
        return list(curves.values())

    def _n_train(self, row: PlannedRow) -> int:
        """Return the number of training rows at the point of a row."""
        run = next(iter(self.scores[row.name]))
        return next(
            self.runner.fit(step).n_train for step in run.chain if step.train_size is not None
        )

    def _print(self, results: Results) -> None:
        """Print the table and the verdict."""
        if not is_rank_zero():
            return
        table = results.to_table()
        console = console_for(table)
        console.print(table)
        console.print(results.sentence(), soft_wrap=True)  # on one line, to be searched and copied
        console.print(f"Run folder: {self.folder}", soft_wrap=True, highlight=False)


def _rank(fitted: FittedStage, mode: str) -> float:
    """Return the validation score with its sign set so that higher is better."""
    if fitted.best is None:
        return float("-inf")
    return fitted.best if mode == "max" else -fitted.best


def _check_seeds(seeds: Sequence[Any]) -> list[int]:
    if isinstance(seeds, str) or not isinstance(seeds, Sequence) or not seeds:
        raise ValueError(f"seeds must be a list of integers such as [0,1,2], got {seeds!r}")
    if any(not isinstance(s, int) or isinstance(s, bool) or s < 0 for s in seeds):
        raise ValueError(f"seeds must be integers >= 0, got {list(seeds)}")
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must be different, got {list(seeds)}")
    return list(seeds)
