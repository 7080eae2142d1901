"""Whether a backbone and a head can say anything of a text that is read and not written."""

from torch import nn
from transformers import PreTrainedModel

from lightning_transfer.architectures import find_anatomy
from lightning_transfer.backbone import Backbone


def check_reader(backbone: nn.Module, head: nn.Module) -> None:
    """Raise if a task without targets could not run on a backbone, or only seem to.

    Args:
        backbone: Any; nothing is known of one of your own.
        head: Its ``pooling``, if it has one, is looked at.

    Raises:
        ValueError: If the backbone is an encoder-decoder, whose decoder would have nothing to read;
            or if it reads from left to right, and the head looks at the first token, which then
            has seen nothing of the text.
    """
    if not isinstance(backbone, Backbone):
        return
    name = type(backbone.model).__name__
    if backbone.is_encoder_decoder:
        raise ValueError(
            f"{name} is an encoder-decoder, and this task gives its decoder no targets; choose an "
            "encoder or a decoder alone, such as backbone.name=asset:minilm, which may take the "
            "encoder of such weights with take=[encoder]"
        )
    model: PreTrainedModel = backbone.model
    if find_anatomy(model).causal and getattr(head, "pooling", None) == "cls":
        raise ValueError(
            f"{name} reads from left to right, so its first token has seen nothing of a text, and "
            f"the {type(head).__name__} pools cls; set head.pooling=last"
        )
