"""Stopping a trial that lies behind the others."""

import logging
import math
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_transfer.experiments.sweeps import job_records

log = logging.getLogger(__name__)


class Pruning(Callback):
    """Report each validation of one stage run to an Optuna trial, and stop where it says so.

    Rank 0 alone talks to the study, and all ranks hear its answer, so that they stop together.
    That a job was pruned is written to its record before anything stops.

    Args:
        run: Folder of the stage run below the run folder, ``stages/target-seed0``; others are
            left alone.
        monitor: The metric that is reported, such as ``val/pearson``.
        mode: ``max`` or ``min``: which way it is better. The study itself always maximizes.
        journal: File of the study.
        trial: Number of the trial.
        folder: Folder of the job, with its record.
        pruner: An Optuna pruner.

    Raises:
        lightning_transfer.experiments.sweeps.job_records.Pruned: On all ranks, when the trial is to stop.
    """

    def __init__(
        self,
        run: str,
        monitor: str,
        *,
        mode: str,
        journal: str,
        trial: int,
        folder: str,
        pruner: Any,
    ) -> None:
        """See the class."""
        super().__init__()
        self.run, self.monitor, self.mode = run, monitor, mode
        self.journal, self.number, self.folder, self.pruner = journal, trial, folder, pruner
        self.validations = 0

    def state_dict(self) -> dict[str, Any]:
        """Return how many validations were reported, for a job that is resumed."""
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.validations = state_dict["validations"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report, and stop if told to."""
        if trainer.sanity_checking or str(getattr(pl_module, "position", {})["run"]) != self.run:
            return
        value = trainer.callback_metrics.get(self.monitor)
        stop = False
        if trainer.is_global_zero and value is not None and math.isfinite(float(value)):
            stop = self._behind(float(value))
        self.validations += 1
        if trainer.strategy.broadcast(stop, src=0):
            raise job_records.Pruned(f"{self.monitor} lies behind the other trials")

    def _behind(self, value: float) -> bool:
        """Report one value; return whether the trial lies behind."""
        from optuna import load_study
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
        from optuna.trial import Trial

        storage = JournalStorage(JournalFileBackend(self.journal))
        study = load_study(study_name=job_records.STUDY, storage=storage, pruner=self.pruner)
        frozen = study.trials[self.number]  # trials are listed by their numbers
        study_id = storage.get_study_id_from_name(job_records.STUDY)
        number = storage.get_trial_id_from_study_id_trial_number(study_id, self.number)
        trial = Trial(study, number)
        if self.validations not in frozen.intermediate_values:  # or a resumed job says it again
            trial.report(value if self.mode == "max" else -value, self.validations)
        if not trial.should_prune():
            return False
        log.info(
            "pruned after %d validations: %s %.3f lies behind the other trials",
            self.validations + 1,
            self.monitor,
            value,
        )
        where = Path(self.folder)
        job_records.update(
            where, status="pruned", metric=self.monitor, mode=self.mode, values=(value,)
        )
        return True
