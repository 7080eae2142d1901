"""Tokenizers of a run: pretrained, or trained on the text of its stages."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lightning_transfer.checkpoints.loading import load_tokenizer
from lightning_transfer.config.instantiate import build
from lightning_transfer.data import RawText, TextToText

TokenizerData = RawText | TextToText
"""DataModules that a tokenizer can be trained on."""

_SIDES = ("text", "target")  # columns of a row of TextToText


def resolve_tokenizer(config: Mapping[str, Any], data_of: Callable[[str, int], Any]) -> Any:
    """Return the tokenizer of stages without initial weights from another stage or checkpoint.

    Args:
        config: The whole config of a run. ``tokenizer`` is a folder, a hub id, ``asset:name`` or
            the config of a ``TokenizerTrainer``; None: the tokenizer of ``backbone.name``, or of
            ``backbone.encoder``.
        data_of: Returns the DataModule of a stage, given its name and a seed.

    Raises:
        OSError: If the tokenizer does not exist.
        ValueError: If no tokenizer is configured, or a stage to train one on is unknown or has
            neither raw text nor target texts.
    """
    backbone = config["backbone"]
    name = config.get("tokenizer") or backbone.get("name") or backbone.get("encoder")
    if name is None:
        raise ValueError(
            "a backbone without a name needs a tokenizer; set tokenizer=<folder, hub id or "
            "asset:name>, or train one as in conf/backbone/scratch.yaml"
        )
    if isinstance(name, Mapping):
        # Without a target tokenizer, this one tokenizes the targets too and is trained on both.
        sides = ("text",) if config.get("target_tokenizer") else _SIDES
        name = _train("tokenizer", sides, config, data_of)
    trust = bool(backbone.get("trust_remote_code", False))
    return load_tokenizer(name, trust_remote_code=trust)


def resolve_target_tokenizer(config: Mapping[str, Any], data_of: Callable[[str, int], Any]) -> Any:
    """Return the tokenizer of target texts; None if they use that of the input texts.

    Args:
        config: As for :func:`resolve_tokenizer`. ``target_tokenizer`` is of the same forms; None:
            the tokenizer of the pretrained decoder of a warm start, if that is not the encoder.
        data_of: As for :func:`resolve_tokenizer`.

    Raises:
        OSError: If the tokenizer does not exist.
        ValueError: If a stage to train one on is unknown or has no target texts.
    """
    name = config.get("target_tokenizer")
    backbone = config["backbone"]
    decoder = backbone.get("decoder")
    # The decoder of a warm start is a name, or the config of a decoder with random weights.
    own = isinstance(decoder, str) and decoder != backbone.get("encoder")
    if name is None and own:
        name = decoder
    if isinstance(name, Mapping):
        name = _train("target_tokenizer", ("target",), config, data_of)
    return None if name is None else load_tokenizer(name)


def _train(
    key: str,
    sides: tuple[str, ...],
    config: Mapping[str, Any],
    data_of: Callable[[str, int], Any],
) -> Any:
    """Return the folder of a tokenizer trained on the text of stages; it is the same for all seeds.

    Args:
        key: ``tokenizer`` or ``target_tokenizer``.
        sides: Columns of ``TextToText`` to train on.
        config: The whole config of a run.
        data_of: Returns the DataModule of a stage, given its name and a seed.
    """
    trainer = build(config[key], "tokenizer", key)
    stages = trainer.stage or config["order"][0]
    stages = [stages] if isinstance(stages, str) else list(stages)
    sources = [_source(key, stage, config, data_of) for stage in stages]
    # Raw text has a single column, and its methods take no sides.
    arguments = [(sides,) if isinstance(source, TextToText) else () for source in sources]

    def texts() -> Iterable[str]:
        found = (one.training_texts(*of) for one, of in zip(sources, arguments, strict=True))
        return itertools.chain.from_iterable(found)

    # The digests are the key of the tokenizer cache: other training text is another tokenizer.
    digests = (one.training_digest(*of) for one, of in zip(sources, arguments, strict=True))
    return trainer.cached(texts, " ".join(digests))


def _source(
    key: str, stage: str, config: Mapping[str, Any], data_of: Callable[[str, int], Any]
) -> TokenizerData:
    """Return the DataModule of a stage, after a check that a tokenizer can be trained on it."""
    if stage not in config["stages"]:
        raise ValueError(
            f"{key}.stage: unknown stage {stage!r}. Stages: {', '.join(config['stages'])}"
        )
    own = config["stages"][stage].get("seed")
    # The first seed of the run, so that all seeds share one tokenizer.
    data = data_of(stage, config["seeds"][0] if own is None else own)
    if not isinstance(data, TokenizerData):
        raise ValueError(
            f"{key}.stage={stage!r} has data of {type(data).__name__}, but a tokenizer is trained "
            "on raw text or on pairs of text and target; name a stage with data=text_files or "
            "data=parallel_files"
        )
    return data
