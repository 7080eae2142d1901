"""A pretrained language model as an ordered stack of layers."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from lightning_transfer.lm_head import has_head, take_apart
from lightning_transfer.masked_lm import read_masked_lm
from lightning_transfer.pretrained import auto_class, parse_dtype, read_model, resolve_source
from lightning_transfer.stack_model import StackModel
from lightning_transfer.warm_start import join_pretrained


class Backbone(StackModel):
    """A Hugging Face model, seen from the input up: embeddings at depth 0, then the layers.

    Freezing, gradual unfreezing, discriminative learning rates and replayed activations all
    speak of depths; this class is the one place that knows where an architecture keeps them.
    Encoders and decoders have one stack of layers; in an encoder-decoder the decoder's layers
    follow the encoder's, and all embeddings, the decoder's too, stand at depth 0.

    It is in train mode from the start, although ``from_pretrained`` of transformers returns eval
    mode and Lightning keeps what it finds. A pretrained pooler is taken off the stack (see
    ``pooler_state``), and so is what an encoder-decoder has above its decoder (see
    ``lm_head_state`` and ``head_form``): they belong to a head, as does what a checkpoint holds to
    guess masked tokens with (``masked_lm``). On a CPU it trains with the dropout and the attention
    of :mod:`lightning_transfer.kernels`.

    Args:
        model: A ``PreTrainedModel`` without a task head.
        lm_head: What :func:`lm_head.take_apart` took from it.
        fresh: Names of the weights, those of ``lm_head`` among them, that are random; None: all
            of a side whose config does not say where its weights are from.
        masked_lm: What :func:`masked_lm.read_masked_lm` found beside it.

    Raises:
        ValueError: If the model has no stack of layers that can be found, or more than one a side.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=2,
        ...                     num_attention_heads=2, intermediate_size=8)
        >>> backbone = Backbone(BertModel(config))
        >>> len(backbone.layers), backbone.hidden_size, backbone.training
        (3, 8, True)
    """

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        attn_implementation: str | None = None,
        dtype: str = "float32",
        dropout: float | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> "Backbone":
        """Load pretrained weights, from safetensors files only.

        Args:
            name: ``asset:<name>`` for a pinned file from the package index, a folder, or a hub
                model id.
            attn_implementation: ``sdpa``, ``eager``, ``flash_attention_2``; None lets
                transformers choose.
            dtype: Type of the weights in memory, such as ``float32`` or ``bfloat16``.
            dropout: Probability for every dropout of the model, in [0, 1); None keeps its own.
            revision: Branch, tag or commit of a hub model.
            trust_remote_code: Run the Python files that come with the model.

        Raises:
            OSError: If the weights are not there, or not as safetensors.
            ValueError: If the dtype is unknown, the dropout is out of its range, or the model has
                no stack of layers.
        """
        source = resolve_source(name)
        model, fresh = read_model(
            source,
            attn_implementation=attn_implementation,
            dtype=dtype,
            dropout=dropout,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
        if has_head(model.config):
            return cls._of(model, fresh=fresh, pretrained=True)
        masked_lm = read_masked_lm(source, model.config, revision=revision)
        return cls(model, fresh=fresh, masked_lm=masked_lm)

    @classmethod
    def warm_start(
        cls,
        encoder: str | Path,
        decoder: str | Path | Mapping[str, Any],
        *,
        attn_implementation: str | None = None,
        dtype: str = "float32",
        dropout: float | None = None,
    ) -> "Backbone":
        """Join a pretrained encoder and a decoder, whose cross-attention is new.

        Rothe et al., arXiv:1907.12461. The decoder is a pretrained encoder or decoder that looks at
        no later token from now on, or a new one.

        Args:
            encoder: As ``name`` in :meth:`from_pretrained`.
            decoder: The same, or the values of a config: ``model_type`` and its sizes.
            attn_implementation: As in :meth:`from_pretrained`.
            dtype: As in :meth:`from_pretrained`.
            dropout: As in :meth:`from_pretrained`.

        Raises:
            OSError: If weights are not there, or not as safetensors.
            ValueError: If the decoder's architecture has no cross-attention, or as in
                :meth:`from_pretrained`.
        """
        model, fresh = join_pretrained(
            encoder, decoder, attn_implementation=attn_implementation, dtype=dtype, dropout=dropout
        )
        return cls._of(model, fresh=fresh)

    @classmethod
    def from_config(
        cls,
        config: PretrainedConfig | dict[str, Any],
        *,
        attn_implementation: str | None = None,
        dtype: str = "float32",
    ) -> "Backbone":
        """Build a backbone with random weights from a model config, without any download.

        Args:
            config: A config object, or its ``to_dict()``.
            attn_implementation: As in :meth:`from_pretrained`.
            dtype: As in :meth:`from_pretrained`.

        Raises:
            ValueError: If the config names no known model type.
        """
        if isinstance(config, dict):
            values = {k: v for k, v in config.items() if k != "model_type"}
            config = AutoConfig.for_model(str(config.get("model_type")), **values)
        model = auto_class(config).from_config(
            config, attn_implementation=attn_implementation, dtype=parse_dtype(dtype)
        )
        return cls._of(model, fresh=model.state_dict())

    @classmethod
    def _of(
        cls, model: PreTrainedModel, *, fresh: Iterable[str], pretrained: bool = False
    ) -> "Backbone":
        """Wrap a model that may have a language model's head on top.

        Args:
            model: Any.
            fresh: Names of what is random in it.
            pretrained: Whether all of it came from one place, with its settings of generation.
        """
        if not has_head(model.config):
            return cls(model, fresh=fresh)
        random = {id(value) for value in _named(model, fresh)}
        core, lm_head = take_apart(model, pretrained=pretrained)
        inside = {n for n, value in core.state_dict(keep_vars=True).items() if id(value) in random}
        return cls(core, lm_head=lm_head, fresh={*fresh} & {*lm_head} | inside)


def _named(model: PreTrainedModel, names: Iterable[str]) -> list[Tensor]:
    state = model.state_dict(keep_vars=True)
    return [state[name] for name in names if name in state]
