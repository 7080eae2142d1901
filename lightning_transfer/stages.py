"""Stages: one Trainer run each, weights handed on, each skippable and resumable."""

import json
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import hydra
import lightning.pytorch as pl
from hydra.errors import InstantiationException
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, Timer
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from torch import nn

from lightning_transfer import slots
from lightning_transfer.backbone import Backbone
from lightning_transfer.callbacks import ResumePoint, StageProgress, StageProgressBar
from lightning_transfer.data import TextDataModule
from lightning_transfer.files import atomic_write
from lightning_transfer.handover import hand_over
from lightning_transfer.labels import Labels
from lightning_transfer.loading import (
    Weights,
    load,
    load_tokenizer,
    read_weights,
    same_tokenizer,
)
from lightning_transfer.objectives import Weighted
from lightning_transfer.optim import Recipe
from lightning_transfer.plan import StageRun
from lightning_transfer.results import LOWER_IS_BETTER
from lightning_transfer.scoring import score
from lightning_transfer.tasks import TransferModule
from lightning_transfer.training import (
    is_rank_zero,
    make_trainer,
    merge_logs,
    next_log_folder,
    run_trainer,
    trainer_arguments,
)

log = logging.getLogger(__name__)

FINAL = "final.ckpt"


@dataclass(frozen=True)
class Fitted:
    """What a trained stage leaves behind."""

    checkpoint: str  # relative to the run folder
    n_train: int
    seconds: float
    epochs: int
    steps: int
    best: float | None  # the monitored validation metric of the weights that were kept


@dataclass(frozen=True)
class Tested:
    """What a test gave."""

    metrics: dict[str, float]
    n_test: int
    seconds: float


def build(spec: Any, slot: str, where: str, **extra: Any) -> Any:
    """Instantiate a config slot, after a check that it holds what it may hold.

    Args:
        spec: Plain mapping with ``_target_``.
        slot: Name of the slot; see :mod:`lightning_transfer.slots`.
        where: Dotted key for error messages.
        extra: Arguments that only the run knows.

    Raises:
        ValueError: If the ``_target_`` is not of the slot's kind, or refuses its arguments.
    """
    slots.check(spec, slot, where=where)
    try:
        return hydra.utils.instantiate(spec, **extra, _convert_="all")
    except InstantiationException as error:
        cause: BaseException = error
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, ValueError | TypeError):
            raise ValueError(f"{where}: {cause}") from error
        raise


