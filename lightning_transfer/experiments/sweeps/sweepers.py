"""Hydra sweepers that resume a sweep, and continue it after a failed job.

Hydra finds plugins in the namespace ``hydra_plugins`` only, and imports all of that namespace in
every Hydra app on the machine. :func:`register` adds these sweepers to the current process instead.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lightning_transfer.config.private_apis import basic_sweeper
from lightning_transfer.experiments import run_folder
from lightning_transfer.experiments.sweeps import job_records, sweep_table
from lightning_transfer.utils import allowed_targets
from lightning_transfer.utils.errors import UsageError

log = logging.getLogger(__name__)

_NAMESPACE = "hydra_plugins.lightning_transfer"
# `++` sets a key, no matter if the config has it already.
_RESUME = "++resume=true"


def register() -> None:
    """Register the sweepers with Hydra in this process."""
    for sweeper in (GridSweeper, OptunaSweeper):
        Plugins.instance().class_name_to_class[f"{_NAMESPACE}.{sweeper.__name__}"] = sweeper


class ResumingLauncher(Launcher):
    """Wraps any launcher, and assigns each job its folder from an earlier start of the sweep.

    A job is identified by its overrides instead of its number. When a sweep is started again, an
    unfinished job is resumed in its folder, a finished job is not run, and a new job gets a new
    folder.

    Args:
        inner: The wrapped launcher, set up by Hydra.
        config: Config of the sweep.

    Attributes:
        failed: Number of failed jobs.
    """

    def __init__(self, inner: Launcher, config: DictConfig) -> None:
        """See the class."""
        super().__init__()
        self.inner = inner
        self.config = config
        self.failed = 0

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Set up the wrapped launcher."""
        self.inner.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run jobs; a failed job is counted and has the return value None.

        Args:
            job_overrides: Overrides of each job.
            initial_job_idx: Number of the first job.

        Returns:
            The results in the order of the jobs.
        """
        jobs = [list(overrides) for overrides in job_overrides]
        # A subfolder chosen by the user already finds the job again.
        if not any(o.startswith("hydra.sweep.subdir=") for o in self.config.hydra.overrides.hydra):
            jobs = _assign_folders(jobs, Path(self.config.hydra.sweep.dir))
        started_before = sum(_RESUME in overrides for overrides in jobs)
        if len(jobs) > 1:
            log.info("%d jobs, %d of them started before", len(jobs), started_before)
        returned = self.inner.launch(jobs, initial_job_idx)
        for job in returned:
            if job.status is JobStatus.FAILED:
                self.failed += 1
                # Hydra's sweepers read `return_value`, which raises the error of a failed job.
                job.status, job.return_value = JobStatus.COMPLETED, None
        return returned


def _assign_folders(batch: Sequence[list[str]], sweep: Path) -> list[list[str]]:
    """Add the folder of each job to its overrides: its earlier one, or a new one.

    Args:
        batch: Overrides of each job.
        sweep: Folder of the sweep.
    """
    known = [
        (job_records.identity(job.record.overrides), job.name) for job in job_records.find(sweep)
    ]
    used = {int(p.name) for p in sweep.glob("*") if p.name.isdigit()}
    assigned = []
    for overrides in batch:
        own = job_records.identity(overrides)
        name = next((name for identity, name in known if identity == own), None)
        if name is None:
            name = str(max(used, default=-1) + 1)
        else:
            known.remove((own, name))  # each of several equal jobs has its own folder
        used |= {int(name)} if name.isdigit() else set()
        # A job that ended before its run has no config, and starts from the beginning.
        resume = [_RESUME] if (sweep / name / run_folder.CONFIG).is_file() else []
        # Quoted: a name such as x=1 is no plain value in Hydra's grammar.
        assigned.append([*overrides, f"hydra.sweep.subdir='{name}'", *resume])
    return assigned


class GridSweeper(Sweeper):
    """Runs every combination of the values, by Hydra's basic sweeper.

    Args:
        max_batch_size: Number of jobs launched at once; None for all.
        params: Key to values, as on the command line.
    """

    def __init__(self, max_batch_size: int | None = None, params: Any = None) -> None:
        """See the class."""
        super().__init__()
        self.params = dict(params or {})
        self.inner: Any = basic_sweeper(max_batch_size, self.params)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Set up the launcher."""
        self.inner.setup(hydra_context=hydra_context, task_function=task_function, config=config)
        assert self.inner.launcher is not None
        # Hydra has built the configured launcher; the sweeper calls it by this attribute only.
        self.inner.launcher = self.jobs = ResumingLauncher(self.inner.launcher, config)

    def sweep(self, arguments: list[str]) -> Any:
        """Run all jobs, and print their table.

        Args:
            arguments: Overrides of the command line.

        Raises:
            UsageError: If a key has an interval instead of values, or another process runs a sweep
                in the folder.
            job_records.JobFailed: After the last job, if a job failed.
        """
        assert self.inner.hydra_context is not None
        for override in _parse(
            self.inner.hydra_context,
            [f"{key}={value}" for key, value in self.params.items()] + arguments,
        ):
            if override.is_sweep_override() and not override.is_discrete_sweep():
                raise UsageError(
                    f"{override.input_line}: a grid has no intervals; give values such as "
                    f"{override.get_key_element()}=1,2,3, or add sweep=random or sweep=optuna"
                )
        with _locked(Path(self.jobs.config.hydra.sweep.dir)), _report_at_end(self.jobs):
            return self.inner.sweep(arguments)


