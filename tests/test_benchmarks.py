"""Benchmarks: their measurements, and each script at a small size."""

import argparse
import dataclasses
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertModel

from tests.conftest import tiny_config

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FIELDS = ["work", "peer", "unit", "ours", "theirs", "ratio", "ours_score", "theirs_score"]


@pytest.fixture(scope="module")
def module():
    """Function that imports a module of the benchmarks by name, as the scripts do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        known = set(sys.modules)
        yield importlib.import_module
        for path in BENCHMARKS.glob("*.py"):  # other tests may import modules of these names
            if path.stem not in known:
                sys.modules.pop(path.stem, None)


def pixels(path):
    """Return the values of a PNG file, float (height, width, channels)."""
    from matplotlib import image

    assert path.read_bytes().startswith(b"\x89PNG")
    return image.imread(path)


def test_assets_are_fetched_before_the_network_is_disabled(module, monkeypatch, tmp_path):
    settings = module("_settings")
    for name in ("HF_HUB_OFFLINE", "OMP_NUM_THREADS", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.setenv(name, "")  # so that monkeypatch restores the value set by the script
        monkeypatch.delenv(name)
    monkeypatch.setenv("LIGHTNING_TRANSFER_CACHE", str(tmp_path / "own"))
    fetched = []

    def fetch(name):
        assert "HF_HUB_OFFLINE" not in os.environ
        fetched.append((name, os.environ["LIGHTNING_TRANSFER_CACHE"]))
        return tmp_path / name

    monkeypatch.setattr("lightning_transfer.assets.fetch", fetch)
    options = settings.parse(settings.make_parser("A script.", rows=8), [])
    work = settings.make_work(options, tmp_path)
    assert work.model == tmp_path / "minilm"
    assert fetched == [(name, str(tmp_path / "own")) for name in ("minilm", "vader")]
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert os.environ["LIGHTNING_TRANSFER_CACHE"] != str(tmp_path / "own")


def test_ratio_is_above_one_if_our_value_is_smaller(module):
    report, turns = module("_report"), module("_turns")
    found = {
        "ours": [turns.Result(2.0, 0.5), turns.Result(9.0, 0.7), turns.Result(1.0, 0.6)],
        "peer": [turns.Result(5.0), turns.Result(6.0), turns.Result(90.0)],
        report.LIMIT: [turns.Result(100.0)],
    }
    [row] = report.compare("work", found, limit=1.0)
    assert list(row.to_dict()) == FIELDS
    assert (row.ours, row.theirs, row.ratio) == (2.0, 6.0, 3.0)  # medians, not means
    assert (row.ours_score, row.theirs_score) == (pytest.approx(0.6), None)
    assert "| 2.00 | 6.00 | 3.00 | 0.600 |  | 50% | 17% |" in report.table([row])


def test_sides_run_in_turn_with_the_same_seeds(module, monkeypatch):
    turns = module("_turns")
    calls = []
    monkeypatch.setattr(
        turns.gc, "collect", lambda: None
    )  # slow with the objects of all other tests

    def side(name):
        return lambda seed: calls.append((name, seed)) or turns.Result(float(seed))

    found = turns.in_turn({"a": side("a"), "b": side("b")}, repeats=2)
    assert calls == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert [result.value for result in found["b"]] == [0.0, 1.0]


def test_report_writes_json_and_a_plot_with_curves(module, tmp_path, capsys):
    report = module("_report")
    rows = [report.Row("work", "peer", "s", 0.5, 1.5), report.Row("other", "peer", "MiB", 3e3, 2e3)]
    options = argparse.Namespace(json=tmp_path / "rows.json", plot=tmp_path / "rows.png")
    report.report(rows, options, curves={"µs per token": {1024: 1.0, 2048: 1.1}})
    assert [row["ratio"] for row in json.loads(options.json.read_text())] == [3.0, 2 / 3]
    assert pixels(options.plot).std() > 0.05
    assert "| other | peer | MiB | 3,000 | 2,000 | 0.67 |" in capsys.readouterr().out


def test_limit_counts_the_matrix_products_of_a_bert_layer(module):
    config = tiny_config()
    limit = module("_limit").MatmulLimit(config, tokens=8, seconds=0.001)
    model = BertModel(config, add_pooling_layer=False)
    ids = torch.randint(5, 20, (2, 9))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids)
    assert limit.forward([9, 9]) == counter.get_total_flops()
    assert limit.train([9, 9], layers=1) == 3 * counter.get_total_flops() / 2
    assert limit.measure() > 0
    assert limit.time_of(limit.gflops * 2e9) == pytest.approx(2.0)


def test_speed_is_the_median_of_its_measurements(module, monkeypatch):
    limit = module("_limit").MatmulLimit(tiny_config(), tokens=1)
    layer = 6 * (4 * 16 * 16 + 2 * 16 * 32)  # forward and both gradients, for one token
    for seconds in (1e-6, 3e-6, 2e-6):
        monkeypatch.setattr(limit, "_seconds", lambda wide, out, s=seconds: s / 6)
        limit.measure()
    assert limit.gflops == pytest.approx(layer / 2e-6 / 1e9)


def test_buckets_contain_each_row_once_and_rows_of_similar_length(module):
    buckets = module("_hf").buckets
    lengths = [3, 30, 4, 29, 5, 28, 6]
    rows = [{"input_ids": [1] * length} for length in lengths]
    batches = buckets(rows, 2, seed=0)
    assert sorted(position for batch in batches for position in batch) == list(range(7))
    spreads = [max(lengths[p] for p in b) - min(lengths[p] for p in b) for b in batches]
    assert sorted(spreads) == [0, 1, 1, 1]
    assert len({str(buckets(rows, 2, seed=seed)) for seed in range(5)}) > 1


def test_best_size_is_the_fastest_batch_size(module, monkeypatch):
    turns = module("_turns")
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(turns.time, "perf_counter", lambda: clock.now)

    def run(texts, size):
        clock.now += abs(size - 16) + 1

    assert turns.best_size(run, ["a"]) == 16


@pytest.mark.parametrize(("epochs", "found"), [(8, (3, 5)), (3, (1, 2)), (2, (1, 2)), (9, (3, 6))])
def test_each_phase_has_a_third_of_the_epochs(module, epochs, found):
    assert module("gradual").starts(epochs) == found


@pytest.fixture
def work(module, tmp_path):
    tiny, settings = module("_tiny"), module("_settings")
    files = [tiny.write_texts(tmp_path / name, name, rows=200) for name in ("movies", "news")]
    return settings.Work(
        tiny.write_model(tmp_path / "model"), *files, rows=32, epochs=2, batch_size=8, test=8
    )


def test_peers_train_on_the_same_rows(module, work):
    ours = module("_ours")
    data = ours.movies(work, seed=1)
    rows = ours.rows_of(data)
    texts, classes = ours.texts_of(data)
    tokens = data.tokenizer(texts, truncation=True, max_length=work.max_length)["input_ids"]
    assert [row["input_ids"] for row in rows] == tokens
    assert [row["labels"] for row in rows] == classes
    seen = sorted(int(label) for batch in data.train_dataloader() for label in batch["labels"])
    assert len(rows) == 32
    assert seen == sorted(classes)
    others = ours.movies(work, seed=2)
    assert ours.rows_of(others) != rows
    assert ours.rows_of(others, "test") == ours.rows_of(data, "test")
    assert not {str(row["input_ids"]) for row in rows} & {
        str(row["input_ids"]) for row in ours.rows_of(data, "test")
    }


def test_all_sides_have_the_same_initial_weights(module, work):
    ours, hf, lightning = module("_ours"), module("_hf"), module("_lightning")
    data = ours.movies(work, seed=0)
    task = ours.make_task(work, data, seed=0)
    theirs, plain = hf.pretrained(work, seed=0), lightning.Plain(work, seed=0)
    peers = (theirs.base_model.state_dict(), plain.backbone.state_dict())
    own = task.backbone.model.state_dict()
    assert all(torch.equal(own[name], peer[name]) for peer in peers for name in own)
    dense = task.head.dense.weight
    assert torch.equal(dense, theirs.base_model.pooler.dense.weight)
    assert torch.equal(dense, plain.head[0].weight)
    outputs = (task.head.out, theirs.classifier, plain.head[-1])
    assert all(torch.equal(outputs[0].weight, out.weight) for out in outputs)
    assert not torch.equal(outputs[0].weight, ours.make_task(work, data, seed=1).head.out.weight)
    assert not any(out.bias.any() for out in outputs)
    sizes = [sum(p.numel() for p in side.parameters()) for side in (task, theirs, plain)]
    assert len(set(sizes)) == 1


def test_ours_ends_with_the_weights_of_the_plain_loop(module, work, tmp_path, monkeypatch):
    ours, hf = module("_ours"), module("_hf")
    work = dataclasses.replace(work, epochs=1)
    path = work.model / "config.json"
    settings = json.loads(path.read_text())
    settings |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    path.write_text(json.dumps(settings))
    data = ours.movies(work, seed=0)
    task = ours.make_task(work, data, seed=0)
    task.head.dropout.p = 0.0
    before = {name: weight.clone() for name, weight in named_as_peers(task).items()}
    batches = list(data.train_dataloader().batch_sampler)
    ours.fit(task, data, folder=tmp_path, epochs=1, callbacks=ours.activation_cache())
    after = {}
    monkeypatch.setattr(hf, "buckets", lambda *arguments, **options: batches)
    monkeypatch.setattr(hf, "accuracy", lambda model, *rest: after.update(model.state_dict()))
    hf.plain_loop(work, ours.rows_of(data), [], seed=0)
    own = named_as_peers(task)
    assert set(own) == set(after)
    difference = max(float((own[name] - after[name]).abs().max()) for name in own)
    change = max(float((own[name] - before[name]).abs().max()) for name in own)
    assert len(batches) > 2
    assert difference < change / 50, (difference, change)


def named_as_peers(task):
    """Return the weights of our task by their names in transformers."""
    heads = {"dense": "bert.pooler.dense", "out": "classifier"}
    named = {}
    for name, weight in task.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "backbone":
            named[f"bert.{rest.removeprefix('model.')}"] = weight
        elif part == "head":
            layer, _, kind = rest.partition(".")
            named[f"{heads[layer]}.{kind}"] = weight
    return named


def test_frozen_peer_trains_as_many_parameters_as_our_head(module, work):
    ours, hf = module("_ours"), module("_hf")
    head = ours.make_task(work, ours.movies(work, seed=0), seed=0).head
    model = hf.pretrained(work, seed=0)
    hf.freeze_encoder(model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == sum(p.numel() for p in head.parameters())


@pytest.mark.filterwarnings("ignore:Found .* module.* in eval mode")
def test_lightning_peer_unfreezes_in_train_mode(module, work):
    lightning = module("_lightning")
    schedule = lightning.Schedule(top=1, all_from=2)
    plain = lightning.Plain(work, seed=0)
    schedule.freeze_before_training(plain)
    optimizer = plain.configure_optimizers()
    heads = sum(p.numel() for p in plain.head.parameters())
    layers = plain.backbone.encoder.layer
    assert sum(p.numel() for g in optimizer.param_groups for p in g["params"]) == heads
    schedule.finetune_function(plain, 1, optimizer)
    assert [layer.training for layer in layers] == [False, True, True]
    assert not any(p.requires_grad for p in layers[0].parameters())
    schedule.finetune_function(plain, 2, optimizer)
    assert all(p.requires_grad for p in plain.parameters())
    assert plain.backbone.embeddings.training
    assert {group["lr"] for group in optimizer.param_groups} == {work.lr}
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    assert count == len(list(plain.parameters()))


def test_texts_are_repeated_until_there_are_enough_rows(module, work, tmp_path):
    scaling = module("_scaling")
    path = scaling.repeat(work, 900, tmp_path)
    texts = [line.split("\t")[2] for line in path.read_text().splitlines()]
    assert len(set(texts)) == len(texts) >= 900


def test_count_below_one_is_an_error(module, capsys):
    settings = module("_settings")
    parser = settings.make_parser("About.\n", rows=8)
    with pytest.raises(SystemExit):
        settings.parse(parser, ["--repeats", "0"])
    assert "--repeats must be >= 1, got 0" in capsys.readouterr().err


def test_peak_memory_includes_freed_memory():
    script = "import memory; block = b'x' * (300 << 20); del block; print(memory.peak())"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=BENCHMARKS, capture_output=True, text=True, check=True
    )
    assert 300 < float(done.stdout) < 400


def test_error_of_a_failed_child_has_its_stderr(module, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys; sys.exit('no such luck')")
    with pytest.raises(RuntimeError, match="no such luck"):
        module("_turns").run_child(script, [])


def test_cpu_table_has_the_ratio_to_all_pieces(module, monkeypatch, tmp_path):
    cpu, turns = module("cpu"), module("_turns")
    seconds = dict(zip((cpu.ALL, *cpu.PIECES), (2.0, 3.0, 2.5, 2.2, 1.0), strict=True))
    monkeypatch.setattr(cpu, "_side", lambda piece, *_: lambda seed: turns.Result(seconds[piece]))
    options = argparse.Namespace(tiny=False, rows=8, repeats=2, pieces=cpu.PIECES)
    rows = cpu.measure(options, tmp_path)
    assert [row.without for row in rows[:5]] == [cpu.ALL, *cpu.PIECES]
    assert [(row.experiment, row.stage) for row in rows[::5]] == [
        ("news_topics", "target"),
        ("spam_low_resource", "source"),
    ]
    assert [row.ratio for row in rows[:5]] == [1.0, 1.5, 1.25, 1.1, 0.5]
    assert rows[1].values == (3.0, 3.0)
    assert "| news_topics | target |  | 2.0 | 1.00 |" in cpu.table(rows)
    assert "| spam_low_resource | source | `memory` | 1.0 | 0.50 |" in cpu.table(rows)


def test_cpu_pieces_are_left_out(module):
    """In a forked process each, because the replacement lasts until its end."""
    script = """
