"""Pretrained models of transformers as a sequence of layers, with partial forward passes."""

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
    count_positions,
    find_layer_layout,
    layers_by_depth,
    newly_initialized_names,
    partial_forward_stack,
    remove_lm_head,
    remove_pooler,
)
from lightning_transfer.backbones.lm_heads import (
    LMHeadLayout,
    has_lm_head,
    is_composition,
    lm_head_layout,
    split_lm_head,
)
from lightning_transfer.backbones.masked_lm import MaskedLMHead, read_masked_lm_head
from lightning_transfer.backbones.partial_forward import PartialForward
from lightning_transfer.backbones.pretrained import (
    auto_class,
    parse_dtype,
    read_model,
    resolve_source,
)
from lightning_transfer.backbones.warm_start import join_pretrained
from lightning_transfer.utils.checkpoint_format import config_to_dict
from lightning_transfer.utils.modes import evaluating


class Backbone(nn.Module):
    """Hugging Face model as a sequence of layers: embeddings at depth 0, then each layer.

    Freezing, gradual unfreezing, layer decay and the activation cache address layers by depth. This
    class hides the module names of each architecture from them. In an encoder-decoder the decoder's
    layers follow the encoder's, and the embeddings of both are at depth 0.

    A pretrained pooler is removed from the model (see ``pooler_state``), and so is the language
    modelling head of an encoder-decoder (see ``lm_head_state`` and ``lm_head_layout``). Heads of
    this package can start from these weights, and from the masked language modelling head of a
    checkpoint (``masked_lm``). On the CPU the model trains with the dropout and the attention of
    :mod:`lightning_transfer.backbones.cpu`.

    Args:
        model: Model without a task head.
        lm_head: Weights of its language modelling head, removed by
            :func:`~lightning_transfer.backbones.lm_heads.split_lm_head`.
        newly_initialized: Names of the random weights of ``model`` and ``lm_head``. None for all
            weights of the encoder and of the decoder whose config names no source of weights.
        masked_lm: Masked language modelling head of the checkpoint.

    Raises:
        ValueError: If the model is not a text model with one list of layers, or one in its encoder
            and one in its decoder, or if an encoder-decoder has a language modelling head.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=2,
        ...                     num_attention_heads=2, intermediate_size=8)
        >>> backbone = Backbone(BertModel(config))
        >>> len(backbone.layers), backbone.hidden_size, backbone.training
        (3, 8, True)
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        lm_head: Mapping[str, Tensor] | None = None,
        newly_initialized: Iterable[str] | None = None,
        masked_lm: MaskedLMHead | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        self._layout = find_layer_layout(model)
        self.newly_initialized = frozenset(
            newly_initialized_names(model, self._layout)
            if newly_initialized is None
            else newly_initialized
        )
        decoder = self._layout.decoder_stack
        removed = None if decoder is None else remove_lm_head(model, decoder)
        self.lm_head_state = removed or (None if lm_head is None else dict(lm_head))
        self.masked_lm = masked_lm
        pooler = remove_pooler(model.get_submodule(self._layout.input_stack.root))
        # Behind a decoder there is no use for the pooler of the encoder.
        self.pooler_state = pooler if decoder is None else None
        cpu.install(model)
        self.model = model
        self._tuple_size: int | None = None  # see PartialForward.tuple_size
        parameters = inspect.signature(self._input_module.forward).parameters
        self.has_segments = "token_type_ids" in parameters
        # from_pretrained returns eval mode, and Lightning does not change the modes it finds.
        self.train()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled backbone."""
        super().__setstate__(state)
        # The attention modules refer to our attention by name, and a new process has not registered
        # it yet.
        cpu.register()

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
            attn_implementation: ``sdpa``, ``eager`` or ``flash_attention_2``; None for the default
                of transformers.
            dtype: Dtype of the weights in memory, such as ``float32`` or ``bfloat16``.
            dropout: Probability of every dropout of the model, in [0, 1); None for the model's own.
            revision: Branch, tag or commit of a hub model.
            trust_remote_code: Run the Python files of the model's repository.

        Raises:
            OSError: If there are no weights, or none in safetensors files.
            ValueError: If the dtype or the asset is unknown, the dropout is not in [0, 1), or the
                model has no known layers.
        """
        source = resolve_source(name)
        model, newly_initialized = read_model(
            source,
            attn_implementation=attn_implementation,
            dtype=dtype,
            dropout=dropout,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
        if has_lm_head(model.config):
            return cls._from_model(model, newly_initialized=newly_initialized, pretrained=True)
        masked_lm = read_masked_lm_head(source, model.config, revision=revision)
        return cls(model, newly_initialized=newly_initialized, masked_lm=masked_lm)

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
        """Join a pretrained encoder and a decoder with random cross-attention.

        Rothe et al. 2020, arXiv:1907.12461. The decoder is a pretrained encoder or decoder, with
        causal attention from now on, or a new model with random weights.

        Args:
            encoder: As ``name`` in :meth:`from_pretrained`.
            decoder: As ``encoder``, or the config of a new decoder: ``model_type`` and its sizes.
            attn_implementation: As in :meth:`from_pretrained`.
            dtype: As in :meth:`from_pretrained`.
            dropout: As in :meth:`from_pretrained`.

        Raises:
            OSError: If there are no weights, or none in safetensors files.
            ValueError: If ``encoder`` is an encoder-decoder, if the decoder's architecture has no
                cross-attention or an unknown head, if a new decoder has no ``model_type``, or as in
                :meth:`from_pretrained`.
        """
        model, newly_initialized = join_pretrained(
            encoder, decoder, attn_implementation=attn_implementation, dtype=dtype, dropout=dropout
        )
        return cls._from_model(model, newly_initialized=newly_initialized)

    @classmethod
    def from_config(
        cls,
        config: PretrainedConfig | dict[str, Any],
        *,
        attn_implementation: str | None = None,
        dtype: str = "float32",
    ) -> "Backbone":
        """Build a backbone with random weights from a model config, without a download.

        Args:
            config: A config object, or its ``to_dict()``.
            attn_implementation: As in :meth:`from_pretrained`.
            dtype: As in :meth:`from_pretrained`.

        Raises:
            ValueError: If ``model_type`` or the dtype is unknown, or the model has no known layers.
        """
        if isinstance(config, dict):
            values = {k: v for k, v in config.items() if k != "model_type"}
            config = AutoConfig.for_model(str(config.get("model_type")), **values)
        model = auto_class(config).from_config(
            config, attn_implementation=attn_implementation, dtype=parse_dtype(dtype)
        )
        return cls._from_model(model, newly_initialized=model.state_dict())

    @classmethod
    def _from_model(
        cls, model: PreTrainedModel, *, newly_initialized: Iterable[str], pretrained: bool = False
    ) -> "Backbone":
        """Wrap a model with or without a language modelling head.

        Args:
            model: Any model that the constructor accepts after removal of its head.
            newly_initialized: Names of its random weights.
            pretrained: True if weights and generation settings come from one checkpoint.
        """
        if not has_lm_head(model.config):
            return cls(model, newly_initialized=newly_initialized)
        # By identity, because names change when the head is removed.
        random = {id(value) for value in _tensors(model, newly_initialized)}
        core, lm_head = split_lm_head(model, pretrained=pretrained)
        inside = {n for n, value in core.state_dict(keep_vars=True).items() if id(value) in random}
        names = {*newly_initialized} & {*lm_head} | inside
        return cls(core, lm_head=lm_head, newly_initialized=names)

    @property
    def config(self) -> PretrainedConfig:
        """Config of the model."""
        return self.model.config

    @property
    def stored_config(self) -> dict[str, Any] | None:
        """Model config for a checkpoint; None for a subclass."""
        # A subclass may compute something else, so its config would not rebuild it.
        return config_to_dict(self.config) if type(self) is Backbone else None

    @property
    def has_own_lm_head(self) -> bool:
        """True if the whole language modelling head is pretrained, its table included."""
        decoder, table = self._layout.decoder_stack, self.target_embeddings
        if decoder is None or self.lm_head_state is None or table is None:
            return False
        below = "decoder." if is_composition(self.config) else ""
        state = self.model.state_dict(keep_vars=True)
        tied = {name for name, value in state.items() if value is table.weight}
        head = {f"{below}{name}" for name in self.lm_head_state}
        return not self.newly_initialized & {*tied, *head}

    @property
    def is_encoder_decoder(self) -> bool:
        """True for a model with an encoder and a decoder."""
        return self._layout.decoder_stack is not None

    @property
    def is_causal(self) -> bool:
        """True if each input position attends only to earlier ones, as in GPT-2."""
        return self._layout.causal

    @property
    def hidden_size(self) -> int:
        """Width of the features."""
        stack = self._layout.decoder_stack or self._layout.input_stack
        return int(self._submodule(stack.root).config.hidden_size)  # type: ignore

    @property
    def token_embeddings(self) -> nn.Embedding | None:
        """Table of ``input_ids``, (vocabulary, width); None if the model does not expose it.

        The head of a language model is tied to this table.
        """
        module: Any = self._input_module
        try:
            table = module.get_input_embeddings()
        except NotImplementedError:
            return None
        return table if isinstance(table, nn.Embedding) else None

    @property
    def target_embeddings(self) -> nn.Embedding | None:
        """Table of ``decoder_input_ids``, (vocabulary, width); None without a decoder."""
        decoder = self._layout.decoder_stack
        if decoder is None:
            return None
        table: Any = self._submodule(decoder.root).get_input_embeddings()  # type: ignore
        return table if isinstance(table, nn.Embedding) else None

    @property
    def lm_head_layout(self) -> LMHeadLayout:
        """Layout of the language modelling head of an encoder-decoder.

        Raises:
            ValueError: If the model is not an encoder-decoder, or its head is of an unknown kind.
        """
        return lm_head_layout(self.config)

    @cached_property
    def max_tokens(self) -> int | None:
        """Largest number of tokens per text; None without a table of positions."""
        return count_positions(self._input_module)

    @cached_property
    def max_target_tokens(self) -> int | None:
        """Largest number of tokens per target; None without a decoder or a table of positions."""
        decoder = self._layout.decoder_stack
        return None if decoder is None else count_positions(self._submodule(decoder.root))

    @property
    def layers(self) -> list[nn.Module]:
        """Modules by depth: the embeddings, then each layer from the input up."""
        return layers_by_depth(self.model, self._layout)

    @property
    def max_partial_depth(self) -> int:
        """Highest depth for partial forward passes: the encoder's last layer, or the last layer."""
        return self._partial_forward.max_depth

    @property
    def partial_hidden_size(self) -> int:
        """Width of the hidden states of partial forward passes; the encoder's, if there is one."""
        return int(self._input_module.config.hidden_size)  # type: ignore

    @property
    def _partial_forward(self) -> PartialForward:
        return partial_forward_stack(self.model, self._layout)

    @property
    def _input_module(self) -> nn.Module:
        return self._submodule(self._layout.input_stack.root)

    def _submodule(self, path: str) -> nn.Module:
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
        """Compute token features by a full or a partial forward pass.

        Args:
            input_ids: Token ids, int64 (batch, seq).
            attention_mask: 1 for tokens and 0 for padding, int64 (batch, seq).
            token_type_ids: Segment ids, int64 (batch, seq); ignored by models without segments.
            decoder_input_ids: Token ids of the target with the start token in front, int64
                (batch, target seq); required by encoder-decoders, an error for other models.
            decoder_attention_mask: 1 for tokens and 0 for padding of the target, int64
                (batch, target seq).
            from_depth: Depth of ``hidden``, in 0..``max_partial_depth``. Only the layers above run;
                the result is exactly that of the full pass.
            hidden: Output of depth ``from_depth``, as returned by :meth:`hidden_states_at`, float
                (batch, seq, hidden). With ``first_token`` the output of the highest depth may be
                (batch, 1, hidden).
            first_token: Return the features of the first token only. The top layer then computes no
                others, if :func:`~lightning_transfer.backbones.cpu.first_token_only` supports it.

        Returns:
            Features of the last layer, float (batch, seq, hidden); (batch, target seq, hidden) for
            an encoder-decoder; (batch, 1, hidden) with ``first_token``.

        Raises:
            ValueError: If texts or targets are longer than the table of positions, if
                ``from_depth`` is given without ``hidden`` or out of its range, if targets are
                missing or given to a model without a decoder, or if a partial pass would start in
                an encoder with layerdrop in train mode.
        """
        self._check_targets(decoder_input_ids)
        with self._top_layer_for(first_token, from_depth):
            encoded = self.encode(
                input_ids,
                attention_mask,
                token_type_ids=token_type_ids,
                from_depth=from_depth,
                hidden=hidden,
            )
        if decoder_input_ids is not None:
            encoded = self.decode(
                encoded, attention_mask, decoder_input_ids, decoder_attention_mask
            )
        return encoded[:, :1] if first_token else encoded

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        token_type_ids: Tensor | None = None,
        from_depth: int = 0,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """Run the encoder, or a model with one stack; for the arguments see :meth:`forward`.

        Returns:
            Output of the encoder as the decoder reads it, or features of a model with one stack,
            float (batch, seq, hidden).

        Raises:
            ValueError: As in :meth:`forward`.
        """
        self._check_inputs(input_ids, from_depth, hidden)
        # The highest depth of an encoder is all that its decoder needs.
        if hidden is not None and self.is_encoder_decoder and from_depth == self.max_partial_depth:
            return hidden
        with self._starting_from(from_depth, hidden, input_ids):
            return self._run_input_stack(input_ids, attention_mask, token_type_ids)

    def _top_layer_for(self, first_token: bool, from_depth: int) -> AbstractContextManager[None]:
        """Restrict the top layer to the first token, if it runs and no other token is needed."""
        is_restricted = (
            first_token and not self.is_encoder_decoder and from_depth < self.max_partial_depth
        )
        return cpu.first_token_only(self._partial_forward.layers[-1] if is_restricted else None)

    def _run_input_stack(self, ids: Tensor, mask: Tensor | None, types: Tensor | None) -> Tensor:
        """Run the encoder, or a model with one stack; float (batch, seq, hidden)."""
        # A tokenizer may return segments for a model without them.
        extra: dict[str, Any] = {"token_type_ids": types} if self.has_segments else {}
        if self._layout.causal:
            extra["use_cache"] = False  # the cache is for generation only
        features: Tensor = self._input_module(ids, attention_mask=mask, **extra)[0]
        return features

    def decode(
        self,
        encoded: Tensor,
        attention_mask: Tensor | None,
        decoder_input_ids: Tensor,
        decoder_attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Run the decoder.

        Args:
            encoded: Result of :meth:`encode`, float (batch, seq, hidden).
            attention_mask: As in :meth:`forward`.
            decoder_input_ids: As in :meth:`forward`.
            decoder_attention_mask: As in :meth:`forward`.

        Returns:
            Features of the decoder's last layer, float (batch, target seq, hidden).

        Raises:
            ValueError: If the targets are longer than the decoder's table of positions, or the
                model has no decoder.
        """
        self._check_targets(decoder_input_ids)
        assert self._layout.decoder_stack is not None  # checked by _check_targets
        if self._layout.bridge is not None:
            encoded = self._submodule(self._layout.bridge)(encoded)  # (batch, seq, decoder hidden)
        features: Tensor = self._submodule(self._layout.decoder_stack.root)(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=encoded,
            encoder_attention_mask=attention_mask,
            use_cache=False,
        )[0]
        return features

    def hidden_states_at(
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
        """Compute the hidden states at some depths, in one pass up to the highest of them.

        ``forward(..., from_depth=d, hidden=states[d])`` then equals the full pass exactly. Modes
        and gradients are not changed: before you store the output of a frozen prefix, put its
        layers in eval mode.

        Args:
            depths: Requested depths, each in ``from_depth``..``max_partial_depth``.
            input_ids: As in :meth:`forward`.
            attention_mask: As in :meth:`forward`.
            token_type_ids: As in :meth:`forward`.
            from_depth: As in :meth:`forward`.
            hidden: As in :meth:`forward`.
            first_token: Return only the first token of depth ``max_partial_depth``.

        Returns:
            Depth to hidden states as the next layer reads them, float (batch, seq, hidden); with
            ``first_token`` those of ``max_partial_depth`` are (batch, 1, hidden).

        Raises:
            ValueError: As in :meth:`forward`, or if a depth is out of its range.
        """
        self._check_inputs(input_ids, from_depth, hidden)
        requested, top = set(depths), self.max_partial_depth
        if bad := sorted(depth for depth in requested if not from_depth <= depth <= top):
            raise ValueError(f"depths must be between from_depth={from_depth} and {top}, got {bad}")
        known = {from_depth: hidden} if hidden is not None and from_depth in requested else {}
        computed: dict[int, Tensor] = {}
        if above := requested - set(known):
            with (
                self._starting_from(from_depth, hidden, input_ids),
                self._top_layer_for(first_token and top in above, from_depth),
                self._partial_forward.collecting(above) as computed,
            ):
                self._run_input_stack(input_ids, attention_mask, token_type_ids)
        states = {**known, **computed}
        if first_token and top in states:
            states[top] = states[top][:, :1]  # (batch, 1, hidden)
        return states

    def _check_inputs(self, input_ids: Tensor, from_depth: int, hidden: Tensor | None) -> None:
        """Raise if the texts are too long or no partial pass can start at ``from_depth``."""
        limit = self.max_tokens
        if limit is not None and input_ids.shape[1] > limit:
            raise ValueError(
                f"the batch has {input_ids.shape[1]} tokens per text, and the backbone takes at "
                f"most {limit}; set data.tokens.max_length={limit}"
            )
        if hidden is None and from_depth:
            raise ValueError(f"from_depth={from_depth} needs hidden, the output of that depth")
        top = self.max_partial_depth
        if hidden is not None and not 0 <= from_depth <= top:
            raise ValueError(f"from_depth must be in 0..{top}, got {from_depth}")

    def _check_targets(self, target_ids: Tensor | None) -> None:
        """Raise if targets are too long, missing, or given to a model without a decoder."""
        name = type(self.model).__name__
        if target_ids is None and self.is_encoder_decoder:
            raise ValueError(
                f"{name} is an encoder-decoder and needs decoder_input_ids, which this task does "
                "not give; choose an encoder, such as backbone.name=asset:minilm"
            )
        if target_ids is not None and not self.is_encoder_decoder:
            raise ValueError(
                f"{name} is not an encoder-decoder, but got decoder_input_ids; leave them out, or "
                "choose an encoder-decoder such as T5, BART or Marian"
            )
        limit = self.max_target_tokens
        if target_ids is not None and limit is not None and target_ids.shape[1] > limit:
            raise ValueError(
                f"the batch has {target_ids.shape[1]} tokens per target, and the decoder takes at "
                f"most {limit}; set data.target_tokens.max_length={limit}"
            )

    def _starting_from(
        self, depth: int, hidden: Tensor | None, input_ids: Tensor
    ) -> AbstractContextManager[None]:
        """Make the model start from ``hidden``; without it, run all layers."""
        if hidden is None:
            return nullcontext()
        module, stack = self._input_module, self._partial_forward
        layerdrop = getattr(module, "layerdrop", 0) if module.training else 0
        if layerdrop:
            raise ValueError(
                f"a layerdrop of {layerdrop} skips layers at random, and a partial forward pass "
                "cannot start from a skipped layer; set encoder_layerdrop=0 in the model's config"
            )
        if self._tuple_size is None:
            # Once, on one text, in eval mode so that no random number is drawn.
            with evaluating(module), torch.no_grad():
                self._tuple_size = stack.tuple_size(
                    lambda: self._run_input_stack(input_ids[:1], None, None)
                )
        return stack.starting_from(depth, hidden, tuple_size=self._tuple_size)


def _tensors(model: PreTrainedModel, names: Iterable[str]) -> list[Tensor]:
    state = model.state_dict(keep_vars=True)
    return [state[name] for name in names if name in state]
