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
from lightning_transfer.optim import Recipe
from lightning_transfer.plan import StageRun
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
        ValueError: If the ``_target_`` is not of the slot's kind.
    """
    slots.check(spec, slot, where=where)
    return hydra.utils.instantiate(spec, **extra, _convert_="all")


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

    def fit(self, run: StageRun) -> Fitted:
        """Train a stage run and those before it, unless they are done."""
        record = self.folder / run.folder / "fit.json"
        if record.is_file():
            return Fitted(**json.loads(record.read_text()))
        start = self._start(run)
        pl.seed_everything(run.seed, workers=True, verbose=False)
        data = self._data(run.stage, run.seed, self._tokenizer(start))
        data.prepare_data()
        data.setup("fit")
        if data.labels is None:
            raise ValueError(f"stages.{run.stage}.data gives no labels to learn")
        task, handed = self._task(run, data.labels, start)
        rows = f"{data.n_train:,}"
        log.info("%s: %s training rows, from %s; %s", run.title, rows, _origin(run, start), handed)
        fitted = self._train(run, task, data)
        if is_rank_zero():
            atomic_write(record, json.dumps(asdict(fitted), indent=2))
        return fitted

    def monitor(self, stage: str) -> str:
        """Return the validation metric that picks a stage's best weights, such as ``val/r2``."""
        settings = self.config["stages"][stage]
        return settings.get("monitor") or self._task_class(stage).monitor

    def mode(self, stage: str) -> str:
        """Return ``max`` or ``min``: which way the monitored metric is better."""
        return self._task_class(stage).mode

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

    def _data(self, stage: str, seed: int, tokenizer: Any) -> TextDataModule:
        """Return a stage's data, read and tokenized once for all runs of the stage."""
        data = self._modules.get(stage)
        if data is None:
            spec = self.config["stages"][stage]["data"]
            data = self._modules[stage] = build(spec, "data", f"stages.{stage}.data")
        if data.tokenizer is None or not same_tokenizer(data.tokenizer, tokenizer):
            data.tokenizer = tokenizer
        data.seed = seed
        return data

    def _task(
        self, run: StageRun, labels: Labels, start: Weights | None
    ) -> tuple[TransferModule, str]:
        """Build a stage's task, load what it takes from ``start``, and say what became of it."""
        where = f"stages.{run.stage}"
        settings = self.config["stages"][run.stage]
        backbone = self._backbone(start)
        head = build(settings["head"], "head", f"{where}.head")
        if not isinstance(head, nn.Module):
            head = head(backbone.hidden_size, labels.num_outputs)
        handed = hand_over(start, backbone, head, labels, label_map=settings.get("label_map"))
        recipe = Recipe(
            build(settings["optimizer"], "optimizer", f"{where}.optimizer"),
            build(settings["scheduler"], "scheduler", f"{where}.scheduler"),
            build(settings["strategy"]["groups"], "groups", f"{where}.strategy.groups"),
        )
        objectives = {
            name: build(spec, "weighted", f"{where}.objectives.{name}")
            for name, spec in (settings.get("objectives") or {}).items()
        }
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

    def _train(self, run: StageRun, task: TransferModule, data: TextDataModule) -> Fitted:
        folder = self.folder / run.folder
        settings = self.config["stages"][run.stage]
        keep_best = settings.get("keep", "best") == "best" and data.n_val > 0
        best = ModelCheckpoint(
            folder,
            filename="best",
            monitor=self.monitor(run.stage),
            mode=task.mode,
            save_weights_only=True,
            enable_version_counter=False,
        )
        timer = Timer()
        point = ResumePoint(folder, every_n_steps=int(self.config.get("resume_every", 100)))
        callbacks = [*self._callbacks(run, task), timer, *([best] if keep_best else []), point]
        arguments = trainer_arguments(
            self.config["trainer"],
            settings.get("trainer") or {},
            where=f"stages.{run.stage}.trainer",
            epochs=settings["epochs"],
        )
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
        """Leave one file of weights; resume points of a finished stage are only in the way."""
        if best is None or not best.best_model_path:
            trainer.save_checkpoint(folder / FINAL, weights_only=True)
        elif is_rank_zero() and Path(best.best_model_path).is_file():
            Path(best.best_model_path).replace(folder / FINAL)  # else a resumed run did it before
        if is_rank_zero():
            (folder / ResumePoint.FILE).unlink(missing_ok=True)
            merge_logs(folder)
        trainer.strategy.barrier("stage finished")

    def _callbacks(self, run: StageRun, task: TransferModule) -> list[Callback]:
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
            callbacks.append(EarlyStopping(monitor, mode=task.mode, patience=int(patience)))
        return callbacks

    def _bar(self, title: str) -> list[Callback]:
        wanted = self.config["trainer"].get("enable_progress_bar")
        if wanted is None:
            wanted = sys.stdout.isatty()
        return [StageProgressBar(title)] if wanted else []

    def _loggers(self, run: StageRun, folder: Path) -> list[Logger]:
        built: list[Logger] = []
        for name, spec in (self.config.get("logger") or {}).items():
            if name == "csv":
                if spec:
                    built.append(CSVLogger(folder.parent, name="", version=folder.name))
                continue
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
        record = self.folder / run.folder / f"test-{on}.json"
        if record.is_file():
            return Tested(**json.loads(record.read_text()))
        loaded = load(self.folder / self.fit(run).checkpoint, **own_parts(self.config, run.stage))
        data = self._data(on, run.seed, loaded.tokenizer)
        title = f"{run.title} on {on}"
        arguments = trainer_arguments(self.config["trainer"], {}, where="trainer")
        started = time.monotonic()
        metrics, rows = score(
            loaded,
            data,
            "test",
            arguments=arguments,
            folder=self.folder,
            callbacks=self._bar(title),
        )
        tested = Tested(metrics, rows, time.monotonic() - started)
        log.info("%s: %s", title, ", ".join(f"{k} {v:.3f}" for k, v in metrics.items()))
        if is_rank_zero():
            atomic_write(record, json.dumps(asdict(tested), indent=2))
        return tested


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
