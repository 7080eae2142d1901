"""Functions of the commands, called with a composed config."""

import contextlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import to_absolute_path
from omegaconf import DictConfig, OmegaConf

from lightning_transfer.cli.process import imports_without_gc, is_main_process
from lightning_transfer.experiments.sweeps import job_records
from lightning_transfer.utils.errors import UsageError
from lightning_transfer.utils.tables import console_for, make_table

log = logging.getLogger(__name__)


def fit(cfg: DictConfig) -> float | None:
    """Train the stages, score the test rows, and write the run folder.

    Args:
        cfg: Composed config of ``fit``.

    Returns:
        Objective of a sweep: the validation score of the selected weights, mean over the seeds, or
        the test score of the last stage without validation. ``None`` for a sweep's job that
        finished earlier without a score.

    Raises:
        lightning_transfer.experiments.sweeps.job_records.Pruned: If the pruner of the sweep stops
            the job.
        ValueError: If the run needs ``hydra.run.dir`` and has none, or the config is wrong.
    """
    from lightning_transfer.experiments.run_folder import CONFIG, RunFolder

    config = _plain_config(cfg)
    rank = 0 if is_main_process() else 1
    _require_run_folder(config)
    folder = Path(HydraConfig.get().runtime.output_dir)
    with RunFolder.open(folder, config=config, resume=config["resume"], rank=rank) as run:
        record = job_records.read(folder) if _in_sweep() and run.resumed else None
        if record is not None and record.finished and rank == 0:
            return _recorded_score(record)
        try:
            experiment = _prepare_experiment(config, folder, resumed=run.resumed)
        except Exception:
            # Nothing was trained, so the corrected command may use the same folder.
            if not run.resumed and rank == 0:
                (folder / CONFIG).unlink(missing_ok=True)
            raise
        experiment.run()
        metric, mode, score = experiment.ranking()
        if _in_sweep() and rank == 0:
            job_records.update(folder, status="done", metric=metric, mode=mode, values=score.values)
        return score.mean


def _prepare_experiment(config: Mapping[str, Any], folder: Path, *, resumed: bool) -> Any:
    """Return the experiment after its dry run, ready for the first stage."""
    with imports_without_gc():
        from lightning_transfer.experiments.experiment import Experiment

        _quiet_libraries()
    # A sweep's job is resumed by starting the sweep again, not by its own folder.
    overrides = f"hydra.sweep.dir={HydraConfig.get().sweep.dir}" if _in_sweep() else None
    experiment = Experiment(config, folder, resume=resumed, resume_overrides=overrides)
    _add_pruning(experiment, folder)
    experiment.check()
    return experiment


def validate(cfg: DictConfig) -> dict[str, float]:
    """Score a trained model on the validation rows, and print the metrics."""
    return _score(cfg, "validation")


def test(cfg: DictConfig) -> dict[str, float]:
    """Score a trained model on the test rows, and print the metrics."""
    return _score(cfg, "test")


def predict(cfg: DictConfig) -> None:
    """Predict labels, tags or generated texts for texts or for the rows of a file.

    Args:
        cfg: Composed config of ``predict``.

    Raises:
        ValueError: If not exactly one of ``text`` and ``data.path`` is given, ``text_pair`` is
            given with a file, or ``generation`` is given for a model without generated texts.
    """
    config = _plain_config(cfg)
    data = config["data"]
    if (config["text"] is None) == (data["path"] is None):
        given = "neither" if config["text"] is None else "both"
        raise ValueError(f'exactly one of text="…" and data.path=<file> is required, got {given}')
    if config["text"] is None and config["text_pair"] is not None:
        raise ValueError(
            "text_pair requires text=…; name the column of a file with data.text_pair=<column>"
        )
    path = _absolute_path(config["ckpt"])
    with imports_without_gc():
        from lightning_transfer.checkpoints.loading import read_labels
        from lightning_transfer.inference import Predictor, Tagger, TextGenerator

        _quiet_libraries()
    predictors: dict[str, type[Predictor]] = {"tags": Tagger, "text": TextGenerator}
    # The labels alone are read here: loading the model takes longer than the check below.
    label_kind = read_labels(path).kind
    predictor_class = predictors.get(label_kind, Predictor)
    if config["generation"] and predictor_class is not TextGenerator:
        raise ValueError(
            f"generation requires a model with generated texts, got labels of kind {label_kind!r}"
        )
    predictor = predictor_class.from_path(
        path,
        batch_size=config["batch_size"],
        max_tokens=config["max_tokens"],
        max_length=config["max_length"],
        **_custom_modules(path),
    )
    if isinstance(predictor, TextGenerator):
        predictor.generate_with(config["generation"] or {})
    if config["text"] is not None:
        pairs = None if config["text_pair"] is None else _text_list(config["text_pair"])
        for prediction in predictor.predict(_text_list(config["text"]), pairs):
            print(prediction)
        return
    options = {k: v for k, v in data.items() if k != "path"}
    out = config["out"] if config["out"] in (None, "-") else _absolute_path(config["out"])
    source = data["path"] if data["path"] == "-" else _absolute_path(data["path"])
    predictor.predict_file(source, out, **options)


