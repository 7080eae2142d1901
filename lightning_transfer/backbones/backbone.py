"""A model of transformers, run from the input up and from the middle."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from lightning_transfer.backbones import cpu
from lightning_transfer.backbones.layer_layout import (
    find_layer_layout,
    layers_by_depth,
    replayable_stack,
    room_for_tokens,
    take_lm_head,
    take_pooler,
    unread,
)
from lightning_transfer.backbones.lm_heads import (
    LMHeadLayout,
    has_head,
    head_form,
    is_pair,
    take_apart,
)
from lightning_transfer.backbones.masked_lm import MaskedLMHead, read_masked_lm_head
from lightning_transfer.backbones.partial_forward import Stack
from lightning_transfer.backbones.pretrained import (
    auto_class,
    parse_dtype,
    read_model,
    resolve_source,
)
from lightning_transfer.backbones.warm_start import join_pretrained
from lightning_transfer.utils.checkpoint_format import config_to_dict
from lightning_transfer.utils.modes import evaluating


class StackModel(nn.Module):
    """What a :class:`Backbone` is, apart from where it comes from.

    Args:
        model: See :class:`Backbone`.
        lm_head: See :class:`Backbone`.
        fresh: See :class:`Backbone`.
        masked_lm: See :class:`Backbone`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        lm_head: Mapping[str, Tensor] | None = None,
        fresh: Iterable[str] | None = None,
        masked_lm: MaskedLMHead | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        self._anatomy = find_layer_layout(model)
        self.fresh = frozenset(unread(model, self._anatomy) if fresh is None else fresh)
        writer = self._anatomy.writer
        taken = None if writer is None else take_lm_head(model, writer)
        self.lm_head_state = taken or (None if lm_head is None else dict(lm_head))
        self.masked_lm = masked_lm
        pooler = take_pooler(model.get_submodule(self._anatomy.reader.root))
        self.pooler_state = pooler if writer is None else None  # an encoder's, below a decoder
        cpu.install(model)
        self.model = model
        self._entries: int | None = None
        self.has_segments = "token_type_ids" in inspect.signature(self._reader.forward).parameters
        self.train()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Come out of a pickle, maybe in a process that has built no backbone yet."""
        super().__setstate__(state)
        cpu.register()

    @property
    def config(self) -> PretrainedConfig:
        """The model's own config."""
        return self.model.config

    @property
    def has_own_lm_head(self) -> bool:
        """Whether all that stands above the decoder was read with it, its table too."""
        writer, table = self._anatomy.writer, self.target_embeddings
        if writer is None or self.lm_head_state is None or table is None:
            return False
        below = "decoder." if is_pair(self.config) else ""
        state = self.model.state_dict(keep_vars=True)
        tied = {name for name, value in state.items() if value is table.weight}
        return not self.fresh & {*tied, *(f"{below}{name}" for name in self.lm_head_state)}

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether a decoder reads what an encoder has read."""
        return self._anatomy.writer is not None

    @property
    def is_causal(self) -> bool:
        """Whether each position sees only those before it, as in GPT-2."""
        return self._anatomy.causal

    @property
    def hidden_size(self) -> int:
        """Width of the features."""
        side = self._anatomy.writer or self._anatomy.reader
        return int(self._part(side.root).config.hidden_size)  # type: ignore

    @property
    def token_embeddings(self) -> nn.Embedding | None:
        """The table that ``input_ids`` are looked up in, to which a language model's head is tied.

        None where a model shows none.
        """
        reader: Any = self._reader
        try:
            table = reader.get_input_embeddings()
        except NotImplementedError:
            return None
        return table if isinstance(table, nn.Embedding) else None

    @property
    def target_embeddings(self) -> nn.Embedding | None:
        """The table that a decoder behind an encoder looks its ids up in; None without one."""
        writer = self._anatomy.writer
        table: Any = None if writer is None else self._part(writer.root).get_input_embeddings()  # type: ignore
        return table if isinstance(table, nn.Embedding) else None

    @property
    def head_form(self) -> LMHeadLayout:
        """What the architecture computes above its decoder.

        Raises:
            ValueError: If it has no decoder behind an encoder, or an unknown kind of head.
        """
        return head_form(self.config)

    @cached_property
    def max_tokens(self) -> int | None:
        """How many tokens the table of positions has room for; None without such a table."""
        return room_for_tokens(self._reader)

    @cached_property
    def max_target_tokens(self) -> int | None:
        """The same of a decoder behind an encoder."""
        writer = self._anatomy.writer
        return None if writer is None else room_for_tokens(self._part(writer.root))

    @property
    def layers(self) -> list[nn.Module]:
        """Modules from the input up: the embeddings, then each layer."""
        return layers_by_depth(self.model, self._anatomy)

    @property
    def replayable(self) -> int:
        """The highest depth whose output can be replayed: the encoder's, where there is one."""
        return self._stack.top

    @property
    def replay_size(self) -> int:
        """Width of what is replayed: the encoder's, where there is one."""
        return int(self._reader.config.hidden_size)  # type: ignore

    @property
    def _stack(self) -> Stack:
        return replayable_stack(self.model, self._anatomy)

    @property
    def _reader(self) -> nn.Module:
        return self._part(self._anatomy.reader.root)

    def _part(self, path: str) -> nn.Module:
        return self.model.get_submodule(path)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        token_type_ids: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        from_depth: int = 0,
        hidden: Tensor | None = None,
        first_token: bool = False,
    ) -> Tensor:
        """Compute token features, all the way or from the middle.

        Args:
            input_ids: Token ids, int64 (batch, seq).
            attention_mask: 1 for tokens and 0 for padding, int64 (batch, seq).
            token_type_ids: Segment ids, int64 (batch, seq); models that have no segments leave
                them aside.
            decoder_input_ids: Token ids of the target, int64 (batch, target seq), begun by the
                start token; for encoder-decoders, and for no other.
            decoder_attention_mask: As ``attention_mask``, of the target.
            from_depth: With ``hidden``: the depth whose output ``hidden`` is, in
                0..``replayable``, just as the layer above is fed with it; only what lies above
                runs, and it equals the full pass exactly.
            hidden: Features to go on from, float (batch, seq, hidden); where ``first_token`` is
                asked for, those of the highest depth may be (batch, 1, hidden).
            first_token: Whether only the first token's features are wanted; the top layer then
                computes no others, where :func:`kernels.first_token_only` knows how.

        Returns:
            Features of the last layer, float (batch, seq, hidden); of an encoder-decoder those of
            the decoder, float (batch, target seq, hidden). With ``first_token`` of one position.

        Raises:
            ValueError: If the texts are longer than the backbone has positions for, if only one
                of ``from_depth`` and ``hidden`` is given, if there is no such depth, or if
                targets are missing or have no decoder.
        """
        self._check_target(decoder_input_ids)
        with self._short(first_token, from_depth):
            read = self.read(
                input_ids,
                attention_mask,
                token_type_ids=token_type_ids,
                from_depth=from_depth,
                hidden=hidden,
            )
        if decoder_input_ids is not None:
            read = self.write(read, attention_mask, decoder_input_ids, decoder_attention_mask)
        return read[:, :1] if first_token else read

    def read(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        token_type_ids: Tensor | None = None,
        from_depth: int = 0,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """Compute what the encoder hands to the decoder, float (batch, seq, hidden).

        Of a model with one stack, its features. The arguments are those of :meth:`forward`.

        Raises:
            ValueError: As in :meth:`forward`.
        """
        self._check(input_ids, from_depth, hidden)
        if hidden is not None and self.is_encoder_decoder and from_depth == self.replayable:
            return hidden  # all that the decoder needs of the encoder
        with self._from(from_depth, hidden, input_ids):
            return self._read(input_ids, attention_mask, token_type_ids)

    def _short(self, first_token: bool, from_depth: int) -> AbstractContextManager[None]:
        """Let the top layer compute the first token alone, if it runs and no other is wanted."""
        runs = first_token and not self.is_encoder_decoder and from_depth < self.replayable
        return cpu.first_token_only(self._stack.layers[-1] if runs else None)

    def _read(self, input_ids: Tensor, mask: Tensor | None, types: Tensor | None) -> Tensor:
        """Run the encoder, or a model that has one stack; float (batch, seq, hidden)."""
        # A tokenizer may tell segments that the model knows nothing of.
        extra: dict[str, Any] = {"token_type_ids": types} if self.has_segments else {}
        if self._anatomy.causal:
            extra["use_cache"] = False
        features: Tensor = self._reader(input_ids, attention_mask=mask, **extra)[0]
        return features

    def write(
        self,
        read: Tensor,
        attention_mask: Tensor | None,
        decoder_input_ids: Tensor,
        decoder_attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Run the decoder on what :meth:`read` gave; float (batch, target seq, hidden).

        Raises:
            ValueError: If the targets are too long, or there is no decoder.
        """
        self._check_target(decoder_input_ids)
        assert self._anatomy.writer is not None  # as _check_target has it
        if self._anatomy.bridge is not None:
            read = self._part(self._anatomy.bridge)(read)  # (batch, seq, decoder's hidden)
        features: Tensor = self._part(self._anatomy.writer.root)(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=read,
            encoder_attention_mask=attention_mask,
            use_cache=False,
        )[0]
        return features

    def outputs_of(
        self,
        depths: Sequence[int],
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        token_type_ids: Tensor | None = None,
        from_depth: int = 0,
        hidden: Tensor | None = None,
        first_token: bool = False,
    ) -> dict[int, Tensor]:
        """Compute what these depths hand on, in one pass that stops at the highest of them.

        ``forward(..., from_depth=d, hidden=outputs[d])`` then equals the full pass exactly. The
        modes and gradients are those of any pass: to keep outputs of a frozen prefix, its layers
        have to be in eval mode.

        Args:
            depths: Depths asked for, each in ``from_depth``..``replayable``.
            input_ids: As in :meth:`forward`.
            attention_mask: As in :meth:`forward`.
            token_type_ids: As in :meth:`forward`.
            from_depth: As in :meth:`forward`.
            hidden: As in :meth:`forward`.
            first_token: Whether of ``replayable``, if asked for, the first token alone is wanted.

        Returns:
            By depth, what the layer above it is fed with, float (batch, seq, hidden); of the
            highest, with ``first_token``, float (batch, 1, hidden).

        Raises:
            ValueError: As in :meth:`forward`, or if a depth is out of its range.
        """
        self._check(input_ids, from_depth, hidden)
        wanted = set(depths)
        if bad := sorted(d for d in wanted if not from_depth <= d <= self.replayable):
            raise ValueError(
                f"depths must be in {from_depth}..{self.replayable}, from from_depth up, got {bad}"
            )
        known = {from_depth: hidden} if hidden is not None and from_depth in wanted else {}
        outputs: dict[int, Tensor] = {}
        if above := wanted - set(known):
            with (
                self._from(from_depth, hidden, input_ids),
                self._short(first_token and self.replayable in above, from_depth),
                self._stack.collecting(above) as outputs,
            ):
                self._read(input_ids, attention_mask, token_type_ids)
        outputs = {**known, **outputs}
        if first_token and self.replayable in outputs:
            outputs[self.replayable] = outputs[self.replayable][:, :1]  # (batch, 1, hidden)
        return outputs

    def _check(self, input_ids: Tensor, from_depth: int, hidden: Tensor | None) -> None:
        """Refuse texts that are too long, and depths that cannot be replayed."""
        limit = self.max_tokens
        if limit is not None and input_ids.shape[1] > limit:
            raise ValueError(
                f"a batch has {input_ids.shape[1]} tokens a text, and the backbone takes at most "
                f"{limit}; set data.tokens.max_length={limit} or less"
            )
        if hidden is None and from_depth:
            raise ValueError(f"from_depth={from_depth} needs hidden, the output of that depth")
        if hidden is not None and not 0 <= from_depth <= self.replayable:
            raise ValueError(f"from_depth must be in 0..{self.replayable}, got {from_depth}")

    def _check_target(self, target_ids: Tensor | None) -> None:
        """Refuse targets that are too long, missing, or without a decoder to read them."""
        name = type(self.model).__name__
        if target_ids is None and self.is_encoder_decoder:
            raise ValueError(
                f"{name} is an encoder-decoder and needs decoder_input_ids, which this task does "
                "not give; choose an encoder, such as backbone.name=asset:minilm"
            )
        if target_ids is not None and not self.is_encoder_decoder:
            raise ValueError(
                f"{name} has no decoder behind an encoder, and got decoder_input_ids; leave them "
                "out, or choose an encoder-decoder such as T5, BART or Marian"
            )
        limit = self.max_target_tokens
        if target_ids is not None and limit is not None and target_ids.shape[1] > limit:
            raise ValueError(
                f"a batch has {target_ids.shape[1]} tokens a target, and the decoder takes at most "
                f"{limit}; cut the targets to {limit} tokens or less"
            )

    def _from(
        self, depth: int, hidden: Tensor | None, input_ids: Tensor
    ) -> AbstractContextManager[None]:
        """Let the model run from a depth on, or all of it where nothing is known."""
        if hidden is None:
            return nullcontext()
        reader, stack = self._reader, self._stack
        dropped = getattr(reader, "layerdrop", 0) if reader.training else 0
        if dropped:
            raise ValueError(
                f"a layerdrop of {dropped} leaves out layers at random, the one that a "
                "replay begins with too; set encoder_layerdrop=0 in the model's config"
            )
        if self._entries is None:
            with evaluating(reader), torch.no_grad():
                self._entries = stack.entries(lambda: self._read(input_ids[:1], None, None))
        return stack.replaying(depth, hidden, entries=self._entries)


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
    of :mod:`lightning_transfer.backbones.cpu`.

    Args:
        model: A ``PreTrainedModel`` without a task head.
        lm_head: What :func:`lm_head.take_apart` took from it.
        fresh: Names of the weights, those of ``lm_head`` among them, that are random; None: all
            of a side whose config does not say where its weights are from.
        masked_lm: What :func:`masked_lm.read_masked_lm_head` found beside it.

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

    @property
    def stored_config(self) -> dict[str, Any] | None:
        """Model config in a checkpoint; None for a subclass, which may compute something else."""
        return config_to_dict(self.config) if type(self) is Backbone else None

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
        masked_lm = read_masked_lm_head(source, model.config, revision=revision)
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
