"""A random model and made-up texts, for trying the scripts without network and in seconds."""

import random
from pathlib import Path

_GOOD, _BAD = ("good", "great", "warm"), ("bad", "dull", "cold")
_OTHER = (
    "the a film plot scene actor story was is and very not news paper end start one two".split()
)
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_model(folder: Path) -> Path:
    """Write a BERT of three layers with random weights and its tokenizer; return the folder."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    words = [*_SPECIAL, *_GOOD, *_BAD, *_OTHER, *map(str, range(10))]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    vocabulary = {word: place for place, word in enumerate(words)}
    BertTokenizer(vocab=vocabulary, model_max_length=64).save_pretrained(folder)
    return folder


def write_texts(path: Path, domain: str, *, rows: int = 5000) -> Path:
    """Write rated texts: id, rating in [-4, 4] and text, tab-separated; return the file."""
    chance = random.Random(domain)
    lines = []
    for number in range(rows):
        rating = chance.choice((-2, -1, 0, 1, 2))
        words = [chance.choice(_GOOD if rating > 0 else _BAD) for _ in range(abs(rating))]
        words += [chance.choice(_OTHER) for _ in range(chance.randint(4, 30))]
        chance.shuffle(words)
        lines.append(f"{number}_1\t{rating}\t{' '.join(words)}\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path
