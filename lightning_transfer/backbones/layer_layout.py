"""Layer layouts of transformers' models: paths of embeddings, layers, norms and decoders."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from lightning_transfer.backbones.partial_forward import PartialForward

# Names of token tables. A stack with token ids as input has one of them.
_TOKENS = ("embeddings", "embed_tokens", "wte")
# Modules between the token table and the first layer, in forward order. ELECTRA and RemBERT project
# their narrower embeddings to the hidden size there.
_AFTER_TOKENS = (
    "layernorm_embedding",
    "drop",
    "embeddings_project",
    "encoder.embedding_hidden_mapping_in",
)
_POSITIONS = ("embed_positions", "wpe")
# Modules outside the layers with an effect on the lowest of them. They belong to depth 0: trained
# while depth 0 is frozen, they would change the output of frozen layers.
_AUXILIARY = {
    "deberta": ("encoder.rel_embeddings",),
    "deberta-v2": ("encoder.rel_embeddings", "encoder.LayerNorm", "encoder.conv"),
    "mpnet": ("encoder.relative_attention_bias",),
}
_FINAL_NORMS = ("final_layer_norm", "layer_norm")


@dataclass(frozen=True)
class StackLayout:
    """Module paths of one stack: embeddings and layers of an encoder or a decoder.

    All paths start at the model, and all but ``root`` lead to modules of this model.

    Args:
        root: Path of the module with the stack's forward pass; empty for the model itself.
        layers: Path of the list of layers.
        tokens: Paths of the token table and of the modules between it and the first layer.
        positions: Paths of the position tables, added to the token embeddings.
        auxiliary: Paths of modules outside the layers with an effect on the lowest of them, such as
            tables of relative positions.
        final_norms: Paths of the norms after the last layer.
    """

    root: str
    layers: str
    tokens: tuple[str, ...]
    positions: tuple[str, ...]
    auxiliary: tuple[str, ...]
    final_norms: tuple[str, ...]

    @property
    def embeddings(self) -> tuple[str, ...]:
        """Paths of all modules at depth 0."""
        return (*self.tokens, *self.positions, *self.auxiliary)


@dataclass(frozen=True)
class LayerLayout:
    """Module paths of a model with one stack or with an encoder and a decoder.

    Args:
        input_stack: Stack with ``input_ids`` as input: an encoder, or the only stack of a model.
        decoder_stack: Decoder of an encoder-decoder, or None.
        shared: Paths of embeddings outside both stacks.
        bridge: Path of the projection from the encoder's width to the decoder's, or None.
        causal: True if the input stack is a decoder; its forward accepts ``use_cache``.
    """

    input_stack: StackLayout
    decoder_stack: StackLayout | None = None
    shared: tuple[str, ...] = ()
    bridge: str | None = None
    causal: bool = False

    @property
    def stacks(self) -> dict[str, StackLayout]:
        """Stacks by name: ``encoder``, ``decoder`` or both."""
        if self.decoder_stack is None:
            return {"decoder" if self.causal else "encoder": self.input_stack}
        return {"encoder": self.input_stack, "decoder": self.decoder_stack}


class CompositeLayer(nn.ModuleList):
    """Several modules at one depth, with a train or eval mode in common.

    Some modules belong to no depth, but have dropout before or inside the lowest layers: BART's
    encoder itself, or T5's dropout, which the encoder also applies after its final norm. In train
    mode they would change the output of frozen layers at random. As ``followers`` of the
    embeddings, they have the mode of depth 0.

    Args:
        parts: Modules of this depth.
        followers: Modules outside this depth with the same mode.
    """

    def __init__(self, parts: Iterable[nn.Module], followers: Iterable[nn.Module] = ()) -> None:
        """See the class."""
        super().__init__(parts)
        # nn.Module would register a module or a ModuleList as a child, but not a tuple.
        self._followers = tuple(followers)

    @property
    def training(self) -> bool:
        """True if any part or follower is in train mode."""
        return any(module.training for module in (*self, *self._followers))

    @training.setter
    def training(self, mode: bool) -> None:
        """Ignore the value: ``nn.Module`` sets it on construction, and the parts have the mode."""
        # `layers_by_depth` builds a new instance on each call, so a mode stored here would be lost.

    def train(self, mode: bool = True) -> "CompositeLayer":
        """Set the mode of the parts, and of the followers without their children."""
        super().train(mode)
        for follower in self._followers:
            # Not follower.train(mode): the children of an encoder are the layers above.
            follower.training = mode
        return self


def find_layer_layout(model: PreTrainedModel) -> LayerLayout:
    """Find the stacks of a model.

    Args:
        model: A text model without a task head.

    Raises:
        ValueError: If a stack has no token table, or no list of layers or more than one, or if an
            encoder-decoder has a language modelling head.
    """
    if not _is_encoder_decoder(model):
        input_stack = _find_stack(model, "")
        # Encoders have a module `embeddings`, decoders such as GPT-2 have bare tables.
        return LayerLayout(input_stack, causal="embeddings" not in input_stack.tokens)
    decoder = model.get_submodule("decoder")
    inner = _path_below(decoder, getattr(decoder, "base_model", decoder))
    # An EncoderDecoderModel has the decoder's base model one level deeper, such as decoder.bert.
    root = f"decoder.{inner}" if inner else "decoder"
    if not inner and getattr(model, "lm_head", None) is not None:
        raise ValueError(
            f"{type(model).__name__} has a language modelling head, which is not part of a "
            "backbone; pass the model built by AutoModel"
        )
    return LayerLayout(
        _find_stack(model, "encoder"),
        _find_stack(model, root),
        shared=_existing_paths(model, "", ("shared",)),
        bridge=next(iter(_existing_paths(model, "", ("enc_to_dec_proj",))), None),
    )


def _is_encoder_decoder(model: nn.Module) -> bool:
    layers = [_paths_of_layers(getattr(model, name, None)) for name in ("encoder", "decoder")]
    return all(layers)


def _find_stack(model: PreTrainedModel, root: str) -> StackLayout:
    """Return the layout of the only stack below ``root``."""
    module = model.get_submodule(root)
    layers = _paths_of_layers(module)
    tokens = _existing_paths(model, root, _TOKENS)
    if len(layers) != 1 or not tokens:
        raise ValueError(
            f"{type(model).__name__} is not a text model with embeddings and one stack of layers, "
            "or one in its encoder and one in its decoder (stacks found: "
            f"{_paths_of_layers(model) or 'none'}); pass an encoder, a decoder or an "
            "encoder-decoder, or your own nn.Module with `layers` and `hidden_size`"
        )
    config = getattr(module, "config", model.config)
    return StackLayout(
        root=root,
        layers=_join(root, layers[0]),
        tokens=(*tokens, *_existing_paths(model, root, _AFTER_TOKENS)),
        positions=_existing_paths(model, root, _POSITIONS),
        auxiliary=_existing_paths(model, root, _AUXILIARY.get(config.model_type, ())),
        final_norms=_existing_paths(model, root, _FINAL_NORMS),
    )


def _paths_of_layers(module: object) -> list[str]:
    """Return the paths of all lists of layers below a module."""
    if not isinstance(module, nn.Module):
        return []
    # GradientCheckpointingLayer is the base class of transformers' layers, except MPNet's, which
    # are found by their path.
    return [
        path
        for path, part in module.named_modules()
        if isinstance(part, nn.ModuleList)
        and len(part)
        and (isinstance(part[0], GradientCheckpointingLayer) or path == "encoder.layer")
    ]


def _existing_paths(model: nn.Module, root: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the paths of the names below ``root`` that are modules of the model."""
    # With duplicates: `shared` and `encoder.embed_tokens` may be one module with two paths.
    known = {path for path, _ in model.named_modules(remove_duplicate=False)}
    return tuple(path for path in (_join(root, name) for name in names) if path in known)


