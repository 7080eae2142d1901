"""Stages: one Trainer run each, weights handed on, each skippable and resumable."""

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, Logger
from torch import nn

from lightning_transfer import slots
from lightning_transfer.backbone import Backbone
from lightning_transfer.callbacks import (
    Freezer,
    Freezing,
    ResumePoint,
    StageProgress,
    StageProgressBar,
)
from lightning_transfer.data.stage_data import StageData
from lightning_transfer.files import atomic_write
from lightning_transfer.fitting import Fitted, Keeping, fit_task
from lightning_transfer.handover import hand_over
from lightning_transfer.heads.making import make_head
from lightning_transfer.labels import Labels
from lightning_transfer.loading import (
    Loaded,
    Weights,
    check_vocabulary,
    load,
    read_weights,
    same_tokenizer,
)
from lightning_transfer.loggers import RunName, finish, kept_id, logger_arguments
from lightning_transfer.optim import check_recipe
from lightning_transfer.parts import (
    build,
    build_adapter,
    build_callbacks,
    build_objectives,
    build_recipe,
    own_parts,
    scheduler_key,
)
from lightning_transfer.plan import StageRun
from lightning_transfer.results import LOWER_IS_BETTER
from lightning_transfer.scoring import Tested, score
from lightning_transfer.tasks import TransferModule
from lightning_transfer.tokenizing import resolve_tokenizer
from lightning_transfer.training import (
    Patience,
    clippable,
    is_rank_zero,
    make_trainer,
    next_log_folder,
    trainer_arguments,
)

log = logging.getLogger(__name__)

