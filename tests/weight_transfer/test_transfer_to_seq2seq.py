"""Weight transfer between encoders and encoder-decoders in one run."""

import json

import torch

from lightning_transfer.checkpoints.loading import load
from tests.conftest import WORDS
from tests.runs import Watch, stage, weights

WRITE = "source-seed0/write-seed0"
READ = f"{WRITE}/target-seed0"


def seq2seq_stage(runs, folder):
    """Return the overrides of a stage with a warm start, trained to reverse texts."""
    path = folder / "pairs.jsonl"
    texts = [" ".join(WORDS[i : i + 3]) for i in range(len(WORDS) - 3)]
    rows = [{"text": text, "target": " ".join(reversed(text.split()))} for text in texts]
    path.write_text("\n".join(map(json.dumps, rows)))
    [name] = [w.partition("=")[2] for w in runs.overrides if w.startswith("backbone.name=")]
    return [
        "+stage@stages.write=default",
        "data@stages.write.data=parallel_files",
        f"stages.write.data.source={path}",
        "stages.write.data.splits.val=4",
        "stages.write.data.splits.test=4",
        "stages.write.data.batch_size=8",
        "task@stages.write.task=sequence_to_sequence",
        "stages.write.task.generation.max_new_tokens=4",
        "stages.write.task.generate_every=null",
        "head@stages.write.head=decoder",
        "backbone@stages.write.backbone=warm_start",
        f"stages.write.backbone.encoder={name}",
        f"stages.write.backbone.decoder={name}",
        "stages.write.epochs=1",
        "+stages.write.callbacks.watch._target_=tests.runs.Watch",
    ]


def parts_of(found, name):
    [run] = [run for run in found["weight_transfer"] if run["run"] == f"stages/{name}"]
    return {(part["part"], part["status"]): part["why"] for part in run["parts"]}


def test_an_encoder_is_transferred_to_an_encoder_decoder_and_back(runs, tmp_path):
    Watch.reset()
    [name] = [w.partition("=")[2] for w in runs.overrides if w.startswith("backbone.name=")]
    found = runs.fit(
        tmp_path,
        *stage("source", runs.news, epochs=1),
        *seq2seq_stage(runs, tmp_path),
        *stage("target", runs.movies, epochs=1),
        "backbone@stages.target.backbone=hub",
        f"stages.target.backbone.name={name}",
        "order=[source,write,target]",
    )
    source, written = (
        weights(tmp_path / f"stages/{n}/final.ckpt") for n in ("source-seed0", WRITE)
    )
    started = dict(Watch.started)
    layers = [n.removeprefix("backbone.model.") for n in source if n.startswith("backbone.model.")]
    assert layers
    for layer in layers:
        old = source[f"backbone.model.{layer}"]
        assert torch.equal(started[WRITE][f"backbone.model.encoder.{layer}"], old), layer
        new = written[f"backbone.model.encoder.{layer}"]
        assert torch.equal(started[READ][f"backbone.model.{layer}"], new), layer
    parts = parts_of(found, WRITE)
    assert parts["encoder", "transferred"] == ""
    # Its own pretrained weights, and the cross-attention, absent from pretrained encoders.
    assert (
        parts["decoder", "kept"]
        == parts["decoder", "reinitialised"]
        == "the weights have no decoder"
    )
    assert ("head", "reinitialised") in parts
    parts = parts_of(found, READ)
    assert parts["encoder", "transferred"] == ""
    assert parts["decoder", "skipped"] == "the backbone has no decoder"
    assert not load(tmp_path).task.backbone.is_encoder_decoder