class StageRunner:
    """Train and score stage runs below one run folder; finished work is never done again.

    Args:
        config: The whole composed config as plain values.
        folder: The run folder.
        resume: Whether an unfinished stage goes on from its resume point.
    """

    def __init__(self, config: Mapping[str, Any], folder: Path, *, resume: bool = False) -> None:
        """See the class."""
        self.config = config
        self.folder = folder
        self.resume = resume
        self._modules: dict[str, TextDataModule] = {}
        # What this process has seen done. Other ranks must not ask the folder, where rank 0 may
        # or may not have written it down yet.
        self._fitted: dict[StageRun, Fitted] = {}
        self._tested: dict[tuple[StageRun, str], Tested] = {}
        self._pretrained: nn.Module | None = None  # for rehearsals only

    def fit(self, run: StageRun) -> Fitted:
        """Train a stage run and those before it, unless they are done."""
        if run not in self._fitted:
            record = self.folder / run.folder / "fit.json"
            if record.is_file():
                self._fitted[run] = Fitted(**json.loads(record.read_text()))
            else:
                self._fitted[run] = self._fit(run, record)
        return self._fitted[run]

    def _fit(self, run: StageRun, record: Path) -> Fitted:
        start = self._start(run)
        pl.seed_everything(run.seed, workers=True, verbose=False)
        data = self.data(run.stage, run.seed, self._tokenizer(start))
        data.prepare_data()
        data.setup("fit")
        task, handed = self._task(run, data.labels, start, self._backbone(start))
        rows = f"{data.n_train:,}"
        log.info("%s: %s training rows, from %s; %s", run.title, rows, _origin(run, start), handed)
        fitted = self._train(run, task, data)
        if is_rank_zero():
            atomic_write(record, json.dumps(asdict(fitted), indent=2))
            # Resume points of a finished stage are only in the way.
            (record.parent / ResumePoint.FILE).unlink(missing_ok=True)
        return fitted

    def rehearse(self, run: StageRun, labels: Labels) -> TransferModule:
        """Build all that a stage run takes, train nothing, and return its untrained task.

        Raises:
            ValueError: If a part of the stage's config is wrong.
            OSError: If the model or the weights to start from are not there.
            ImportError: If a ``_target_`` cannot be imported.
        """
        path = self.config["stages"][run.stage].get("init_from")
        start = None if path is None else read_weights(path)
        if start is None and self._pretrained is None:
            self._pretrained = self._backbone(None)
        backbone = self._backbone(start) if start else self._pretrained
        assert backbone is not None
        task, _ = self._task(run, labels, start, backbone)
        self._tokenizer(start)
        for name, spec in self._loggers_wanted():
            slots.check(spec, "logger", where=f"logger.{name}")
        make_trainer(self._arguments(run.stage), folder=self.folder, callbacks=self._callbacks(run))
        return task

    def monitor(self, stage: str) -> str:
        """Return the validation metric that picks a stage's best weights, such as ``val/r2``."""
        settings = self.config["stages"][stage]
        return settings.get("monitor") or self._task_class(stage).monitor

    def mode(self, stage: str) -> str:
        """Return ``max`` or ``min``: which way the monitored metric is better."""
        metric = self.monitor(stage).rpartition("/")[2]
        return "min" if metric in LOWER_IS_BETTER else self._task_class(stage).mode

    def metric(self, stage: str) -> str:
        """Return the test metric that a stage is judged by: the monitored one, or the task's own.

        The loss that may be monitored is none: its scale means nothing from one task to another.
        """
        own = self._task_class(stage).monitor
        monitor = self.monitor(stage) if self.mode(stage) == "max" else own
        return monitor.removeprefix("val/")

    def _task_class(self, stage: str) -> type[TransferModule]:
        target = self.config["stages"][stage]["task"]["_target_"]
        return hydra.utils.get_class(target)

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
        name = self.config.get("tokenizer") or self.config["backbone"].get("name")
        if name is None:
            raise ValueError(
                "a backbone of your own needs to know its tokenizer: set "
                "tokenizer=<folder, hub id or asset:name>"
            )
        trust = bool(self.config["backbone"].get("trust_remote_code", False))
        return load_tokenizer(name, trust_remote_code=trust)

    def data(self, stage: str, seed: int, tokenizer: Any = None) -> TextDataModule:
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
        settings = self.config["stages"][run.stage]
        head = build(settings["head"], "head", f"{where}.head")
        if not isinstance(head, nn.Module):
            head = head(backbone.hidden_size, labels.num_outputs)
        handed = hand_over(start, backbone, head, labels, label_map=settings.get("label_map"))
        recipe = Recipe(
            build(self._optimizer(run.stage), "optimizer", f"{where}.optimizer"),
            build(settings["scheduler"], "scheduler", f"{where}.scheduler"),
            build(settings["strategy"]["groups"], "groups", f"{where}.strategy.groups"),
        )
        objectives = {
            name: _objective(spec, f"{where}.objectives.{name}")
            for name, spec in (settings.get("objectives") or {}).items()
        }
        factory = build(settings["task"], "task", f"{where}.task")
        task = factory(backbone, head, labels=labels, recipe=recipe, objectives=objectives)
        task.position = {"stage": run.stage, "seed": run.seed, "run": str(run.folder)}
        return task, handed

    def _optimizer(self, stage: str) -> dict[str, Any]:
        """Return a stage's optimizer config; in mixed precision Lightning clips no fused one."""
        spec = dict(self.config["stages"][stage]["optimizer"])
        arguments = self._arguments(stage)
        mixed = str(arguments.get("precision")) in ("16-mixed", "bf16-mixed", "16", "bf16")
        if spec.get("fused") and mixed and arguments.get("gradient_clip_val"):
            spec["fused"] = None
        return spec

    def _backbone(self, start: Weights | None) -> nn.Module:
        spec = self.config["backbone"]
        if start is not None and start.described["backbone"] is not None:
            return Backbone.from_config(
                start.described["backbone"],
                attn_implementation=spec.get("attn_implementation"),
                dtype=spec.get("dtype", "float32"),
            )
        return build(spec, "backbone", "backbone")

    def _train(self, run: StageRun, task: TransferModule, data: TextDataModule) -> Fitted:
        folder = self.folder / run.folder
        settings = self.config["stages"][run.stage]
        keep_best = settings.get("keep", "best") == "best" and data.n_val > 0
        best = ModelCheckpoint(
            folder,
            filename="best",
            monitor=self.monitor(run.stage),
            mode=self.mode(run.stage),
            save_weights_only=True,
            enable_version_counter=False,
        )
        arguments = self._arguments(run.stage)
        timer = Timer(arguments.get("max_time"))  # Lightning's own gives way to any other
        point = ResumePoint(folder, every_n_steps=int(self.config.get("resume_every", 100)))
        callbacks = [*self._callbacks(run), timer, *([best] if keep_best else []), point]
        resume_from = point.path if self.resume and point.path.is_file() else None
        loggers = self._loggers(run, next_log_folder(folder))
        trainer = make_trainer(arguments, folder=folder, callbacks=callbacks, loggers=loggers)
        if resume_from is not None:
            log.info("%s: goes on from its resume point", run.title)
        try:
            run_trainer(trainer, "fit", task, datamodule=data, ckpt_path=resume_from)
        except BaseException:
            _finish(loggers, failed=True)
            raise
        _finish(loggers, failed=False)
        self._keep(trainer, best if keep_best else None, folder)
        score = best.best_model_score
        return Fitted(
            checkpoint=str(run.folder / FINAL),
            n_train=data.n_train,
            seconds=timer.time_elapsed("train"),
            epochs=trainer.current_epoch,
            steps=trainer.global_step,
            best=None if score is None else float(score),
        )

    def _keep(self, trainer: pl.Trainer, best: ModelCheckpoint | None, folder: Path) -> None:
        """Leave one file of weights."""
        if best is None or not best.best_model_path:
            if best is not None:
                log.warning("no validation took place; the weights of the last step are kept")
            trainer.save_checkpoint(folder / FINAL, weights_only=True)
        elif is_rank_zero() and Path(best.best_model_path).is_file():
            Path(best.best_model_path).replace(folder / FINAL)  # else a resumed run did it before
        if is_rank_zero():
            merge_logs(folder)
        trainer.strategy.barrier("stage finished")

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
        for place, group in (
            (f"{where}.strategy.callbacks", settings["strategy"].get("callbacks")),
            (f"{where}.callbacks", settings.get("callbacks")),
        ):
            for name, spec in (group or {}).items():
                callbacks.append(build(spec, "callback", f"{place}.{name}"))
        patience = settings.get("patience")
        if patience is not None:
            monitor = self.monitor(run.stage)
            mode = self.mode(run.stage)
            # A correlation is no number as long as all predictions are alike: no improvement, but
            # no reason to stop at once either.
            stop = EarlyStopping(monitor, mode=mode, patience=patience, check_finite=False)
            callbacks.append(stop)
        return callbacks

    def _bar(self, title: str) -> list[Callback]:
        wanted = self.config["trainer"].get("enable_progress_bar")
        if wanted is None:
            wanted = sys.stdout.isatty()
        return [StageProgressBar(title)] if wanted else []

    def _loggers_wanted(self) -> list[tuple[str, Any]]:
        """Return name and config of the loggers beside the csv files."""
        return [(k, v) for k, v in (self.config.get("logger") or {}).items() if k != "csv"]

    def _loggers(self, run: StageRun, folder: Path) -> list[Logger]:
        built: list[Logger] = []
        if (self.config.get("logger") or {}).get("csv"):
            built.append(CSVLogger(folder.parent, name="", version=folder.name))
        for name, spec in self._loggers_wanted():
            extra: dict[str, Any] = {"save_dir": str(self.folder), "name": run.title}
            if "Wandb" in str(spec.get("_target_")):
                extra |= {
                    "group": self.folder.name,
                    "job_type": run.stage,
                    "config": dict(self.config),
                }
            built.append(build(spec, "logger", f"logger.{name}", **extra))
        return built

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
            callbacks=self._bar(title),
        )
        tested = Tested(metrics, rows, time.monotonic() - started)
        log.info("%s: %s", title, ", ".join(f"{k} {v:.3f}" for k, v in metrics.items()))
        if is_rank_zero():
            atomic_write(record, json.dumps(asdict(tested), indent=2))
        return tested


