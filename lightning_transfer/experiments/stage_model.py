"""The model of a stage: tokenizer, backbone and head, and what they take of the weights before."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from lightning_transfer.backbones import Backbone
from lightning_transfer.checkpoints.loading import Weights, same_tokenizer
from lightning_transfer.config.instantiate import backbone_spec, build, build_adapter
from lightning_transfer.data.tokenization.languages import in_languages
from lightning_transfer.experiments.plan import StageRun
from lightning_transfer.experiments.stage_tokenizers import (
    Readable,
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

_OWN_TEXTS = ("backbone", "tokenizer", "source_language", "target_language")


class StageModel:
    """Builds what the stages of a run learn with.

    What a stage takes of the weights before it stays theirs; all else is as the stage's backbone is
    built: pretrained where it has a name.

    Args:
        config: The whole config of a run as plain values.
        data_of: Returns a stage's DataModule, given its name, a seed and ``train_size``, None for
            that which it has.
    """

    def __init__(self, config: Mapping[str, Any], data_of: Callable[..., Any]) -> None:
        """See the class."""
        self.config = config
        self._data_of = data_of
        # By side, the stage if it has its own, and the sizes of those that a curve gives one.
        self._tokenizers: dict[tuple[object, ...], Any] = {}
        # The tokenizer of the targets beside each one that was given out, by the identity of that.
        self._targets: dict[int, tuple[Any, Any]] = {}

    def take(self, stage: str) -> WeightTransferSpec:
        """Return what a stage takes of the weights that it starts from.

        Raises:
            ValueError: If its config is wrong.
        """
        settings = self.config["stages"][stage]
        try:
            return WeightTransferSpec.of(
                settings.get("weight_transfer"), on_mismatch=settings.get("on_mismatch") or "error"
            )
        except ValueError as error:
            raise ValueError(f"stages.{stage}: {error}") from error

    def inherits(self, stage: str) -> bool:
        """Whether a stage has the backbone and the tokenizer of whatever comes before it."""
        settings = self.config["stages"][stage]
        own = any(settings.get(name) for name in _OWN_TEXTS)
        return not own and self.take(stage).whole_backbone

    def origin(self, run: StageRun) -> str:
        """Say what a stage run starts from."""
        if path := self.config["stages"][run.stage].get("init_from"):
            return str(path)
        if run.before:
            return f"stage {run.before.stage}"
        spec, _ = backbone_spec(self.config, run.stage)
        pretrained = "name" in spec or "encoder" in spec  # the latter of a warm start
        return "the pretrained backbone" if pretrained else "the backbone as it is built"

    def tokenizer(self, run: StageRun, start: Weights | None) -> Any:
        """Return the tokenizer of a stage run.

        It is its own; or that of its own backbone, if this has a name; or that of the weights, if
        something of their backbone is taken; or that of the run. One that is trained on the text of
        a learning curve's stage sees what that stage run sees; a stage before it is shared by all
        sizes, and its tokenizer sees what the smallest of them does.
        """
        found, target = self._in_languages(run.stage, *self._both_tokenizers(run, start))
        self._targets[id(found)] = (found, target)
        return found

    def target_of(self, tokenizer: Any) -> Any:
        """Return the tokenizer of the targets beside one that :meth:`tokenizer` gave.

        None where it is the same.
        """
        return self._targets.get(id(tokenizer), (None, None))[1]

    def _in_languages(self, stage: str, found: Any, target: Any) -> tuple[Any, Any]:
        """Let tokenizers read and write the languages of a stage."""
        settings, where = self.config["stages"][stage], f"stages.{stage}"
        read, written = settings.get("source_language"), settings.get("target_language")
        if target is None:
            return in_languages(found, where=where, source=read, target=written), None
        found = in_languages(found, where=where, source=read)
        return found, in_languages(target, where=where, target=written)

    def _both_tokenizers(self, run: StageRun, start: Weights | None) -> tuple[Any, Any]:
        stage = run.stage
        settings = self.config["stages"][stage]
        own, name = settings.get("backbone"), settings.get("tokenizer")
        if name is None and own:
            name = own.get("name") or own.get("encoder")
        config, place = dict(self.config), "" if name is None else stage
        if name is not None:
            config |= {"tokenizer": name, "backbone": own or self.config["backbone"]}
        taken = name is None and start is not None and self.take(stage).any_of_backbone
        if taken and start is not None and start.tokenizer is not None:
            if start.described["labels"]["kind"] == "text":
                return start.tokenizer, start.target_tokenizer
            return start.tokenizer, self._resolved("target", place, config, run)
        return tuple(self._resolved(side, place, config, run) for side in ("source", "target"))

    def _resolved(self, side: str, place: str, config: Mapping[str, Any], run: StageRun) -> Any:
        sizes = {one.stage: one.train_size for one in run.chain if one.train_size is not None}

        def data_of(stage: str, seed: int) -> Any:
            size = sizes[stage] if stage in sizes else self._smallest(stage, seed)
            return self._data_of(stage, seed, train_size=size)

        key = (side, place, *sizes.items())
        if key not in self._tokenizers:
            resolve = resolve_tokenizer if side == "source" else resolve_target_tokenizer
            self._tokenizers[key] = resolve(config, data_of)
        return self._tokenizers[key]

    def _smallest(self, stage: str, seed: int) -> Any:
        """Return the size of a learning curve that is the fewest rows of a stage, None: no curve.

        Counts and fractions are compared by what they draw.
        """
        curve = self.config.get("curve") or {}
        sizes = curve.get("train_size") or []
        if curve.get("stage") != stage or not isinstance(self._data_of(stage, seed), Readable):
            return None
        return min(
            sizes,
            key=lambda size: self._data_of(stage, seed, train_size=size).n_texts,
            default=None,
        )

    def backbone(self, stage: str, start: Weights | None, tokenizer: Any) -> nn.Module:
        """Build a stage's backbone, not yet filled: of the form of the weights if it inherits them.

        Args:
            stage: Its name.
            start: The weights that it starts from.
            tokenizer: The stage's; where it is another than that of the weights, a backbone of
                their form gets its vocabulary.
        """
        spec, where = backbone_spec(self.config, stage)
        take = self.take(stage)
        own = self.config["stages"][stage].get("backbone")
        both = take.side("encoder") and take.side("decoder") and take.decoder != "encoder"
        if start is None or own or not both or start.described["backbone"] is None:
            return build(spec, "backbone", where)
        described = start.described["backbone"]
        tokenizers = Tokenizers(
            start.tokenizer, tokenizer, start.target_tokenizer, self.target_of(tokenizer)
        )
        if not _same_tokenizers(tokenizers):
            described = config_for(described, tokenizers)
        return Backbone.from_config(
            described,
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
        """Build a stage's head, fill head and backbone, and say what became of their parts.

        Args:
            run: Of the stage.
            labels: Of its data.
            start: The weights that it starts from.
            backbone: Filled in place.
            tokenizer: The stage's.

        Raises:
            ValueError: If something does not fit.
        """
        where, before = f"stages.{run.stage}", run.before
        settings = self.config["stages"][run.stage]
        head = build(settings["head"], "head", f"{where}.head")
        if not isinstance(head, nn.Module):
            head = make_head(head, backbone, labels.num_outputs)
        handed = transfer_weights(
            start,
            backbone,
            head,
            labels,
            label_map=settings.get("label_map"),
            adapter=build_adapter(self.config, run.stage),
            before=None if before is None else build_adapter(self.config, before.stage),
            spec=self.take(run.stage),
            tokenizer=tokenizer,
            target_tokenizer=self.target_of(tokenizer),
        )
        return head, handed


def _same_tokenizers(tokenizers: Tokenizers) -> bool:
    """Whether a model needs no other vocabulary."""
    pairs = (tokenizers.read_by, tokenizers.written_by)
    return all(both is None or same_tokenizer(*both) for both in pairs)
