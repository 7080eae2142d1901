"""Compare the strategies on news -> movies: score, what trains, seconds, peak memory.

python benchmarks/finetuning.py

The source stage is trained once. Then each strategy trains the target stage from it, with the same
rows, epochs and seeds, and keeps the weights of the last step; only the learning rate is its own,
chosen among a few by validation rows and a seed that is not reported. Every job is a process of its
own. A job that is done already is not run again, so that the script can be stopped and started.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scipy import stats

from lightning_transfer.checkpoints.checkpoint_io import read_checkpoint

STRATEGIES = {
    "full": (3e-5, 1e-4),
    "ulmfit": (3e-5, 1e-4, 3e-4, 1e-3),
    "frozen": (1e-3, 3e-3),
    "last_two": (1e-4, 3e-4),
    "gradual": (1e-5, 3e-5, 1e-4),
    "chain_thaw": (1e-4,),
    "l2_sp": (3e-5,),
    "bitfit": (1e-3,),
    "lora": (1e-3, 3e-3),
    "ia3": (5e-3,),
    "prefix": (5e-3,),
    "bottleneck": (1e-3,),
}
"""Strategy to the learning rates that it may choose from; one alone is not chosen."""
SEEDS = 5
CHOOSING_SEED = 100


def main() -> None:
    """Run what is missing, and print the table."""
    options = _options()
    folder = options.folder.absolute()
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // options.jobs))
    source = _source(folder)
    with ThreadPoolExecutor(options.jobs) as pool:
        chosen = list(pool.map(lambda name: _choose(folder, source, name), options.strategies))
        rates = dict(zip(options.strategies, chosen, strict=True))
        more = [name for name in rates if name in options.more]
        sizes = [(labels, name) for labels in (128, 512) for name in more]
        sizes += [(128, name) for name in rates if name not in more]

        def target(job: tuple[int, str]) -> Path:
            labels, name = job
            count = SEEDS if name in more else options.seeds
            return _target(folder, source, labels, name, rates[name], count=count)

        runs = list(pool.map(target, sizes))
    rows = [
        {"strategy": name, "labels": labels, "lr": rates[name], **_measured(run, source)}
        for (labels, name), run in zip(sizes, runs, strict=True)
    ]
    print(_table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=STRATEGIES)
    parser.add_argument(
        "--more", nargs="*", default=["full", "ulmfit"], help="with 5 seeds, and 512 labels too"
    )
    parser.add_argument("--seeds", type=int, default=3, help="of the others")
    parser.add_argument("--jobs", type=int, default=1, help="at a time; they share the cores")
    parser.add_argument("--folder", type=Path, default=Path("outputs/strategies"))
    parser.add_argument("--json", type=Path, help="where to write the rows")
    return parser.parse_args()


def _source(folder: Path) -> Path:
    """Train the source stage, and return its weights."""
    _fit(folder / "source", ["order=[source]", "seeds=[0]"])
    return folder / "source/stages/source-seed0/final.ckpt"


def _choose(folder: Path, source: Path, name: str) -> float:
    """Return the learning rate that validates best with a seed of its own."""
    if len(STRATEGIES[name]) == 1:
        return STRATEGIES[name][0]
    best = {}
    for rate in STRATEGIES[name]:
        run = folder / "choosing" / f"{name}-{rate:g}"
        words = [f"seeds=[{CHOOSING_SEED}]", "stages.target.data.splits={val: 1000, test: 50}"]
        words.append("trainer.check_val_every_n_epoch=10")  # which is the last
        _fit(run, [*_words(source, name, 128, rate), *words])
        logged = (run / f"stages/target-seed{CHOOSING_SEED}/metrics.csv").read_text().splitlines()
        column = logged[0].split(",").index("val/pearson")
        last = [line.split(",")[column] for line in logged[1:] if line.split(",")[column]][-1]
        best[rate] = float(last)
    rate = max(best, key=lambda rate: best[rate])
    print(
        f"{name}: " + ", ".join(f"{r:g} validates at {v:.3f}" for r, v in best.items()), flush=True
    )
    return rate


def _target(folder: Path, source: Path, labels: int, name: str, rate: float, *, count: int) -> Path:
    """Train and test with some seeds, and return the run folder."""
    run = folder / f"{name}-{labels}"
    seeds = ",".join(map(str, range(count)))
    words = [f"seeds=[{seeds}]", "stages.target.data.splits={val: 0, test: 2000}"]
    _fit(run, [*_words(source, name, labels, rate), *words])
    print(f"{name} with {labels} labels is done", flush=True)
    return run


def _words(source: Path, name: str, labels: int, rate: float) -> list[str]:
    return [
        "order=[target]",
        f"stages.target.init_from={source}",
        f"finetuning@stages.target.finetuning={name}",
        f"stages.target.data.train_size={labels}",
        f"stages.target.optimizer.lr={rate}",
        f"stages.target.epochs={10 if labels <= 128 else 5}",
        "stages.target.keep=last",
    ]


def _fit(run: Path, words: Sequence[str]) -> None:
    """Run a job in a process of its own, unless it is done; note its peak memory."""
    if (run / "benchmark.json").is_file():
        return
    shutil.rmtree(run, ignore_errors=True)
    command = [sys.executable, "-m", "lightning_transfer", "fit", "+experiment=news_to_movies"]
    own = [
        "~baselines.zero_shot",
        "~baselines.no_source",
        "comparison.baseline=null",
        f"hydra.run.dir={run}",
    ]
    run.parent.mkdir(parents=True, exist_ok=True)
    with run.with_name(f"{run.name}.out").open("w") as out:
        process = subprocess.Popen([*command, *own, *words], stdout=out, stderr=out)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{run} failed:\n{run.with_suffix('.out').read_text()}")
    (run / "benchmark.json").write_text(json.dumps({"peak_mib": used.ru_maxrss / 1024}))


def _measured(run: Path, source: Path) -> dict[str, object]:
    found = json.loads((run / "results.json").read_text())["rows"][-1]
    score = found["metrics"]["pearson"]
    [first, *others] = sorted(run.glob("stages/target-seed*/final.ckpt"))
    return {
        "pearson": score["mean"],
        "ci95": score["ci95"],
        "values": score["values"],
        "trained": _moved(first, source),
        "seconds": found["seconds"],
        "runs": 1 + len(others),
        **json.loads((run / "benchmark.json").read_text()),
    }


def _moved(after: Path, before: Path) -> int:
    """Count the parameters of the tensors that the stage has changed or added."""
    old, new = (read_checkpoint(path)["state_dict"] for path in (before, after))
    parts = ("backbone.", "head.")
    return sum(
        value.numel()
        for name, value in new.items()
        if name.startswith(parts)
        and ((plain := name.replace(".base_layer.", ".")) not in old or not value.equal(old[plain]))
    )


def _table(rows: Sequence[dict]) -> str:
    """Return a Markdown table, with the paired difference to full fine-tuning."""
    lines = [
        "| strategy | labels | lr | Pearson r | over `full` | trained | seconds | peak MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    full = {row["labels"]: row["values"] for row in rows if row["finetuning"] == "full"}
    for row in rows:
        low, high = row["ci95"]
        lines.append(
            f"| `{row['strategy']}` | {row['labels']} | {row['lr']:g} | {row['pearson']:.3f} "
            f"[{low:.3f}, {high:.3f}] | {_difference(row, full.get(row['labels']))} | "
            f"{row['trained']:,} | {row['seconds']:.0f} | {row['peak_mib']:,.0f} |"
        )
    return "\n".join(lines)


def _difference(row: dict, full: Sequence[float] | None) -> str:
    if full is None or row["finetuning"] == "full":
        return ""
    pairs = [ours - theirs for ours, theirs in zip(row["values"], full, strict=False)]
    mean = statistics.fmean(pairs)
    half = stats.t.ppf(0.975, len(pairs) - 1) * statistics.stdev(pairs) / math.sqrt(len(pairs))
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"


if __name__ == "__main__":
    main()
