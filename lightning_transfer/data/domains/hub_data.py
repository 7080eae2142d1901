"""Any data set that the `datasets` library can load."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_transfer.data.text_data_module import TextDataModule

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_NAMES = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev", "validation_matched"),
    "test": ("test",),
}
_HIDDEN = -1  # how the hub writes the labels of a test set that are not published


class HubData(TextDataModule):
    """A data set of the Hugging Face hub, or a folder saved by ``datasets``.

    ``source`` is the name (``"imdb"``), with the configuration after a colon where there are
    several (``"glue:sst2"``), or a folder written by ``save_to_disk``. Its splits are kept; a
    split without published labels is left out, and a missing one cut from the training rows.
    Class ids become class names. Code that comes with a data set is never run. ``label`` has no
    default, see ``LabelSpec``.
    """

    def load_rows(self) -> "Dataset":
        """Return the rows of the train, validation and test splits.

        Raises:
            ValueError: If there is no source, the data set cannot be loaded, or a column is
                missing.
        """
        import datasets  # takes a second to import, and other domains do without

        loaded = self._load_source()
        parts = []
        for split, names in _NAMES.items():
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
                "no data set given; set source to a name such as imdb or glue:sst2, or to a "
                "folder (data.source=... on the command line)"
            )
        folder = Path(self.source).expanduser()
        if (folder / "dataset_dict.json").is_file() or (folder / "dataset_info.json").is_file():
            saved = datasets.load_from_disk(str(folder))
            return (
                saved
                if isinstance(saved, datasets.DatasetDict)
                else datasets.DatasetDict(train=saved)
            )
        name, _, config = (self.source, "", "") if folder.exists() else self.source.partition(":")
        try:
            return datasets.load_dataset(name, config or None)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"cannot load the data set {self.source!r}: {error}. Give a hub name, with the "
                "configuration after a colon (glue:sst2), or a folder; offline, only what is in "
                "the cache of datasets loads"
            ) from error

    def _columns_of(self, part: "Dataset", split: str, where: str) -> "Dataset":
        """Return our columns of one split, with names for class ids."""
        from datasets import ClassLabel, Dataset

        self.columns.check(part.column_names, where)
        table: dict[str, list[Any]] = {
            ours: part[theirs][:] for ours, theirs in self.columns.named.items()
        }
        feature = part.features[self.columns.label]
        if isinstance(feature, ClassLabel):
            if set(table["label"]) == {_HIDDEN}:
                return Dataset.from_dict({})
            table["label"] = [
                None if label in (None, _HIDDEN) else feature.names[label]
                for label in table["label"]
            ]
        elif isinstance(getattr(feature, "feature", None), ClassLabel):
            names = feature.feature.names
            table["label"] = [[names[label] for label in labels] for labels in table["label"]]
        places = [f"{where}, row {row}" for row in range(1, len(part) + 1)]
        return Dataset.from_dict({**table, "row": places, "split": [split] * len(part)})
