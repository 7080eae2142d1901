"""Mail, wanted or not."""

from pathlib import Path

from lightning_transfer.assets import fetch
from lightning_transfer.data.columns import Columns
from lightning_transfer.data.label_spec import LabelSpec
from lightning_transfer.data.near_duplicates import near_duplicate_groups
from lightning_transfer.data.rows import Table
from lightning_transfer.data.text_data_module import TextDataModule
from lightning_transfer.data.text_folders import read_text_folders
from lightning_transfer.data.tokens import Tokens

MAILBOXES = {"kitchen": "training_dataset", "kaminski": "test_dataset"}
"""Owner of each packaged mailbox -> its folder there."""


class Spam(TextDataModule):
    """1,200 mails of the Enron-Spam corpus, ham or spam: 300 of each in two people's mailboxes.

    The ham is of 2001, the spam was added by the corpus's authors from traps of 2005, another trap
    for each mailbox. The first line is the subject. Much of the spam comes in waves: mails that
    share three in ten of their five-word sequences are one wave, and lie in one split.

    Without ``source`` both mailboxes are read, with ``kitchen`` or ``kaminski`` that one; or else
    it is a folder of ``ham/<mail>.txt`` and ``spam/<mail>.txt``. Columns: ``text``, ``kind``,
    ``wave``.

    Reference: Metsis, Androutsopoulos and Paliouras, "Spam Filtering with Naive Bayes: Which Naive
    Bayes?", CEAS 2006.
    """

    default_columns = Columns(label="kind", group="wave")
    default_label = LabelSpec("names", names=("ham", "spam"))
    default_tokens = Tokens(max_length=128)

    def load_rows(self) -> Table:
        """Return one row for each mail."""
        mails = read_text_folders(self._folders(), form="<ham or spam>/<mail>.txt")
        texts = mails["text"]
        table = {
            "text": texts,
            "kind": mails["label"],
            # Named by its text, or a new mail would rename, and so move, those behind it.
            "wave": [texts[first] for first in near_duplicate_groups(texts)],
        }
        self.columns.check(table.keys(), self.where)
        named = {ours: table[theirs] for ours, theirs in self.columns.named.items()}
        return {**named, "row": mails["row"]}

    def _folders(self) -> list[Path]:
        named = isinstance(self.source, str) and self.source in MAILBOXES
        folder = None if named else self.source_path
        if folder is not None:
            return [folder]
        chosen = [str(self.source)] if named else list(MAILBOXES)
        return [fetch("enron_spam") / MAILBOXES[name] for name in chosen]
