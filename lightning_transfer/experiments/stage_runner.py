"""Stages: one Trainer run each, weights handed on, each skippable and resumable."""

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import nn

from lightning_transfer.callbacks import (
    Freezer,
    Freezing,
    ResumePoint,
    StageProgress,
    StageProgressBar,
)
from lightning_transfer.checkpoints.loading import (
    Loaded,
    Weights,
    check_vocabulary,
    load,
    read_weights,
    same_tokenizer,
)
from lightning_transfer.config.instantiate import (
    build,
    build_adapter,
    build_callbacks,
    build_objectives,
    build_recipe,
    own_parts,
    scheduler_key,
)
from lightning_transfer.data import StageData
from lightning_transfer.experiments.evaluation import TestedStage, score
from lightning_transfer.experiments.fitting import CheckpointPolicy, FittedStage, fit_task
from lightning_transfer.experiments.plan import StageRun
from lightning_transfer.experiments.results import LOWER_IS_BETTER
from lightning_transfer.experiments.run_loggers import StageLoggers
from lightning_transfer.experiments.stage_model import StageModel
from lightning_transfer.experiments.training import (
    Patience,
    clippable,
    is_rank_zero,
    make_trainer,
    trainer_arguments,
)
from lightning_transfer.optim import check_recipe
from lightning_transfer.tasks import SequenceToSequence, TransferModule
from lightning_transfer.utils import Labels, allowed_targets
from lightning_transfer.utils.atomic_files import atomic_write
from lightning_transfer.weight_transfer import WeightTransferReport, WeightTransferSpec

log = logging.getLogger(__name__)

BEFORE = "before.json"


@dataclass(frozen=True)
class BuiltStage:
    """A stage that was built and not trained."""

    task: TransferModule
    tokenizer: Any