class OptunaSweeper(Sweeper):
    """Runs batches of jobs with values proposed by an Optuna sampler.

    The study is stored in the folder of the sweep, so that an interrupted sweep resumes with all
    its scores. A batch has as many jobs as the launcher runs in parallel. The study maximizes, so
    a score for which lower is better is negated.

    Args:
        n_trials: Number of jobs with a score or pruned, >= 1. Failed jobs count as well, if they
            failed since the sweep was started.
        sampler: Config of an ``optuna.samplers`` class.
        pruner: Config of an ``optuna.pruners`` class, or None.
        params: Key to values, as on the command line.
        trial: Number of the trial of a job; not used here, but set in the config of each job.

    Raises:
        UsageError: If ``n_trials`` is below 1.
    """

    def __init__(
        self,
        n_trials: int,
        *,
        sampler: Any,
        pruner: Any = None,
        params: Any = None,
        trial: int | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        if n_trials < 1:
            raise UsageError(f"hydra.sweeper.n_trials must be an integer >= 1, got {n_trials}")
        self.n_trials, self.sampler, self.pruner = n_trials, sampler, pruner
        self.params = dict(params or {})

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Set up the launcher."""
        self.config = config
        self.hydra_context = hydra_context
        inner = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self.jobs = ResumingLauncher(inner, config)

    def sweep(self, arguments: list[str]) -> Any:
        """Run trials until their number is reached, and print their table.

        Args:
            arguments: Overrides of the command line.

        Raises:
            UsageError: If no key has a range, the folder contains the study of another search, or
                another process runs a sweep in it.
            ImportError: If Optuna is not installed.
            job_records.JobFailed: After the last job, if a job failed.
        """
        config = self.config
        assert config is not None
        assert self.hydra_context is not None
        overrides = [f"{key}={value}" for key, value in self.params.items()] + arguments
        fixed, space = search_space(_parse(self.hydra_context, overrides))
        # Compose one job of the sweep, so that an unknown key is an error before the first job.
        self.validate_batch_is_legal([[*fixed, *_lowest_values(space)]])
        # Imports Optuna, so only after `search_space` has reported that it is missing.
        from lightning_transfer.experiments.sweeps.study import SweepStudy

        folder = Path(config.hydra.sweep.dir)
        with _locked(folder):
            trials = SweepStudy(
                folder,
                space,
                fixed=job_records.identity(fixed),
                sampler=_build(self.sampler, "sampler"),
                pruner=_build(self.pruner, "pruner"),
            )
            # As Hydra's own sweeper does; it marks the folder of a sweep.
            OmegaConf.save(config, folder / job_records.MULTIRUN)
            with _report_at_end(self.jobs):
                return self._run(trials, fixed, _parallel_jobs(config))

    def _run(self, trials: Any, fixed: list[str], batch_size: int) -> list[Sequence[JobReturn]]:
        """Run batches of jobs until there are enough trials."""
        returned: list[Sequence[JobReturn]] = []
        while batch := trials.ask(min(batch_size, self.n_trials - trials.ended)):
            jobs = [[*fixed, *o, f"hydra.sweeper.trial={number}"] for number, o in batch]
            done = self.jobs.launch(jobs, sum(len(one) for one in returned))
            for (number, _), job in zip(batch, done, strict=True):
                assert job.hydra_cfg is not None
                # The score is read from the record: the return value of a pruned job is None.
                trials.tell(number, job_records.read(job.hydra_cfg.hydra.runtime.output_dir))
            returned.append(done)
        return returned


def _parallel_jobs(config: DictConfig) -> int:
    """Return the number of jobs that the launcher runs in parallel."""
    count = int(config.hydra.launcher.get("n_jobs") or 1)
    if count < 1:
        # joblib's -1 means all cores. The launcher with `n_jobs` is joblib's, so it is installed.
        from joblib import effective_n_jobs

        count = effective_n_jobs(count)
    return count


def search_space(overrides: Sequence[Override]) -> tuple[list[str], dict[str, Any]]:
    """Split overrides into those shared by all jobs and the search space.

    Values (``a,b,c``, ``glob(x*)``) are categories, ``range(1,9,2)`` is a number in steps,
    ``interval(0,1)`` a real number, ``tag(log,interval(1e-5,1e-2))`` a real number on a log scale,
    and ``int(interval(1,9))`` an integer.

    Args:
        overrides: Parsed overrides; a later override of a key replaces an earlier one.

    Returns:
        The shared overrides, and key to Optuna distribution of the others.

    Raises:
        UsageError: If no key has a range.
        ImportError: If Optuna is not installed.
    """
    # The command line comes after `params`, so its override of the same key wins.
    last = {override.get_key_element(): override for override in overrides}
    fixed = [str(o.input_line) for o in last.values() if not o.is_sweep_override()]
    space = {key: _distribution(o) for key, o in last.items() if o.is_sweep_override()}
    if not space:
        raise UsageError(
            "nothing to search: give a key a range, such as "
            "'stages.target.optimizer.lr=tag(log,interval(1e-5,1e-2))' or seed=0,1,2"
        )
    return fixed, space


def _distribution(override: Override) -> Any:
    """Return the Optuna distribution of an override with several values."""
    try:
        from optuna import distributions
    except ImportError:
        raise ImportError(
            "sweep=random and sweep=optuna need Optuna, which is not installed: "
            'python -m pip install "lightning_transfer[sweep]"'
        ) from None
    value: Any = override.value()
    if override.is_interval_sweep():
        low, high, log_scale = value.start, value.end, "log" in value.tags
        # Integers only from int(interval(…)): Hydra reads the ends of interval(1,9) as floats.
        if isinstance(low, int) and isinstance(high, int):
            return distributions.IntDistribution(low, high, log=log_scale)
        return distributions.FloatDistribution(float(low), float(high), log=log_scale)
    if override.is_range_sweep():
        # Listed, since range(start, stop) excludes its end and may count down.
        numbers = list(value.range())
        if not numbers:
            raise UsageError(f"{override.input_line} is an empty range")
        low, high, step = min(numbers), max(numbers), abs(value.step)
        is_whole = all(isinstance(number, int) for number in numbers)
        distribution = (
            distributions.IntDistribution if is_whole else distributions.FloatDistribution
        )
        return distribution(low, high, step=step)
    # As texts in Hydra's syntax, to be written into the overrides of a job again.
    return distributions.CategoricalDistribution(list(override.sweep_string_iterator()))


def _lowest_values(space: dict[str, Any]) -> list[str]:
    """Return one override per key: the first category or the lowest number."""
    return [
        f"{key}={values.choices[0] if hasattr(values, 'choices') else values.low}"
        for key, values in space.items()
    ]


def _parse(hydra_context: HydraContext, overrides: list[str]) -> list[Override]:
    parser = OverridesParser.create(config_loader=hydra_context.config_loader)
    return parser.parse_overrides(overrides)


def _build(spec: Any, kind: str) -> Any:
    """Build a sampler or pruner, after a check that its class is allowed; None stays None."""
    if spec is None:
        return None
    plain = OmegaConf.to_container(OmegaConf.create(spec), resolve=True)
    try:
        allowed_targets.check(plain, kind, where=f"hydra.sweeper.{kind}")
        return instantiate(plain)
    except (ValueError, ImportError) as error:
        raise UsageError(str(error)) from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder of a sweep against other sweeps."""
    try:
        lock = run_folder.lock_folder(folder)
    except BlockingIOError as error:
        # The message is that of a run folder.
        raise UsageError(str(error).replace("hydra.run.dir", "hydra.sweep.dir")) from None
    with lock:
        yield


@contextlib.contextmanager
def _report_at_end(launcher: ResumingLauncher) -> Iterator[None]:
    """Print the table of the jobs at the end, also after Ctrl-C; then raise if a job failed."""
    folder = Path(launcher.config.hydra.sweep.dir)
    try:
        yield
    finally:
        if job_records.find(folder):
            table = sweep_table.SweepTable.read(folder)
            table.write()
            table.render()
    if launcher.failed:
        raise job_records.JobFailed(f"{launcher.failed} jobs failed")
