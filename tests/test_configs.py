"""Shipped configs: each composes, has allowed targets, a description and an example command."""

import functools
import inspect
import re
import shlex
from dataclasses import replace
from pathlib import Path

import hydra
import lightning.pytorch as pl
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from torch import nn

from lightning_transfer.cli import help_text
from lightning_transfer.cli.arguments import parse
from lightning_transfer.data import RawText, TextToText
from lightning_transfer.experiments.sweeps import sweepers
from lightning_transfer.heads.factory import make_head
from lightning_transfer.utils import Labels, allowed_targets
from tests.tiny import OwnBackbone
from tests.tiny_seq2seq import make_seq2seq

pytestmark = pytest.mark.jobs

CONF = help_text.conf_folder()
FILES = [path.relative_to(CONF) for path in sorted(CONF.rglob("*.yaml"))]
COMMANDS = [path.stem for path in FILES if path.parent == Path()]
EXPERIMENTS = [path.stem for path in FILES if path.parent == Path("experiment")]
LOGGING = {Path("hydra/job_logging"), Path("hydra/hydra_logging")}
SWEEPS = {Path("sweep"), Path("hydra/sweeper")}  # these set keys of Hydra, not of a run
OPTIONS = [
    (str(path.parent), path.stem)
    for path in FILES
    if path.parent not in {Path(), Path("experiment"), *LOGGING, *SWEEPS}
]
# Key of an option composed alone (regex), and the kind of object that it must build.
KIND_OF_KEY = {
    r"backbone": "backbone",
    r"trainer": "trainer",
    r"logger\.\w+": "logger",
    r"data": "data",
    r"task": "task",
    r"head": "head",
    r"tokenizer": "tokenizer",
    r"optimizer": "optimizer",
    r"scheduler": "scheduler",
    r"finetuning\.groups": "groups",
    r"finetuning\.scheduler": "scheduler",
    r"finetuning\.callbacks\.\w+": "callback",
    r"finetuning\.adapter": "adapter",
    r"activation_cache": "callback",
    r"callbacks\.\w+": "callback",
    r"finetuning\.objectives\.\w+": "objective",
    r"objectives\.\w+": "objective",
}


@pytest.fixture(scope="module", autouse=True)
def conf():
    with initialize_config_module("lightning_transfer.conf", version_base="1.3"):
        yield


def plain(config):
    return OmegaConf.to_container(config, resolve=True)


@functools.cache
def alone(group, name):
    """Compose one option and nothing else; the required name of a hub model is filled in."""
    config = compose(overrides=[f"+{group}={name}"])
    if group == "backbone" and OmegaConf.is_missing(config.backbone, "name"):
        config.backbone.name = "some/model"
    assert OmegaConf.missing_keys(config) == set()
    return plain(config)


def targets(config, where=""):
    """Yield dotted key and config of the outermost mappings with a ``_target_``."""
    if not isinstance(config, dict):
        return
    if "_target_" in config:
        yield where, config
        return
    for key, value in config.items():
        yield from targets(value, f"{where}.{key}" if where else key)


def kind_of(key):
    key = re.sub(r"^(stages\.\w+|stage)\.", "", key)
    found = [kind for pattern, kind in KIND_OF_KEY.items() if re.fullmatch(pattern, key)]
    assert found, f"{key}: a _target_ at a key without a known kind of object"
    return found[0]


def check(config):
    """Check the kind of every target; return the checked keys and targets."""
    checked = {}
    for key, spec in targets(config):
        allowed_targets.check(spec, kind_of(key), where=key)
        checked[key] = spec["_target_"]
    if "trainer" in config:
        allowed_targets.check(config["trainer"], "trainer", where="trainer")
    return checked


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_option_composes_alone_with_allowed_targets(group, name):
    config = alone(group, name)
    assert set(config) == {group}
    checked = check(config)
    if group not in ("trainer", "logger"):
        assert checked


@pytest.mark.parametrize("name", COMMANDS)
def test_command_composes_with_allowed_targets(name):
    whole = compose(name, return_hydra_config=True)
    assert whole.hydra.job.name == name
    assert not whole.hydra.job.chdir
    config = compose(name)
    missing = OmegaConf.missing_keys(config)
    assert missing <= {"ckpt", "dir"}
    check(plain(OmegaConf.masked_copy(config, [key for key in config if key not in missing])))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_composes_with_all_parts_of_its_stages(name):
    config = plain(compose("fit", overrides=[f"+experiment={name}"]))
    assert config["name"] == name
    assert set(config["order"]) <= set(config["stages"])
    checked = check(config)
    for stage in config["stages"]:
        for part in (
            "data",
            "task",
            "head",
            "optimizer",
            "finetuning.scheduler",
            "finetuning.groups",
        ):
            assert f"stages.{stage}.{part}" in checked
    assert "backbone" in checked


