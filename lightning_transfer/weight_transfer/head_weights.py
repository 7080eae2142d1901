"""A head filled from the weights before it, its outputs matched by the names of the labels."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_transfer.backbones.lm_heads import LMHeadLayout, head_form
from lightning_transfer.checkpoints.loading import Weights
from lightning_transfer.tasks import TransferModule
from lightning_transfer.utils.checkpoint_format import class_path, config_of
from lightning_transfer.utils.labels import Labels, match_outputs
from lightning_transfer.weight_transfer.vocabularies import Vocabularies
from lightning_transfer.weight_transfer.weight_transfer_report import TransferredPart, count
from lightning_transfer.weight_transfer.weight_transfer_spec import WeightTransferSpec


def fill_head(
    start: Weights,
    head: nn.Module,
    labels: Labels,
    label_map: Mapping[str, str] | None,
    *,
    spec: WeightTransferSpec,
    words: Vocabularies | None,
) -> TransferredPart:
    """Fill a head with what belongs to it.

    Args:
        start: The weights.
        head: Filled in place.
        labels: Contract of the data to come.
        label_map: Old name to new name.
        take: Whether the head is taken at all.
        words: The tokens of the weights and of the stage, for a head that has a row for each of
            them: it names such parameters in ``token_rows``.

    Raises:
        ValueError: If the labels agree only in part and no map says what belongs together, or if
            the rows of the output layer are to be matched and the head shows none.
    """
    size = count(head.parameters())
    if not spec.head:
        return TransferredPart("head", "reinitialised", size, "not asked for")
    old = Labels.from_dict(start.described["labels"])
    rows = match_outputs(old, labels, label_map)
    if rows is None:
        why = f"the labels {_names(old)} become {_names(labels)}"
        return TransferredPart("head", "reinitialised", size, why)
    stored = start.part("head")
    by_token = _token_rows(head, stored, words)
    same = list(rows) == list(range(old.num_outputs))
    free = {*by_token, *(name for name in stored if name.startswith("out.") and not same)}
    if class_path(head) != start.described["head"]["class"] or not _same_form(head, stored, free):
        why = f"the config asks for another form ({type(head).__name__})"
        return TransferredPart("head", "reinitialised", size, why)
    if other := _differences(start.described, head):
        return TransferredPart(
            "head", "reinitialised", size, f"the config asks for another form: {other}"
        )
    if same and not by_token:
        start.fill(head, "head")
        return TransferredPart("head", "transferred", size, f"labels {_names(labels)}")
    state = dict(stored) if same else _reordered(head, stored, rows)
    head.load_state_dict(state | by_token)
    by_name = f"by label name: {_names(old)} become {_names(labels)}"
    return TransferredPart(
        "head", "resized", size, "with its tokens by string" if same else by_name
    )


def _token_rows(
    head: nn.Module, stored: Mapping[str, Tensor], words: Vocabularies | None
) -> dict[str, Tensor]:
    """Return the parameters that have a row for each token, their rows by the tokens' strings.

    A token that is not in the weights gets what a known one has on average; without any that is
    known the rows stay as the head has made them.
    """
    if words is None:
        return {}
    there, here = words.shared
    found = {}
    own = head.state_dict()
    for name in getattr(head, "token_rows", ()):
        if name not in stored or name not in own:
            continue
        old, fresh = _by_rows(stored[name]), _by_rows(own[name])
        fits = words.fit(len(old), len(fresh)) and old.shape[1:] == fresh.shape[1:]
        if not fits or (words.same and old.shape == fresh.shape):
            continue
        new = fresh.clone()
        if len(here):
            new[:] = old[there].mean(dim=0)
            new[here] = old[there].to(new)
        found[name] = new.reshape(own[name].shape)
    return found


def _by_rows(value: Tensor) -> Tensor:
    """Return a parameter with its tokens first: a bias may be stored as one row of them."""
    return value[0] if value.ndim == 2 and len(value) == 1 else value


def _same_form(head: nn.Module, stored: Mapping[str, Tensor], free: Collection[str]) -> bool:
    """Whether the shapes agree, but for parameters whose rows follow labels or tokens.

    Args:
        head: Its own shapes.
        stored: Those of the weights.
        free: Names of parameters that may have another number of rows.
    """
    own = head.state_dict()
    return set(own) == set(stored) and all(
        own[name].shape == stored[name].shape
        or (name in free and _by_rows(own[name]).shape[1:] == _by_rows(stored[name]).shape[1:])
        for name in own
    )


def _differences(described: Mapping[str, Any], head: nn.Module) -> str:
    """Return in which arguments a head of the same shapes computes something else; or nothing."""
    there, here = dict(described["head"].get("args", {})), dict(getattr(head, "args", {}))
    form = getattr(head, "form", None)
    if (
        isinstance(form, LMHeadLayout) and described["backbone"] is not None
    ):  # the backbone's to say
        there |= _computed(head_form(config_of(described["backbone"])))
        here |= _computed(form)
    names = [name for name in here if name in there and "dropout" not in name]
    return ", ".join(
        f"{name} is {there[name]!r} in the weights and {here[name]!r} here"
        for name in names
        if there[name] != here[name]
    )


def _computed(form: LMHeadLayout) -> dict[str, Any]:
    return {"scale": form.scale, "activation": form.activation, "norm_eps": form.norm_eps}


def _reordered(
    head: nn.Module, stored: Mapping[str, Tensor], rows: Sequence[int | None]
) -> dict[str, Tensor]:
    """Return the head's state with the output layer's rows in the new order."""
    out = getattr(head, "out", None)
    if not isinstance(out, nn.Linear):
        raise ValueError(
            f"the labels need other rows of the output layer, and {type(head).__name__} shows no "
            "nn.Linear called `out`; name its last layer so, or start a new head"
        )
    state: dict[str, Tensor] = dict(stored)
    for name, fresh in out.state_dict(prefix="out.").items():
        old = stored[name]
        state[name] = torch.stack(
            [fresh[i] if row is None else old[row] for i, row in enumerate(rows)]
        )
    return state


def _names(labels: Labels) -> str:
    if labels.kind == "regression" or not labels.names:
        return labels.kind.replace("_", " ")
    return ", ".join(labels.names)


def align_outputs(task: TransferModule, labels: Labels) -> TransferModule:
    """Return a trained task that answers in the order of ``labels``, in eval mode.

    Raises:
        ValueError: If the names differ: a model cannot be scored on labels it never learned.
    """
    rows = match_outputs(task.labels, labels)
    if rows is None or None in rows:
        raise ValueError(
            f"the model answers {_names(task.labels)} and the data ask for {_names(labels)}: it "
            "cannot be scored there without training"
        )
    stored = task.head.state_dict()
    if list(rows) != list(range(len(rows))):
        task.head.load_state_dict(_reordered(task.head, stored, rows))
    aligned = type(task)(task.backbone, task.head, labels=labels, **task.args)
    return aligned.eval()
