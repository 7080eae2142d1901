"""Mail, wanted or not."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_transfer.assets import fetch
from lightning_transfer.data.columns import Columns
from lightning_transfer.data.label_spec import LabelSpec
from lightning_transfer.data.readers.rows import Table
from lightning_transfer.data.readers.text_folders import read_text_folders
from lightning_transfer.data.splits.near_duplicates import near_duplicate_groups
from lightning_transfer.data.text_data_module import TextDataModule
from lightning_transfer.data.tokenization.tokens import Tokens

MAILBOXES = {"kitchen": "training_dataset", "kaminski": "test_dataset"}
"""Owner of each packaged mailbox -> its folder there; the first keeps the waves that both have."""


class _Mail(NamedTuple):
    owner: str  # empty, if it is none of those packaged
    text: str
    kind: str
    place: str


class Spam(TextDataModule):
    """1,200 mails of the Enron-Spam corpus, ham or spam: 300 of each in two people's mailboxes.

    The ham is of 2001, the spam was added by the corpus's authors from traps of 2005, another trap
    for each mailbox. The first line is the subject. Much of the spam comes in waves: mails that
    share three in ten of their five-word sequences are one wave, and lie in one split.

    Without ``source`` both mailboxes are read, with ``kitchen`` or ``kaminski`` that one; or else
    it is a folder of ``ham/<mail>.txt`` and ``spam/<mail>.txt``. Some waves reached both mailboxes;
    ``kaminski`` is read without them (23 mails, in ``kitchen`` they would be 28), so that a filter
    that learned on one has seen no mail of the other. Columns: ``text``, ``kind``, ``wave``.

    Reference: Metsis, Androutsopoulos and Paliouras, "Spam Filtering with Naive Bayes: Which Naive
    Bayes?", CEAS 2006.
    """

    default_columns = Columns(label="kind", group="wave")
    default_label = LabelSpec("single_label", names=("ham", "spam"))
    default_tokens = Tokens(max_length=128)

    def load_rows(self) -> Table:
        """Return one row for each mail."""
        named = isinstance(self.source, str) and self.source in MAILBOXES
        folder = None if named else self.source_path
        if folder is not None:
            mails = _read(folder, "")
        else:
            root = fetch("enron_spam")
            mails = [mail for owner, box in MAILBOXES.items() for mail in _read(root / box, owner)]
        texts = [mail.text for mail in mails]
        # Named by its text, or a new mail would rename, and so move, those behind it.
        waves = [texts[first] for first in near_duplicate_groups(texts, keep=1)]
        if named:
            mails, waves = _of_one(str(self.source), mails, waves)
        table = {
            "text": [mail.text for mail in mails],
            "kind": [mail.kind for mail in mails],
            "wave": waves,
        }
        columns = self.columns.pick(table, self.where)
        return {**columns, "row": [mail.place for mail in mails]}


def _read(folder: Path, owner: str) -> list[_Mail]:
    table = read_text_folders([folder], form="<ham or spam>/<mail>.txt")
    columns = zip(table["text"], table["label"], table["row"], strict=True)
    return [_Mail(owner, *mail) for mail in columns]


def _of_one(
    owner: str, mails: Sequence[_Mail], waves: Sequence[str]
) -> tuple[list[_Mail], list[str]]:
    """Return the mails of a mailbox, but those of waves in one before it, and the wave of each."""
    before = list(MAILBOXES)[: list(MAILBOXES).index(owner)]
    found = list(zip(mails, waves, strict=True))
    elsewhere = {wave for mail, wave in found if mail.owner in before}
    kept = [(mail, wave) for mail, wave in found if mail.owner == owner and wave not in elsewhere]
    return [mail for mail, _ in kept], [wave for _, wave in kept]