def _text_list(value: Any) -> list[str]:
    """Return one text or a list of texts as a list of strings."""
    # YAML reads a text such as 10 as a number.
    return [str(text) for text in (value if isinstance(value, list) else [value])]


def fetch(cfg: DictConfig) -> None:
    """Download assets into the cache.

    Raises:
        ValueError: If a name is unknown; nothing is downloaded then.
    """
    from lightning_transfer import assets

    wanted = _plain_config(cfg)["assets"]
    names = list(assets.ASSETS) if wanted == "all" else wanted
    names = [names] if isinstance(names, str) else names
    for name in names:  # all names are checked before the first download
        assets.find_asset(name)
    for name in names:
        known = assets.cached(name) is not None
        print(f"{name}: {assets.fetch(name)}{' (already cached)' if known else ''}")


def list_(cfg: DictConfig) -> None:
    """Print the options of the config groups, with those of the user's folders."""
    from lightning_transfer.cli import help_text

    loader = GlobalHydra.instance().config_loader()
    groups = _plain_config(cfg).get("groups", "all")
    wanted = (
        help_text.TITLES if groups == "all" else [groups] if isinstance(groups, str) else groups
    )
    help_text.print_options(help_text.describe_options(_config_folders(loader), tuple(wanted)))


def sweep_report(cfg: DictConfig) -> None:
    """Print the table of a sweep."""
    from lightning_transfer.experiments.sweeps.sweep_table import SweepTable

    try:
        SweepTable.read(_plain_config(cfg)["dir"]).render()
    except ValueError as error:
        raise UsageError(str(error)) from None


def _require_run_folder(config: Mapping[str, Any]) -> None:
    """Raise an error if the run folder must be named on the command line and is not.

    Raises:
        ValueError: If the run resumes another one, or has ranks started by a launcher.
    """
    overrides = HydraConfig.get().overrides.hydra
    if any(o.startswith(("hydra.run.dir=", "hydra.sweep.")) for o in overrides):
        return
    if config["resume"]:
        raise ValueError(
            "resume=true requires the folder of the run to resume; add hydra.run.dir=<folder>"
        )
    # The default name contains the time, so each rank would create a folder for itself. The ranks
    # that Lightning starts get the folder on their command line.
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "ranks started by a launcher require a common run folder; add hydra.run.dir=<folder>"
        )


def _in_sweep() -> bool:
    return str(HydraConfig.get().mode).endswith("MULTIRUN")


def _recorded_score(record: job_records.JobRecord) -> float | None:
    """Return the score of a finished job from its record."""
    log.info("job is already %s; it is not run again", record.status)
    if record.status == "pruned":
        raise job_records.Pruned
    return None if record.score is None else record.score.mean


def _add_pruning(experiment: Any, folder: Path) -> None:
    """Add the pruning callback to a job of a sweep with a pruner."""
    hydra = HydraConfig.get()
    trial, pruner = (OmegaConf.select(hydra.sweeper, key) for key in ("trial", "pruner"))
    if trial is None or pruner is None:
        return
    from lightning_transfer.utils import allowed_targets

    spec = OmegaConf.to_container(pruner, resolve=True)
    allowed_targets.check(spec, "pruner", where="hydra.sweeper.pruner")
    experiment.add_callback(
        "pruning",
        {
            "_target_": "lightning_transfer.experiments.sweeps.pruning.Pruning",
            "journal": str(Path(hydra.runtime.cwd, hydra.sweep.dir, job_records.JOURNAL)),
            "trial": trial,
            "folder": str(folder),
            "pruner": spec,
        },
    )