import json, os, sys
import cpu
from torch import nn
from transformers import BertConfig, BertModel
model = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2))

def left_out(piece):
    cpu.leave_out(piece)
    from lightning_transfer.backbones import cpu as pieces
    from lightning_transfer.experiments import fitting
    from lightning_transfer.tasks import transfer_module
    pieces.install(model)
    layer = model.encoder.layer[0]
    found = {
        "attention": layer.attention.self.config._attn_implementation != "sdpa",
        "dropout": type(layer.output.dropout) is not nn.Dropout,
        "first_token": pieces.first_token_only.__module__ != "cpu",
        "memory": transfer_module.keep_freed_memory.__module__ != "cpu"
        and fitting.release_freed_memory.__module__ != "cpu",
    }
    return [name for name, there in found.items() if not there]

for piece in cpu.PIECES:
    if os.fork() == 0:
        print(json.dumps([piece, left_out(piece)]), flush=True)
        os._exit(0)
    os.wait()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=BENCHMARKS, capture_output=True, text=True
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found == [[piece, [piece]] for piece in module("cpu").PIECES], done.stderr


@pytest.mark.slow
def test_cpu_script_at_a_small_size(tmp_path):
    out = tmp_path / "rows.json"
    options = ["--tiny", "--rows", "24", "--repeats", "1", "--threads", "1", "--json", str(out)]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "cpu.py"), *options, "--pieces", "first_token"],
        env={**os.environ, "LIGHTNING_TRANSFER_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())
    assert [row["without"] for row in rows] == 2 * ["all pieces", "first_token"]
    for start in (0, 2):
        for row in rows[start : start + 2]:
            assert row["seconds"] > 0
            assert row["ratio"] == pytest.approx(row["seconds"] / rows[start]["seconds"])
            assert f"| {row['experiment']} | {row['stage']} |" in done.stdout


SCRIPTS = {
    "throughput": ["--scaling", "--scale-rows", "16", "32", "--scale-layers", "1", "2"],
    "frozen": ["--epochs", "2"],
    "gradual": ["--epochs", "3", "--news", "32", "--every", "10 %", "20 %", "--val", "30"],
    "predict": ["--news", "32"],
    "startup": [],
    "memory": [],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_script_at_a_small_size(name, tmp_path):
    for extra in ("sentence_transformers", "sklearn", "accelerate"):
        pytest.importorskip(extra)
    out, picture = tmp_path / "rows.json", tmp_path / "rows.png"
    sizes = ["--rows", "64", "--test", "40", "--repeats", "1", "--threads", "1"]
    options = ["--tiny", *sizes, "--json", str(out), "--plot", str(picture)]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), *options, *SCRIPTS[name]],
        env={**os.environ, "LIGHTNING_TRANSFER_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())
    assert rows
    for row in rows:
        assert list(row) == FIELDS
        assert row["ours"] > 0
        assert row["ratio"] == pytest.approx(row["theirs"] / row["ours"])
        assert f"| {row['work']} | {row['peer']} | {row['unit']} |" in done.stdout
        for score in (row["ours_score"], row["theirs_score"]):
            assert score is None or 0 <= score <= 1
    assert pixels(picture).std() > 0.05
