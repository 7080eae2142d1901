"""Mails of the Enron-Spam corpus, ham or spam."""

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
"""Owner of each packaged mailbox -> its folder. Waves of both mailboxes belong to the first one."""


class _Mail(NamedTuple):
    owner: str  # owner of the mailbox; empty for the user's own folder
    text: str
    kind: str
    place: str


class Spam(TextDataModule):
    """1,200 mails of the Enron-Spam corpus, ham or spam: 300 of each kind in two mailboxes.

    The ham is from 2001. The spam was added by the authors of the corpus from spam traps of 2005, a
    different trap for each mailbox. The first line of a mail is its subject.

    Much of the spam comes in waves of similar mails. Mails belong to the same wave if they share at
    least 30 % of their sequences of five words. A wave is in one split.

    ``source`` is ``kitchen`` or ``kaminski`` for one mailbox, ``None`` for both, or a folder with
    ``ham/<mail>.txt`` and ``spam/<mail>.txt``. Some waves reached both mailboxes. ``kaminski`` is
    read without them (23 mails; ``kitchen`` has 28 mails of these waves), so a classifier trained
    on one mailbox has seen no mail of the other. Columns: ``text``, ``kind``, ``wave``.

    Reference: Metsis, Androutsopoulos and Paliouras, "Spam Filtering with Naive Bayes: Which Naive
    Bayes?", CEAS 2006.
    """

    default_columns = Columns(label="kind", group="wave")
    default_label = LabelSpec("single_label", names=("ham", "spam"))
    default_tokens = Tokens(max_length=128)

    def load_rows(self) -> Table:
        """Return one row per mail."""
        is_mailbox = isinstance(self.source, str) and self.source in MAILBOXES
        folder = None if is_mailbox else self.source_path
        if folder is not None:
            mails = _read_mails(folder, "")
        else:
            # Both mailboxes are read even for one, to find the waves that reached both.
            root = fetch("enron_spam")
            mails = [
                mail for owner, box in MAILBOXES.items() for mail in _read_mails(root / box, owner)
            ]
        texts = [mail.text for mail in mails]
        # A wave is named by its first text. With numbers, a new mail would rename later waves, and
        # so move them to other splits.
        # keep=1 compares all sequences, because mails may be short.
        waves = [texts[first] for first in near_duplicate_groups(texts, keep=1)]
        if is_mailbox:
            mails, waves = _select_mailbox(str(self.source), mails, waves)
        table = {
            "text": [mail.text for mail in mails],
            "kind": [mail.kind for mail in mails],
            "wave": waves,
        }
        columns = self.columns.pick(table, self.where)
        return {**columns, "row": [mail.place for mail in mails]}


def _read_mails(folder: Path, owner: str) -> list[_Mail]:
    table = read_text_folders([folder], form="<ham or spam>/<mail>.txt")
    columns = zip(table["text"], table["label"], table["row"], strict=True)
    return [_Mail(owner, *mail) for mail in columns]


def _select_mailbox(
    owner: str, mails: Sequence[_Mail], waves: Sequence[str]
) -> tuple[list[_Mail], list[str]]:
    """Return the mails of a mailbox with their waves, without the waves of earlier mailboxes."""
    earlier = list(MAILBOXES)[: list(MAILBOXES).index(owner)]
    found = list(zip(mails, waves, strict=True))
    elsewhere = {wave for mail, wave in found if mail.owner in earlier}
    kept = [(mail, wave) for mail, wave in found if mail.owner == owner and wave not in elsewhere]
    return [mail for mail, _ in kept], [wave for _, wave in kept]
