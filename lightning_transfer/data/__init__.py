"""One Lightning DataModule for each domain: text with labels, raw text, text with target text."""

from lightning_transfer.data.aclsum import Paper, read_aclsum
from lightning_transfer.data.batching import LengthBatchSampler
from lightning_transfer.data.bbc_headlines import BbcHeadlines
from lightning_transfer.data.bbc_leads import BbcLeads
from lightning_transfer.data.bbc_topics import BbcTopics
from lightning_transfer.data.block_spec import BlockSpec
from lightning_transfer.data.catalogues import Catalogues
from lightning_transfer.data.columns import Columns
from lightning_transfer.data.conll import Conll
from lightning_transfer.data.domain_documents import DomainDocuments
from lightning_transfer.data.encoding import encode_batches
from lightning_transfer.data.extract import Extract
from lightning_transfer.data.file_documents import FileDocuments
from lightning_transfer.data.files import Files
from lightning_transfer.data.highlighted_sentences import HighlightedSentences
from lightning_transfer.data.hub_data import HubData
from lightning_transfer.data.imdb import Imdb
from lightning_transfer.data.label_spec import LabelSpec
from lightning_transfer.data.loader import ResumableLoader
from lightning_transfer.data.masking import Masking
from lightning_transfer.data.movie_snippets import MovieSnippets
from lightning_transfer.data.news import News
from lightning_transfer.data.papers import PaperSummaries, PaperTitles
from lightning_transfer.data.parallel_files import ParallelFiles
from lightning_transfer.data.products import Products
from lightning_transfer.data.raw_text import RawText
from lightning_transfer.data.rotten_tomatoes import RottenTomatoes
from lightning_transfer.data.spam import Spam
from lightning_transfer.data.splits import Splits
from lightning_transfer.data.tag_spec import TagSpec
from lightning_transfer.data.tagged_files import TaggedFiles
from lightning_transfer.data.tagged_text import TaggedText
from lightning_transfer.data.target_columns import TargetColumns
from lightning_transfer.data.text_data_module import TextDataModule
from lightning_transfer.data.text_to_text import TextToText
from lightning_transfer.data.tokenizer_trainer import TokenizerTrainer
from lightning_transfer.data.tokens import Tokens
from lightning_transfer.data.tweets import Tweets

__all__ = [
    "BbcHeadlines",
    "BbcLeads",
    "BbcTopics",
    "BlockSpec",
    "Catalogues",
    "Columns",
    "Conll",
    "DomainDocuments",
    "Extract",
    "FileDocuments",
    "Files",
    "HighlightedSentences",
    "HubData",
    "Imdb",
    "LabelSpec",
    "LengthBatchSampler",
    "Masking",
    "MovieSnippets",
    "News",
    "Paper",
    "PaperSummaries",
    "PaperTitles",
    "ParallelFiles",
    "Products",
    "RawText",
    "ResumableLoader",
    "RottenTomatoes",
    "Spam",
    "Splits",
    "TagSpec",
    "TaggedFiles",
    "TaggedText",
    "TargetColumns",
    "TextDataModule",
    "TextToText",
    "TokenizerTrainer",
    "Tokens",
    "Tweets",
    "encode_batches",
    "read_aclsum",
]
