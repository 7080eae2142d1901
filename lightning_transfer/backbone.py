"""A pretrained language model as an ordered stack of layers."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from lightning_transfer import assets, kernels
from lightning_transfer.modes import evaluating
from lightning_transfer.replay import Stack

# What turns ids into the first layer's input, in order; ELECTRA and RemBERT widen their embeddings.
_EMBEDDINGS = ("embeddings", "embeddings_project", "encoder.embedding_hidden_mapping_in")
# What lies outside the layers and reaches into the lowest of them. It belongs to the embeddings:
# were it to move while they are frozen, the output of frozen layers would move with it.
_BESIDE = {
    "deberta": ("encoder.rel_embeddings",),
    "deberta-v2": ("encoder.rel_embeddings", "encoder.LayerNorm", "encoder.conv"),
    "mpnet": ("encoder.relative_attention_bias",),
}
# What model configs call their dropout probabilities.
_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
)


class Backbone(nn.Module):
    """A Hugging Face encoder, seen from the input up: embeddings at depth 0, then the layers.

    Freezing, gradual unfreezing, discriminative learning rates and replayed activations all
    speak of depths; this class is the one place that knows where an architecture keeps them.
    It is in train mode from the start, although ``from_pretrained`` of transformers returns eval
    mode and Lightning keeps what it finds. A pretrained pooler is taken off the stack (see
    ``pooler_state``): it belongs to a head. On a CPU it trains with the dropout and the attention
    of :mod:`lightning_transfer.kernels`.

    Args:
        model: A ``PreTrainedModel`` with one stack of layers and no task head.

    Raises:
        ValueError: If the model has no stack of layers that can be found, or more than one.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=2,
        ...                     num_attention_heads=2, intermediate_size=8)
        >>> backbone = Backbone(BertModel(config))
        >>> len(backbone.layers), backbone.hidden_size, backbone.training
        (3, 8, True)
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """See the class."""
        super().__init__()
        self._stack_path = _find_stack(model)
        modules = dict(model.named_modules())
        beside = _BESIDE.get(model.config.model_type, ())
        self._embedding_paths = [path for path in _EMBEDDINGS if path in modules]
        self._beside_paths = [path for path in beside if path in modules]
        self.pooler_state: dict[str, Tensor] | None = _take_pooler(model)
        kernels.install(model)
        self.model = model
        self._entries: int | None = None
        self.train()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Come out of a pickle, maybe in a process that has built no backbone yet."""
        super().__setstate__(state)
        kernels.register()

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
        _check_safetensors(source)
        config = AutoConfig.from_pretrained(
            source, revision=revision, trust_remote_code=trust_remote_code
        )
        if dropout is not None:
            set_dropout(config, dropout)
        model = AutoModel.from_pretrained(
            source,
            config=config,
            use_safetensors=True,
            attn_implementation=attn_implementation,
            dtype=parse_dtype(dtype),
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
        return cls(model)

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
        model = AutoModel.from_config(
            config, attn_implementation=attn_implementation, dtype=parse_dtype(dtype)
        )
        return cls(model)

    @property
    def config(self) -> PretrainedConfig:
        """The model's own config."""
        return self.model.config

    @property
    def hidden_size(self) -> int:
        """Width of the features."""
        return int(self.config.hidden_size)

    @cached_property
    def max_tokens(self) -> int | None:
        """How many tokens the table of positions has room for; None without such a table."""
        for name, module in self.model.named_modules():
            if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
                padding = module.padding_idx  # RoBERTa counts its positions from behind it
                return module.num_embeddings - (0 if padding is None else padding + 1)
        return None

    @property
    def layers(self) -> list[nn.Module]:
        """Modules from the input up: the embeddings, then each encoder layer."""
        paths = (*self._embedding_paths, *self._beside_paths)
        found = [self.model.get_submodule(path) for path in paths]
        embeddings = found[0] if len(found) == 1 else nn.ModuleList(found)
        return [embeddings, *self._stack.layers]

    @property
    def replayable(self) -> int:
        """The highest depth whose output can be replayed."""
        return self._stack.top

    @property
    def _stack(self) -> Stack:
        layers = self.model.get_submodule(self._stack_path)
        assert isinstance(layers, nn.ModuleList)  # as _find_stack found it
        return Stack(list(layers), self.model.get_submodule(self._embedding_paths[-1]))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        token_type_ids: Tensor | None = None,
        from_depth: int = 0,
        hidden: Tensor | None = None,
        first_token: bool = False,
    ) -> Tensor:
        """Compute token features, all the way or from the middle.

        Args:
            input_ids: Token ids, int64 (batch, seq).
            attention_mask: 1 for tokens and 0 for padding, int64 (batch, seq).
            token_type_ids: Segment ids, int64 (batch, seq), for models that have them.
            from_depth: With ``hidden``: the depth whose output ``hidden`` is, just as the layer
                above is fed with it; only what lies above runs, and it equals the full pass
                exactly.
            hidden: Features to go on from, float (batch, seq, hidden); where ``first_token`` is
                asked for, those of the highest depth may be (batch, 1, hidden).
            first_token: Whether only the first token's features are wanted; the top layer then
                computes no others, where :func:`kernels.first_token_only` knows how.

        Returns:
            Features of the last layer, float (batch, seq, hidden), or (batch, 1, hidden).

        Raises:
            ValueError: If the texts are longer than the backbone has positions for, if only one
                of ``from_depth`` and ``hidden`` is given, or if there is no such depth.
        """
        extra = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        self._check(input_ids, from_depth, hidden)
        runs = first_token and from_depth < len(self.layers) - 1
        shortened = kernels.first_token_only(self.layers[-1] if runs else None)
        with self._from(from_depth, hidden, input_ids), shortened:
            features: Tensor = self.model(input_ids, attention_mask=attention_mask, **extra)[0]
        return features[:, :1] if first_token else features

    def outputs_of(
        self,
        depths: Sequence[int],
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        token_type_ids: Tensor | None = None,
        from_depth: int = 0,
        hidden: Tensor | None = None,
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

        Returns:
            By depth, what the layer above it is fed with, float (batch, seq, hidden).

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
        if wanted - set(known):
            extra = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
            with (
                self._from(from_depth, hidden, input_ids),
                self._stack.collecting(wanted - set(known)) as outputs,
            ):
                self.model(input_ids, attention_mask=attention_mask, **extra)
        return {**known, **outputs}

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
        if not 0 <= from_depth <= self.replayable:
            raise ValueError(f"from_depth must be in 0..{self.replayable}, got {from_depth}")

    def _from(
        self, depth: int, hidden: Tensor | None, input_ids: Tensor
    ) -> AbstractContextManager[None]:
        """Let the model run from a depth on, or all of it where nothing is known."""
        if hidden is None:
            return nullcontext()
        if self._entries is None:
            with evaluating(self.model), torch.no_grad():
                self._entries = self._stack.entries(lambda: self.model(input_ids[:1]))
        return self._stack.replaying(depth, hidden, entries=self._entries)


def resolve_source(name: str | Path) -> str:
    """Return the folder or hub id behind a model name; ``asset:`` names are fetched.

    Raises:
        OSError: If an asset cannot be fetched, or a path leads to no folder.
        ValueError: If there is no such asset.
    """
    text = str(name)
    if text.startswith("asset:"):
        return str(assets.fetch(text.removeprefix("asset:")))
    folder = Path(text).expanduser()
    if folder.is_dir():
        return str(folder)
    if text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise FileNotFoundError(
            f"no model folder at {text}; a model is asset:<name>, a folder or a hub id"
        )
    return text


def _check_safetensors(source: str) -> None:
    """Refuse a folder of pickled weights before transformers looks for them elsewhere."""
    folder = Path(source)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        names = ", ".join(sorted(path.name for path in folder.iterdir())) or "it is empty"
        raise OSError(
            f"{source} holds no model.safetensors ({names}); other weight files can run code when "
            "they are read, so write them anew with model.save_pretrained(folder)"
        )


def set_dropout(config: PretrainedConfig, dropout: float) -> None:
    """Set every dropout probability of a model config.

    Raises:
        ValueError: If the probability is out of its range, or the config has none to set.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}; set backbone.dropout")
    names = [name for name in _DROPOUTS if hasattr(config, name)]
    if not names:
        raise ValueError(f"{type(config).__name__} has no dropout that is known; drop dropout=")
    for name in names:
        setattr(config, name, float(dropout))


def parse_dtype(dtype: str) -> torch.dtype:
    """Return the torch type called ``dtype``.

    Raises:
        ValueError: If torch has no floating type of that name.
    """
    value = getattr(torch, str(dtype), None)
    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise ValueError(
            f"backbone.dtype must be float32, bfloat16, float16 or float64, got {dtype!r}"
        )
    return value


def _find_stack(model: nn.Module) -> str:
    """Return the path of the one ordered list of encoder layers."""
    stacks = [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module)
        and (isinstance(module[0], GradientCheckpointingLayer) or path == "encoder.layer")
    ]
    if len(stacks) != 1 or not isinstance(getattr(model, "embeddings", None), nn.Module):
        raise ValueError(
            f"{type(model).__name__} is not an encoder with embeddings and one stack of layers "
            f"(stacks found: {stacks or 'none'}); pass an encoder, or an nn.Module of your own "
            "with `layers` and `hidden_size`"
        )
    return stacks[0]


def _take_pooler(model: PreTrainedModel) -> dict[str, Tensor] | None:
    """Remove BERT's pooler and return its dense layer's weights.

    Left in place it would be a parameter without a gradient, which DDP refuses.
    """
    pooler = getattr(model, "pooler", None)
    if not isinstance(pooler, nn.Module):
        return None
    dense = pooler if isinstance(pooler, nn.Linear) else getattr(pooler, "dense", None)
    model.pooler = nn.Identity()  # some models call it unasked
    if not isinstance(dense, nn.Linear):
        return None
    return {name: value.detach().clone() for name, value in dense.state_dict().items()}
