"""A tokenizer trained on the spot, for models that start from nothing."""

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
_FORMAT = 2  # of the way in which text becomes tokens; raise it when that changes


class TokenizerTrainer:
    """Trains a WordPiece, byte-level BPE or Unigram tokenizer with BERT's special tokens.

    Args:
        kind: ``wordpiece``, ``bpe`` or ``unigram``.
        vocab_size: Tokens at most, special ones included; a small text may give fewer. Where the
            characters of the text are more, the rarest are unknown. Byte-level BPE needs 261, for
            each byte is a token.
        lowercase: Whether case and accents are taken away.
        min_frequency: How often a pair must occur to become a token (not for ``unigram``).
        stage: The stage, or several, on whose training text it is trained; None: the first of
            ``order``. Of pairs both sides are read, so that two languages share their tokens.
        segments: Whether it tells the parts of a pair apart by ``token_type_ids``, as BERT does;
            False for GPT-like models.

    Raises:
        ValueError: If the kind is unknown, a number out of its range, or no stage in a list.
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
                f"tokenizer.vocab_size must be > {len(_SPECIAL)}, the special tokens, got "
                f"{vocab_size}"
            )
        if kind == "bpe" and vocab_size < len(_SPECIAL) + _BYTES:
            raise ValueError(
                f"tokenizer.vocab_size of kind bpe must be >= {len(_SPECIAL) + _BYTES}, the "
                f"special tokens and {_BYTES} bytes, got {vocab_size}; raise it, or take another "
                "kind"
            )
        if min_frequency < 1:
            raise ValueError(f"tokenizer.min_frequency must be >= 1, got {min_frequency}")
        self.kind: Kind = kind
        self.vocab_size = vocab_size
        self.lowercase = lowercase
        self.min_frequency = min_frequency
        if stage is not None and not stage:
            raise ValueError(f"tokenizer.stage must name a stage, got {stage!r}; or leave it out")
        self.stage = stage
        self.segments = segments

    def train(self, texts: Callable[[], Iterable[str]]) -> PreTrainedTokenizerFast:
        """Train on texts, which are never held in memory; the same texts give the same tokenizer.

        Args:
            texts: Yields them; called twice, but once for BPE.

        Raises:
            ValueError: If the texts hold nothing to learn from.
        """
        tokenizer = self._untrained()
        if self.kind == "bpe":
            tokenizer.train_from_iterator(texts(), self._trainer([]))
        else:
            self._train_on_characters(tokenizer, texts)
        if tokenizer.get_vocab_size() <= len(_SPECIAL):
            raise ValueError("the tokenizer has learned no token: its training text is empty")
        tokenizer = _in_order(tokenizer)
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
        """Train what has all characters among its tokens, unless they are too many.

        The trainers themselves take all of them, whatever the size of the vocabulary.
        """
        counts, inside = _characters(tokenizer, texts())
        marked = inside if self.kind == "wordpiece" else set()  # those with a token ##c beside c
        kept: set[str] = set()
        # Unigram's trainer stops at the size only if the characters leave it something to add.
        room = self.vocab_size - len(_SPECIAL) - (self.kind == "unigram")
        for character in sorted(counts, key=lambda one: (-counts[one], one)):
            room -= 1 + (character in marked)
            if room < 0:
                break
            kept.add(character)
        # Named to the trainer of WordPiece, they have settled numbers. By itself it numbers them in
        # another order each time, and of two pairs that occur equally often it joins the one with
        # the lower numbers.
        pieces = sorted(kept | {f"##{one}" for one in kept & marked})
        read = texts()
        if len(kept) < len(counts):
            log.warning(
                "tokenizer.vocab_size=%d has no room for %d of the %d characters of the text; the "
                "rarest are unknown",
                self.vocab_size,
                len(counts) - len(kept),
                len(counts),
            )
            # Not by the tokenizer itself, which is locked while it is trained.
            read = _of(kept, self._untrained(), read)
        named = pieces if self.kind == "wordpiece" else []
        tokenizer.train_from_iterator(read, self._trainer(named))

    def cached(self, texts: Callable[[], Iterable[str]], digest: str) -> Path:
        """Return a folder with the tokenizer, trained if it is not there yet.

        Args:
            texts: As in :meth:`train`; only called if the folder is not there.
            digest: A hash of all that the texts follow from.
        """
        told = [_FORMAT, self.kind, self.vocab_size, self.lowercase, self.min_frequency, digest]
        told += [] if self.segments else ["no segments"]  # the names of the others stay
        name = hashlib.sha256(json.dumps(told).encode()).hexdigest()
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
            except OSError:  # another process was faster, and has trained the same
                if not folder.is_dir():
                    raise
        finally:
            shutil.rmtree(temp, ignore_errors=True)
        return folder

    def _untrained(self) -> Tokenizer:
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
        shared: dict[str, Any] = {
            "vocab_size": self.vocab_size,
            "special_tokens": [*_SPECIAL, *pieces],
            "show_progress": False,
        }
        if self.kind == "wordpiece":
            return training.WordPieceTrainer(min_frequency=self.min_frequency, **shared)
        if self.kind == "bpe":
            alphabet = pre_tokenizers.ByteLevel.alphabet()
            return training.BpeTrainer(
                min_frequency=self.min_frequency, initial_alphabet=alphabet, **shared
            )
        return training.UnigramTrainer(unk_token="[UNK]", **shared)


def _characters(tokenizer: Tokenizer, texts: Iterable[str]) -> tuple[Counter[str], set[str]]:
    """Return how often each character occurs in words, and those that occur inside of one."""
    counts: Counter[str] = Counter()
    inside: set[str] = set()
    for text in texts:
        plain = tokenizer.normalizer.normalize_str(text)
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(plain):
            counts.update(word)
            inside.update(word[1:])
    return counts, inside


def _of(characters: set[str], tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts, normalised, without the words that hold any other character.

    No token may join what stands on both sides of a character that is none itself.
    """
    for text in texts:
        words = tokenizer.normalizer.normalize_str(text).split()
        yield " ".join(word for word in words if characters.issuperset(word))


def _in_order(tokenizer: Tokenizer) -> Tokenizer:
    """Number the tokens by their spelling, behind the special ones.

    The trainers of WordPiece and Unigram number them in another order each time, and a model's
    weights belong to the numbers. Those of BPE are settled, and its merges speak of them.
    """
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] in _SPECIAL]
    model = content["model"]
    known = set(_SPECIAL)
    if model["type"] == "WordPiece":
        learned = sorted(set(model["vocab"]) - known)
        model["vocab"] = {token: number for number, token in enumerate([*_SPECIAL, *learned])}
    elif model["type"] == "Unigram":
        special = model["vocab"][: len(_SPECIAL)]
        model["vocab"] = [*special, *sorted(model["vocab"][len(_SPECIAL) :])]
    return Tokenizer.from_str(json.dumps(content))
