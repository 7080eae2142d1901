"""What each command does with a composed config."""

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

from lightning_transfer.cli.process import importing, is_main_process
from lightning_transfer.experiments.sweeps import job_records
from lightning_transfer.utils.errors import UsageError
from lightning_transfer.utils.tables import console_for, make_table

log = logging.getLogger(__name__)


def fit(cfg: DictConfig) -> float | None:
    """Train the stages, score the rows, and write the run folder.

    Returns:
        What a sweeper optimizes: the validation score of the weights that were kept, mean over the
        seeds; without validation the transfer's test score. None for a job of a sweep that was
        finished before and had none.

    Raises:
        lightning_transfer.experiments.sweeps.job_records.Pruned: If the job lies behind the others of its sweep.
    """
    from lightning_transfer.experiments.run_folder import CONFIG, RunFolder

    config = _plain(cfg)
    rank = 0 if is_main_process() else 1
    _check_named(config)
    folder = Path(HydraConfig.get().runtime.output_dir)
    with RunFolder.open(folder, config=config, resume=config["resume"], rank=rank) as run:
        kept = job_records.read(folder) if _in_sweep() and run.resumed else None
        if kept is not None and kept.finished and rank == 0:
            return _again(kept)
        try:
            experiment = _prepared(config, folder, resumed=run.resumed)
        except Exception:
            if not run.resumed and rank == 0:  # nothing ran: the mended command may use the folder
                (folder / CONFIG).unlink(missing_ok=True)
            raise
        experiment.run()
        metric, mode, score = experiment.ranking()
        if _in_sweep() and rank == 0:
            job_records.update(folder, status="done", metric=metric, mode=mode, values=score.values)
        return score.mean


def _prepared(config: Mapping[str, Any], folder: Path, *, resumed: bool) -> Any:
    """Return the experiment, checked: all that is imported and built before the first stage."""
    with importing():
        from lightning_transfer.experiments.experiment import Experiment

        _quiet_libraries()
    again = f"hydra.sweep.dir={HydraConfig.get().sweep.dir}" if _in_sweep() else None
    experiment = Experiment(config, folder, resume=resumed, again=again)
    _add_pruning(experiment, folder)
    experiment.check()
    return experiment


def validate(cfg: DictConfig) -> dict[str, float]:
    """Score a trained model on validation rows, and print the metrics."""
    return _score(cfg, "validation")


def test(cfg: DictConfig) -> dict[str, float]:
    """Score a trained model on test rows, and print the metrics."""
    return _score(cfg, "test")


def predict(cfg: DictConfig) -> None:
    """Label a text, texts, or a file of texts, or write the texts that a model has learned."""
    config = _plain(cfg)
    data = config["data"]
    if (config["text"] is None) == (data["path"] is None):
        raise ValueError('give either text="…" or data.path=<file>, and not both')
    if config["text"] is None and config["text_pair"] is not None:
        raise ValueError("text_pair is the second text beside text=; for a file: data.text_pair")
    path = _absolute(config["ckpt"])
    with importing():
        from lightning_transfer.checkpoints.loading import read_labels
        from lightning_transfer.inference import Predictor, Tagger, TextGenerator

        _quiet_libraries()
    kinds: dict[str, type[Predictor]] = {"tags": Tagger, "text": TextGenerator}
    kind = kinds.get(read_labels(path).kind, Predictor)
    if config["generation"] and kind is not TextGenerator:
        raise ValueError("generation= is for models that write text, and this one writes none")
    predictor = kind.from_path(
        path,
        batch_size=config["batch_size"],
        max_tokens=config["max_tokens"],
        max_length=config["max_length"],
        **_own_parts(path),
    )
    if isinstance(predictor, TextGenerator):
        predictor.generate_with(config["generation"] or {})
    if config["text"] is not None:
        pairs = None if config["text_pair"] is None else _texts(config["text_pair"])
        for prediction in predictor.predict(_texts(config["text"]), pairs):
            print(prediction)
        return
    options = {k: v for k, v in data.items() if k != "path"}
    out = config["out"] if config["out"] in (None, "-") else _absolute(config["out"])
    source = data["path"] if data["path"] == "-" else _absolute(data["path"])
    predictor.predict_file(source, out, **options)


def _texts(given: Any) -> list[str]:
    """Return one text or a list of them as a list; YAML makes numbers of some."""
    return [str(text) for text in (given if isinstance(given, list) else [given])]


