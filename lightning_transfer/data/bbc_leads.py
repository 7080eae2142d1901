"""Passages of BBC news articles and how they begin."""

from lightning_transfer.assets import fetch
from lightning_transfer.data.bbc_topics import read_articles
from lightning_transfer.data.rows import Table
from lightning_transfer.data.target_columns import TargetColumns
from lightning_transfer.data.text_to_text import TextToText
from lightning_transfer.data.tokens import Tokens
from lightning_transfer.sentences import split_sentences

_SENTENCES, _STEP = 4, 3  # of a passage, and from one passage's beginning to that of the next
_FIRST = 20  # sentences of an article at most: long ones do not outweigh the others
_LEAST, _MOST = 5, 12  # words of a first sentence at least, and of a beginning at most


class BbcLeads(TextToText):
    """Passages of BBC news articles, each with the first words of its first sentence.

    Nobody had to label them. A decoder that is new to an encoder learns by them to find in a text
    what it writes, as by a sequence autoencoder, before it has to learn a task from few pairs.
    Columns: ``passage``, ``beginning``, ``story``; files and stories are those of
    :class:`BbcHeadlines`, whose headlines are no part of the passages.

    Reference: Dai and Le, "Semi-supervised Sequence Learning", NeurIPS 2015.
    """

    default_columns = TargetColumns("passage", "beginning", group="story")
    default_tokens = Tokens(max_length=48)
    default_target_tokens = Tokens(max_length=24)

    def load_rows(self) -> Table:
        """Return one row for each passage.

        Raises:
            FileNotFoundError: If the source holds no article.
        """
        table: dict[str, list[str]] = {"passage": [], "beginning": [], "story": []}
        places = []
        for article in read_articles(self.source_path or fetch("bbc_news")):
            for number, (passage, beginning) in enumerate(_passages(article.body), start=1):
                table["passage"].append(passage)
                table["beginning"].append(beginning)
                table["story"].append(article.story)
                places.append(f"{article.place}, passage {number}")
        return {**self.columns.pick(table, self.where), "row": places}


def _passages(body: str) -> list[tuple[str, str]]:
    sentences = [part.strip() for part in split_sentences(body)]
    sentences = [part for part in sentences if len(part.split()) >= _LEAST][:_FIRST]
    found = []
    for start in range(0, len(sentences), _STEP):
        beginning = " ".join(sentences[start].split()[:_MOST])
        found.append((" ".join(sentences[start : start + _SENTENCES]), beginning))
    return found
