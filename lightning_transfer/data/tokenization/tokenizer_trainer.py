"""Training of tokenizers for models without pretrained weights."""

import hashlib
import json
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import trainers as training
from transformers import PreTrainedTokenizerFast

from lightning_transfer.assets import cache_dir
from lightning_transfer.utils.atomic_files import TEMP_PREFIX

log = logging.getLogger(__name__)

Kind = Literal["wordpiece", "bpe", "unigram"]
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_BYTES = 256
_FORMAT = 2  # version of the trained tokenizers; raise it if the same text gives other tokens


class TokenizerTrainer:
    """Trainer of WordPiece, byte-level BPE and Unigram tokenizers with the special tokens of BERT.

    Args:
        kind: ``wordpiece``, ``bpe`` (byte-level) or ``unigram``.
        vocab_size: Largest size of the vocabulary, including 5 special tokens. A small text may
            give fewer tokens. If the text has more characters, the rarest are unknown. ``bpe``
            needs 261 or more, because each byte is a token.
        lowercase: True to remove case and accents.
        min_frequency: Smallest number of occurrences of a merged pair, >= 1. Ignored by
            ``unigram``.
        stage: Name of the stage, or names of several, with the training text; None: the first
            stage in ``order``. Both texts of pairs are used, so two languages share a vocabulary.
        segments: True to return ``token_type_ids`` as in BERT; False for GPT-like models.

    Raises:
        ValueError: If ``kind`` is unknown, a number is out of range, or ``stage`` is empty.
    """

    def __init__(
        self,
        kind: Kind = "wordpiece",
        *,
        vocab_size: int = 8000,
        lowercase: bool = True,
        min_frequency: int = 2,
        stage: str | Sequence[str] | None = None,
        segments: bool = True,
    ) -> None:
        """See the class."""
        if kind not in get_args(Kind):
            raise ValueError(
                f"tokenizer.kind must be one of {', '.join(get_args(Kind))}, got {kind!r}"
            )
        if vocab_size <= len(_SPECIAL):
            raise ValueError(
                f"tokenizer.vocab_size must be > {len(_SPECIAL)}, the number of special tokens, "
                f"got {vocab_size}"
            )
        if kind == "bpe" and vocab_size < len(_SPECIAL) + _BYTES:
            raise ValueError(
                f"tokenizer.vocab_size must be >= {len(_SPECIAL) + _BYTES} for tokenizer.kind=bpe, "
                f"{len(_SPECIAL)} special tokens and {_BYTES} bytes, got {vocab_size}; set "
                f"tokenizer.vocab_size={len(_SPECIAL) + _BYTES} or more, or choose another kind"
            )
        if min_frequency < 1:
            raise ValueError(f"tokenizer.min_frequency must be >= 1, got {min_frequency}")
        self.kind: Kind = kind
        self.vocab_size = vocab_size
        self.lowercase = lowercase
        self.min_frequency = min_frequency
        if stage is not None and not stage:
            raise ValueError(
                f"tokenizer.stage must name a stage, got {stage!r}; or set tokenizer.stage=null"
            )
        self.stage = stage
        self.segments = segments

    def train(self, texts: Callable[[], Iterable[str]]) -> PreTrainedTokenizerFast:
        """Train a tokenizer.

        The same texts always give the same vocabulary and token ids. The scores of ``unigram``
        tokens differ slightly between runs.

        Args:
            texts: Function that returns an iterator over the texts. It is called once for ``bpe``
                and twice for the other kinds. The texts are never all in memory.

        Returns:
            The trained tokenizer.

        Raises:
            ValueError: If the texts contain no token.
        """
        tokenizer = self._untrained()
        if self.kind == "bpe":
            tokenizer.train_from_iterator(texts(), self._trainer([]))
        else:
            self._train_on_characters(tokenizer, texts)
        if tokenizer.get_vocab_size() <= len(_SPECIAL):
            raise ValueError("the tokenizer has learned no token: its training text is empty")
        tokenizer = _with_sorted_vocabulary(tokenizer)
        cls, sep = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
        )
        types = ["token_type_ids"] if self.segments else []
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            model_input_names=["input_ids", *types, "attention_mask"],
            pad_token="[PAD]",
            unk_token="[UNK]",
            cls_token="[CLS]",
            sep_token="[SEP]",
            mask_token="[MASK]",
        )

    def _train_on_characters(
        self, tokenizer: Tokenizer, texts: Callable[[], Iterable[str]]
    ) -> None:
        """Train a WordPiece or Unigram tokenizer in place, without the rarest characters if needed.

        The trainers add all characters to the vocabulary, even beyond its size. The text is
        therefore reduced to the most frequent characters that fit.
        """
        counts, inside = _count_characters(tokenizer, texts())
        # WordPiece has two tokens for a character that occurs inside a word: c and ##c.
        marked = inside if self.kind == "wordpiece" else set()
        kept: set[str] = set()
        # The trainer of Unigram exceeds the size if the characters alone fill the vocabulary, so
        # one token is left free.
        free = self.vocab_size - len(_SPECIAL) - (self.kind == "unigram")
        for character in sorted(counts, key=lambda one: (-counts[one], one)):
            free -= 1 + (character in marked)
            if free < 0:
                break
            kept.add(character)
        # As special tokens, the pieces get fixed ids. Otherwise the trainer of WordPiece numbers
        # them in random order and merges, of two equally frequent pairs, the one with lower ids.
        pieces = sorted(kept | {f"##{one}" for one in kept & marked})
        training_texts = texts()
        if len(kept) < len(counts):
            log.warning(
                "tokenizer.vocab_size=%d has no room for %d of the %d characters of the text; the "
                "rarest are unknown",
                self.vocab_size,
                len(counts) - len(kept),
                len(counts),
            )
            # Another tokenizer normalises the texts: this one is locked during training.
            training_texts = _without_other_characters(kept, self._untrained(), training_texts)
        special = pieces if self.kind == "wordpiece" else []
        tokenizer.train_from_iterator(training_texts, self._trainer(special))

    def cached(self, texts: Callable[[], Iterable[str]], digest: str) -> Path:
        """Return a folder with the trained tokenizer, from the cache if possible.

        Args:
            texts: Function as in :meth:`train`, called only if the tokenizer is not cached.
            digest: Hash of the texts, or of everything on which they depend.

        Returns:
            Folder in the cache, readable by ``AutoTokenizer.from_pretrained``.
        """
        options = [_FORMAT, self.kind, self.vocab_size, self.lowercase, self.min_frequency, digest]
        # Added only if False: tokenizers cached before this option keep their names.
        options += [] if self.segments else ["no segments"]
        name = hashlib.sha256(json.dumps(options).encode()).hexdigest()
        folder = cache_dir() / "tokenizers" / name
        if folder.is_dir():
            return folder
        log.info("training a %s tokenizer of %s tokens", self.kind, f"{self.vocab_size:,}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        temp = Path(tempfile.mkdtemp(prefix=TEMP_PREFIX, dir=folder.parent))
        try:
            self.train(texts).save_pretrained(temp)
            try:
                temp.rename(folder)
            except OSError:  # another process has trained the same tokenizer in the meantime
                if not folder.is_dir():
                    raise
        finally:
            shutil.rmtree(temp, ignore_errors=True)
        return folder

    def _untrained(self) -> Tokenizer:
        """Return a tokenizer with an empty vocabulary."""
        if self.kind == "wordpiece":
            tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
            tokenizer.normalizer = normalizers.BertNormalizer(lowercase=self.lowercase)
            tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            tokenizer.decoder = decoders.WordPiece()
            return tokenizer
        steps: list[normalizers.Normalizer] = [normalizers.NFKC()]
        if self.lowercase:
            steps += [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
        if self.kind == "bpe":
            tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
            tokenizer.decoder = decoders.ByteLevel()
        else:
            tokenizer = Tokenizer(models.Unigram())
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
            tokenizer.decoder = decoders.Metaspace()
        tokenizer.normalizer = normalizers.Sequence(steps)
        return tokenizer

    def _trainer(self, pieces: list[str]) -> training.Trainer:
        """Return the trainer of this kind, with ``pieces`` as further special tokens."""
        shared: dict[str, Any] = {
            "vocab_size": self.vocab_size,
            "special_tokens": [*_SPECIAL, *pieces],
            "show_progress": False,
        }
        if self.kind == "wordpiece":
            return training.WordPieceTrainer(min_frequency=self.min_frequency, **shared)
        if self.kind == "bpe":
            # All bytes are tokens, so no character is unknown, even one outside the training text.
            alphabet = pre_tokenizers.ByteLevel.alphabet()
            return training.BpeTrainer(
                min_frequency=self.min_frequency, initial_alphabet=alphabet, **shared
            )
        return training.UnigramTrainer(unk_token="[UNK]", **shared)


def _count_characters(tokenizer: Tokenizer, texts: Iterable[str]) -> tuple[Counter[str], set[str]]:
    """Count the characters of words, and collect those that occur after the first position."""
    counts: Counter[str] = Counter()
    inside: set[str] = set()
    for text in texts:
        plain = tokenizer.normalizer.normalize_str(text)
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(plain):
            counts.update(word)
            inside.update(word[1:])
    return counts, inside


def _without_other_characters(
    characters: set[str], tokenizer: Tokenizer, texts: Iterable[str]
) -> Iterator[str]:
    """Yield the normalised texts without words that contain any other character.

    Whole words are removed. If only the character were removed, tokens would be learned from
    neighbours that are not adjacent in the text.
    """
    for text in texts:
        words = tokenizer.normalizer.normalize_str(text).split()
        yield " ".join(word for word in words if characters.issuperset(word))


def _with_sorted_vocabulary(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer with token ids in alphabetical order after the special tokens.

    The trainers of WordPiece and Unigram assign ids in random order, and the weights of a model
    depend on the ids. BPE assigns them deterministically and is not changed.
    """
    content = json.loads(tokenizer.to_str())
    # The pieces of WordPiece were added as special tokens for training only.
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] in _SPECIAL]
    model = content["model"]
    special = set(_SPECIAL)
    if model["type"] == "WordPiece":
        learned = sorted(set(model["vocab"]) - special)
        model["vocab"] = {token: number for number, token in enumerate([*_SPECIAL, *learned])}
    elif model["type"] == "Unigram":
        first = model["vocab"][: len(_SPECIAL)]
        model["vocab"] = [*first, *sorted(model["vocab"][len(_SPECIAL) :])]
    return Tokenizer.from_str(json.dumps(content))
