"""Handing on: what a stage takes from the weights before it, matched by name."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lightning_transfer.adapted import check_handing_on, stored_adapter
from lightning_transfer.adapters import Adapter, merge
from lightning_transfer.adapters.base import name_of
from lightning_transfer.checkpoint import class_path
from lightning_transfer.labels import Labels, match_outputs
from lightning_transfer.loading import Weights
from lightning_transfer.tasks import TransferModule


@runtime_checkable
class TakesLMHead(Protocol):
    """A head that can start from what stood above a pretrained decoder."""

    def load_lm_head(self, state: Mapping[str, Tensor]) -> None:
        """Take it over."""
        ...


@runtime_checkable
class TakesPooler(Protocol):
    """A head that can start from a pretrained pooler's dense layer."""

    pooling: str

    def load_pooler(self, state: Mapping[str, Tensor]) -> None:
        """Take over ``weight`` and ``bias``."""
        ...


def hand_over(
    start: Weights | None,
    backbone: nn.Module,
    head: nn.Module,
    labels: Labels,
    *,
    label_map: Mapping[str, str] | None = None,
    adapter: Adapter | None = None,
    before: Adapter | None = None,
) -> str:
    """Load into backbone and head what belongs to them, and say so in one line.

    The backbone's weights always carry over. The head's do if it is of the same form and the
    label names agree; rows of its output layer follow their label names, whatever their order.
    An adapter that the weights were trained with is merged into them, and a new one is put in. One
    that cannot be merged lives on if the stage has the very same.

    Args:
        start: Weights to start from; None starts from the backbone as it is, and what the backbone
            came with, a pretrained pooler or what stood above a decoder, goes to a head that can
            take it.
        backbone: Filled in place.
        head: Filled in place.
        labels: Contract of the data to come.
        label_map: Old name to new name; see :func:`lightning_transfer.labels.match_outputs`.
        adapter: Put into the backbone, on top of the weights to start from.
        before: The adapter that the weights were trained with, if it is of your own class.

    Returns:
        What became of the head and of an adapter, for the log.

    Raises:
        ImportError: If an adapter needs peft, and it is not installed.
        ValueError: If the weights or the adapter do not fit the backbone, if the adapter of the
            weights could only be dropped, if the labels agree only in part and no map says what
            belongs together, or if the rows of a head's output layer are to be matched and it
            shows none.
    """
    if start is None:
        pooler = getattr(backbone, "pooler_state", None)
        if pooler is not None and isinstance(head, TakesPooler) and head.pooling == "cls":
            head.load_pooler(pooler)
        lm_head = getattr(backbone, "lm_head_state", None)
        if lm_head is not None and isinstance(head, TakesLMHead):
            head.load_lm_head(lm_head)
        if adapter is None:
            return "new head"
        adapter.apply(backbone)
        return f"new head; new {name_of(adapter)}"
    old = stored_adapter(start.described, own=before or adapter, where=start.where)
    became = _hand_over_backbone(start, backbone, old, adapter)
    return "; ".join([_hand_over_head(start, head, labels, label_map), *became])


def _hand_over_backbone(
    start: Weights, backbone: nn.Module, old: Adapter | None, adapter: Adapter | None
) -> list[str]:
    """Fill the backbone, give it the adapter that it is to have, and say what became of the old."""
    check_handing_on(old, adapter)
    if old is not None:
        old.apply(backbone)
    start.fill(backbone, "backbone")
    said = []
    if old is not None and not old.mergeable:
        return [f"{name_of(old)} goes on training"]
    if old is not None:
        merge(backbone)
        said.append(f"{name_of(old)} merged into the base weights")
    if adapter is not None:
        adapter.apply(backbone)
        said.append(f"new {name_of(adapter)}")
    return said


def _hand_over_head(
    start: Weights, head: nn.Module, labels: Labels, label_map: Mapping[str, str] | None
) -> str:
    old = Labels.from_dict(start.described["labels"])
    rows = match_outputs(old, labels, label_map)
    if rows is None:
        return f"new head: the labels {_names(old)} become {_names(labels)}"
    stored = start.part("head")
    if class_path(head) != start.described["head"]["class"] or not _same_form(head, stored):
        return f"new head: the config asks for another form ({type(head).__name__})"
    if list(rows) == list(range(old.num_outputs)):
        start.fill(head, "head")
        return f"head kept: labels {_names(labels)}"
    head.load_state_dict(_reordered(head, stored, rows))
    return f"head kept by label name: {_names(old)} become {_names(labels)}"


def _same_form(head: nn.Module, stored: Mapping[str, Tensor]) -> bool:
    """Whether the shapes agree, but for the output layer whose rows follow the labels."""
    own = head.state_dict()
    return set(own) == set(stored) and all(
        own[name].shape[1:] == stored[name].shape[1:]
        and (name.startswith("out.") or own[name].shape == stored[name].shape)
        for name in own
    )


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
    return labels.kind if labels.kind in ("rating", "text") else ", ".join(labels.names)


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
