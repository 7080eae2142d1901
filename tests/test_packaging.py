"""Wheel: it contains all files of the package, and works outside of the checkout."""

import email
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import lightning_transfer

ROOT = Path(lightning_transfer.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def package_of(folder):
    """Return the package of a folder; ``conf`` is installed below ``lightning_transfer``."""
    name = ".".join(folder.relative_to(ROOT).parts)
    return f"lightning_transfer.{name}" if name.startswith("conf") else name


def expected_files():
    """Return path in the wheel to path in the tree, for modules, configs and ``py.typed``."""
    files = {}
    for folder, prefix in (("lightning_transfer", ""), ("conf", "lightning_transfer/")):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".yaml") or path.name == "py.typed":
                files[prefix + path.relative_to(ROOT).as_posix()] = path
    return files


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Wheel built from a copy, because a build in the tree would leave its folders there."""
    pytest.importorskip("setuptools", "77", reason="setuptools>=77 builds the wheel")
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", PROJECT["project"]["readme"], "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("lightning_transfer", "conf"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = f"import setuptools.build_meta as b; b.build_wheel({str(out)!r})"
    built = subprocess.run(
        [sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    [path] = out.glob("*.whl")
    return path


def test_packages_are_the_folders_with_an_init():
    folders = [
        path.parent
        for top in ("lightning_transfer", "conf")
        for path in (ROOT / top).rglob("__init__.py")
    ]
    assert sorted(map(package_of, folders)) == SETUPTOOLS["packages"]


def test_every_module_is_in_a_listed_package():
    modules = (ROOT / "lightning_transfer").rglob("*.py")
    assert {package_of(path.parent) for path in modules} <= set(SETUPTOOLS["packages"])


def test_wheel_contains_every_module_and_config_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        content = {name for name in archive.namelist() if ".dist-info/" not in name}
        expected = expected_files()
        assert content == set(expected)
        assert len([name for name in content if name.endswith(".yaml")]) > 20
        assert "lightning_transfer/py.typed" in content
        for name, path in expected.items():
            assert archive.read(name) == path.read_bytes(), name


def test_metadata_of_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        [info] = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
        assert f"{info}/licenses/LICENSE" in archive.namelist()
    assert metadata["Name"] in ("lightning_transfer", "lightning-transfer")
    assert metadata["Version"] == lightning_transfer.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert "lightning-transfer = lightning_transfer.cli:main" in entry_points
    required = set(metadata.get_all("Requires-Dist"))
    for pin in ("torch>=2.10", "transformers>=5.3", "lightning!=2.6.2,!=2.6.3,>=2.6"):
        assert pin in required
    assert any(name.startswith("wandb") and "extra" not in name for name in required)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--help"], "Commands:"),
        (["fit", "+experiment=news_to_movies", "--cfg", "job"], "name: news_to_movies"),
        (["list"], "news_to_movies"),
    ],
)
def test_wheel_works_outside_of_the_checkout(wheel, tmp_path, arguments, shown):
    installed = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    origin = "import lightning_transfer; print(lightning_transfer.__file__)"
    for command, expected in (
        (["-c", origin], str(installed)),
        (["-m", "lightning_transfer", *arguments], shown),
    ):
        ran = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        assert expected in ran.stdout
