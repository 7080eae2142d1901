"""Weight transfer into a head, with outputs matched by label name."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_transfer.backbones.lm_heads import LMHeadLayout, lm_head_layout
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
    vocabularies: Vocabularies | None,
) -> TransferredPart:
    """Transfer weights into a head.

    Args:
        start: Weights to transfer.
        head: Filled in place.
        labels: Labels of the stage.
        label_map: Old label name to new label name, for different names with the same meaning.
        spec: Parts to transfer.
        vocabularies: Vocabularies of the weights and of the stage, for a head with one row per
            token. Such a head lists these parameters in its attribute ``token_rows``.

    Returns:
        The head with its status.

    Raises:
        ValueError: If the labels match only in part and there is no ``label_map``, or if outputs
            have to be reordered and the head has no output layer called ``out``.
    """
    size = count(head.parameters())
    if not spec.head:
        return TransferredPart("head", "reinitialised", size, "not requested")
    old = Labels.from_dict(start.description["labels"])
    rows = match_outputs(old, labels, label_map)
    if rows is None:
        why = f"the labels {_label_names(old)} become {_label_names(labels)}"
        return TransferredPart("head", "reinitialised", size, why)
    stored = start.part("head")
    token_rows = _token_rows(head, stored, vocabularies)
    same_order = list(rows) == list(range(old.num_outputs))
    # Parameters with a row per output or per token may have another number of rows.
    resizable = {*token_rows, *(n for n in stored if n.startswith("out.") and not same_order)}
    same_class = class_path(head) == start.description["head"]["class"]
    if not same_class or not _shapes_match(head, stored, resizable):
        why = f"the config has another head ({type(head).__name__})"
        return TransferredPart("head", "reinitialised", size, why)
    # Equal shapes are not enough: the weights depend on pooling and activation, too.
    if changed := _differences(start.description, head):
        why = f"the config has other settings: {changed}"
        return TransferredPart("head", "reinitialised", size, why)
    if same_order and not token_rows:
        start.fill(head, "head")
        return TransferredPart("head", "transferred", size, f"labels {_label_names(labels)}")
    state = dict(stored) if same_order else _reorder_outputs(head, stored, rows)
    head.load_state_dict(state | token_rows)
    why = (
        "tokens matched by string"
        if same_order
        else f"outputs matched by name, {_label_names(old)} become {_label_names(labels)}"
    )
    return TransferredPart("head", "resized", size, why)


def _token_rows(
    head: nn.Module, stored: Mapping[str, Tensor], vocabularies: Vocabularies | None
) -> dict[str, Tensor]:
    """Return new values of the parameters with one row per token, matched by token string.

    Args:
        head: Head of the stage.
        stored: Parameters of the head in the weights.
        vocabularies: Vocabularies of the weights and of the stage.

    Returns:
        Parameter name to value. A token without a row in the weights gets the mean over the common
        tokens. If there is no common token, the values of ``head`` are returned.
    """
    if vocabularies is None:
        return {}
    old_rows, new_rows = vocabularies.shared_rows
    found = {}
    own = head.state_dict()
    for name in getattr(head, "token_rows", ()):
        if name not in stored or name not in own:
            continue
        old, fresh = _rows_first(stored[name]), _rows_first(own[name])
        fits = vocabularies.fit_tables(len(old), len(fresh)) and old.shape[1:] == fresh.shape[1:]
        if not fits or (vocabularies.same and old.shape == fresh.shape):
            continue
        new = fresh.clone()
        if len(new_rows):
            new[:] = old[old_rows].mean(dim=0)
            new[new_rows] = old[old_rows].to(new)
        found[name] = new.reshape(own[name].shape)
    return found


def _rows_first(value: Tensor) -> Tensor:
    """Return a parameter with the tokens in its first dimension."""
    # Marian stores its bias as (1, tokens).
    return value[0] if value.ndim == 2 and len(value) == 1 else value


def _shapes_match(
    head: nn.Module, stored: Mapping[str, Tensor], resizable: Collection[str]
) -> bool:
    """Return True if the parameters of a head have the same names and shapes as stored ones.

    Args:
        head: Head of the stage.
        stored: Parameters of the head in the weights.
        resizable: Names of parameters with any number of rows.
    """
    own = head.state_dict()
    return set(own) == set(stored) and all(
        own[name].shape == stored[name].shape
        or (
            name in resizable
            and _rows_first(own[name]).shape[1:] == _rows_first(stored[name]).shape[1:]
        )
        for name in own
    )


def _differences(description: Mapping[str, Any], head: nn.Module) -> str:
    """Return the settings in which a head of the same shapes computes something else, or ""."""
    old, new = dict(description["head"].get("args", {})), dict(getattr(head, "args", {}))
    layout = getattr(head, "layout", None)
    if isinstance(layout, LMHeadLayout) and description["backbone"] is not None:
        # The head of a decoder has no arguments: the backbone's config defines its function.
        old |= _lm_head_settings(lm_head_layout(config_of(description["backbone"])))
        new |= _lm_head_settings(layout)
    # Dropout is no part of the trained function.
    names = [name for name in new if name in old and "dropout" not in name]
    return ", ".join(
        f"{name} is {old[name]!r} in the weights and {new[name]!r} in the config"
        for name in names
        if old[name] != new[name]
    )


def _lm_head_settings(layout: LMHeadLayout) -> dict[str, Any]:
    return {"scale": layout.scale, "activation": layout.activation, "norm_eps": layout.norm_eps}


def _reorder_outputs(
    head: nn.Module, stored: Mapping[str, Tensor], rows: Sequence[int | None]
) -> dict[str, Tensor]:
    """Return the state of a head with the rows of its output layer in a new order.

    Args:
        head: Head with an output layer ``out``.
        stored: State of the head in the old order.
        rows: For each new output, the position of the old one; None keeps the row of ``head``.

    Raises:
        ValueError: If ``head.out`` is not a ``nn.Linear``.
    """
    out = getattr(head, "out", None)
    if not isinstance(out, nn.Linear):
        raise ValueError(
            f"the outputs of {type(head).__name__} cannot be matched by label name because it has "
            "no nn.Linear called `out`; rename its last layer to `out`, or start with a new head "
            "by weight_transfer=[backbone]"
        )
    # Both the weight and the bias have one row per output.
    state: dict[str, Tensor] = dict(stored)
    for name, fresh in out.state_dict(prefix="out.").items():
        old = stored[name]
        state[name] = torch.stack(
            [fresh[i] if row is None else old[row] for i, row in enumerate(rows)]
        )
    return state


def _label_names(labels: Labels) -> str:
    """Return label names for messages; the kind for labels without names."""
    if labels.kind == "regression" or not labels.names:
        return labels.kind.replace("_", " ")
    return ", ".join(labels.names)


def align_outputs(task: TransferModule, labels: Labels) -> TransferModule:
    """Return a trained task with its outputs in the order of ``labels``, in eval mode.

    Args:
        task: Trained task. The rows of its output layer are reordered in place.
        labels: Labels of the data to score.

    Raises:
        ValueError: If the label names differ, so that the model cannot be scored without training.
    """
    rows = match_outputs(task.labels, labels)
    if rows is None or None in rows:
        raise ValueError(
            f"the model has the labels {_label_names(task.labels)}, the data have "
            f"{_label_names(labels)}; it cannot be scored on them without training"
        )
    stored = task.head.state_dict()
    if list(rows) != list(range(len(rows))):
        task.head.load_state_dict(_reorder_outputs(task.head, stored, rows))
    # A new task, because the constructor builds the metrics from the labels.
    aligned = type(task)(task.backbone, task.head, labels=labels, **task.args)
    return aligned.eval()
