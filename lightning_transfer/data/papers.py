"""Papers of computational linguistics with their titles and summaries."""

from typing import Any

from lightning_transfer.data.aclsum import ASPECTS, SECTIONS, read_aclsum
from lightning_transfer.data.rows import Table
from lightning_transfer.data.splitter import SPLITS
from lightning_transfer.data.target_columns import TargetColumns
from lightning_transfer.data.text_to_text import TextToText
from lightning_transfer.data.tokens import Tokens


class PaperTitles(TextToText):
    """Abstracts of 250 papers of ACLSum, each with the paper's title; split by ACLSum's authors.

    Columns: ``title``, ``abstract``, ``introduction``, ``conclusion``, ``document`` (these three),
    and the summaries ``challenge``, ``approach`` and ``outcome``, of one sentence each. ``source``
    is a folder with ``train.jsonl``, ``val.jsonl`` and ``test.jsonl``; None: the packaged one.

    Reference: Takeshita et al., ACLSum, NAACL 2024, arXiv:2403.05303.
    """

    default_columns = TargetColumns("abstract", "title")
    default_tokens = Tokens(max_length=256)
    default_target_tokens = Tokens(max_length=48)

    def load_rows(self) -> Table:
        """Return one row for each paper."""
        names = ("title", *SECTIONS, "document", *ASPECTS, "row", "split")
        table: dict[str, list[Any]] = {name: [] for name in names}
        for split in SPLITS:
            for paper in read_aclsum(split, folder=self.source_path):
                sections = {name: " ".join(paper.sentences[name]) for name in SECTIONS}
                whole = "\n".join(sections.values())
                row = {"title": paper.title, **sections, "document": whole, **paper.summaries}
                for name, cell in {**row, "row": paper.place, "split": split}.items():
                    table[name].append(cell)
        named = self.columns.pick(table, self.where)
        return {**named, "row": table["row"], "split": table["split"]}


class PaperSummaries(PaperTitles):
    """The same papers, each with a summary of its outcome; see :class:`PaperTitles`."""

    default_columns = TargetColumns("abstract", "outcome")
    default_target_tokens = Tokens(max_length=64)