def fetch(cfg: DictConfig) -> None:
    """Fill the cache with the named assets."""
    from lightning_transfer import assets

    wanted = _plain(cfg)["assets"]
    names = list(assets.ASSETS) if wanted == "all" else wanted
    names = [names] if isinstance(names, str) else names
    for name in names:
        assets.find_asset(name)
    for name in names:
        known = assets.cached(name) is not None
        print(f"{name}: {assets.fetch(name)}{' (was there)' if known else ''}")


def list_(cfg: DictConfig) -> None:
    """Print what can be chosen, also from the user's own folders."""
    from lightning_transfer.cli import help_text

    loader = GlobalHydra.instance().config_loader()
    groups = _plain(cfg).get("groups", "all")
    wanted = (
        help_text.TITLES if groups == "all" else [groups] if isinstance(groups, str) else groups
    )
    help_text.render(help_text.describe(_folders(loader), tuple(wanted)))


def sweep_report(cfg: DictConfig) -> None:
    """Print the table of a sweep."""
    from lightning_transfer.experiments.sweeps.sweep_table import SweepTable

    try:
        SweepTable.read(_plain(cfg)["dir"]).render()
    except ValueError as error:
        raise UsageError(str(error)) from None


def _check_named(config: Mapping[str, Any]) -> None:
    """Refuse runs that need a named folder and have none."""
    if _names_its_folder():
        return
    if config["resume"]:
        raise ValueError(
            "resume=true needs the run folder to go on with: add hydra.run.dir=<folder>"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(  # each would make one of its own, named by its own clock
            "ranks that a launcher started need one folder for all: add hydra.run.dir=<folder>"
        )


def _in_sweep() -> bool:
    return str(HydraConfig.get().mode).endswith("MULTIRUN")


def _again(kept: job_records.JobRecord) -> float | None:
    """Give what a job that is finished gave before."""
    log.info("%s before, and not run again", kept.status)
    if kept.status == "pruned":
        raise job_records.Pruned
    return None if kept.score is None else kept.score.mean


def _add_pruning(experiment: Any, folder: Path) -> None:
    """Let the study of a sweep stop the job, if it has a pruner."""
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
    with importing():
        from lightning_transfer.checkpoints.loading import load
        from lightning_transfer.config.instantiate import build
        from lightning_transfer.experiments.evaluation import score
        from lightning_transfer.experiments.training import trainer_arguments

        _quiet_libraries()
    config = _plain(cfg)
    path = _absolute(config["ckpt"])
    loaded = load(path, **_own_parts(path))
    spec = config.get("data")
    if spec is None:
        run = _run_of(path)
        stage = (loaded.position or {}).get("stage")
        if run is None or stage not in run["stages"]:
            raise ValueError("these weights lie in no run folder: add what to score on, data=…")
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
    """Keep libraries from talking over the run, unless -v asks for all there is."""
    if logging.getLogger("lightning_transfer").isEnabledFor(logging.DEBUG):
        return
    from transformers.utils import logging as transformers_logging

    for name in ("lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        logger.handlers.clear()  # its own, which would say everything twice
    transformers_logging.disable_progress_bar()


def _own_parts(path: Path) -> dict[str, Any]:
    """Return the user's own head and backbone of the run that ``path`` lies in.

    They come from the run folder's config, which the user wrote, and never from the weights.
    """
    run = _run_of(path)
    if run is None:
        return {}
    from lightning_transfer.checkpoints.loading import read_position
    from lightning_transfer.config.instantiate import own_parts

    stage = str(read_position(path).get("stage"))
    return own_parts(run, stage) if stage in run["stages"] else {}


def _run_of(path: Path) -> dict[str, Any] | None:
    from lightning_transfer.experiments.run_folder import read_config

    for folder in (path, *path.parents):
        if folder.is_dir():
            with contextlib.suppress(ValueError):  # another program's config.yaml, LightningCLI's
                if (config := read_config(folder)) is not None:
                    return config
    return None


def _folders(loader: Any) -> list[Path]:
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


def _names_its_folder() -> bool:
    overrides = HydraConfig.get().overrides.hydra
    return any(o.startswith(("hydra.run.dir=", "hydra.sweep.")) for o in overrides)


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(to_absolute_path(str(path)))


def _plain(cfg: DictConfig) -> dict[str, Any]:
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}
