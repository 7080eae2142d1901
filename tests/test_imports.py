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
    """The part of the package that a module belongs to: ``data`` for ``…data.files``."""
    return name.split(".")[1] if "." in name else name


UNITS = {unit(name) for name in TREES}
GRAPH = {one: set() for one in UNITS}
for module, tree in TREES.items():
    found = {unit(name) for name in imports(tree) if name.startswith(f"{PACKAGE}.")}
    GRAPH[unit(module)] |= (found & UNITS) - {unit(module)}


def reached(start):
    """Units that a unit imports, directly or not."""
    seen, ahead = set(), set(GRAPH[start])
    while ahead:
        one = ahead.pop()
        seen.add(one)
        ahead |= GRAPH[one] - seen
    return seen


CHAIN = [
    {"cli"},
    {"run"},
    {"stages"},
    {"tasks"},
    {"heads", "objectives", "backbone", "optim"},
    {"pooling"},
]


@pytest.mark.parametrize("level", range(len(CHAIN)))
def test_imports_run_down_the_chain(level):
    above = set().union(*CHAIN[: level + 1])
    for one in CHAIN[level]:
        assert reached(one) & above == set(), one


def test_no_two_parts_import_each_other():
    assert [one for one in GRAPH if one in reached(one)] == []


BACKBONE = {
    *("backbone", "architectures", "kernels", "lm_head", "modes", "pretrained", "replay"),
    *("masked_lm", "stack_model", "warm_start"),
}
MODEL = BACKBONE | {"heads", "tasks", "objectives", "optim", "pooling", "callbacks"}


@pytest.mark.parametrize(
    ("part", "forbidden"),
    [
        ("data", MODEL | {"checkpoint", "loading", "export", "stages"}),
        ("callbacks", BACKBONE | {"heads", "tasks", "objectives", "data", "stages"}),
        ("results", UNITS - {"files"}),
        ("curves", UNITS - {"files", "results"}),
        ("size_curves", UNITS - {"files", "results"}),
        ("jobs", UNITS - {"files", "results", "runfolder"}),
        ("console", UNITS),
        ("sweep_table", UNITS - {"console", "files", "results", "runfolder", "jobs"}),
        ("slots", UNITS - {"hints"}),
        ("activations", UNITS - {"files"}),
        ("adapters", UNITS - {"hints", "kernels", "modes"}),
        ("architectures", UNITS - {"replay"}),
        ("lm_head", UNITS),
        ("masked_lm", UNITS),
        ("pretrained", UNITS - {"assets", "lm_head"}),
        ("replay", UNITS),
        ("assets", UNITS),
        ("checkpoint", UNITS - BACKBONE - {"assets", "files", "labels"}),
        ("files", UNITS),
        ("kernels", UNITS - {"modes"}),
        ("labels", UNITS),
        ("modes", UNITS),
        ("pooling", UNITS),
        ("plan", UNITS),
    ],
)
def test_a_part_knows_no_more_than_it_has_to(part, forbidden):
    assert reached(part) & (forbidden - {part}) == set()


KNOW_HYDRA = ("cli", "job", "parts", "run", "sweepers")


def test_only_the_command_line_its_jobs_sweepers_run_and_parts_know_hydra():
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
    *("cli", "listing", "hints", "mistakes", "process", "arguments"),
    *("job", "jobs", "sweep_table", "sweepers"),
    *("labels", "plan", "files", "results", "slots", "assets", "runfolder", "logs"),
)
HEAVY = {"torch", "lightning", "transformers", "torchmetrics", "datasets"}


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        (("lightning_transfer", "lightning_transfer.cli"), HEAVY | {"hydra", "omegaconf"}),
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
    own = {f"{PACKAGE}.trials"}  # which is itself imported where there is a study
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
