"""The tokenizer of a run: a pretrained one, or one trained on the text of stages."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lightning_transfer.data import RawText, TextToText
from lightning_transfer.loading import load_tokenizer
from lightning_transfer.parts import build


def resolve_tokenizer(config: Mapping[str, Any], data_of: Callable[[str, int], Any]) -> Any:
    """Return the tokenizer of stages that start from no weights of ours.

    Args:
        config: The whole config of a run: ``tokenizer`` is a folder, a hub id, ``asset:name``, the
            config of a ``TokenizerTrainer``, or None for that of the backbone's name.
        data_of: Returns a stage's DataModule, given its name and a seed.

    Raises:
        OSError: If there is no such tokenizer.
        ValueError: If none is named, or a stage to train one on has neither raw text nor pairs.
    """
    name = config.get("tokenizer") or config["backbone"].get("name")
    if name is None:
        raise ValueError(
            "a backbone without a name, or of your own, needs to know its tokenizer: set "
            "tokenizer=<folder, hub id or asset:name>, or train one (see conf/backbone/scratch)"
        )
    if isinstance(name, Mapping):
        name = _trained(name, config, data_of)
    trust = bool(config["backbone"].get("trust_remote_code", False))
    return load_tokenizer(name, trust_remote_code=trust)


def _trained(
    spec: Mapping[str, Any], config: Mapping[str, Any], data_of: Callable[[str, int], Any]
) -> Any:
    """Return the folder of a tokenizer trained on the text of stages: one for all seeds."""
    trainer = build(spec, "tokenizer", "tokenizer")
    stages = trainer.stage or config["order"][0]
    stages = [stages] if isinstance(stages, str) else list(stages)
    sources = [_source(stage, config, data_of) for stage in stages]

    def texts() -> Iterable[str]:
        return itertools.chain.from_iterable(source.training_texts() for source in sources)

    return trainer.cached(texts, " ".join(source.training_digest() for source in sources))


def _source(
    stage: str, config: Mapping[str, Any], data_of: Callable[[str, int], Any]
) -> RawText | TextToText:
    """Return the data of a stage, if a tokenizer can be trained on it."""
    if stage not in config["stages"]:
        raise ValueError(
            f"tokenizer.stage={stage!r} is no stage; stages: {', '.join(config['stages'])}"
        )
    own = config["stages"][stage].get("seed")
    data = data_of(stage, config["seeds"][0] if own is None else own)
    if not isinstance(data, RawText | TextToText):
        raise ValueError(
            f"tokenizer.stage={stage!r} has data of {type(data).__name__}, and a tokenizer is "
            "trained on raw text or on pairs; name a stage with such data (data=text_files)"
        )
    return data
