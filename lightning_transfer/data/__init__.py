"""Lightning DataModules for labelled texts, tagged words, target texts and raw text."""

from lightning_transfer.data.batching.blocks import BlockSpec
from lightning_transfer.data.batching.length_batch_sampler import LengthBatchSampler
from lightning_transfer.data.batching.loaders import ResumableLoader
from lightning_transfer.data.batching.masking import Masking
from lightning_transfer.data.columns import Columns, TargetColumns
from lightning_transfer.data.domains.aclsum import Paper, PaperSummaries, PaperTitles, read_aclsum
from lightning_transfer.data.domains.bbc_news import BbcHeadlines, BbcLeads, BbcTopics
from lightning_transfer.data.domains.catalogues import Catalogues
from lightning_transfer.data.domains.conll import Conll
from lightning_transfer.data.domains.domain_documents import DomainDocuments
from lightning_transfer.data.domains.files import Files
from lightning_transfer.data.domains.highlighted_sentences import Extract, HighlightedSentences
from lightning_transfer.data.domains.hub_data import HubData
from lightning_transfer.data.domains.movie_reviews import Imdb, RottenTomatoes
from lightning_transfer.data.domains.parallel_files import ParallelFiles
from lightning_transfer.data.domains.spam import Spam
from lightning_transfer.data.domains.tagged_files import TaggedFiles
from lightning_transfer.data.domains.vader import MovieSnippets, News, Products, Tweets
from lightning_transfer.data.label_spec import LabelSpec
from lightning_transfer.data.raw_text import RawText
from lightning_transfer.data.readers.documents import FileDocuments
from lightning_transfer.data.splits.split_spec import Splits
from lightning_transfer.data.tag_spec import TagSpec
from lightning_transfer.data.tagged_text import TaggedText
from lightning_transfer.data.text_data_module import TextDataModule
from lightning_transfer.data.text_to_text import TextToText
from lightning_transfer.data.tokenization.tokenizer_trainer import TokenizerTrainer
from lightning_transfer.data.tokenization.tokens import Tokens

StageData = TextDataModule | RawText | TextToText
"""DataModules for the stages of an experiment."""

# The `_target_` of a config uses these names, so a renamed class breaks saved configs.
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
    "read_aclsum",
]