BEFORE = "before.json"


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
        self.rows = rows or {}
        self.config = config
        self.folder = folder
        self.resume = resume
        self._modules: dict[str, StageData] = {}
        # What this process has seen done. Other ranks must not ask the folder, where rank 0 may
        # or may not have written it down yet.
        self._fitted: dict[StageRun, Fitted] = {}
        self._tested: dict[tuple[StageRun, str], Tested] = {}
        self._pretrained: nn.Module | None = None  # for rehearsals only
        self._own_tokenizer: Any = None  # the backbone's, of stages that start from no weights

    def fit(self, run: StageRun) -> Fitted:
        """Train a stage run and those before it, unless they are done."""
        if run not in self._fitted:
            record = self.folder / run.folder / "fit.json"
            if record.is_file():
                self._fitted[run] = Fitted(**json.loads(record.read_text()))
            else:
                self._fitted[run] = self._fit(run, record)
            if is_rank_zero():  # the resume point of a finished stage is only in the way
                (record.parent / ResumePoint.FILE).unlink(missing_ok=True)
        return self._fitted[run]

    def _fit(self, run: StageRun, record: Path) -> Fitted:
        self._pretrained = None
        start = self._start(run)
        pl.seed_everything(run.seed, workers=True, verbose=False)
        data = self.data(run.stage, run.seed, self._tokenizer(start))
        data.prepare_data()
        data.setup("fit")
        task, handed = self._task(run, data.labels, start, self._backbone(start))
        named = "name" in self.config["backbone"]
        begin = "the pretrained backbone" if named else "the backbone as it is built"
        before = f"stage {run.before.stage}" if run.before else begin
        origin = self.config["stages"][run.stage].get("init_from") or before
        log.info(
            "%s: %s training rows, from %s; %s", run.title, f"{data.n_train:,}", origin, handed
        )
        self._test_before(run, task, data)
        fitted = self._train(run, task, data)
        if is_rank_zero():
            atomic_write(record, json.dumps(asdict(fitted), indent=2))
        return fitted

    def rehearse(self, run: StageRun, labels: Labels) -> tuple[TransferModule, Any]:
        """Build all that a stage run takes, train nothing, and return its task and tokenizer.

        Raises:
            ValueError: If a part of the stage's config is wrong.
            OSError: If the model or the weights to start from are not there.
            ImportError: If a ``_target_`` cannot be imported.
        """
        path = self.config["stages"][run.stage].get("init_from")
        start = None if path is None else read_weights(path)
        adapter = build_adapter(self.config, run.stage)
        shared = start is None and adapter is None  # an adapter changes its backbone
        if shared and self._pretrained is None:
            self._pretrained = self._backbone(None)
        backbone = self._pretrained if shared else self._backbone(start)
        assert backbone is not None
        task, _ = self._task(run, labels, start, backbone)
        settings, where = self.config["stages"][run.stage], f"stages.{run.stage}"
        check_recipe(task.recipe, task, where=where, scheduler=scheduler_key(settings))
        for name, spec in self._loggers_wanted():
            self._logger(name, spec, RunName(run.folder, run.title, run.stage))
        callbacks = self._callbacks(run)
        make_trainer(self._arguments(run.stage), folder=self.folder, callbacks=callbacks)
        for callback in callbacks:
            if isinstance(callback, Freezer):
                try:
                    callback.check(task)
                except ValueError as error:
                    raise ValueError(f"{where}: {error}") from error
        tokenizer = self._tokenizer(start)
        check_vocabulary(tokenizer, backbone)
        return task, tokenizer

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

        The loss that may be monitored is none: its scale means nothing from one task to another.
        """
        own = self._task_class(stage).monitor
        monitor = self.monitor(stage) if self.mode(stage) == "max" else own
        return monitor.removeprefix("val/")

    def _task_class(self, stage: str) -> type[TransferModule]:
        return slots.locate(self.config["stages"][stage]["task"]["_target_"])

    def _start(self, run: StageRun) -> Weights | None:
        """Return the weights that the stage starts from, or None for the pretrained ones."""
        path = self.config["stages"][run.stage].get("init_from")
        before = self.fit(run.before) if run.before else None
        if path is not None:
            return read_weights(path)
        return read_weights(self.folder / before.checkpoint) if before else None

    def _tokenizer(self, start: Weights | None) -> Any:
        if start is not None and start.tokenizer is not None:
            return start.tokenizer
        if self._own_tokenizer is None:
            self._own_tokenizer = resolve_tokenizer(self.config, self.data)
        return self._own_tokenizer

    def data(self, stage: str, seed: int, tokenizer: Any = None) -> StageData:
        """Return a stage's data, read and tokenized once for all runs of the stage.

        Args:
            stage: Its name.
            seed: Draws the training rows and the order of the batches.
            tokenizer: None leaves it as it is.
        """
        data = self._modules.get(stage)
        if data is None:
            spec = self.config["stages"][stage]["data"]
            data = self._modules[stage] = build(spec, "data", f"stages.{stage}.data")
        known = data.tokenizer is not None and same_tokenizer(data.tokenizer, tokenizer)
        if tokenizer is not None and not known:
            data.tokenizer = tokenizer
        data.seed = seed
        return data

    def _task(
        self, run: StageRun, labels: Labels, start: Weights | None, backbone: nn.Module
    ) -> tuple[TransferModule, str]:
        """Build a stage's task, load what it takes from ``start``, and say what became of it."""
        where = f"stages.{run.stage}"
        settings, arguments = self.config["stages"][run.stage], self._arguments(run.stage)
        head = build(settings["head"], "head", f"{where}.head")
        if not isinstance(head, nn.Module):
            head = make_head(head, backbone, labels.num_outputs)
        adapter = build_adapter(self.config, run.stage)
        before = run.before and build_adapter(self.config, run.before.stage)
        parts = {"label_map": settings.get("label_map"), "adapter": adapter, "before": before}
        handed = hand_over(start, backbone, head, labels, **parts)
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

    def _backbone(self, start: Weights | None) -> nn.Module:
        spec = self.config["backbone"]
        if start is not None and start.described["backbone"] is not None:
            return Backbone.from_config(
                start.described["backbone"],
                attn_implementation=spec.get("attn_implementation"),
                dtype=spec.get("dtype", "float32"),
            )
        return build(spec, "backbone", "backbone")

    def _train(self, run: StageRun, task: TransferModule, data: StageData) -> Fitted:
        keeping = Keeping(
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
            loggers=self._loggers(run),
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
        return [*callbacks, *self._activations()]

    def _activations(self) -> list[Callback]:
        """Return what keeps the output of frozen layers; it stands behind all that freeze."""
        spec = self.config.get("activations")
        return [build(spec, "callback", "activations")] if spec else []

    def _bar(self, title: str) -> list[Callback]:
        wanted = self.config["trainer"].get("enable_progress_bar")
        wanted = sys.stdout.isatty() if wanted is None else wanted
        return [StageProgressBar(title)] if wanted else []

    def _loggers_wanted(self) -> list[tuple[str, Any]]:
        """Return name and config of the loggers beside the csv files."""
        return [(k, v) for k, v in (self.config.get("logger") or {}).items() if k != "csv"]

    def _loggers(self, run: StageRun) -> list[Logger]:
        logs = next_log_folder(self.folder / run.folder)
        built: list[Logger] = []
        if (self.config.get("logger") or {}).get("csv"):
            built.append(CSVLogger(logs.parent, name="", version=logs.name))
        about = {
            "stage": run.stage,
            "seed": run.seed,
            "after": None if run.before is None else run.before.title,
            "rows": list(self.rows.get(run, ())),
        }
        for name, spec in self._loggers_wanted():
            called = RunName(run.folder, run.title, run.stage, kept_id(logs.parent))
            logger = self._logger(name, spec, called)
            logger.log_hyperparams({**self.config, "stage_run": about})
            built.append(logger)
        return built

    def _logger(self, name: str, spec: Any, about: RunName) -> Logger:
        where = f"logger.{name}"
        slots.check(spec, "logger", where=where)
        return build(spec, "logger", where, **logger_arguments(spec, self.folder, about))

    def log_results(self, values: Mapping[str, float]) -> None:
        """Give the results of the whole experiment to the loggers, as a run of their own."""
        called = RunName(PurePosixPath("results"), str(self.config["name"]), "results")
        for name, spec in self._loggers_wanted():
            logger = self._logger(name, spec, called)
            logger.log_hyperparams(dict(self.config))
            logger.log_metrics(dict(values), step=0)
            logger.finalize("success")
            finish([logger])

    def test(self, run: StageRun, on: str) -> Tested:
        """Score a stage run's weights on the test split of stage ``on``'s data.

        Raises:
            ValueError: If the model's labels are not the data's.
        """
        if (run, on) not in self._tested:
            record = self.folder / run.folder / f"test-{on}.json"
            if record.is_file():
                self._tested[run, on] = Tested(**json.loads(record.read_text()))
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

    def _test(self, run: StageRun, on: str, record: Path) -> Tested:
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
            callbacks=[*self._bar(title), *self._activations()],
        )
        if run.stage == on and (before := self.folder / run.folder / BEFORE).is_file():
            metrics |= json.loads(before.read_text())
        tested = Tested(metrics, rows, time.monotonic() - started)
        log.info("%s: %s", title, ", ".join(f"{k} {v:.3f}" for k, v in metrics.items()))
        if is_rank_zero():
            atomic_write(record, json.dumps(asdict(tested), indent=2))
        return tested