def _join(root: str, path: str) -> str:
    return f"{root}.{path}" if root else path


def _path_below(module: nn.Module, part: nn.Module) -> str:
    return next(path for path, found in module.named_modules() if found is part)


def layers_by_depth(model: nn.Module, layout: LayerLayout) -> list[nn.Module]:
    """Return the embeddings and the layers, ordered by depth.

    An encoder-decoder has all embeddings at depth 0, then the encoder's layers, then the decoder's.
    """
    get = model.get_submodule
    input_stack, decoder_stack = layout.input_stack, layout.decoder_stack
    *below, top = _layer_list(model, input_stack.layers)
    if decoder_stack is None:
        return [_as_one_layer([get(path) for path in input_stack.embeddings]), *below, top]
    paths = (*layout.shared, *input_stack.embeddings, *decoder_stack.embeddings)
    encoder = get(input_stack.root)
    dropouts = [module for module in encoder.children() if isinstance(module, nn.Dropout)]
    embeddings = CompositeLayer([get(path) for path in paths], [encoder, *dropouts])
    first, *above = _layer_list(model, decoder_stack.layers)
    bridge = [] if layout.bridge is None else [get(layout.bridge)]
    # The decoder reads the encoder's output after the final norm, so the norm must be frozen with
    # the encoder's last layer. The bridge runs above that output, with the decoder's first layer.
    top = _as_one_layer([top, *map(get, input_stack.final_norms)])
    return [embeddings, *below, top, _as_one_layer([*bridge, first]), *above]


