"""Where the models of transformers keep their embeddings, their layers and what stands around."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from lightning_transfer.backbones.partial_forward import Stack

# Tables of tokens; a model that reads ids has one of them.
_TOKENS = ("embeddings", "embed_tokens", "wte")
# What stands between a table and the first layer, in order; ELECTRA and RemBERT widen theirs.
_BEHIND_TOKENS = (
    "layernorm_embedding",
    "drop",
    "embeddings_project",
    "encoder.embedding_hidden_mapping_in",
)
_POSITIONS = ("embed_positions", "wpe")
# What lies outside the layers and reaches into the lowest of them. It belongs to the embeddings:
# were it to move while they are frozen, the output of frozen layers would move with it.
_BESIDE = {
    "deberta": ("encoder.rel_embeddings",),
    "deberta-v2": ("encoder.rel_embeddings", "encoder.LayerNorm", "encoder.conv"),
    "mpnet": ("encoder.relative_attention_bias",),
}
_LAST_NORMS = ("final_layer_norm", "layer_norm")


@dataclass(frozen=True)
class Side:
    """A stack of layers above its embeddings: a whole model, or the encoder or decoder of one.

    All but ``root`` are paths below the model, each of a part that is there.

    Args:
        root: Path of the module whose forward runs the stack; empty for the model itself.
        stack: The list of layers.
        tokens: The table of tokens and what its output passes on the way to the first layer.
        positions: Tables that are added to the tokens.
        beside: What reaches into the lowest layers from outside.
        norms: What the last layer's output passes.
    """

    root: str
    stack: str
    tokens: tuple[str, ...]
    positions: tuple[str, ...]
    beside: tuple[str, ...]
    norms: tuple[str, ...]

    @property
    def embeddings(self) -> tuple[str, ...]:
        """All of depth 0."""
        return (*self.tokens, *self.positions, *self.beside)


@dataclass(frozen=True)
class LayerLayout:
    """The sides of a model.

    Args:
        reader: What reads ``input_ids``: an encoder, or the whole of a model with one stack.
        writer: The decoder behind an encoder, or None.
        shared: Paths of embeddings that stand outside both sides.
        bridge: Path of what fits the encoder's width to the decoder's, or None.
        causal: Whether the reader is a decoder, which can keep a cache.
    """

    reader: Side
    writer: Side | None = None
    shared: tuple[str, ...] = ()
    bridge: str | None = None
    causal: bool = False

    @property
    def sides(self) -> dict[str, Side]:
        """The sides by name: ``encoder``, ``decoder`` or both."""
        if self.writer is None:
            return {"decoder" if self.causal else "encoder": self.reader}
        return {"encoder": self.reader, "decoder": self.writer}


class Parts(nn.ModuleList):
    """One depth made of several modules; its mode is theirs, whoever sets it.

    An encoder such as BART's drops out what it reads by a mode of its own, and T5's by a module
    that it has in common with its last norm. Were they to follow no depth, the output of frozen
    layers would be another one each time: they follow the embeddings.

    Args:
        parts: The modules.
        followers: Modules that take their mode, and no more, from this depth.
    """

    def __init__(self, parts: Iterable[nn.Module], followers: Iterable[nn.Module] = ()) -> None:
        """See the class."""
        super().__init__(parts)
        self._followers = tuple(followers)  # a tuple: they are no parts of this module

    @property
    def training(self) -> bool:
        """Whether anything in here is in train mode."""
        return any(module.training for module in (*self, *self._followers))

    @training.setter
    def training(self, mode: bool) -> None:
        """Leave it to the parts: this list is made anew each time, and they stay."""

    def train(self, mode: bool = True) -> "Parts":
        """Set the mode of the parts, and of the followers themselves."""
        super().train(mode)
        for follower in self._followers:
            follower.training = mode
        return self


def find_layer_layout(model: PreTrainedModel) -> LayerLayout:
    """Find the sides of a model.

    Raises:
        ValueError: If a side has no stack of layers above a table of tokens, or more than one, or
            if an encoder-decoder has a head of its own.
    """
    if not _has_two_sides(model):
        reader = _find_side(model, "")
        return LayerLayout(reader, causal="embeddings" not in reader.tokens)
    decoder = model.get_submodule("decoder")
    inner = _path_below(decoder, getattr(decoder, "base_model", decoder))
    writer = f"decoder.{inner}" if inner else "decoder"
    if not inner and getattr(model, "lm_head", None) is not None:
        raise ValueError(
            f"{type(model).__name__} has a language modelling head, which stands apart from a "
            "backbone; pass the model that AutoModel gives"
        )
    return LayerLayout(
        _find_side(model, "encoder"),
        _find_side(model, writer),
        shared=_there(model, "", ("shared",)),
        bridge=next(iter(_there(model, "", ("enc_to_dec_proj",))), None),
    )


def _has_two_sides(model: nn.Module) -> bool:
    stacks = [_stacks(getattr(model, name, None)) for name in ("encoder", "decoder")]
    return all(stacks)


def _find_side(model: PreTrainedModel, root: str) -> Side:
    """Return the one stack below ``root`` with what stands around it."""
    module = model.get_submodule(root)
    stacks = _stacks(module)
    tokens = _there(model, root, _TOKENS)
    if len(stacks) != 1 or not tokens:
        raise ValueError(
            f"{type(model).__name__} is no text model with embeddings and one stack of layers, or "
            f"one in its encoder and one in its decoder (stacks found: {_stacks(model) or 'none'})"
            "; pass an encoder, a decoder or an encoder-decoder, or an nn.Module of your own with "
            "`layers` and `hidden_size`"
        )
    config = getattr(module, "config", model.config)
    return Side(
        root=root,
        stack=_join(root, stacks[0]),
        tokens=(*tokens, *_there(model, root, _BEHIND_TOKENS)),
        positions=_there(model, root, _POSITIONS),
        beside=_there(model, root, _BESIDE.get(config.model_type, ())),
        norms=_there(model, root, _LAST_NORMS),
    )


def _stacks(module: object) -> list[str]:
    """Return the paths of all lists of layers below a module."""
    if not isinstance(module, nn.Module):
        return []
    return [
        path
        for path, part in module.named_modules()
        if isinstance(part, nn.ModuleList)
        and len(part)
        and (isinstance(part[0], GradientCheckpointingLayer) or path == "encoder.layer")
    ]


def _there(model: nn.Module, root: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the paths of those names below ``root`` that are modules."""
    known = {path for path, _ in model.named_modules(remove_duplicate=False)}
    return tuple(path for path in (_join(root, name) for name in names) if path in known)