@pytest.mark.parametrize("path", [path for path in FILES if path.parent in LOGGING], ids=str)
def test_logging_composes_and_its_handlers_exist(path):
    override = f"{path.parent.as_posix()}={path.stem}"
    config = compose("fit", overrides=[override], return_hydra_config=True)
    logging = OmegaConf.to_container(config.hydra[path.parent.name])
    for handler in logging["handlers"].values():
        assert inspect.isclass(allowed_targets.locate(handler["class"]))
    assert logging["root"]["handlers"] == list(logging["handlers"])


@pytest.mark.parametrize("name", [path.stem for path in FILES if path.parent == Path("sweep")])
def test_keys_of_a_sweep_are_the_arguments_of_its_sweeper(name):
    spec = compose("fit", overrides=[f"sweep={name}"], return_hydra_config=True).hydra.sweeper
    own = {key: value for key, value in OmegaConf.to_container(spec).items() if key[:1] != "_"}
    sweeper = getattr(sweepers, spec._target_.removeprefix("hydra_plugins.lightning_transfer."))
    assert set(own) == set(inspect.signature(sweeper.__init__).parameters) - {"self"}
    for part in ("sampler", "pruner"):
        if own.get(part):
            allowed_targets.check(own[part], part, where=part)
            hydra.utils.instantiate(own[part])
    assert plain(compose("fit", overrides=[f"sweep={name}"])) == plain(compose("fit"))


def test_trainer_default_has_every_argument_of_the_trainer():
    arguments = set(inspect.signature(pl.Trainer.__init__).parameters) - {"self"}
    ours = {"callbacks", "logger", "plugins", "default_root_dir"}
    assert set(alone("trainer", "default")["trainer"]) == arguments - ours


def test_trainer_default_differs_from_lightning_in_five_arguments():
    parameters = inspect.signature(pl.Trainer.__init__).parameters
    given = alone("trainer", "default")["trainer"]
    same_in_effect = {"precision", "log_every_n_steps", "detect_anomaly", "enable_checkpointing"}
    changed = {
        name: value
        for name, value in given.items()
        if value != parameters[name].default and name not in same_in_effect
    }
    assert changed == {
        "num_sanity_val_steps": 0,
        "enable_model_summary": False,
        "gradient_clip_val": 1.0,
        "gradient_clip_algorithm": "norm",
        "use_distributed_sampler": False,
    }


def header(path):
    """Return the comment lines at the start of a file, without Hydra's directives."""
    lines = []
    for line in (CONF / path).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.removeprefix("# "))
    return lines


@pytest.mark.parametrize("path", FILES, ids=str)
def test_first_line_of_a_config_is_a_description(path):
    description = header(path)[0]
    assert len(description) > 15
    assert not description.startswith("python")
    assert description[0].isupper()


@pytest.mark.parametrize("path", [path for path in FILES if path.parent not in LOGGING], ids=str)
def test_second_line_of_a_config_is_a_command_that_uses_it(path):
    command = header(path)[1]
    prefix = "python -m lightning_transfer "
    assert command.startswith(prefix)
    line = parse(shlex.split(command.removeprefix(prefix)), COMMANDS)
    if line.command == "predict":  # the command line quotes sentences for Hydra
        line = replace(line, overrides=tuple(o for o in line.overrides if " " not in o))
    group, name = str(path.parent), path.stem
    if path.parent in SWEEPS:
        assert "--multirun" in line.flags
        swept = OverridesParser.create().parse_overrides(list(line.overrides))
        fixed = [str(o.input_line) for o in swept if not o.is_sweep_override()]
        config = compose(line.command, overrides=fixed, return_hydra_config=True)
        assert config.hydra.runtime.choices[group] == name
        return
    config = compose(line.command, overrides=list(line.overrides))
    assert OmegaConf.missing_keys(config) == set()
    if group == ".":
        assert line.command == name
    elif group == "experiment":
        assert config.name == name
    else:
        composed = {spec["_target_"] for _, spec in targets(plain(config))}
        wanted = {spec["_target_"] for _, spec in targets(alone(group, name))}
        assert wanted <= composed


