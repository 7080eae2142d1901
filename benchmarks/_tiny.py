"""Random model and generated texts, to try the scripts in seconds without a network."""

import random
from collections.abc import Sequence
from pathlib import Path

_GOOD, _BAD = ("good", "great", "warm"), ("bad", "dull", "cold")
_OTHER = (
    "the a film plot scene actor story was is and very not news paper end start one two".split()
)
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_model(folder: Path) -> Path:
    """Write a BERT model with three layers and random weights, and its tokenizer."""
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
    vocabulary = {word: index for index, word in enumerate(words)}
    BertTokenizer(vocab=vocabulary, model_max_length=64).save_pretrained(folder)
    return folder


def write_texts(path: Path, domain: str, *, rows: int = 5000) -> Path:
    """Write texts with id and rating in [-4, 4], tab-separated, and return the file."""
    generator = random.Random(domain)
    lines = []
    for number in range(rows):
        rating = generator.choice((-2, -1, 0, 1, 2))
        # As many good or bad words as the rating says, so that a model can learn it.
        words = [generator.choice(_GOOD if rating > 0 else _BAD) for _ in range(abs(rating))]
        words += [generator.choice(_OTHER) for _ in range(generator.randint(4, 30))]
        generator.shuffle(words)
        lines.append(f"{number}_1\t{rating}\t{' '.join(words)}\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


def write_classes(folder: Path, classes: Sequence[str], *, files: int = 24) -> Path:
    """Write a folder of text files for each class, and return the folder of all.

    Args:
        folder: Folder to create.
        classes: Names of the classes.
        files: Number of files of each class.
    """
    generator = random.Random(folder.name)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(files):
            words = [generator.choice((*_GOOD, *_BAD, *_OTHER)) for _ in range(24)]
            # The first line is the headline of an article.
            text = f"{name} {number}\n{' '.join(words)}\n"
            (folder / name / f"{number}.txt").write_text(text, encoding="utf-8")
    return folder
