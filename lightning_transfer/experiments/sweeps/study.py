"""The trials of an Optuna sweep, kept in a file that outlives a killed sweep. No hydra."""

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
    """Which values to try next, and what became of those tried.

    Trials that were running when the sweep was killed come first, then those that failed, and
    then what the sampler proposes.

    Args:
        folder: The sweep's folder.
        space: Key to distribution.
        fixed: What all jobs share, and what a study is bound to.
        sampler: An Optuna sampler.
        pruner: An Optuna pruner, or None.

    Raises:
        UsageError: If the folder holds the study of another search.
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
        if self.study.trials:  # or a seeded sampler would propose the same values again
            sampler.reseed_rng()
        self._cut_off = list(self._those(TrialState.RUNNING))
        self._queue_failed()
        self._failed = 0

    @property
    def ended(self) -> int:
        """Trials with a score, those pruned, and those that failed since the sweep was started."""
        return len(self._those(TrialState.COMPLETE, TrialState.PRUNED)) + self._failed

    def next(self, count: int) -> list[tuple[int, list[str]]]:
        """Return up to ``count`` trials: their numbers and overrides."""
        batch: list[tuple[int, list[str]]] = []
        for _ in range(count):
            if self._cut_off:
                frozen = self._cut_off.pop(0)
                batch.append((frozen.number, _overrides(frozen.params)))
            else:
                trial = self.study.ask(self.space)
                batch.append((trial.number, _overrides(trial.params)))
        return batch

    def tell(self, number: int, record: job_records.JobRecord | None) -> None:
        """Tell the study what became of a trial."""
        if record is not None and record.status == "pruned":
            self.study.tell(number, state=TrialState.PRUNED)
        elif record is not None and record.status == "done" and record.rank > float("-inf"):
            self.study.tell(number, record.rank)
        else:
            self._failed += 1
            self.study.tell(number, state=TrialState.FAIL)

    def _those(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def _queue_failed(self) -> None:
        """Try failed values again, once for each time that the sweep is started."""
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.WAITING)
        known = [t.params or t.system_attrs.get("fixed_params") for t in self._those(*states)]
        for trial in self._those(TrialState.FAIL):
            if trial.params not in known:
                known.append(trial.params)
                self.study.enqueue_trial(trial.params)

    def _check(self, folder: Path, search: Mapping[str, str]) -> None:
        """Refuse a folder with the study of another search: its scores would mislead this one."""
        kept = self.study.user_attrs.get("search")
        if kept is None:
            self.study.set_user_attr("search", dict(search))
        elif kept != search:
            differing = [
                f"{key}: {kept.get(key, 'absent')} in the folder, {search.get(key, 'absent')} now"
                for key in sorted(kept.keys() | search.keys())
                if kept.get(key) != search.get(key)
            ]
            raise UsageError(
                f"the sweep in {folder} searches something else:\n  "
                + "\n  ".join(differing)
                + "\nGive the values it was started with, or choose another hydra.sweep.dir"
            )


def _overrides(params: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in params.items()]
