"""What a stage may be trained on; the one place that lists the DataModules' bases."""

from lightning_transfer.data.raw_text import RawText
from lightning_transfer.data.text_data_module import TextDataModule
from lightning_transfer.data.text_to_text import TextToText

StageData = TextDataModule | RawText | TextToText
