"""Text with labels: one Lightning DataModule for each domain."""

from lightning_transfer.data.batching import LengthBatchSampler
from lightning_transfer.data.bbc_topics import BbcTopics
from lightning_transfer.data.columns import Columns
from lightning_transfer.data.encoding import encode_batches
from lightning_transfer.data.files import Files
from lightning_transfer.data.hub_data import HubData
from lightning_transfer.data.imdb import Imdb
from lightning_transfer.data.label_spec import LabelSpec
from lightning_transfer.data.loader import ResumableLoader
from lightning_transfer.data.movie_snippets import MovieSnippets
from lightning_transfer.data.news import News
from lightning_transfer.data.products import Products
from lightning_transfer.data.rotten_tomatoes import RottenTomatoes
from lightning_transfer.data.splits import Splits
from lightning_transfer.data.text_data_module import TextDataModule
from lightning_transfer.data.tokens import Tokens
from lightning_transfer.data.tweets import Tweets

__all__ = [
    "BbcTopics",
    "Columns",
    "Files",
    "HubData",
    "Imdb",
    "LabelSpec",
    "LengthBatchSampler",
    "MovieSnippets",
    "News",
    "Products",
    "ResumableLoader",
    "RottenTomatoes",
    "Splits",
    "TextDataModule",
    "Tokens",
    "Tweets",
    "encode_batches",
]