def _objective(spec: Mapping[str, Any], where: str) -> Weighted:
    """Build an extra loss with its weight; one that is given bare weighs 1."""
    if spec.get("_target_") != "lightning_transfer.objectives.Weighted":
        return Weighted(build(spec, "objective", where))
    numbers = {k: v for k, v in spec.items() if k not in ("_target_", "objective")}
    return Weighted(build(spec.get("objective"), "objective", f"{where}.objective"), **numbers)


def own_parts(config: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """Return the parts of a stage that a checkpoint may not build: head and own backbone.

    Args:
        config: The whole config of a run.
        stage: Name of one of its stages.
    """
    spec = config["stages"][stage]["head"]
    parts: dict[str, Any] = {"head": build(spec, "head", f"stages.{stage}.head")}
    if not str(config["backbone"]["_target_"]).startswith("lightning_transfer.backbone."):
        parts["backbone"] = build(config["backbone"], "backbone", "backbone")
    return parts


def _finish(loggers: list[Logger], *, failed: bool) -> None:
    """End each wandb run, so that the next stage starts its own and a crash shows as one."""
    for logger in loggers:
        if isinstance(logger, WandbLogger) and is_rank_zero():
            logger.experiment.finish(exit_code=1 if failed else 0)


def _origin(run: StageRun, start: Weights | None) -> str:
    if start is None:
        return "the pretrained backbone"
    return f"stage {run.before.stage}" if run.before else "init_from"
