"""DataModule for pretraining on unlabelled text: documents, splits, tokens, batches."""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from typing import Literal, get_args

import numpy as np
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from transformers import PreTrainedTokenizerBase

from lightning_transfer.data.batching.blocks import Blocks, BlockSpec
from lightning_transfer.data.batching.length_batch_sampler import LengthBatchSampler
from lightning_transfer.data.batching.loaders import (
    DistributedLoaders,
    check_ranks_have_rows,
    distribute_to_ranks,
)
from lightning_transfer.data.batching.masking import Masker, Masking, NextTokens
from lightning_transfer.data.batching.pretraining_split import (
    PretrainingCollate,
    PretrainingSplit,
    RowSource,
    TokenTargets,
)
from lightning_transfer.data.batching.sentence_pairs import NEXT, SentencePairs
from lightning_transfer.data.readers.documents import Documents
from lightning_transfer.data.splits.document_index import DocumentIndex, cached_index
from lightning_transfer.data.splits.split_spec import Splits, check_size, count_of
from lightning_transfer.data.splits.splitter import SPLITS, check_split_name
from lightning_transfer.data.tokenization.document_tokens import DocumentTokens, cached_documents
from lightning_transfer.data.tokenization.row_frame import Frame
from lightning_transfer.data.tokenization.token_table import need_tokenizer
from lightning_transfer.data.tokenization.tokens import Tokens
from lightning_transfer.utils import Labels

log = logging.getLogger(__name__)

Pretraining = Literal["masked", "causal"]


