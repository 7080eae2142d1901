"""The tokenizer of a run: a pretrained one, or one trained on the text of a stage."""

from collections.abc import Callable, Mapping
from typing import Any

from lightning_transfer.data import RawText
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
        ValueError: If none is named, or the stage to train one on has no raw text.
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
    """Return the folder of a tokenizer trained on a stage's text: one for all seeds."""
    trainer = build(spec, "tokenizer", "tokenizer")
    stage = trainer.stage or config["order"][0]
    if stage not in config["stages"]:
        raise ValueError(
            f"tokenizer.stage={stage!r} is no stage; stages: {', '.join(config['stages'])}"
        )
    own = config["stages"][stage].get("seed")
    data = data_of(stage, config["seeds"][0] if own is None else own)
    if not isinstance(data, RawText):
        raise ValueError(
            f"tokenizer.stage={stage!r} has data of {type(data).__name__}, and a tokenizer is "
            "trained on raw text; name a stage with such data (data=text_files)"
        )
    return trainer.cached(data.training_texts, data.training_digest())
