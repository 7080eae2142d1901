import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Sequence, Value

from lightning_transfer.data import Columns, HubData, LabelSpec, Splits

MOODS = ["negative", "positive"]
NAMES = LabelSpec("single_label")


def make(count, labels=None, prefix="text"):
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=MOODS)})
    texts = [f"{prefix} {number}" for number in range(count)]
    labels = labels or [number % 2 for number in range(count)]
    return Dataset.from_dict({"sentence": texts, "label": labels}, features=features)


def hub(source, **options):
    return HubData(str(source), **{"columns": Columns(text="sentence"), "label": NAMES, **options})


@pytest.fixture(autouse=True)
def _no_progress_bars():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def test_class_ids_become_names_and_splits_are_kept(tmp_path):
    parts = {"train": make(20), "validation": make(6, prefix="v"), "test": make(4, prefix="t")}
    DatasetDict(parts).save_to_disk(tmp_path / "saved")
    data = hub(tmp_path / "saved")
    data.setup("fit")
    assert data.labels.names == ("negative", "positive")
    assert (data.n_train, data.n_val, data.n_test) == (20, 6, 4)
    assert data.rows("test")[0]["row"].endswith(
        f"saved, test, row {int(data.rows('test')[0]['text'][2:]) + 1}"
    )


def test_a_test_split_without_published_labels_is_left_out(tmp_path):
    unpublished = make(4, labels=[-1] * 4, prefix="t")
    DatasetDict({"train": make(20), "test": unpublished}).save_to_disk(tmp_path / "saved")
    data = hub(tmp_path / "saved", splits=Splits(val=2, test=3))
    data.setup("fit")
    assert (data.n_train, data.n_val, data.n_test) == (15, 2, 3)


def test_a_single_unpublished_label_is_a_bad_row(tmp_path):
    make(4, labels=[0, 1, -1, 1]).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="saved, train, row 3, column 'label': no label"):
        hub(tmp_path / "saved").setup("fit")


def test_lists_of_class_ids_become_names(tmp_path):
    features = Features({"text": Value("string"), "label": Sequence(ClassLabel(names=MOODS))})
    table = {"text": ["a", "b", "c"], "label": [[0], [0, 1], []]}
    Dataset.from_dict(table, features=features).save_to_disk(tmp_path / "saved")
    data = HubData(
        str(tmp_path / "saved"), label=LabelSpec("multi_label", names=MOODS), splits=Splits(0, 0)
    )
    data.setup("fit")
    assert data.label_counts == {"negative": 2, "positive": 1}


def test_a_folder_of_files_is_loaded_by_datasets(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "mine"
    folder.mkdir()
    for split in ("train", "test"):
        rows = "".join(f"{split} {number},{number % 2}\n" for number in range(10))
        (folder / f"{split}.csv").write_text("sentence,label\n" + rows)
    data = hub(folder, label=LabelSpec("single_label", values={0: "no", 1: "yes"}))
    data.setup("fit")
    assert (data.n_train, data.n_val, data.n_test) == (9, 1, 10)
    assert data.labels.names == ("no", "yes")


def test_the_configuration_follows_a_colon(monkeypatch):
    calls = []

    def load(name, config):
        calls.append((name, config))
        return DatasetDict(train=make(10), unsupervised=make(3))

    monkeypatch.setattr(datasets, "load_dataset", load)
    hub("glue:sst2").setup("fit")
    hub("imdb").setup("fit")
    assert calls == [("glue", "sst2"), ("imdb", None)]


def test_a_data_set_that_cannot_be_loaded_is_an_error(monkeypatch):
    def load(name, config):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(
        ValueError, match=r"cannot load the data set 'imbd': no network. Set data.source"
    ):
        hub("imbd").setup("fit")


def test_a_data_set_without_known_splits_is_an_error(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: DatasetDict(unsupervised=make(3)))
    with pytest.raises(ValueError, match=r"no labelled rows .* its splits are unsupervised"):
        hub("imdb").setup("fit")


def test_a_missing_column_is_an_error_with_the_columns_of_the_data(tmp_path):
    make(4).save_to_disk(tmp_path / "saved")
    message = (
        "saved, train: no column 'text' for the text; set data.columns.text to one of label, sent"
    )
    with pytest.raises(ValueError, match=message):
        hub(tmp_path / "saved", columns=Columns()).setup("fit")


def test_a_missing_source_is_an_error():
    with pytest.raises(
        ValueError, match=r"no data set given; set data.source to a name such as imdb"
    ):
        HubData(label=NAMES).setup("fit")
