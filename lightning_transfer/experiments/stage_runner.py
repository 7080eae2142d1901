"""Stage runs: one Trainer run each, with initial weights from the previous one, resumable."""

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
    load_arguments,
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

INITIAL_SCORES = "before.json"


@dataclass(frozen=True)
class BuiltStage:
    """An untrained stage, built by the dry run.

    Args:
        task: Task with its backbone and head.
        tokenizer: Tokenizer of the stage.
    """

    task: TransferModule
    tokenizer: Any


class StageRunner:
    """Trains and scores stage runs below one run folder.

    Each result is a JSON file in the folder of its stage run. A finished training or test is read
    from that file and never repeated.

    Args:
        config: The whole composed config as plain values.
        folder: The run folder.
        resume: True to resume an unfinished stage run from its resume point.
        rows: Stage run to the names of its rows, for loggers.
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
        # Results of this process. Ranks above 0 must not rely on the files of the folder alone,
        # since rank 0 may not have written them yet.
        self._fitted: dict[StageRun, FittedStage] = {}
        self._tested: dict[tuple[StageRun, str], TestedStage] = {}
        # Backbone that the dry run shares between stages, to load pretrained weights only once.
        self._shared_backbone: nn.Module | None = None
        self._model = StageModel(config, self.data)

    def fit(self, run: StageRun) -> FittedStage:
        """Train a stage run and its previous ones, unless they are finished."""
        if run not in self._fitted:
            record = self.folder / run.folder / "fit.json"
            if record.is_file():
                self._fitted[run] = FittedStage(**json.loads(record.read_text()))
            else:
                self._fitted[run] = self._fit(run, record)
            if is_rank_zero():
                # Removed only now: a run killed between the last step and fit.json resumes there.
                (record.parent / ResumePoint.FILE).unlink(missing_ok=True)
        return self._fitted[run]

    def _fit(self, run: StageRun, record: Path) -> FittedStage:
        self._shared_backbone = None  # the dry run is over; release its memory
        start = self._start(run)
        # After `_start`: it may train the previous stage run, and so change the random state.
        pl.seed_everything(run.seed, workers=True, verbose=False)
        tokenizer = self._model.tokenizer(run, start)
        data = self.data(run.stage, run.seed, tokenizer, train_size=run.train_size)
        data.prepare_data()
        data.setup("fit")
        backbone = self._model.backbone(run.stage, start, tokenizer)
        task, report = self._task(run, data.labels, start, backbone, tokenizer)
        rows, origin = f"{data.n_train:,}", self._model.origin(run)
        log.info("%s: %s training rows, from %s; %s", run.title, rows, origin, report)
        if start is not None:
            log.info("%s", report.to_text(f"{run.title}: transferred from {origin}"))
        self._score_initial_weights(run, task, data)
        fitted = replace(self._train(run, task, data), weight_transfer=report.to_rows())
        if is_rank_zero():
            atomic_write(record, json.dumps(asdict(fitted), indent=2))
        return fitted

    def build_untrained(
        self, run: StageRun, labels: Labels, previous: BuiltStage | None = None
    ) -> BuiltStage:
        """Build and check all parts of a stage run without training, for the dry run.

        Args:
            run: The stage run.
            labels: Labels of its data.
            previous: The previous stage of the dry run; None for the first one, or if the stage
                has ``init_from``.

        Returns:
            The task and the tokenizer of the stage.

        Raises:
            ValueError: If a part of the stage's config is wrong, or does not fit the previous
                stage.
            OSError: If the model or the initial weights do not exist.
            ImportError: If a ``_target_`` cannot be imported.
        """
        path = self.config["stages"][run.stage].get("init_from")
        start = None if path is None else read_weights(path)
        if start is None and previous is not None and not self._keeps_run_backbone(run):
            # Untrained, but with the shapes, labels and adapters of the trained weights.
            start = Weights.of(
                previous.task, tokenizer=previous.tokenizer, where=self._model.origin(run)
            )
            target = self._model.target_tokenizer(previous.tokenizer)
            start = replace(start, target_tokenizer=target)
        if start is None and previous is not None:
            tokenizer = previous.tokenizer
        else:
            tokenizer = self._model.tokenizer(run, start)
        task = self._untrained_task(run, labels, start, tokenizer)
        settings, where = self.config["stages"][run.stage], f"stages.{run.stage}"
        check_recipe(task.recipe, task, where=where, scheduler=scheduler_key(settings))
        self._loggers.check(run)
        callbacks = self._callbacks(run)
        # Built to check its arguments; the training builds another one.
        make_trainer(self._arguments(run.stage), folder=self.folder, callbacks=callbacks)
        for callback in callbacks:
            # For instance a depth above the layers of this backbone.
            if isinstance(callback, Freezer):
                try:
                    callback.check(task)
                except ValueError as error:
                    raise ValueError(f"{where}: {error}") from error
        check_vocabulary(tokenizer, task.backbone)
        target = self._model.target_tokenizer(tokenizer) or tokenizer
        check_vocabulary(target, task.backbone, target=True)
        if isinstance(task, SequenceToSequence):
            task.set_special_tokens(target)
        return BuiltStage(task, tokenizer)

    def _keeps_run_backbone(self, run: StageRun) -> bool:
        """Return True if all stages of the chain use backbone and tokenizer of the run."""
        return all(self._model.inherits(one.stage) for one in run.chain)

    def _untrained_task(
        self, run: StageRun, labels: Labels, start: Weights | None, tokenizer: Any
    ) -> TransferModule:
        # An adapter or initial weights would change the backbone in place.
        is_shared = (
            start is None
            and self._keeps_run_backbone(run)
            and not build_adapter(self.config, run.stage)
        )
        if is_shared and self._shared_backbone is None:
            self._shared_backbone = self._model.backbone(run.stage, None, tokenizer)
        backbone = self._shared_backbone if is_shared else None
        if backbone is None:
            backbone = self._model.backbone(run.stage, start, tokenizer)
        task, _ = self._task(run, labels, start, backbone, tokenizer)
        return task

    def monitor(self, stage: str) -> str:
        """Return the validation metric to select the best weights by, such as ``val/r2``."""
        settings = self.config["stages"][stage]
        return settings.get("monitor") or self._task_class(stage).monitor

    def mode(self, stage: str) -> str:
        """Return ``max`` if a higher value of the monitored metric is better, else ``min``."""
        monitor, own = self.monitor(stage), self._task_class(stage)
        if monitor == own.monitor:
            return own.mode
        return "min" if monitor.rpartition("/")[2] in LOWER_IS_BETTER else "max"

    def metric(self, stage: str) -> str:
        """Return the test metric to compare rows of a stage by, such as ``pearson``.

        It is the monitored metric if a higher value is better, else the default of the task. The
        loss is excluded because it is not comparable across tasks; tasks that monitor it by
        default report its perplexity.
        """
        own = self._task_class(stage).monitor
        monitor = self.monitor(stage) if self.mode(stage) == "max" else own
        metric = monitor.removeprefix("val/")
        return "perplexity" if metric == "loss" else metric

    def weight_transfer_spec(self, stage: str) -> WeightTransferSpec:
        """Return the parts of the initial weights that a stage takes over.

        Raises:
            ValueError: If ``weight_transfer`` or ``on_mismatch`` of the stage is wrong.
        """
        return self._model.weight_transfer_spec(stage)

    def _task_class(self, stage: str) -> type[TransferModule]:
        return allowed_targets.locate(self.config["stages"][stage]["task"]["_target_"])

    def _start(self, run: StageRun) -> Weights | None:
        """Return the initial weights of a stage run; None for those of its backbone."""
        path = self.config["stages"][run.stage].get("init_from")
        # Trained even if `init_from` replaces its weights: it is a row of the results.
        previous = self.fit(run.previous) if run.previous else None
        if path is not None:
            return read_weights(path)
        return read_weights(self.folder / previous.checkpoint) if previous else None

    def data(
        self, stage: str, seed: int, tokenizer: Any = None, *, train_size: Any = None
    ) -> StageData:
        """Return the DataModule of a stage, read and tokenized once for all its stage runs.

        Args:
            stage: Name of the stage.
            seed: Seed of the draw of training rows and of the order of batches.
            tokenizer: Set in the DataModule; None leaves its tokenizer unchanged.
            train_size: Number of training rows; None leaves it unchanged.
        """
        data = self._modules.get(stage)
        if data is None:
            spec = self.config["stages"][stage]["data"]
            data = self._modules[stage] = build(spec, "data", f"stages.{stage}.data")
        # An equal tokenizer is not assigned again: tokens are kept for the same object only.
        known = data.tokenizer is not None and same_tokenizer(data.tokenizer, tokenizer)
        if tokenizer is not None and not known:
            data.tokenizer = tokenizer
        if tokenizer is not None:
            self._set_target_tokenizer(data, self._model.target_tokenizer(tokenizer))
        data.seed = seed
        data.train_size = data.train_size if train_size is None else train_size
        return data

    def _set_target_tokenizer(self, data: Any, target: Any) -> None:
        """Set the tokenizer of target texts; None: that of the input texts."""
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
        """Build the task of a stage run, and transfer the initial weights to it."""
        where = f"stages.{run.stage}"
        settings, arguments = self.config["stages"][run.stage], self._arguments(run.stage)
        head, report = self._model.head(run, labels, start, backbone, tokenizer=tokenizer)
        recipe = build_recipe(
            {**settings, "optimizer": clippable(settings["optimizer"], arguments)},
            where,
            monitor=self.monitor(run.stage),
            mode=self.mode(run.stage),
        )
        objectives = build_objectives(settings, where)
        # A partial: a config cannot hold a backbone.
        factory = build(settings["task"], "task", f"{where}.task")
        task = factory(backbone, head, labels=labels, recipe=recipe, objectives=objectives)
        task.position = {"stage": run.stage, "seed": run.seed, "run": str(run.folder)}
        return task, report

    def _train(self, run: StageRun, task: TransferModule, data: StageData) -> FittedStage:
        policy = CheckpointPolicy(
            self.monitor(run.stage),
            self.mode(run.stage),
            keep_best=self.config["stages"][run.stage].get("keep", "best") == "best",
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
            loggers=self._loggers.for_run(run),
            policy=policy,
        )

    def _arguments(self, stage: str | None = None) -> dict[str, Any]:
        """Return the Trainer arguments of a stage; None: those shared by all stages."""
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
            # An adapter trains only its own parameters and the head.
            callbacks.append(Freezing(function=adapter.freezes))
        if (patience := settings.get("patience")) is not None:
            monitor, mode = self.monitor(run.stage), self.mode(run.stage)
            # The correlation of constant predictions is NaN: no improvement, but no reason to stop
            # at once, as `check_finite=True` would.
            callbacks.append(Patience(monitor, mode=mode, patience=patience, check_finite=False))
        return [*callbacks, *self._activation_cache()]

    def _activation_cache(self) -> list[Callback]:
        """Return the activation cache, if it is on.

        It comes after all callbacks for freezing, since it stores the output of frozen layers.
        """
        spec = self.config.get("activation_cache")
        return [build(spec, "callback", "activation_cache")] if spec else []

    def _bar(self, title: str) -> list[Callback]:
        wanted = self.config["trainer"].get("enable_progress_bar")
        # null: only in a terminal; a log file would get one line per update.
        wanted = sys.stdout.isatty() if wanted is None else wanted
        return [StageProgressBar(title)] if wanted else []

    def log_results(self, values: Mapping[str, float]) -> None:
        """Log the results of the experiment as a separate run of each logger."""
        self._loggers.log_results(values)

    def test(self, run: StageRun, on: str) -> TestedStage:
        """Score the final weights of a stage run on the test rows of a stage.

        Args:
            run: The stage run.
            on: Name of the stage with the test rows; it may be another stage.

        Raises:
            ValueError: If the labels of model and data do not match.
        """
        if (run, on) not in self._tested:
            record = self.folder / run.folder / f"test-{on}.json"
            if record.is_file():
                self._tested[run, on] = TestedStage(**json.loads(record.read_text()))
            else:
                self._tested[run, on] = self._test(run, on, record)
        return self._tested[run, on]

    def _score_initial_weights(self, run: StageRun, task: TransferModule, data: StageData) -> None:
        """Score the initial weights, if the task reports metrics before and after training."""
        record = self.folder / run.folder / INITIAL_SCORES
        if not task.metrics_before_training or not data.n_test or record.is_file():
            return
        loaded = Loaded(task, data.tokenizer, data.tokens, None)
        arguments = self._arguments()
        metrics, _ = score(loaded, data, "test", arguments=arguments, folder=self.folder)
        if is_rank_zero():
            scores = {f"{name}_before": metrics[name] for name in task.metrics_before_training}
            atomic_write(record, json.dumps(scores, indent=2))

    def _test(self, run: StageRun, on: str, record: Path) -> TestedStage:
        # From the file: the best weights are not those in memory, and an earlier process may have
        # trained them.
        loaded = load(
            self.folder / self.fit(run).checkpoint, **load_arguments(self.config, run.stage)
        )
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
        # The initial weights were scored on the test rows of their own stage only.
        if run.stage == on and (initial := self.folder / run.folder / INITIAL_SCORES).is_file():
            metrics |= json.loads(initial.read_text())
        tested = TestedStage(metrics, rows, time.monotonic() - started)
        log.info("%s: %s", title, ", ".join(f"{k} {v:.3f}" for k, v in metrics.items()))
        if is_rank_zero():
            atomic_write(record, json.dumps(asdict(tested), indent=2))
        return tested
