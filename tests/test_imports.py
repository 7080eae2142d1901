"""Imports point one way, are cheap where they have to be, and do nothing but import."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_transfer

ROOT = Path(lightning_transfer.__file__).parent
PACKAGE = "lightning_transfer"


def module_name(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


TREES = {module_name(path): ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}
SUBPACKAGES = sorted(
    module_name(path) for path in ROOT.glob("*/__init__.py") if path.parent.name != "conf"
)


def imports(tree):
    """Dotted names of all that is imported, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def unit(name):
    """Name of the folder below the package that holds a module, or of a module at its top."""
    return name.split(".")[1] if "." in name else name


UNITS = {unit(name) for name in TREES}
MODULES = {
    name: {found for found in imports(tree) if found in TREES and found != name}
    for name, tree in TREES.items()
}
GRAPH = {one: set() for one in UNITS}
for module, tree in TREES.items():
    found = {unit(name) for name in imports(tree) if name.startswith(f"{PACKAGE}.")}
    GRAPH[unit(module)] |= (found & UNITS) - {unit(module)}

LAYERS = (
    *("__main__", "cli", "experiments", "inference", "config", "adaptation", "weight_transfer"),
    *("checkpoints", "tasks", "callbacks", "objectives", "optim", "adapters", "heads", "backbones"),
    *("data", "assets", "utils", PACKAGE),
)
SIBLINGS = ({"experiments", "inference"}, {"callbacks", "objectives", "optim"})
TOP_LEVEL = 19  # seventeen folders, __init__ and __main__
ARROWS = 90


def test_each_folder_has_a_layer():
    assert UNITS <= set(LAYERS)
    assert (
        len([path for path in ROOT.iterdir() if path.is_dir() or path.suffix == ".py"])
        - (ROOT / "__pycache__").is_dir()
        <= TOP_LEVEL
    )


def test_imports_point_from_the_top_layer_down():
    upward = [
        f"{above} imports {below}"
        for above, all_below in GRAPH.items()
        for below in all_below
        if LAYERS.index(above) >= LAYERS.index(below)
        or any({above, below} <= siblings for siblings in SIBLINGS)
    ]
    assert upward == []


def test_few_folders_know_each_other():
    assert sum(len(below) for below in GRAPH.values()) <= ARROWS


def reached(start):
    """Modules that the modules whose names begin with ``start`` import, directly or not."""
    inside = {name for name in TREES if name == start or name.startswith(f"{start}.")}
    seen, ahead = set(), set().union(*(MODULES[name] for name in inside))
    while ahead:
        one = ahead.pop()
        seen.add(one)
        ahead |= MODULES[one] - seen
    return seen - inside


def test_no_two_modules_import_each_other():
    assert [one for one in TREES if one in reached(one)] == []


def test_no_two_files_share_a_name():
    names = [path.stem for path in ROOT.rglob("*.py") if path.stem != "__init__"]
    assert [name for name in names if names.count(name) > 1] == []


def test_no_two_classes_share_a_name():
    names = [n.name for t in TREES.values() for n in ast.walk(t) if isinstance(n, ast.ClassDef)]
    assert [name for name in names if names.count(name) > 1] == []


@pytest.mark.parametrize(
    ("part", "allowed"),
    [
        ("experiments.results", {"utils.atomic_files", "utils.tables"}),
        ("experiments.plan", {"utils.suggestions"}),
        ("experiments.report.curves", {"utils", "experiments.results"}),
        ("utils.tables", set()),
        (
            "experiments.sweeps.job_records",
            {"utils", "experiments.results", "experiments.run_folder"},
        ),
        ("utils.allowed_targets", {"utils.suggestions"}),
        ("callbacks", {"assets", "utils"}),
        ("data", {"assets", "utils"}),
        ("adapters", {"backbones", "utils", "assets"}),
        ("backbones.layer_layout", {"backbones.partial_forward"}),
        ("backbones.lm_heads", set()),
        ("backbones.masked_lm", set()),
        ("backbones.partial_forward", set()),
        ("backbones.cpu", {"utils.modes"}),
        ("assets", {"utils"}),
        ("heads.pooling", set()),
        ("utils", set()),
        ("utils.atomic_files", set()),
        ("utils.labels", set()),
        ("utils.modes", set()),
    ],
)
def test_a_part_knows_no_more_than_it_has_to(part, allowed):
    ours = {name.removeprefix(f"{PACKAGE}.") for name in reached(f"{PACKAGE}.{part}")}
    foreign = {
        name
        for name in ours
        if not any(name == one or name.startswith(f"{one}.") for one in allowed)
    }
    assert foreign == set()


