"""Model of a stage: tokenizer, backbone and head, with the weights transferred to them."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from lightning_transfer.backbones import Backbone
from lightning_transfer.checkpoints.loading import Weights, same_tokenizer
from lightning_transfer.config.instantiate import backbone_spec, build, build_adapter
from lightning_transfer.data.tokenization.languages import with_languages
from lightning_transfer.experiments.plan import StageRun
from lightning_transfer.experiments.stage_tokenizers import (
    TokenizerData,
    resolve_target_tokenizer,
    resolve_tokenizer,
)
from lightning_transfer.heads.factory import make_head
from lightning_transfer.utils import Labels
from lightning_transfer.weight_transfer import (
    Tokenizers,
    WeightTransferReport,
    WeightTransferSpec,
    config_for,
    transfer_weights,
)

# Settings of a stage with another backbone or other tokens than the run.
_MODEL_SETTINGS = ("backbone", "tokenizer", "source_language", "target_language")


class StageModel:
    """Builds tokenizer, backbone and head of the stages of a run.

    Transferred weights replace those of the stage's backbone. All other weights stay as the
    backbone is built: pretrained if it has a name, else random.

    Args:
        config: The whole config of a run as plain values.
        data_of: Returns the DataModule of a stage, given its name, a seed and ``train_size``; None
            for the number of rows in its config.
    """

    def __init__(self, config: Mapping[str, Any], data_of: Callable[..., Any]) -> None:
        """See the class."""
        self.config = config
        self._data_of = data_of
        # Key: side, the stage if the tokenizer is its own, and the sizes of a learning curve,
        # since a tokenizer trained on more text is another one.
        self._tokenizers: dict[tuple[object, ...], Any] = {}
        # id of a tokenizer to itself and its target tokenizer. The first keeps the id in use.
        self._targets: dict[int, tuple[Any, Any]] = {}

    def weight_transfer_spec(self, stage: str) -> WeightTransferSpec:
        """Return the parts of the initial weights that a stage takes over.

        Raises:
            ValueError: If ``weight_transfer`` or ``on_mismatch`` of the stage is wrong.
        """
        settings = self.config["stages"][stage]
        try:
            return WeightTransferSpec.of(
                settings.get("weight_transfer"), on_mismatch=settings.get("on_mismatch") or "error"
            )
        except ValueError as error:
            raise ValueError(f"stages.{stage}: {error}") from error

    def inherits(self, stage: str) -> bool:
        """Return True if a stage uses the whole backbone and the tokenizer of its previous stage.

        For the first stage of a chain these are those of the run.
        """
        settings = self.config["stages"][stage]
        own = any(settings.get(name) for name in _MODEL_SETTINGS)
        return not own and self.weight_transfer_spec(stage).whole_backbone

    def origin(self, run: StageRun) -> str:
        """Describe the source of the initial weights of a stage run, for logs."""
        if path := self.config["stages"][run.stage].get("init_from"):
            return str(path)
        if run.previous:
            return f"stage {run.previous.stage}"
        spec, _ = backbone_spec(self.config, run.stage)
        is_pretrained = "name" in spec or "encoder" in spec  # `encoder`: a warm start
        return "the pretrained backbone" if is_pretrained else "the backbone as it is built"

    def tokenizer(self, run: StageRun, start: Weights | None) -> Any:
        """Return the tokenizer of a stage run.

        It is the first of these: the ``tokenizer`` of the stage, the tokenizer of its ``backbone``
        with a name, that of the initial weights if a part of their backbone is transferred, and
        that of the run.

        A tokenizer trained on the stage of a learning curve sees only the rows of its size. An
        earlier stage is shared by all sizes, so its tokenizer sees the rows of the smallest one.

        Args:
            run: The stage run.
            start: Its initial weights; None for those of the backbone.
        """
        tokenizer, target = self._set_languages(run.stage, *self._tokenizer_pair(run, start))
        self._targets[id(tokenizer)] = (tokenizer, target)
        return tokenizer

    def target_tokenizer(self, tokenizer: Any) -> Any:
        """Return the target tokenizer beside a tokenizer of :meth:`tokenizer`.

        None if targets use the same tokenizer.
        """
        return self._targets.get(id(tokenizer), (None, None))[1]

    def _set_languages(self, stage: str, tokenizer: Any, target: Any) -> tuple[Any, Any]:
        """Set the language codes of a stage in copies of its tokenizers."""
        settings, where = self.config["stages"][stage], f"stages.{stage}"
        source_code, target_code = settings.get("source_language"), settings.get("target_language")
        if target is None:  # one tokenizer for both sides
            both = with_languages(tokenizer, where=where, source=source_code, target=target_code)
            return both, None
        tokenizer = with_languages(tokenizer, where=where, source=source_code)
        return tokenizer, with_languages(target, where=where, target=target_code)

    def _tokenizer_pair(self, run: StageRun, start: Weights | None) -> tuple[Any, Any]:
        """Return the tokenizers of inputs and targets, before languages are set."""
        stage = run.stage
        settings = self.config["stages"][stage]
        own, name = settings.get("backbone"), settings.get("tokenizer")
        if name is None and own:
            name = own.get("name") or own.get("encoder")
        # An empty owner: stages with the tokenizer of the run share one object.
        config, owner = dict(self.config), "" if name is None else stage
        if name is not None:
            config |= {"tokenizer": name, "backbone": own or self.config["backbone"]}
        transferred = (
            name is None and start is not None and self.weight_transfer_spec(stage).any_of_backbone
        )
        if transferred and start is not None and start.tokenizer is not None:
            if start.description["labels"]["kind"] == "text":
                return start.tokenizer, start.target_tokenizer
            # A model without a decoder has no target tokenizer to take over.
            return start.tokenizer, self._resolve("target", owner, config, run)
        return tuple(self._resolve(side, owner, config, run) for side in ("source", "target"))

    def _resolve(self, side: str, owner: str, config: Mapping[str, Any], run: StageRun) -> Any:
        """Return the tokenizer of one side from the config, loaded or trained once.

        Args:
            side: ``source`` or ``target``.
            owner: Name of the stage for its own tokenizer; empty for that of the run.
            config: Config of the run, with the tokenizer and backbone of the stage.
            run: The stage run.
        """
        # Sizes of the whole chain: the tokenizer may be trained on an earlier stage.
        sizes = {one.stage: one.train_size for one in run.chain if one.train_size is not None}

        def data_of(stage: str, seed: int) -> Any:
            size = sizes[stage] if stage in sizes else self._smallest_size(stage, seed)
            return self._data_of(stage, seed, train_size=size)

        key = (side, owner, *sizes.items())
        if key not in self._tokenizers:
            resolve = resolve_tokenizer if side == "source" else resolve_target_tokenizer
            self._tokenizers[key] = resolve(config, data_of)
        return self._tokenizers[key]

    def _smallest_size(self, stage: str, seed: int) -> Any:
        """Return the size with the fewest rows on the learning curve of a stage; None: no curve."""
        curve = self.config.get("curve") or {}
        sizes = curve.get("train_size") or []
        if curve.get("stage") != stage or not isinstance(self._data_of(stage, seed), TokenizerData):
            return None
        # By the rows drawn: a count and a fraction do not compare as numbers.
        return min(
            sizes,
            key=lambda size: self._data_of(stage, seed, train_size=size).n_texts,
            default=None,
        )

    def backbone(self, stage: str, start: Weights | None, tokenizer: Any) -> nn.Module:
        """Build the backbone of a stage, without the transferred weights.

        If encoder and decoder of the initial weights are both transferred, it has their
        architecture; else it is that of the config.

        Args:
            stage: Name of the stage.
            start: The initial weights; None for those of the backbone.
            tokenizer: Tokenizer of the stage. If the initial weights have another one, the
                vocabulary of the architecture is changed to its size.
        """
        spec, where = backbone_spec(self.config, stage)
        transfer = self.weight_transfer_spec(stage)
        own = self.config["stages"][stage].get("backbone")
        # With `decoder: encoder` an encoder fills the decoder, so the architectures differ.
        both = (
            transfer.transfers_layers("encoder")
            and transfer.transfers_layers("decoder")
            and transfer.decoder != "encoder"
        )
        if start is None or own or not both or start.description["backbone"] is None:
            return build(spec, "backbone", where)
        config = start.description["backbone"]
        tokenizers = Tokenizers(
            start.tokenizer, tokenizer, start.target_tokenizer, self.target_tokenizer(tokenizer)
        )
        if not _same_tokenizers(tokenizers):
            config = config_for(config, tokenizers)
        # From the config alone: pretrained weights would be read only to be overwritten.
        return Backbone.from_config(
            config,
            attn_implementation=spec.get("attn_implementation"),
            dtype=spec.get("dtype", "float32"),
        )

    def head(
        self,
        run: StageRun,
        labels: Labels,
        start: Weights | None,
        backbone: nn.Module,
        *,
        tokenizer: Any,
    ) -> tuple[nn.Module, WeightTransferReport]:
        """Build the head of a stage, and transfer the initial weights to backbone and head.

        Args:
            run: The stage run.
            labels: Labels of its data.
            start: The initial weights; None for those of the backbone.
            backbone: Filled in place.
            tokenizer: Tokenizer of the stage.

        Returns:
            The head, and the status of each part of the weights.

        Raises:
            ValueError: If weights, labels or adapters do not fit together.
        """
        where, previous = f"stages.{run.stage}", run.previous
        settings = self.config["stages"][run.stage]
        head = build(settings["head"], "head", f"{where}.head")
        # A partial: its sizes follow from the backbone and the labels.
        if not isinstance(head, nn.Module):
            head = make_head(head, backbone, labels.num_outputs)
        report = transfer_weights(
            start,
            backbone,
            head,
            labels,
            label_map=settings.get("label_map"),
            adapter=build_adapter(self.config, run.stage),
            old_adapter=None if previous is None else build_adapter(self.config, previous.stage),
            spec=self.weight_transfer_spec(run.stage),
            tokenizer=tokenizer,
            target_tokenizer=self.target_tokenizer(tokenizer),
        )
        return head, report


def _same_tokenizers(tokenizers: Tokenizers) -> bool:
    """Return True if the vocabularies of both sides stay the same."""
    pairs = (tokenizers.input_pair, tokenizers.target_pair)
    return all(both is None or same_tokenizer(*both) for both in pairs)