class StageRunner:
    """Train and score stage runs below one run folder; finished work is never done again.

    Args:
        config: The whole composed config as plain values.
        folder: The run folder.
        resume: Whether an unfinished stage goes on from its resume point.
        rows: Stage run to the names of the rows that need it, for loggers.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        folder: Path,
        *,
        resume: bool = False,
        rows: Mapping[StageRun, Sequence[str]] | None = None,
    ) -> None:
        """See the class."""
        self._loggers = StageLoggers(config, folder, rows=rows or {})
        self.config = config
        self.folder = folder
        self.resume = resume
        self._modules: dict[str, StageData] = {}
        # What this process has seen done. Other ranks must not ask the folder, where rank 0 may
        # or may not have written it down yet.
        self._fitted: dict[StageRun, FittedStage] = {}
        self._tested: dict[tuple[StageRun, str], TestedStage] = {}
        self._pretrained: nn.Module | None = None  # for rehearsals only
        self._model = StageModel(config, self.data)

    def fit(self, run: StageRun) -> FittedStage:
        """Train a stage run and those before it, unless they are done."""
        if run not in self._fitted:
            record = self.folder / run.folder / "fit.json"
            if record.is_file():
                self._fitted[run] = FittedStage(**json.loads(record.read_text()))
            else:
                self._fitted[run] = self._fit(run, record)
            if is_rank_zero():  # the resume point of a finished stage is only in the way
                (record.parent / ResumePoint.FILE).unlink(missing_ok=True)
        return self._fitted[run]

    def _fit(self, run: StageRun, record: Path) -> FittedStage:
        self._pretrained = None
        start = self._start(run)
        pl.seed_everything(run.seed, workers=True, verbose=False)
        tokenizer = self._model.tokenizer(run, start)
        data = self.data(run.stage, run.seed, tokenizer, train_size=run.train_size)
        data.prepare_data()
        data.setup("fit")
        backbone = self._model.backbone(run.stage, start, tokenizer)
        task, handed = self._task(run, data.labels, start, backbone, tokenizer)
        rows, origin = f"{data.n_train:,}", self._model.origin(run)
        log.info("%s: %s training rows, from %s; %s", run.title, rows, origin, handed)
        if start is not None:
            log.info("%s", handed.to_text(f"{run.title}: taken from {origin}"))
        self._test_before(run, task, data)
        fitted = replace(self._train(run, task, data), weight_transfer=handed.to_rows())
        if is_rank_zero():
            atomic_write(record, json.dumps(asdict(fitted), indent=2))
        return fitted

    def build_untrained(
        self, run: StageRun, labels: Labels, before: BuiltStage | None = None
    ) -> BuiltStage:
        """Build all that a stage run takes, train nothing, and return its task and tokenizer.

        Args:
            run: Of the stage.
            labels: Of its data.
            before: The rehearsed stage that it starts from, if there is one.

        Raises:
            ValueError: If a part of the stage's config is wrong, or does not fit the stage before.
            OSError: If the model or the weights to start from are not there.
            ImportError: If a ``_target_`` cannot be imported.
        """
        path = self.config["stages"][run.stage].get("init_from")
        start = None if path is None else read_weights(path)
        if start is None and before is not None and not self._plain(run):
            start = Weights.of(
                before.task, tokenizer=before.tokenizer, where=self._model.origin(run)
            )
            start = replace(start, target_tokenizer=self._model.target_of(before.tokenizer))
        if start is None and before is not None:
            tokenizer = before.tokenizer
        else:
            tokenizer = self._model.tokenizer(run, start)
        task = self._rehearsed_task(run, labels, start, tokenizer)
        settings, where = self.config["stages"][run.stage], f"stages.{run.stage}"
        check_recipe(task.recipe, task, where=where, scheduler=scheduler_key(settings))
        self._loggers.check(run)
        callbacks = self._callbacks(run)
        make_trainer(self._arguments(run.stage), folder=self.folder, callbacks=callbacks)
        for callback in callbacks:
            if isinstance(callback, Freezer):
                try:
                    callback.check(task)
                except ValueError as error:
                    raise ValueError(f"{where}: {error}") from error
        check_vocabulary(tokenizer, task.backbone)
        target = self._model.target_of(tokenizer) or tokenizer
        check_vocabulary(target, task.backbone, target=True)
        if isinstance(task, SequenceToSequence):
            task.adopt(target)
        return BuiltStage(task, tokenizer)

    def _plain(self, run: StageRun) -> bool:
        """Whether every stage of a chain goes on with the backbone that the run has."""
        return all(self._model.inherits(one.stage) for one in run.chain)

    def _rehearsed_task(
        self, run: StageRun, labels: Labels, start: Weights | None, tokenizer: Any
    ) -> TransferModule:
        # An adapter changes its backbone, and so do weights; else one serves all stages.
        shared = start is None and self._plain(run) and not build_adapter(self.config, run.stage)
        if shared and self._pretrained is None:
            self._pretrained = self._model.backbone(run.stage, None, tokenizer)
        backbone = self._pretrained if shared else None
        if backbone is None:
            backbone = self._model.backbone(run.stage, start, tokenizer)
        task, _ = self._task(run, labels, start, backbone, tokenizer)
        return task

    def monitor(self, stage: str) -> str:
        """Return the validation metric that picks a stage's best weights, such as ``val/r2``."""
        settings = self.config["stages"][stage]
        return settings.get("monitor") or self._task_class(stage).monitor

    def mode(self, stage: str) -> str:
        """Return ``max`` or ``min``: which way the monitored metric is better."""
        monitor, own = self.monitor(stage), self._task_class(stage)
        if monitor == own.monitor:
            return own.mode
        return "min" if monitor.rpartition("/")[2] in LOWER_IS_BETTER else "max"

    def metric(self, stage: str) -> str:
        """Return the test metric that a stage is judged by: the monitored one, or the task's own.

        The loss that may be monitored is none: its scale means nothing from one task to another. A
        task whose own monitor it is has the perplexity that follows from it.
        """
        own = self._task_class(stage).monitor
        monitor = self.monitor(stage) if self.mode(stage) == "max" else own
        metric = monitor.removeprefix("val/")
        return "perplexity" if metric == "loss" else metric

    def take(self, stage: str) -> WeightTransferSpec:
        """Return what a stage takes of the weights that it starts from."""
        return self._model.take(stage)

    def _task_class(self, stage: str) -> type[TransferModule]:
        return allowed_targets.locate(self.config["stages"][stage]["task"]["_target_"])

    def _start(self, run: StageRun) -> Weights | None:
        """Return the weights that the stage starts from, or None for the pretrained ones."""
        path = self.config["stages"][run.stage].get("init_from")
        before = self.fit(run.before) if run.before else None
        if path is not None:
            return read_weights(path)
        return read_weights(self.folder / before.checkpoint) if before else None

    def data(
        self, stage: str, seed: int, tokenizer: Any = None, *, train_size: Any = None
    ) -> StageData:
        """Return a stage's data, read and tokenized once for all runs of the stage.

        Args:
            stage: Its name.
            seed: Draws the training rows and the order of the batches.
            tokenizer: None leaves it as it is.
            train_size: Training rows; None leaves their number as it is.
        """
        data = self._modules.get(stage)
        if data is None:
            spec = self.config["stages"][stage]["data"]
            data = self._modules[stage] = build(spec, "data", f"stages.{stage}.data")
        known = data.tokenizer is not None and same_tokenizer(data.tokenizer, tokenizer)
        if tokenizer is not None and not known:
            data.tokenizer = tokenizer
        if tokenizer is not None:
            self._give_target(data, self._model.target_of(tokenizer))
        data.seed = seed
        data.train_size = data.train_size if train_size is None else train_size
        return data

    def _give_target(self, data: Any, target: Any) -> None:
        """Let texts that are to be written be tokenized by a tokenizer of their own; None: none."""
        known = target is not None and same_tokenizer(
            target, getattr(data, "target_tokenizer", None)
        )
        if hasattr(data, "target_tokenizer") and not known:
            data.target_tokenizer = target

    def _task(
        self,
        run: StageRun,
        labels: Labels,
        start: Weights | None,
        backbone: nn.Module,
        tokenizer: Any,
    ) -> tuple[TransferModule, WeightTransferReport]:
        """Build a stage's task, load what it takes from ``start``, and say what became of it."""
        where = f"stages.{run.stage}"
        settings, arguments = self.config["stages"][run.stage], self._arguments(run.stage)
        head, handed = self._model.head(run, labels, start, backbone, tokenizer=tokenizer)
        recipe = build_recipe(
            {**settings, "optimizer": clippable(settings["optimizer"], arguments)},
            where,
            monitor=self.monitor(run.stage),
            mode=self.mode(run.stage),
        )
        objectives = build_objectives(settings, where)
        factory = build(settings["task"], "task", f"{where}.task")
        task = factory(backbone, head, labels=labels, recipe=recipe, objectives=objectives)
        task.position = {"stage": run.stage, "seed": run.seed, "run": str(run.folder)}
        return task, handed

    def _train(self, run: StageRun, task: TransferModule, data: StageData) -> FittedStage:
        keeping = CheckpointPolicy(
            self.monitor(run.stage),
            self.mode(run.stage),
            best=self.config["stages"][run.stage].get("keep", "best") == "best",
            resume_every=self.config.get("resume_every", 100),
            resume=self.resume,
        )
        return fit_task(
            task,
            data,
            self.folder,
            run.folder,
            arguments=self._arguments(run.stage),
            callbacks=self._callbacks(run),
            loggers=self._loggers.of(run),
            keeping=keeping,
        )

    def _arguments(self, stage: str | None = None) -> dict[str, Any]:
        """Return the Trainer's arguments; those of no stage are the shared ones."""
        settings = {} if stage is None else self.config["stages"][stage]
        where = "trainer" if stage is None else f"stages.{stage}.trainer"
        own = settings.get("trainer") or {}
        merged = trainer_arguments(
            self.config["trainer"], own, where=where, epochs=settings.get("epochs")
        )
        return build(merged, "trainer", where)

    def _callbacks(self, run: StageRun) -> list[Callback]:
        settings = self.config["stages"][run.stage]
        where = f"stages.{run.stage}"
        callbacks: list[Callback] = [StageProgress(run.title), *self._bar(run.title)]
        callbacks += build_callbacks(settings, where)
        if adapter := build_adapter(self.config, run.stage):
            callbacks.append(Freezing(function=adapter.freezes))
        if (patience := settings.get("patience")) is not None:
            monitor, mode = self.monitor(run.stage), self.mode(run.stage)
            # A correlation of equal predictions is no number: no better, but no reason to stop.
            callbacks.append(Patience(monitor, mode=mode, patience=patience, check_finite=False))
        return [*callbacks, *self._activation_cache()]

    def _activation_cache(self) -> list[Callback]:
        """Return what keeps the output of frozen layers; it stands behind all that freeze."""
        spec = self.config.get("activation_cache")
        return [build(spec, "callback", "activation_cache")] if spec else []

    def _bar(self, title: str) -> list[Callback]:
        wanted = self.config["trainer"].get("enable_progress_bar")
        wanted = sys.stdout.isatty() if wanted is None else wanted
        return [StageProgressBar(title)] if wanted else []

    def log_results(self, values: Mapping[str, float]) -> None:
        """Give the results of the whole experiment to the loggers, as a run of their own."""
        self._loggers.log_results(values)

    def test(self, run: StageRun, on: str) -> TestedStage:
        """Score a stage run's weights on the test split of stage ``on``'s data.

        Raises:
            ValueError: If the model's labels are not the data's.
        """
        if (run, on) not in self._tested:
            record = self.folder / run.folder / f"test-{on}.json"
            if record.is_file():
                self._tested[run, on] = TestedStage(**json.loads(record.read_text()))
            else:
                self._tested[run, on] = self._test(run, on, record)
        return self._tested[run, on]

    def _test_before(self, run: StageRun, task: TransferModule, data: StageData) -> None:
        """Score the weights that a stage starts from, if its task is judged by what changes."""
        record = self.folder / run.folder / BEFORE
        if not task.before or not data.n_test or record.is_file():
            return
        start = Loaded(task, data.tokenizer, data.tokens, None)
        arguments = self._arguments()
        metrics, _ = score(start, data, "test", arguments=arguments, folder=self.folder)
        if is_rank_zero():
            found = {f"{name}_before": metrics[name] for name in task.before}
            atomic_write(record, json.dumps(found, indent=2))

    def _test(self, run: StageRun, on: str, record: Path) -> TestedStage:
        loaded = load(self.folder / self.fit(run).checkpoint, **own_parts(self.config, run.stage))
        data = self.data(on, run.seed, loaded.tokenizer)
        title = f"{run.title} on {on}"
        started = time.monotonic()
        metrics, rows = score(
            loaded,
            data,
            "test",
            arguments=self._arguments(),
            folder=self.folder,
            callbacks=[*self._bar(title), *self._activation_cache()],
        )
        if run.stage == on and (before := self.folder / run.folder / BEFORE).is_file():
            metrics |= json.loads(before.read_text())
        tested = TestedStage(metrics, rows, time.monotonic() - started)
        log.info("%s: %s", title, ", ".join(f"{k} {v:.3f}" for k, v in metrics.items()))
        if is_rank_zero():
            atomic_write(record, json.dumps(asdict(tested), indent=2))
        return tested
