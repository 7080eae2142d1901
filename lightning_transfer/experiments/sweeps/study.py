"""Optuna study of a sweep, stored in a file that survives a killed sweep. Needs no hydra."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from lightning_transfer.experiments.sweeps import job_records
from lightning_transfer.utils.errors import UsageError


class SweepStudy:
    """Proposes the next trials of a sweep and records their scores, by Optuna's ask-and-tell.

    Trials come in this order: trials running when the sweep was killed, failed trials, and new
    trials of the sampler.

    Args:
        folder: Folder of the sweep.
        space: Key to Optuna distribution.
        fixed: Overrides shared by all jobs; the study is bound to them.
        sampler: An Optuna sampler.
        pruner: An Optuna pruner, or None.

    Raises:
        UsageError: If the folder contains the study of another search.
    """

    def __init__(
        self,
        folder: Path,
        space: Mapping[str, Any],
        *,
        fixed: Sequence[str],
        sampler: Any,
        pruner: Any = None,
    ) -> None:
        """See the class."""
        # Optuna logs each trial, as the sweep does.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder.mkdir(parents=True, exist_ok=True)
        self.space = dict(space)
        self.study = optuna.create_study(
            study_name=job_records.STUDY,
            storage=JournalStorage(JournalFileBackend(str(folder / job_records.JOURNAL))),
            direction="maximize",
            sampler=sampler,
            pruner=pruner or optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        self._check(folder, {**{k: str(v) for k, v in space.items()}, "all jobs": " ".join(fixed)})
        if self.study.trials:
            sampler.reseed_rng()  # otherwise a seeded sampler proposes the same values again
        self._interrupted = list(self._trials(TrialState.RUNNING))
        self._queue_failed()
        self._failed = 0

    @property
    def ended(self) -> int:
        """Number of trials with a score, pruned trials, and trials failed since this start."""
        return len(self._trials(TrialState.COMPLETE, TrialState.PRUNED)) + self._failed

    def ask(self, count: int) -> list[tuple[int, list[str]]]:
        """Return the numbers and overrides of the next ``count`` trials."""
        batch: list[tuple[int, list[str]]] = []
        for _ in range(count):
            # Optuna's own `ask` never returns a running trial.
            if self._interrupted:
                frozen = self._interrupted.pop(0)
                batch.append((frozen.number, _overrides(frozen.params)))
            else:
                trial = self.study.ask(self.space)
                batch.append((trial.number, _overrides(trial.params)))
        return batch

    def tell(self, number: int, record: job_records.JobRecord | None) -> None:
        """Record the result of a trial in the study.

        Args:
            number: Number of the trial.
            record: Record of its job. The trial failed without a record, or without a finite score.
        """
        if record is not None and record.status == "pruned":
            self.study.tell(number, state=TrialState.PRUNED)
        elif record is not None and record.status == "done" and record.rank > float("-inf"):
            self.study.tell(number, record.rank)
        else:
            self._failed += 1  # counts as ended, or a sweep of failing jobs would never end
            self.study.tell(number, state=TrialState.FAIL)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def _queue_failed(self) -> None:
        """Queue the values of failed trials, once for each start of the sweep."""
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.WAITING)
        # A queued trial has no `params` until `ask` returns it.
        known = [t.params or t.system_attrs.get("fixed_params") for t in self._trials(*states)]
        for trial in self._trials(TrialState.FAIL):
            if trial.params not in known:
                known.append(trial.params)
                self.study.enqueue_trial(trial.params)

    def _check(self, folder: Path, search: Mapping[str, str]) -> None:
        """Raise if the folder has the study of another search: its scores would mislead this one.

        Args:
            folder: Folder of the sweep.
            search: Keys with their distributions, and the overrides shared by all jobs.
        """
        stored = self.study.user_attrs.get("search")
        if stored is None:
            self.study.set_user_attr("search", dict(search))
        elif stored != search:
            differing = [
                f"{key}: {stored.get(key, 'absent')} in the folder, {search.get(key, 'absent')} now"
                for key in sorted(stored.keys() | search.keys())
                if stored.get(key) != search.get(key)
            ]
            raise UsageError(
                f"{folder} contains the sweep of another search:\n  "
                + "\n  ".join(differing)
                + "\nUse the values of the folder, or choose another hydra.sweep.dir"
            )


def _overrides(params: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in params.items()]