def _join(root: str, path: str) -> str:
    return f"{root}.{path}" if root else path


def _path_below(module: nn.Module, part: nn.Module) -> str:
    return next(path for path, found in module.named_modules() if found is part)


def layers_by_depth(model: nn.Module, anatomy: LayerLayout) -> list[nn.Module]:
    """Return the embeddings, then each layer, from the input up.

    Of an encoder-decoder, a norm that ends the encoder stands with the layer below it: it has a
    part in what the decoder is fed with. What fits that to the decoder's width stands with the
    decoder's first layer.
    """
    part, reader, writer = model.get_submodule, anatomy.reader, anatomy.writer
    below, top = _list(model, reader.stack)[:-1], _list(model, reader.stack)[-1]
    if writer is None:
        return [_one([part(path) for path in reader.embeddings]), *below, top]
    paths = (*anatomy.shared, *reader.embeddings, *writer.embeddings)
    encoder = part(reader.root)
    dropouts = [module for module in encoder.children() if isinstance(module, nn.Dropout)]
    embeddings = Parts([part(path) for path in paths], [encoder, *dropouts])
    first, *above = _list(model, writer.stack)
    bridge = [] if anatomy.bridge is None else [part(anatomy.bridge)]
    top = _one([top, *map(part, reader.norms)])
    return [embeddings, *below, top, _one([*bridge, first]), *above]


def replayable_stack(model: nn.Module, anatomy: LayerLayout) -> Stack:
    """Return the layers that read ``input_ids``, to be run in part."""
    part, reader = model.get_submodule, anatomy.reader
    return Stack(
        _list(model, reader.stack),
        [part(path) for path in reader.tokens],
        [part(path) for path in reader.positions],
        None if anatomy.writer is None else part(reader.root),
    )


def _list(model: nn.Module, path: str) -> list[nn.Module]:
    found = model.get_submodule(path)
    assert isinstance(found, nn.ModuleList)  # as find_layer_layout found it
    return list(found)


def _one(parts: list[nn.Module]) -> nn.Module:
    return parts[0] if len(parts) == 1 else Parts(parts)


def take_pooler(model: nn.Module) -> dict[str, Tensor] | None:
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
    return _kept(dense)


def take_lm_head(model: PreTrainedModel, writer: Side) -> dict[str, Tensor] | None:
    """Remove what stands above the decoder of an ``EncoderDecoderModel``; return its weights.

    Their names are those below ``decoder``. A weight that is tied to the embeddings is in it too.
    """
    decoder = model.get_submodule("decoder")
    base = model.get_submodule(writer.root)
    taken: dict[str, Tensor] = {}
    for name, part in list(decoder.named_children()):
        if base is not decoder and part is not base:
            taken |= {f"{name}.{key}": value for key, value in _kept(part).items()}
            setattr(decoder, name, nn.Identity())
    return taken or None


def _kept(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def unread(model: PreTrainedModel, anatomy: LayerLayout) -> set[str]:
    """Return the names of the weights on sides whose config names no place that they are from."""
    if model.config.name_or_path:
        return set()
    configs = {
        name: getattr(model.get_submodule(side.root), "config", model.config)
        for name, side in anatomy.sides.items()
    }
    read = {name for name, config in configs.items() if config.name_or_path}
    return {name for name in model.state_dict() if name.partition(".")[0] not in read}


def table_of_positions(module: nn.Module) -> nn.Embedding | None:
    """Return a module's table of positions, or None without one."""
    for name, part in module.named_modules():
        if name.endswith(("position_embeddings", *_POSITIONS)) and isinstance(part, nn.Embedding):
            return part
    return None


def first_position(table: nn.Embedding) -> int:
    """Return the row of a table of positions that belongs to the first token."""
    padding = table.padding_idx  # RoBERTa counts its positions from behind it
    unused = 0 if padding is None else padding + 1
    return unused + int(getattr(table, "offset", 0))  # BART's two


def room_for_tokens(module: nn.Module) -> int | None:
    """Return how many tokens a module's table of positions has room for; None without one."""
    table = table_of_positions(module)
    return None if table is None else table.num_embeddings - first_position(table)
