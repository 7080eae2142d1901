"""Scores of translation into German, with and without a parent model trained on French.

python benchmarks/multi30k.py FOLDER

FOLDER contains Multi30k (Elliott et al., arXiv:1605.00459): ``train``, ``val`` and
``test_2016_flickr``, each as ``.en``, ``.de`` and ``.fr``, plain or ``.gz``. A small Marian model
with random weights is trained on English to French (the parent). The parent and a model with random
weights are then trained on a few pairs of English to German (the children; Zoph et al.,
arXiv:1604.02201), with the same rows, epochs, learning rate and joint tokenizer. BLEU and chrF are
those of the 1,000 test captions. Every job is a separate process. Finished jobs are not repeated,
so the script can be interrupted and started again.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CHILDREN = {"5000": 12, "1000": 20, "all": 3}
"""Training pairs of a child to its epochs."""
PARENT = 6
"""Epochs of the parent."""
SCORES = ("bleu", "chrf")
# Names of stages. The last one is not trained: the tokenizer is trained on its texts, all German
# captions, so that it does not depend on the pairs of a child.
FRENCH, GERMAN, TEXTS = "source", "target", "tokens"
TINY = (
    "backbone.config={model_type: marian, vocab_size: 400, d_model: 16, encoder_layers: 1, "
    "decoder_layers: 1, encoder_attention_heads: 2, decoder_attention_heads: 2, "
    "encoder_ffn_dim: 32, decoder_ffn_dim: 32, max_position_embeddings: 64, pad_token_id: 0, "
    "bos_token_id: 2, eos_token_id: 3, decoder_start_token_id: 2, forced_eos_token_id: null}"
)
SMALL = [
    f"backbone.config.{key}={value}"
    for key, value in {
        "vocab_size": 4000,
        "d_model": 128,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_ffn_dim": 512,
        "decoder_ffn_dim": 512,
    }.items()
]
"""Overrides of ``backbone=scratch_seq2seq``: a model small enough to train within an hour."""


def main() -> None:
    """Run the unfinished jobs and print the table."""
    options = _options()
    parent = options.out / "parent"
    _fit(parent, [f"order=[{FRENCH}]", "seeds=[0]"], options)
    weights = parent / f"stages/{FRENCH}-seed0/final.ckpt"
    rows = []
    for size in options.children:
        for name, start in (("with", weights), ("without", None)):
            run = options.out / f"{size}-{name}"
            _fit(run, _child(size, start, options), options)
            found = json.loads((run / "results.json").read_text())["rows"][-1]
            scores = {score: found["metrics"][score] for score in SCORES}
            rows.append({"pairs": size, "parent": start is not None, **scores})
    print(_table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of Multi30k")
    parser.add_argument(
        "--children", nargs="+", default=list(CHILDREN), help="numbers of pairs, or all"
    )
    parser.add_argument(
        "--epochs", type=int, help="epochs of every job; by default those of the script"
    )
    parser.add_argument("--seeds", type=int, default=1, help="seeds of the children (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("outputs/multi30k"))
    parser.add_argument("--json", type=Path, help="file for the rows of the table")
    parser.add_argument("--tiny", action="store_true", help="model with two layers and 400 tokens")
    options = parser.parse_args()
    options.folder, options.out = options.folder.absolute(), options.out.absolute()
    return options


def _child(size: str, start: Path | None, options: argparse.Namespace) -> list[str]:
    """Return the overrides of a child with some pairs and initial weights."""
    return [
        f"order=[{GERMAN}]",
        f"seeds=[{','.join(map(str, range(options.seeds)))}]",
        f"stages.{GERMAN}.data.train_size={'null' if size == 'all' else int(size)}",
        f"stages.{GERMAN}.epochs={options.epochs or CHILDREN.get(size, 10)}",
        *([] if start is None else [f"stages.{GERMAN}.init_from={start}"]),
    ]


def _stage(name: str, language: str, options: argparse.Namespace) -> list[str]:
    """Return the overrides of a stage with translation into a language."""
    where = f"stages.{name}"
    files = {"train": "train", "validation": "val", "test": "test_2016_flickr"}
    source = ", ".join(f"{split}: '{options.folder / stem}'" for split, stem in files.items())
    return [
        *([] if name == GERMAN else [f"+stage@{where}=default"]),
        f"data@{where}.data=parallel_files",
        f"{where}.data.source={{{source}}}",
        f"{where}.data.columns={{text: en, target: {language}}}",
        f"{where}.data.batch_size=64",
        f"{where}.data.tokens.max_length=64",
        f"{where}.data.target_tokens.max_length=64",
        f"task@{where}.task=sequence_to_sequence",
        f"head@{where}.head=decoder",
        f"{where}.task.label_smoothing=0.1",
        f"{where}.task.generate_every=null",  # validates by the loss, which is faster
        f"{where}.task.generation.max_new_tokens={32 if options.tiny else 60}",
        f"{where}.task.generation.num_beams=4",
        f"{where}.task.generation.scores=[{','.join(SCORES)}]",
        f"{where}.optimizer.lr=1e-3",
        f"{where}.epochs={options.epochs or PARENT}",
        f"{where}.finetuning.groups.head_ratio=1.0",  # all layers of the parent are new
    ]


def _fit(run: Path, overrides: Sequence[str], options: argparse.Namespace) -> None:
    """Run a job in a separate process, unless it is finished."""
    if (run / "results.json").is_file():
        return
    shutil.rmtree(run, ignore_errors=True)  # an unfinished job starts again
    run.parent.mkdir(parents=True, exist_ok=True)
    tokenizer = (
        "tokenizer={_target_: lightning_transfer.data.TokenizerTrainer, kind: bpe, "
        f"vocab_size: {400 if options.tiny else 4000}, lowercase: false, "
        f"stage: [{FRENCH}, {TEXTS}]}}"
    )
    model = [TINY] if options.tiny else SMALL
    # Each job has all three stages in its config, because the tokenizer is trained on two of them.
    stages = [
        override
        for name, language in ((FRENCH, "fr"), (GERMAN, "de"), (TEXTS, "de"))
        for override in _stage(name, language, options)
    ]
    common = ["backbone=scratch_seq2seq", *model, tokenizer, f"hydra.run.dir={run}", *stages]
    with run.with_name(f"{run.name}.out").open("w") as out:
        command = [sys.executable, "-m", "lightning_transfer", "fit", *common, *overrides]
        status = subprocess.run(command, stdout=out, stderr=out, check=False).returncode
    if status:
        sys.exit(f"{run} failed:\n{run.with_name(f'{run.name}.out').read_text()}")
    print(f"{run.name} is done", flush=True)


def _table(rows: Sequence[dict]) -> str:
    """Return a Markdown table."""
    lines = ["| pairs | parent | BLEU | chrF |", "| ---: | --- | ---: | ---: |"]
    for row in rows:
        scores = " | ".join(f"{row[score]['mean']:.1f}" for score in SCORES)
        lines.append(f"| {row['pairs']} | {'yes' if row['parent'] else 'no'} | {scores} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
