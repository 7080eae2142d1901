"""Tiny sequence-to-sequence tasks, batches and data."""

import json

import datasets
import lightning.pytorch as pl
import torch
from tokenizers import Tokenizer
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from lightning_transfer.data import Tokens
from lightning_transfer.heads import DecoderHead
from lightning_transfer.heads.factory import make_head
from lightning_transfer.tasks import SequenceToSequence
from lightning_transfer.utils import Labels
from lightning_transfer.weight_transfer import transfer_weights
from tests.conftest import WORDS, make_tokenizer
from tests.tiny_seq2seq import make_seq2seq

TEXT = Labels("text")
FAMILIES = ("t5", "bart", "marian", "marian-apart", "pegasus", "bert2bert-wider")
# Special tokens of the tokenizer of the tests.
IDS = {"pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 2}
SHORT = {"max_new_tokens": 8}


def make_task(name="bart", *, seed=0, backbone=None, **arguments):
    """Return a task with a random head, so that every parameter of the head has an effect."""
    backbone = backbone or make_seq2seq(name, seed=seed)
    for key, value in IDS.items():
        setattr(backbone.config, key, value)
    head = make_head(DecoderHead, backbone, 0)
    transfer_weights(None, backbone, head, TEXT)
    torch.manual_seed(seed)
    with torch.no_grad():
        for tensor in head.state_dict().values():
            tensor.add_(torch.randn_like(tensor) * 0.5)
    return SequenceToSequence(
        backbone, head, labels=TEXT, **{"generation": SHORT, **arguments}
    ).eval()


def make_target_tokenizer():
    """Return a tokenizer for target texts with 19 tokens."""
    content = json.loads(make_tokenizer().backend_tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {token: i for token, i in vocabulary.items() if i < 19}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def make_batch(*, rows=3, vocabulary=21):  # 21: smallest vocabulary of the families
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, vocabulary, (rows, 7), generator=generator)
    lengths = torch.tensor([7, 4, 6])[torch.arange(rows) % 3]
    mask = (torch.arange(7) < lengths[:, None]).long()
    labels = torch.randint(5, vocabulary, (rows, 5), generator=generator)
    labels[:, 4] = 3
    labels[1, 2:] = torch.tensor([3, -100, -100])
    return {
        "input_ids": ids * mask,
        "attention_mask": mask,
        "labels": labels,
        "index": torch.arange(rows),
        "row": torch.arange(rows),
    }


class Pairs(pl.LightningDataModule):
    """Texts of a few words, with the reversed words as target texts."""

    def __init__(self, *, rows=12, target_tokenizer=None):
        super().__init__()
        self.tokenizer = make_tokenizer()
        self.target_tokenizer = target_tokenizer
        self.labels, self.tokens, self.target_tokens = TEXT, Tokens(), Tokens(24)
        self.n_train = self.n_val = self.n_test = rows
        self.seed = 0
        words = WORDS[:14]
        self._texts = [" ".join(words[(r + k) % 14] for k in range(2 + r % 3)) for r in range(rows)]

    def rows(self, split):
        targets = [" ".join(reversed(text.split())) for text in self._texts]
        return datasets.Dataset.from_dict(
            {"text": self._texts, "target": targets, "row": [*range(len(targets))]}
        )

    def _loader(self):
        table, target_tokenizer = self.rows("test"), self.target_tokenizer or self.tokenizer
        samples = []
        for row, text, target in zip(table["row"], table["text"], table["target"], strict=True):
            ids = torch.tensor(self.tokenizer(text)["input_ids"])
            labels = torch.tensor(target_tokenizer(target)["input_ids"][1:])  # without [CLS]
            samples.append((row, ids, labels))
        return DataLoader(samples, batch_size=4, collate_fn=self._collate)

    @staticmethod
    def _collate(samples):
        def pad(tensors, value):
            return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)

        rows = torch.tensor([row for row, *_ in samples])
        return {
            "input_ids": pad([ids for _, ids, _ in samples], 0),
            "attention_mask": pad([torch.ones_like(ids) for _, ids, _ in samples], 0),
            "labels": pad([labels for *_, labels in samples], -100),
            "index": rows,
            "row": rows,
        }

    train_dataloader = val_dataloader = test_dataloader = _loader
