"""Hydra sweepers whose jobs are never done twice, and of which one that fails stops no other.

Hydra takes its plugins from the namespace ``hydra_plugins`` alone, and imports all that lies there
in every Hydra app on the machine. These are made known in this process only, by :func:`register`.
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
_RESUME = "++resume=true"


def register() -> None:
    """Make the sweepers known to Hydra, in this process."""
    for sweeper in (GridSweeper, OptunaSweeper):
        Plugins.instance().class_name_to_class[f"{_NAMESPACE}.{sweeper.__name__}"] = sweeper


class ResumingLauncher(Launcher):
    """Any launcher, with jobs that find their folders again.

    A job is known by its overrides, not by its number: when a sweep is started again, a job that
    has a folder goes on there, or is not run at all if it is finished, and others get new folders.

    Args:
        inner: The launcher that does the work, set up by Hydra.
        config: The sweep's config.

    Attributes:
        failed: How many jobs have failed.
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
        """Set up the launcher inside."""
        self.inner.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run jobs; one that fails is counted, and returns None."""
        placed = [list(overrides) for overrides in job_overrides]
        if not any(o.startswith("hydra.sweep.subdir=") for o in self.config.hydra.overrides.hydra):
            placed = _placed(placed, Path(self.config.hydra.sweep.dir))
        begun = sum(_RESUME in overrides for overrides in placed)
        if len(placed) > 1:
            log.info("%d jobs, %d of them begun before", len(placed), begun)
        returned = self.inner.launch(placed, initial_job_idx)
        for one in returned:
            if one.status is JobStatus.FAILED:  # whose return value would raise the error again
                self.failed += 1
                one.status, one.return_value = JobStatus.COMPLETED, None
        return returned


def _placed(batch: Sequence[list[str]], sweep: Path) -> list[list[str]]:
    """Add to each job's overrides the folder that it has, or a new one."""
    known = [
        (job_records.identity(job.record.overrides), job.name) for job in job_records.find(sweep)
    ]
    used = {int(p.name) for p in sweep.glob("*") if p.name.isdigit()}
    placed = []
    for overrides in batch:
        own = job_records.identity(overrides)
        name = next((name for identity, name in known if identity == own), None)
        if name is None:
            name = str(max(used, default=-1) + 1)
        else:
            known.remove((own, name))  # of jobs that are alike each has its own
        used |= {int(name)} if name.isdigit() else set()
        again = [_RESUME] if (sweep / name / run_folder.CONFIG).is_file() else []
        placed.append([*overrides, f"hydra.sweep.subdir='{name}'", *again])
    return placed


class GridSweeper(Sweeper):
    """Every combination of the values, as Hydra's own sweeper has them.

    Args:
        max_batch_size: Jobs that are launched at a time; None for all.
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
        self.inner.launcher = self.jobs = ResumingLauncher(self.inner.launcher, config)

    def sweep(self, arguments: list[str]) -> Any:
        """Run all jobs, and show their table.

        Raises:
            UsageError: If a key has an interval instead of values.
            lightning_transfer.experiments.sweeps.job_records.JobFailed: At the end, if a job failed.
        """
        assert self.inner.hydra_context is not None
        for override in _parsed(
            self.inner.hydra_context,
            [f"{key}={value}" for key, value in self.params.items()] + arguments,
        ):
            if override.is_sweep_override() and not override.is_discrete_sweep():
                raise UsageError(
                    f"{override.input_line}: a grid has no intervals; name values (a=1,2,3), or "
                    "add sweep=random or sweep=optuna"
                )
        with _held(Path(self.jobs.config.hydra.sweep.dir)), _shown(self.jobs):
            return self.inner.sweep(arguments)


class OptunaSweeper(Sweeper):
    """Values that an Optuna sampler proposes, one batch of jobs after another.

    The study is kept in the sweep's folder, so that a sweep that was cut off goes on with all it
    has learned. A batch has as many jobs as the launcher runs side by side. The study maximizes:
    a score where lower is better is negated.

    Args:
        n_trials: Jobs that are to end with a score, or to be pruned.
        sampler: Config of an ``optuna.samplers`` class.
        pruner: Config of an ``optuna.pruners`` class, or None.
        params: Key to values, as on the command line.
        trial: Number of a job's trial, which each job is told.
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
            raise UsageError(f"hydra.sweeper.n_trials must be >= 1, got {n_trials}")
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
        """Run trials until there are enough, and show their table.

        Raises:
            UsageError: If no key has a range, or the folder holds the study of another search.
            ImportError: If Optuna is not installed.
            lightning_transfer.experiments.sweeps.job_records.JobFailed: At the end, if a job failed.
        """
        config = self.config
        assert config is not None
        assert self.hydra_context is not None
        words = [f"{key}={value}" for key, value in self.params.items()] + arguments
        fixed, space = search_space(_parsed(self.hydra_context, words))
        self.validate_batch_is_legal([[*fixed, *_first(space)]])
        from lightning_transfer.experiments.sweeps.study import SweepStudy

        folder = Path(config.hydra.sweep.dir)
        with _held(folder):
            trials = SweepStudy(
                folder,
                space,
                fixed=job_records.identity(fixed),
                sampler=_built(self.sampler, "sampler"),
                pruner=_built(self.pruner, "pruner"),
            )
            OmegaConf.save(config, folder / job_records.MULTIRUN)
            with _shown(self.jobs):
                return self._run(trials, fixed, _width(config))

    def _run(self, trials: Any, fixed: list[str], width: int) -> list[Sequence[JobReturn]]:
        """Run batches until there are enough trials."""
        returned: list[Sequence[JobReturn]] = []
        while batch := trials.next(min(width, self.n_trials - trials.ended)):
            asked = [[*fixed, *o, f"hydra.sweeper.trial={number}"] for number, o in batch]
            done = self.jobs.launch(asked, sum(len(one) for one in returned))
            for (number, _), job in zip(batch, done, strict=True):
                assert job.hydra_cfg is not None
                trials.tell(number, job_records.read(job.hydra_cfg.hydra.runtime.output_dir))
            returned.append(done)
        return returned