def partial_forward_stack(model: nn.Module, layout: LayerLayout) -> PartialForward:
    """Return the input stack of a model, prepared for partial forward passes."""
    get, input_stack = model.get_submodule, layout.input_stack
    return PartialForward(
        _layer_list(model, input_stack.layers),
        [get(path) for path in input_stack.tokens],
        [get(path) for path in input_stack.positions],
        None if layout.decoder_stack is None else get(input_stack.root),
    )


def _layer_list(model: nn.Module, path: str) -> list[nn.Module]:
    found = model.get_submodule(path)
    assert isinstance(found, nn.ModuleList)  # checked by find_layer_layout
    return list(found)


def _as_one_layer(parts: list[nn.Module]) -> nn.Module:
    return parts[0] if len(parts) == 1 else CompositeLayer(parts)


def remove_pooler(model: nn.Module) -> dict[str, Tensor] | None:
    """Remove BERT's pooler from a model in place.

    Returns:
        Copies of ``weight`` and ``bias`` of its dense layer; None for a model without a pooler or
        with one of another structure.
    """
    # Its output is unused here. A parameter without a gradient is an error under DDP.
    pooler = getattr(model, "pooler", None)
    if not isinstance(pooler, nn.Module):
        return None
    dense = pooler if isinstance(pooler, nn.Linear) else getattr(pooler, "dense", None)
    model.pooler = nn.Identity()  # not None: LayoutLM calls its pooler unconditionally
    if not isinstance(dense, nn.Linear):
        return None
    return _copied_state(dense)


def remove_lm_head(model: PreTrainedModel, decoder_stack: StackLayout) -> dict[str, Tensor] | None:
    """Remove the language modelling head from an ``EncoderDecoderModel`` in place.

    Returns:
        Copies of its weights by their names below ``decoder``, with weights tied to the embeddings
        included; None for a model without such a head.
    """
    decoder = model.get_submodule("decoder")
    base = model.get_submodule(decoder_stack.root)
    removed: dict[str, Tensor] = {}
    for name, part in list(decoder.named_children()):
        if base is not decoder and part is not base:
            removed |= {f"{name}.{key}": value for key, value in _copied_state(part).items()}
            setattr(decoder, name, nn.Identity())  # forward still calls the head
    return removed or None


def _copied_state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def newly_initialized_names(model: PreTrainedModel, layout: LayerLayout) -> set[str]:
    """Return the names of weights in stacks without a known source of pretrained weights."""
    # transformers sets `name_or_path` of a config when it loads weights.
    if model.config.name_or_path:
        return set()
    configs = {
        name: getattr(model.get_submodule(stack.root), "config", model.config)
        for name, stack in layout.stacks.items()
    }
    pretrained = {name for name, config in configs.items() if config.name_or_path}
    return {name for name in model.state_dict() if name.partition(".")[0] not in pretrained}


def table_of_positions(module: nn.Module) -> nn.Embedding | None:
    """Return the table of position embeddings of a module; None if it has none."""
    for name, part in module.named_modules():
        if name.endswith(("position_embeddings", *_POSITIONS)) and isinstance(part, nn.Embedding):
            return part
    return None


def first_position(table: nn.Embedding) -> int:
    """Return the row of the first token in a table of positions."""
    padding = table.padding_idx  # RoBERTa's positions start after it
    unused = 0 if padding is None else padding + 1
    return unused + int(getattr(table, "offset", 0))  # BART does not use its first two rows


def count_positions(module: nn.Module) -> int | None:
    """Return the largest number of tokens for a module's table of positions; None without one."""
    table = table_of_positions(module)
    return None if table is None else table.num_embeddings - first_position(table)