def _score(cfg: DictConfig, split: Any) -> dict[str, float]:
    """Score a trained model on the validation or test rows, and print a table of the metrics.

    Args:
        cfg: Composed config of ``validate`` or ``test``.
        split: ``validation`` or ``test``.

    Returns:
        Metric to value.

    Raises:
        ValueError: If no data are given and the weights are not in a run folder.
    """
    with imports_without_gc():
        from lightning_transfer.checkpoints.loading import load
        from lightning_transfer.config.instantiate import build
        from lightning_transfer.experiments.evaluation import score
        from lightning_transfer.experiments.training import trainer_arguments

        _quiet_libraries()
    config = _plain_config(cfg)
    path = _absolute_path(config["ckpt"])
    loaded = load(path, **_custom_modules(path))
    spec = config.get("data")
    if spec is None:  # the data that the model was trained on
        run = _find_run_config(path)
        stage = (loaded.position or {}).get("stage")
        if run is None or stage not in run["stages"]:
            raise ValueError(
                f"{path} is not in a run folder; add the data to score on, such as data=movies"
            )
        spec = run["stages"][stage]["data"]
    data = build(spec, "data", "data")
    data.seed = config["seed"]
    arguments = trainer_arguments(config["trainer"], {}, where="trainer")
    values, rows = score(loaded, data, split, arguments=arguments, folder=Path.cwd())
    table = make_table(
        [("metric", "name"), ("value", "number")],
        [(name, f"{value:.4f}") for name, value in values.items()],
        title=f"{split} · {spec['_target_'].rpartition('.')[2]} · {rows:,} rows",
        padding=1,
    )
    console_for(table).print(table)
    return values


def _quiet_libraries() -> None:
    """Reduce the output of Lightning and transformers to warnings, except with ``-v``."""
    if logging.getLogger("lightning_transfer").isEnabledFor(logging.DEBUG):
        return
    from transformers.utils import logging as transformers_logging

    for name in ("lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        logger.handlers.clear()  # with Lightning's own handler, each line would appear twice
    transformers_logging.disable_progress_bar()


def _custom_modules(path: Path) -> dict[str, Any]:
    """Return the user's own head, backbone and adapter of the run that wrote some weights.

    They are built from the config in the run folder. Nothing in a file of weights is instantiated
    except classes of this package.

    Args:
        path: Run folder, model folder or checkpoint.
    """
    run = _find_run_config(path)
    if run is None:
        return {}
    from lightning_transfer.checkpoints.loading import read_position
    from lightning_transfer.config.instantiate import load_arguments

    stage = str(read_position(path).get("stage"))
    return load_arguments(run, stage) if stage in run["stages"] else {}


def _find_run_config(path: Path) -> dict[str, Any] | None:
    """Return the config of the run folder that contains a path, ``None`` if there is none."""
    from lightning_transfer.experiments.run_folder import read_config

    for folder in (path, *path.parents):
        if folder.is_dir():
            # Another program may have written a config.yaml, such as LightningCLI.
            with contextlib.suppress(ValueError):
                if (config := read_config(folder)) is not None:
                    return config
    return None


def _config_folders(loader: Any) -> list[Path]:
    """Return the folders in the search path of a config loader, without Hydra's own."""
    import importlib.util

    folders = []
    for element in loader.get_search_path().get_path():
        scheme, _, place = str(element.path).partition("://")
        if scheme == "file":
            folders.append(Path(place))
        elif scheme == "pkg" and element.provider != "hydra":
            spec = importlib.util.find_spec(place.replace("/", "."))
            if spec is not None and spec.submodule_search_locations:
                folders.append(Path(next(iter(spec.submodule_search_locations))))
    return folders


def _absolute_path(path: str | os.PathLike[str]) -> Path:
    """Return an absolute path, relative to the folder in which the command was started."""
    return Path(to_absolute_path(str(path)))


def _plain_config(cfg: DictConfig) -> dict[str, Any]:
    """Return a config as plain values with resolved interpolations.

    Raises:
        omegaconf.MissingMandatoryValue: If a required value is missing.
    """
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}
