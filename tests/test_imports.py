"""Imports between the folders of the package: order, cost, side effects and public names."""

import ast
import importlib
import json
import re
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
    """Yield the dotted names of all imports of a module, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def unit(name):
    """Return the top-level folder or module of the package that contains a module."""
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
"""Folders from the top layer to the bottom; imports point down."""
SIBLINGS = ({"experiments", "inference"}, {"callbacks", "objectives", "optim"})
TOP_LEVEL = 19  # seventeen folders, __init__ and __main__
ARROWS = 90  # pairs of folders, one of which imports the other; lower it when there are fewer


def test_each_folder_is_in_a_layer():
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


def test_few_folders_import_each_other():
    assert sum(len(below) for below in GRAPH.values()) <= ARROWS


def reached(start):
    """Return the modules imported by a module or folder, directly or indirectly."""
    inside = {name for name in TREES if name == start or name.startswith(f"{start}.")}
    seen, pending = set(), set().union(*(MODULES[name] for name in inside))
    while pending:
        one = pending.pop()
        seen.add(one)
        pending |= MODULES[one] - seen
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
def test_part_imports_only_allowed_modules(part, allowed):
    ours = {name.removeprefix(f"{PACKAGE}.") for name in reached(f"{PACKAGE}.{part}")}
    foreign = {
        name
        for name in ours
        if not any(name == one or name.startswith(f"{one}.") for one in allowed)
    }
    assert foreign == set()


USE_HYDRA = (
    *("cli.command_line", "cli.job", "cli.commands", "config.private_apis"),
    *("config.instantiate", "experiments.sweeps.sweepers"),
)


def test_only_command_line_config_and_sweepers_import_hydra():
    users = {
        name
        for name, tree in TREES.items()
        if {found.split(".")[0] for found in imports(tree)} & {"hydra", "omegaconf"}
    }
    assert users == {f"{PACKAGE}.{name}" for name in USE_HYDRA}


def test_imports_are_absolute():
    relative = [
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_import_has_no_side_effects():
    """No bare call and no change of another module's values at the top level of a module."""
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
def test_light_modules_import_no_heavy_library(modules, forbidden):
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


def test_slow_libraries_are_imported_inside_functions():
    """At the top level, every run would wait for the import."""
    found = []
    own = {f"{PACKAGE}.experiments.sweeps.study"}  # imported only by sweeps with Optuna
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
def test_all_of_a_folder_lists_its_public_names(name):
    package = importlib.import_module(name)
    assert sorted(package.__all__) == list(package.__all__)
    assert len(set(package.__all__)) == len(package.__all__)
    for public in package.__all__:
        found = getattr(package, public)
        assert getattr(found, "__module__", name).startswith(name), public


@pytest.mark.parametrize("name", [name for name in TREES if not name.endswith("__main__")])
def test_every_module_can_be_imported_and_has_a_docstring(name):
    assert importlib.import_module(name).__doc__


# In configs, their header comments and READMEs: _target_, LightningCLI's class_path, and the class
# of a log handler.
TARGET = re.compile(r"(?:_target_\s*[:=]|class_path:|^\s*class:)\s*([A-Za-z_][\w.]*)", re.MULTILINE)
LIBRARIES = {"hydra_plugins", "lightning", "logging", "optuna", "torch"}


def targets():
    """Yield each file of conf/ and examples/ with the dotted name of each of its targets."""
    for folder in ("conf", "examples"):
        for path in sorted((ROOT.parent / folder).rglob("*")):
            if path.suffix in (".yaml", ".md"):
                for name in TARGET.findall(path.read_text(encoding="utf-8")):
                    yield path.relative_to(ROOT.parent), name


def test_configs_use_public_import_paths():
    """``lightning_transfer.<folder>.<Name>``, with the name in ``__all__`` of the folder."""
    found = list(targets())
    private = []
    for path, name in found:
        first, *rest = name.split(".")
        if first == PACKAGE:
            folder, public = rest[0], rest[1:2]
            package = importlib.import_module(f"{PACKAGE}.{folder}")
            ok = public and public[0] in package.__all__
        elif path.parts[0] == "examples" and first not in LIBRARIES:
            # A module of the example itself.
            ok = (ROOT.parent / Path(*path.parts[:2]) / f"{first}.py").is_file()
        else:
            ok = first in LIBRARIES
        if not ok:
            private.append(f"{path}: {name}")
    assert len(found) > 100
    assert private == []
