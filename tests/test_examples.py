"""Examples, run with a tiny model instead of MiniLM."""

import csv
import importlib.util
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from lightning_transfer.checkpoints import load
from lightning_transfer.cli import main
from tests.conftest import make_rows

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = [
    pytest.mark.jobs,
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:Starting from v1.9.0, `tensorboardX`"),
    pytest.mark.filterwarnings("ignore:The variance of predictions or target is close to zero"),
]


@pytest.fixture(scope="module")
def snippets(tmp_path_factory):
    """File in the format of the packaged rated texts: id, rating and text."""
    path = tmp_path_factory.mktemp("snippets") / "snippets.txt"
    rows = make_rows(760, seed=1)
    path.write_text("".join(f"{r['id']}_1\t{r['rating']}\t{r['text']}\n" for r in rows))
    return path


@pytest.fixture
def example(request, tmp_path, monkeypatch):
    """Copy of an example's folder, as the working directory."""
    folder = tmp_path / request.param
    shutil.copytree(
        EXAMPLES / request.param, folder, ignore=shutil.ignore_patterns("outputs", "multirun")
    )
    monkeypatch.chdir(folder)
    known = set(sys.modules)
    yield folder
    # Modules of other examples have the same names, so those of this one are forgotten.
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


def load_script(path):
    spec = importlib.util.spec_from_file_location("example_main", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands(readme):
    """Return the arguments of each command in a README after ``python -m lightning_transfer``."""
    text = readme.read_text().replace("\\\n", " ")
    start = "python -m lightning_transfer "
    lines = [line for line in text.splitlines() if line.startswith(start)]
    return [shlex.split(line.removeprefix(start)) for line in lines]


def command(folder, *start):
    """Return the arguments of the one command in a README that begin with ``start``."""
    [found] = [line for line in commands(folder / "README.md") if line[: len(start)] == [*start]]
    return found


def tiny(model):
    return ["backbone=hub", f"backbone.name={model}", "trainer.accelerator=cpu"]


def metrics_of(run):
    [file] = Path(run).glob("stages/*/metrics.csv")
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("example", ["custom_head"], indirect=True)
def test_custom_head_and_callback_are_selected_by_name(example, tiny_folder, snippets, capsys):
    arguments = command(example, "fit", "--config-dir")
    source = f"stages.target.data.source={snippets}"
    assert main([*arguments, *tiny(tiny_folder), source, "hydra.run.dir=run"]) == 0
    assert all(0 < float(row["drift"]) < 1 for row in metrics_of("run") if row["drift"])
    description = json.loads(Path("run/model/lightning_transfer.json").read_text())
    assert description["head"]["class"] == "my_head.AttentionHead"
    capsys.readouterr()
    assert main(["predict", "ckpt=run", "text=a good film"]) == 0
    assert re.fullmatch(r"(negative|neutral|positive)\t-?\d+\.\d{4}\n", capsys.readouterr().out)


@pytest.mark.parametrize("example", ["custom_head"], indirect=True)
def test_sweep_over_a_custom_head_with_a_callback_added_by_class(example, tiny_folder, snippets):
    arguments = command(example, "fit", "-m")
    source = f"stages.target.data.source={snippets}"
    assert main([*arguments, *tiny(tiny_folder), source, "hydra.sweep.dir=runs"]) == 0
    files = [Path(f"runs/{job}/model/lightning_transfer.json") for job in range(2)]
    heads = [json.loads(file.read_text())["head"]["class"] for file in files]
    assert [head.rpartition(".")[2] for head in heads] == ["LinearHead", "AttentionHead"]
    assert "moved" in metrics_of("runs/1")[0]


@pytest.mark.parametrize("example", ["custom_domain"], indirect=True)
def test_custom_domain_is_the_target_of_a_transfer(example, tiny_folder, snippets, capsys):
    arguments = command(example, "fit")
    source = ["train_size=100", "splits={val: 20, test: 40}", f"source={snippets}"]
    source = [f"stages.source.data.{part}" for part in source]
    epochs = ["seeds=[0,1]", "stages.target.epochs=1", "hydra.run.dir=run"]
    assert main([*arguments, *tiny(tiny_folder), *source, *epochs]) == 0
    results = json.loads(Path("run/results.json").read_text())
    rows = {row["name"]: row for row in results["rows"]}
    assert list(rows) == ["source", "zero_shot", "no_source", "transfer"]
    assert rows["transfer"]["n_train"] == 30
    assert rows["transfer"]["n_test"] == 60
    assert results["comparison"]["baseline"] == "no_source"
    capsys.readouterr()
    assert main(["test", "--config-dir", "my_conf", "ckpt=run", "data=cafe"]) == 0
    assert "test · CafeComments · 60 rows" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("example", ["custom_domain"], indirect=True)
def test_error_for_a_bad_row_of_a_custom_domain_has_its_line(example, tiny_folder, capsys):
    text = Path("cafe.csv").read_text().replace("9,1/5,I found", "9,six,I found")
    Path("bad.csv").write_text(text)
    arguments = ["fit", "--config-dir", "my_conf", "data@stages.target.data=cafe"]
    arguments += ["stages.target.data.source=bad.csv", *tiny(tiny_folder), "hydra.run.dir=run"]
    assert main(arguments) == 1
    assert "bad.csv, line 26, column 'stars'" in capsys.readouterr().err


@pytest.mark.parametrize("example", ["plain_lightning"], indirect=True)
def test_plain_lightning_script(example, tiny_folder, snippets):
    score = load_script(example / "main.py").main(str(tiny_folder), source=str(snippets), epochs=1)
    assert -1 <= score <= 1
    [checkpoint] = example.glob("lightning_logs/*/checkpoints/*.ckpt")
    assert load(checkpoint).task.labels.names == ("negative", "neutral", "positive")


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.parametrize("example", ["unfreezing"], indirect=True)
def test_gradual_unfreezing_of_a_custom_module(example, tiny_folder, caplog):
    caplog.set_level("INFO")
    load_script(example / "main.py").main(str(tiny_folder))
    lines = [r.getMessage() for r in caplog.records if " of 3 trains " in r.getMessage()]
    assert [re.search(r"trains (.*), [\d,]+ of", line)[1] for line in lines] == [
        "parameters outside the layers",
        "depths 1-2 and parameters outside the layers",
        "depths 0-2 and parameters outside the layers",
    ]
    starts = [line.partition(":")[0] for line in lines]
    assert starts == ["epoch 1, step 0", "epoch 2, step 8", "epoch 3, step 16"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Lightning 2.6 with jsonargparse 4.53
@pytest.mark.parametrize("example", ["lightning_cli"], indirect=True)
def test_lightning_cli(example, tiny_folder, snippets, monkeypatch):
    arguments = ["fit", "--config", "config.yaml", "--model.name", str(tiny_folder)]
    arguments += ["--data.source", str(snippets), "--trainer.max_epochs", "1"]
    arguments += ["--model.head", "lightning_transfer.heads.MLPHead", "--model.head.dropout", "0.2"]
    monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
    cli = load_script(example / "main.py").main()
    assert cli.model.head.args == {"pooling": "mean", "activation": "tanh", "dropout": 0.2}
    assert cli.trainer.global_step == 16  # 500 rows in batches of 32
    names = {group["name"] for group in cli.trainer.optimizers[0].param_groups}
    assert {"head", "depth 0", "depth 2, no decay"} <= names


@pytest.mark.parametrize(
    "name", [pytest.param("", marks=pytest.mark.slow), "custom_head", "custom_domain"]
)
def test_every_command_of_a_readme_composes(name, tmp_path, monkeypatch, capsys):
    folder = EXAMPLES / name if name else EXAMPLES.parent
    text = (folder / "README.md").read_text()
    if name:
        monkeypatch.chdir(folder)
    else:
        monkeypatch.chdir(tmp_path)
        Path("my_conf").mkdir()
        Path("my_conf/ours.yaml").write_text(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    found = commands(folder / "README.md")
    assert found
    for arguments in found:
        # --cfg shows one job: the first values of a sweep, without its ranges.
        shown = [a for a in arguments if a not in ("-m", "--help") and not re.search(r"=\w+\(", a)]
        shown = [re.sub(r"^([^\[{,]*),.*", r"\1", a) for a in shown]
        assert main([*shown, "--cfg", "job"]) == 0, (arguments, capsys.readouterr().err)