def _width(config: DictConfig) -> int:
    """Return how many jobs the launcher runs side by side."""
    wanted = int(config.hydra.launcher.get("n_jobs") or 1)
    if wanted < 1:
        from joblib import effective_n_jobs

        wanted = effective_n_jobs(wanted)
    return wanted


def search_space(overrides: Sequence[Override]) -> tuple[list[str], dict[str, Any]]:
    """Return the overrides that all jobs share, and key to Optuna distribution of the others.

    Values (``a,b,c``, ``glob(x*)``) are categories, ``range(1,9,2)`` is a number in steps,
    ``interval(0,1)`` any number between, ``tag(log,interval(1e-5,1e-2))`` one drawn on a log scale,
    and ``int(interval(1,9))`` a whole one.

    Raises:
        UsageError: If no key has a range.
        ImportError: If Optuna is not installed.
    """
    last = {override.get_key_element(): override for override in overrides}  # the later ones hold
    fixed = [str(o.input_line) for o in last.values() if not o.is_sweep_override()]
    space = {key: _distribution(o) for key, o in last.items() if o.is_sweep_override()}
    if not space:
        raise UsageError(
            "nothing to search: give a key a range, such as "
            "'stages.target.optimizer.lr=tag(log,interval(1e-5,1e-2))' or seed=0,1,2"
        )
    return fixed, space


def _distribution(override: Override) -> Any:
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
        if isinstance(low, int) and isinstance(high, int):
            return distributions.IntDistribution(low, high, log=log_scale)
        return distributions.FloatDistribution(float(low), float(high), log=log_scale)
    if override.is_range_sweep():
        numbers = list(value.range())
        if not numbers:
            raise UsageError(f"{override.input_line} is an empty range")
        low, high, step = min(numbers), max(numbers), abs(value.step)
        whole = all(isinstance(number, int) for number in numbers)
        kind = distributions.IntDistribution if whole else distributions.FloatDistribution
        return kind(low, high, step=step)
    return distributions.CategoricalDistribution(list(override.sweep_string_iterator()))


def _first(space: dict[str, Any]) -> list[str]:
    """Return an override for each key: the first of its choices, or its lowest number."""
    return [
        f"{key}={values.choices[0] if hasattr(values, 'choices') else values.low}"
        for key, values in space.items()
    ]


def _parsed(hydra_context: HydraContext, words: list[str]) -> list[Override]:
    parser = OverridesParser.create(config_loader=hydra_context.config_loader)
    return parser.parse_overrides(words)


def _built(spec: Any, slot: str) -> Any:
    """Build a sampler or pruner, after a check that it is one."""
    if spec is None:
        return None
    plain = OmegaConf.to_container(OmegaConf.create(spec), resolve=True)
    try:
        allowed_targets.check(plain, slot, where=f"hydra.sweeper.{slot}")
        return instantiate(plain)
    except (ValueError, ImportError) as error:
        raise UsageError(str(error)) from error


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep other sweeps out of the folder."""
    try:
        lock = run_folder.hold(folder)
    except BlockingIOError as error:
        raise UsageError(str(error).replace("hydra.run.dir", "hydra.sweep.dir")) from None
    with lock:
        yield


@contextlib.contextmanager
def _shown(launcher: ResumingLauncher) -> Iterator[None]:
    """Show the table of the jobs at the end, also of a Ctrl-C, and then raise if a job failed."""
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
