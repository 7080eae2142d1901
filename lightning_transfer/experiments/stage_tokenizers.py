"""The tokenizer of a run: a pretrained one, or one trained on the text of stages."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lightning_transfer.checkpoints.loading import load_tokenizer
from lightning_transfer.config.instantiate import build
from lightning_transfer.data import RawText, TextToText

Readable = RawText | TextToText
"""Data that a tokenizer can be trained on."""

_SIDES = ("text", "target")  # of pairs


def resolve_tokenizer(config: Mapping[str, Any], data_of: Callable[[str, int], Any]) -> Any:
    """Return the tokenizer of stages that start from no weights of ours.

    Args:
        config: The whole config of a run: ``tokenizer`` is a folder, a hub id, ``asset:name``, the
            config of a ``TokenizerTrainer``, or None for that of the backbone's name, or of its
            encoder's.
        data_of: Returns a stage's DataModule, given its name and a seed.

    Raises:
        OSError: If there is no such tokenizer.
        ValueError: If none is named, or a stage to train one on has neither raw text nor pairs.
    """
    backbone = config["backbone"]
    name = config.get("tokenizer") or backbone.get("name") or backbone.get("encoder")
    if name is None:
        raise ValueError(
            "a backbone without a name, or of your own, needs to know its tokenizer: set "
            "tokenizer=<folder, hub id or asset:name>, or train one (see conf/backbone/scratch)"
        )
    if isinstance(name, Mapping):
        sides = ("text",) if config.get("target_tokenizer") else _SIDES
        name = _trained("tokenizer", sides, config, data_of)
    trust = bool(backbone.get("trust_remote_code", False))
    return load_tokenizer(name, trust_remote_code=trust)


def resolve_target_tokenizer(config: Mapping[str, Any], data_of: Callable[[str, int], Any]) -> Any:
    """Return the tokenizer of texts that are to be written, or None: it is that of those read.

    Args:
        config: As for :func:`resolve_tokenizer`: ``target_tokenizer``, or None for that of the
            pretrained decoder of a warm start, if it is another than its encoder.
        data_of: As for :func:`resolve_tokenizer`.

    Raises:
        OSError: If there is no such tokenizer.
        ValueError: If the stage to train one on has no pairs.
    """
    name = config.get("target_tokenizer")
    backbone = config["backbone"]
    decoder = backbone.get("decoder")
    own = isinstance(decoder, str) and decoder != backbone.get("encoder")
    if name is None and own:
        name = decoder
    if isinstance(name, Mapping):
        name = _trained("target_tokenizer", ("target",), config, data_of)
    return None if name is None else load_tokenizer(name)


def _trained(
    key: str,
    sides: tuple[str, ...],
    config: Mapping[str, Any],
    data_of: Callable[[str, int], Any],
) -> Any:
    """Return the folder of a tokenizer trained on the text of stages: one for all seeds."""
    trainer = build(config[key], "tokenizer", key)
    stages = trainer.stage or config["order"][0]
    stages = [stages] if isinstance(stages, str) else list(stages)
    sources = [_source(key, stage, config, data_of) for stage in stages]
    # Raw text has one side.
    asked = [(sides,) if isinstance(source, TextToText) else () for source in sources]

    def texts() -> Iterable[str]:
        found = (one.training_texts(*of) for one, of in zip(sources, asked, strict=True))
        return itertools.chain.from_iterable(found)

    digests = (one.training_digest(*of) for one, of in zip(sources, asked, strict=True))
    return trainer.cached(texts, " ".join(digests))


def _source(
    key: str, stage: str, config: Mapping[str, Any], data_of: Callable[[str, int], Any]
) -> Readable:
    """Return the data of a stage, if a tokenizer can be trained on it."""
    if stage not in config["stages"]:
        raise ValueError(
            f"{key}.stage={stage!r} is no stage; stages: {', '.join(config['stages'])}"
        )
    own = config["stages"][stage].get("seed")
    data = data_of(stage, config["seeds"][0] if own is None else own)
    if not isinstance(data, Readable):
        raise ValueError(
            f"{key}.stage={stage!r} has data of {type(data).__name__}, and a tokenizer is "
            "trained on raw text or on pairs; name a stage with such data (data=text_files)"
        )
    return data
