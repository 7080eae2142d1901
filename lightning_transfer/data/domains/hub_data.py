"""Data sets of the Hugging Face hub, and all others for the ``datasets`` library."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_transfer.data.text_data_module import TextDataModule

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

# Names of each split on the hub; validation_matched is that of MNLI.
_SPLIT_NAMES = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev", "validation_matched"),
    "test": ("test",),
}
_UNPUBLISHED = -1  # label of all rows of a test set without published labels, as in GLUE


class HubData(TextDataModule):
    """Rows of a data set of the Hugging Face hub, or of a folder saved by ``datasets``.

    ``source`` is the name of a data set (``"imdb"``), followed by a colon and the configuration if
    there are several (``"glue:sst2"``), or a folder written by ``save_to_disk``. The splits of the
    data set are kept. A split without published labels is left out. Missing splits are drawn from
    the training rows. Class ids are converted to class names. ``label`` has no default, see
    ``LabelSpec``.

    Code in a data set is never executed.
    """

    def load_rows(self) -> "Dataset":
        """Return the rows of the train, validation and test splits.

        Raises:
            ValueError: If there is no source, the data set cannot be loaded, or a column is
                missing.
        """
        import datasets  # the import takes a second, and other data do not need it

        loaded = self._load_source()
        parts = []
        for split, names in _SPLIT_NAMES.items():
            name = next((name for name in names if name in loaded), None)
            if name is not None:
                parts.append(self._columns_of(loaded[name], split, f"{self.source}, {name}"))
        parts = [part for part in parts if len(part)]
        if not parts:
            raise ValueError(
                f"{self.source} has no labelled rows in a train, validation or test split; its "
                f"splits are {', '.join(map(str, loaded))}"
            )
        return datasets.concatenate_datasets(parts)

    def _load_source(self) -> "DatasetDict":
        import datasets

        if not isinstance(self.source, str):
            raise ValueError(
                "no data set given; set data.source to a name such as imdb or glue:sst2, or to a "
                "folder"
            )
        folder = Path(self.source).expanduser()
        if (folder / "dataset_dict.json").is_file() or (folder / "dataset_info.json").is_file():
            saved = datasets.load_from_disk(str(folder))
            # A single saved data set has no splits.
            return (
                saved
                if isinstance(saved, datasets.DatasetDict)
                else datasets.DatasetDict(train=saved)
            )
        # The path of a folder may contain a colon.
        name, _, config = (self.source, "", "") if folder.exists() else self.source.partition(":")
        try:
            return datasets.load_dataset(name, config or None)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"cannot load the data set {self.source!r}: {error}. Set data.source to a name on "
                "the hub, with the configuration after a colon (glue:sst2), or to a folder. "
                "Offline, only data sets in the cache of the datasets library can be loaded"
            ) from error

    def _columns_of(self, part: "Dataset", split: str, where: str) -> "Dataset":
        """Return the columns in use of one split, with class names instead of class ids."""
        from datasets import ClassLabel, Dataset

        self.columns.check(part.column_names, where)
        table: dict[str, list[Any]] = {
            ours: part[theirs][:] for ours, theirs in self.columns.named.items()
        }
        feature = part.features[self.columns.label]
        if isinstance(feature, ClassLabel):
            # One such label among others is an error in the data, and becomes a bad row.
            if set(table["label"]) == {_UNPUBLISHED}:
                return Dataset.from_dict({})
            table["label"] = [
                None if label in (None, _UNPUBLISHED) else feature.names[label]
                for label in table["label"]
            ]
        elif isinstance(getattr(feature, "feature", None), ClassLabel):
            names = feature.feature.names
            table["label"] = [[names[label] for label in labels] for labels in table["label"]]
        places = [f"{where}, row {row}" for row in range(1, len(part) + 1)]
        return Dataset.from_dict({**table, "row": places, "split": [split] * len(part)})
