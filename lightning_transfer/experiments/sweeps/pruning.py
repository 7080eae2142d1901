"""Callback that prunes a trial of an Optuna study."""

import logging
import math
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_transfer.experiments.sweeps import job_records

log = logging.getLogger(__name__)


class Pruning(Callback):
    """Reports each validation of one stage run to an Optuna trial, and stops a pruned trial.

    Only rank 0 accesses the study. Its decision is broadcast, so that all ranks stop together. The
    status ``pruned`` is written to the record of the job before any rank stops.

    Args:
        run: Folder of the observed stage run below the run folder, such as
            ``stages/target-seed0``; other stage runs are ignored.
        monitor: Reported metric, such as ``val/pearson``.
        mode: ``max`` if a higher value is better, else ``min``. The study always maximizes.
        journal: File of the study.
        trial: Number of the trial.
        folder: Folder of the job, with its record.
        pruner: An Optuna pruner.

    Raises:
        job_records.Pruned: On all ranks, if the trial is pruned.
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
        """Return the number of reported validations, for a resumed job."""
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of reported validations."""
        self.validations = state_dict["validations"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the monitored metric, and stop on all ranks if the trial is pruned."""
        if trainer.sanity_checking or str(getattr(pl_module, "position", {})["run"]) != self.run:
            return
        value = trainer.callback_metrics.get(self.monitor)
        is_pruned = False
        # NaN, such as the correlation of constant predictions, would make Optuna prune at once.
        if trainer.is_global_zero and value is not None and math.isfinite(float(value)):
            is_pruned = self._report(float(value))
        self.validations += 1
        # A collective: every rank calls it, in every validation.
        if trainer.strategy.broadcast(is_pruned, src=0):
            raise job_records.Pruned(f"{self.monitor} is worse than in the other trials")

    def _report(self, value: float) -> bool:
        """Report one value to the study; return True if the trial is pruned."""
        # Late: an experiment without a sweep needs no Optuna.
        from optuna import load_study
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
        from optuna.trial import Trial

        # Opened in each validation: the job may run in another process than the sweeper, and
        # other jobs write to the journal meanwhile.
        storage = JournalStorage(JournalFileBackend(self.journal))
        study = load_study(study_name=job_records.STUDY, storage=storage, pruner=self.pruner)
        frozen = study.trials[self.number]  # trials are listed by their numbers
        study_id = storage.get_study_id_from_name(job_records.STUDY)
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, self.number)
        trial = Trial(study, trial_id)
        # A resumed job repeats validations; Optuna warns of a step that is reported twice.
        if self.validations not in frozen.intermediate_values:
            trial.report(value if self.mode == "max" else -value, self.validations)
        if not trial.should_prune():
            return False
        log.info(
            "pruned after %d validations: %s %.3f is worse than in the other trials",
            self.validations + 1,
            self.monitor,
            value,
        )
        job_records.update(
            Path(self.folder),
            status="pruned",
            metric=self.monitor,
            mode=self.mode,
            values=(value,),
        )
        return True