KNOW_HYDRA = (
    *("cli.command_line", "cli.job", "cli.commands", "config.private_apis"),
    *("config.instantiate", "experiments.sweeps.sweepers"),
)


def test_only_the_command_line_the_config_and_the_sweepers_know_hydra():
    users = {
        name
        for name, tree in TREES.items()
        if {found.split(".")[0] for found in imports(tree)} & {"hydra", "omegaconf"}
    }
    assert users == {f"{PACKAGE}.{name}" for name in KNOW_HYDRA}


def test_imports_are_absolute():
    relative = [
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_an_import_does_nothing_but_import():
    """No bare call and no change of another module's values on the top level of a module."""
    acting = []
    for name, tree in TREES.items():
        for node in tree.body:
            call = isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
            targets = node.targets if isinstance(node, ast.Assign) else []
            foreign = any(isinstance(target, ast.Subscript | ast.Attribute) for target in targets)
            if call or foreign or isinstance(node, ast.For | ast.While | ast.With | ast.Delete):
                acting.append(f"{name}, line {node.lineno}")
    assert acting == []


LIGHT = (
    *("cli.command_line", "cli.help_text", "cli.error_messages", "cli.process", "cli.arguments"),
    *("cli.job", "cli.console_handler", "experiments.sweeps.job_records"),
    *("experiments.sweeps.sweep_table", "experiments.sweeps.sweepers", "experiments.plan"),
    *("experiments.results", "experiments.run_folder", "utils.labels", "utils.atomic_files"),
    *("utils.allowed_targets", "utils.suggestions", "assets"),
)
HEAVY = {"torch", "lightning", "transformers", "torchmetrics", "datasets"}


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        (
            ("lightning_transfer", "lightning_transfer.cli.command_line"),
            HEAVY | {"hydra", "omegaconf"},
        ),
        (tuple(f"{PACKAGE}.{name}" for name in LIGHT), HEAVY),
    ],
)
def test_what_answers_at_once_imports_nothing_heavy(modules, forbidden):
    script = f"import json, sys, {', '.join(modules)}; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    loaded = {name.split(".")[0] for name in json.loads(output)}
    assert loaded & forbidden == set()


LATE = {
    *("datasets", "pandas", "matplotlib", "scipy", "sklearn"),
    *("wandb", "optuna", "peft", "captum", "onnx", "onnxruntime"),
}


def test_what_is_slow_to_import_is_imported_where_it_is_used():
    """And not on the top level: every run would wait for it, needed or not."""
    found = []
    own = {f"{PACKAGE}.experiments.sweeps.study"}  # which is itself imported where there is a study
    for name, tree in TREES.items():
        top = ast.Module([node for node in tree.body if not isinstance(node, ast.If)], [])
        inner = [node for node in ast.walk(top) if isinstance(node, ast.FunctionDef)]
        later = {id(node) for function in inner for node in ast.walk(function)}
        for node in ast.walk(top):
            if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in later:
                names = {one.split(".")[0] for one in imports(ast.Module([node], []))}
                found += [f"{name}: {one}" for one in sorted(names & LATE)]
    assert [one for one in found if one.partition(":")[0] not in own] == []


@pytest.mark.parametrize("name", SUBPACKAGES)
def test_a_subpackage_says_what_it_offers(name):
    package = importlib.import_module(name)
    assert sorted(package.__all__) == list(package.__all__)
    assert len(set(package.__all__)) == len(package.__all__)
    for public in package.__all__:
        found = getattr(package, public)
        assert getattr(found, "__module__", name).startswith(name), public


@pytest.mark.parametrize("name", [name for name in TREES if not name.endswith("__main__")])
def test_every_module_imports_and_says_what_it_is(name):
    assert importlib.import_module(name).__doc__