class RawText(DistributedLoaders, LightningDataModule):
    """Documents for masked or causal language modelling.

    Documents are split, tokenized once, and divided into rows. Text and tokens stay on disk, so the
    documents may be larger than memory. A document is in one split only.

    Training rows get other masks in each epoch. Evaluation rows always get the same masks,
    independent of the seed of the run. As for :class:`TextDataModule`, set ``tokenizer`` before the
    first loader is built, and ``seed`` to change the random draws. Training batches can be resumed
    in the middle of an epoch.

    Args:
        documents: Source of the text.
        exclude: Name -> source of texts that training must not see, such as the test rows of a
            later stage. Documents that contain one of their texts are left out (see
            :class:`Overlap`).
        blocks: Length of the rows, and packing of documents into rows.
        pretraining: ``masked``: predict masked tokens, as BERT; ``causal``: predict each token from
            the tokens before it, as GPT.
        masking: Choice of the masked tokens, for ``masked`` only; ``None``: the choice of BERT.
        train_size: Training documents to use: a count (int) or a fraction (float), drawn with
            ``seed``; ``None``: all.
        splits: Sizes of the validation and test splits in documents, and their seed.
        batch_size: Rows per device and batch.

    Raises:
        ValueError: If a size is out of range, ``pretraining`` is unknown, or ``causal`` is combined
            with sentence pairs.
    """

    def __init__(
        self,
        documents: Documents,
        *,
        exclude: Mapping[str, Documents] | None = None,
        blocks: BlockSpec | None = None,
        pretraining: Pretraining = "masked",
        masking: Masking | None = None,
        train_size: int | float | None = None,
        splits: Splits | None = None,
        batch_size: int = 32,
    ) -> None:
        """See the class."""
        super().__init__()
        if train_size is not None:
            check_size(train_size, "train_size")
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        if pretraining not in get_args(Pretraining):
            allowed = ", ".join(get_args(Pretraining))
            raise ValueError(f"pretraining must be one of {allowed}, got {pretraining!r}")
        if pretraining == "causal" and blocks is not None and blocks.packing == "pairs":
            raise ValueError(
                "blocks.packing=pairs needs pretraining=masked, got pretraining='causal'; set "
                "data.blocks.packing to packed or cut"
            )
        self.pretraining: Pretraining = pretraining
        self.documents = documents
        self.exclude = dict(exclude or {})
        self.blocks = blocks or BlockSpec()
        self.masking = masking or Masking()
        self.train_size = train_size
        self.splits = splits or Splits(val=0.02, test=0.02)
        self.batch_size = batch_size
        self.tokens = Tokens(max_length=self.blocks.length)
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.seed = 0
        self._index: tuple[DocumentIndex, Mapping[str, np.ndarray]] | None = None
        # Results are stored with the values that they depend on: tokenizer, seed and train_size may
        # be changed between two setups.
        self._table: tuple[tuple[object, ...], DocumentTokens] | None = None
        self._rows: dict[tuple[object, ...], RowSource] = {}
        self._unigram: tuple[object, np.ndarray] | None = None

    @property
    def where(self) -> str:
        """Name of the data in messages."""
        return self.documents.where

    @property
    def labels(self) -> Labels:
        """Kind of prediction; for sentence pairs, also the classes of their relation."""
        if self.pretraining == "causal":
            return Labels("next_tokens")
        return Labels("masked_tokens", NEXT if self.blocks.packing == "pairs" else ())

    @property
    def n_train(self) -> int:
        """Number of training rows per epoch."""
        return len(self.rows("train"))

    @property
    def n_val(self) -> int:
        """Number of validation rows."""
        return len(self.rows("validation"))

    @property
    def n_test(self) -> int:
        """Number of test rows."""
        return len(self.rows("test"))

    @property
    def n_texts(self) -> int:
        """Number of training documents in use."""
        return len(self._positions("train"))

    def training_texts(self) -> Iterator[str]:
        """Yield the training documents one by one, to train a tokenizer on."""
        # The source can only be iterated from the beginning, and the texts do not fit into memory.
        used = np.zeros(len(self._load()[0]), dtype=bool)  # (documents,)
        used[self._positions("train")] = True
        for document, is_used in zip(self.documents, used, strict=True):
            if is_used:
                yield document.text

    def training_digest(self) -> str:
        """Return a hash that identifies the training documents in use."""
        index = self._load()[0]
        state = hashlib.sha256(index.keys.tobytes())
        state.update(np.sort(self._positions("train")).tobytes())
        return state.hexdigest()

    def rows(self, split: str) -> RowSource:
        """Return the rows of a split.

        Args:
            split: ``train``, ``validation`` or ``test``.

        Raises:
            RuntimeError: If no tokenizer is set.
            ValueError: If the split is unknown, its documents are too short for a row, or the
                tokenizer does not fit ``pretraining``.
        """
        check_split_name(split)
        tokenizer = need_tokenizer(self.tokenizer)
        tokens = self._tokenize(tokenizer)
        key = (split, *(self._drawn if split == "train" else ()))
        if key not in self._rows:
            self._rows[key] = self._make_rows(tokens, self._positions(split), tokenizer)
        return self._rows[key]

    @property
    def unigram(self) -> np.ndarray:
        """Log-probability of each token id in the training text, float32 ``(vocabulary,)``.

        It is the baseline for the loss in evaluation.
        """
        if self._unigram is None or self._unigram[0] != self._drawn:
            tokenizer = need_tokenizer(self.tokenizer)
            counts = self._tokenize(tokenizer).counts(self._positions("train"), len(tokenizer))
            counts = counts + 1  # else a token outside of the training text has an infinite loss
            self._unigram = (self._drawn, np.log(counts / counts.sum()).astype(np.float32))
        return self._unigram[1]

    @property
    def _drawn(self) -> tuple[int, str]:
        """Seed and size of the training subset."""
        # str, because 1 and 1.0 are equal, but mean one document and all documents.
        return self.seed, str(self.train_size)

    def prepare_data(self) -> None:
        """Read the documents, and tokenize them into the cache.

        Lightning calls this on one process only.
        """
        self._load()
        if self.tokenizer is not None:
            self._tokenize(self.tokenizer)

    def setup(self, stage: str) -> None:
        """Split and tokenize the documents. Steps already done are not repeated.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``. It determines only the split that
                must not be empty.

        Raises:
            ValueError: If the split for the stage has no documents or no rows, or there are fewer
                rows to evaluate than processes.
        """
        split = {"fit": "train", "validate": "validation"}.get(stage, "test")
        # Without a tokenizer, only documents can be counted.
        empty = not len(self._positions(split))
        if empty or (self.tokenizer is not None and not len(self.rows(split))):
            missing = "documents" if empty else "rows"
            raise ValueError(
                f"{self.where}: no {split} {missing}; add more text, or change data.train_size, "
                "data.splits.val or data.splits.test"
            )
        if self.tokenizer is not None:
            check_ranks_have_rows(
                stage, lambda split: len(self.rows(split)), trainer=self.trainer, where=self.where
            )

    def _load(self) -> tuple[DocumentIndex, Mapping[str, np.ndarray]]:
        if self._index is None:
            index = cached_index(self.documents, exclude=self.exclude)
            split = index.split(self.splits)
            sizes = ", ".join(f"{len(split[name]):,} {name}" for name in SPLITS)
            rank_zero_only(log.info)("%s: %s documents", self.where, sizes)
            self._index = (index, split)
        return self._index

    def _positions(self, split: str) -> np.ndarray:
        index, splits = self._load()
        documents = splits[split]
        if split != "train" or self.train_size is None:
            return documents
        check_size(self.train_size, "train_size")  # again: a learning curve changes the attribute
        count = count_of(self.train_size, len(documents))
        if count > len(documents):
            raise ValueError(
                f"train_size={self.train_size} asks for more than the {len(documents)} training "
                f"documents of {self.where}; lower data.train_size, data.splits.val or "
                "data.splits.test"
            )
        return index.draw(documents, count, seed=self.seed)

    def _tokenize(self, tokenizer: PreTrainedTokenizerBase) -> DocumentTokens:
        key = (tokenizer, None if self.train_size is None else self._drawn)
        if self._table is None or self._table[0] != key:
            table = cached_documents(
                self.documents,
                self._without_tokens(),
                tokenizer=tokenizer,
                sentences=self.blocks.packing == "pairs",
            )
            # Rows and unigram refer to the documents of the old table.
            self._table, self._rows, self._unigram = (key, table), {}, None
        return self._table[1]

    def _without_tokens(self) -> np.ndarray:
        """Return a mask of the documents to leave untokenized, bool ``(documents,)``."""
        index, splits = self._load()
        # A small subset is tokenized alone. For a large one, all documents are tokenized at once:
        # the subsets of other seeds need most of the rest too, and then reuse the cache.
        if 2 * len(self._positions("train")) >= len(splits["train"]):
            return index.excluded
        unused = np.ones(len(index), dtype=bool)
        for split in SPLITS:
            unused[self._positions(split)] = False
        return unused

    def _make_rows(
        self, tokens: DocumentTokens, documents: np.ndarray, tokenizer: PreTrainedTokenizerBase
    ) -> RowSource:
        length, packing = self.blocks.length, self.blocks.packing
        frame = Frame.of(tokenizer, parts=2 if packing == "pairs" else 1)
        if self.pretraining == "causal" and frame.types is not None:
            raise ValueError(
                "pretraining='causal' needs a tokenizer without token_type_ids, because GPT-like "
                f"models embed them as words; {type(tokenizer).__name__} returns them. To train a "
                "tokenizer without them, set tokenizer.segments=false"
            )
        if packing == "pairs":
            return SentencePairs(tokens, documents, frame=frame, length=length)
        # BERT has only a sep token, GPT-2 only an eos token.
        ends = (tokenizer.sep_token_id, tokenizer.eos_token_id)
        # Some tokenizers have neither; then documents follow each other without a separator.
        separator = next((token for token in ends if token is not None), None)
        return Blocks(
            tokens, documents, frame=frame, length=length, packing=packing, separator=separator
        )

    def _loader_parts(
        self, split: str
    ) -> tuple[PretrainingSplit, LengthBatchSampler, PretrainingCollate]:
        tokenizer, rows = need_tokenizer(self.tokenizer), self.rows(split)
        trains = split == "train"
        sampler = distribute_to_ranks(
            rows.lengths, self.batch_size, seed=self.seed, shuffle=trains, trainer=self.trainer
        )
        token_targets: TokenTargets = (
            NextTokens() if self.pretraining == "causal" else Masker(self.masking, tokenizer)
        )
        drawn = PretrainingSplit(
            rows,
            token_targets,
            # Evaluation masks depend on neither the run nor the epoch, so losses are comparable.
            seed=self.seed if trains else self.splits.seed,
            sampler=sampler if trains else None,
        )
        unigram = None if trains else self.unigram
        return drawn, sampler, PretrainingCollate(tokenizer, unigram=unigram)