DATA = [name for group, name in OPTIONS if group == "data"]


@pytest.mark.parametrize("name", DATA)
def test_domain_names_its_licence(name):
    assert any("Licence" in line for line in header(Path("data") / f"{name}.yaml"))


@pytest.mark.parametrize("name", DATA)
def test_config_of_a_domain_has_the_defaults_of_its_class(name):
    """The config lists every value of the class, with the same defaults."""
    spec = alone("data", name)["data"]
    data = hydra.utils.instantiate(spec, _convert_="all")
    assert type(data).__name__ == spec["_target_"].rpartition(".")[2]
    if name in ("files", "hub"):  # these have no default label
        return
    if isinstance(data, RawText):
        own = RawText(data.documents)
        parts = ("blocks", "pretraining", "masking", "train_size", "splits", "tokens", "batch_size")
    elif isinstance(data, TextToText):
        own = type(data)()
        parts = ("columns", "splits", "tokens", "target_tokens", "batch_size", "on_bad_row")
    else:
        own = type(data)()
        parts = ("columns", "label", "splits", "tokens", "batch_size", "on_bad_row", "source")
    for part in parts:
        assert getattr(data, part) == getattr(own, part), part


def names(group):
    return [name for other, name in OPTIONS if other == group]


# Heads for one task only; every other task can use any other head.
HEADS = {
    "causal_language_modelling": ["next_token"],
    "lead_text": ["decoder"],
    "masked_language_modelling": ["language_model"],
    "sequence_to_sequence": ["decoder"],
    "token_classification": ["token"],
}
SHARED = sorted({*names("head")} - {head for own in HEADS.values() for head in own})
TASKS = [(task, head) for task in names("task") for head in HEADS.get(task, SHARED)]


def combinations():
    """Return every task and head with every fine-tuning method, and each schedule with both."""
    schedulers = names("scheduler")
    assert min(len(TASKS), len(names("finetuning"))) >= len(schedulers)
    return [
        (task, head, finetuning, schedulers[(row + column) % len(schedulers)])
        for row, (task, head) in enumerate(TASKS)
        for column, finetuning in enumerate(names("finetuning"))
    ]


@pytest.mark.parametrize(("task", "head", "finetuning", "scheduler"), combinations())
def test_parts_can_be_combined(task, head, finetuning, scheduler):
    def build(group, name):
        return hydra.utils.instantiate(alone(group, name)[group], _convert_="all")

    labels = {
        "sequence_regression": Labels("regression"),
        "masked_language_modelling": Labels("masked_tokens", ("next", "other")),
        "causal_language_modelling": Labels("next_tokens"),
        "lead_text": Labels("text"),
        "sequence_to_sequence": Labels("text"),
        "token_classification": Labels("tags", ("O", "B-PER")),
    }.get(task, Labels("single_label", ("a", "b")))
    parts = build("finetuning", finetuning)
    backbone = make_seq2seq("t5") if head == "decoder" else OwnBackbone()
    if head in ("language_model", "next_token"):
        backbone.token_embeddings, backbone.is_causal = backbone.table, True
    made = make_head(build("head", head), backbone, labels.num_outputs)
    built = build("task", task)(backbone, made, labels=labels)
    optimizer = build("optimizer", "adamw")(parts["groups"](built, backbone))
    make = build("scheduler", scheduler)
    needs_steps = "total_steps" in inspect.signature(make).parameters
    schedule = make(optimizer, **({"total_steps": 10} if needs_steps else {}))
    assert isinstance(schedule, torch.optim.lr_scheduler.LRScheduler)
    assert all(isinstance(callback, pl.Callback) for callback in parts["callbacks"].values())
    assert all(isinstance(objective, nn.Module) for objective in parts["objectives"].values())
    optimizer.step()


def test_numbers_are_no_strings():
    """YAML 1.1 reads 1e-8 as a string."""

    def texts(config, where=""):
        for key, value in config.items() if isinstance(config, dict) else enumerate(config):
            if isinstance(value, dict | list):
                yield from texts(value, f"{where}.{key}")
            elif isinstance(value, str) and re.fullmatch(r"[-+]?\d[\d.]*(e[-+]?\d+)?", value):
                yield f"{where}.{key}"

    for group, name in OPTIONS:
        assert list(texts(alone(group, name))) == [], (group, name)
    for name in EXPERIMENTS:
        assert list(texts(plain(compose("fit", overrides=[f"+experiment={name}"])))) == []
