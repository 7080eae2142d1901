from pathlib import Path

import pytest
import yaml
from hydra.utils import instantiate

import lightning_transfer.data
from lightning_transfer.data import (
    BbcTopics,
    Columns,
    Imdb,
    LabelSpec,
    MovieSnippets,
    News,
    Products,
    RottenTomatoes,
    Spam,
    Splits,
    TextDataModule,
    Tweets,
)
from lightning_transfer.data.splits.near_duplicates import near_duplicate_groups

CONFIGS = [
    path
    for path in sorted((Path(__file__).parents[3] / "conf" / "data").glob("*.yaml"))
    if "label" in yaml.safe_load(path.read_text())
]
LABEL_KEYS = {
    "LabelSpec": ["_target_", "cutoffs", "kind", "names", "separator", "values"],
    "TagSpec": ["_target_", "label_all", "names", "scheme", "values"],
}
VADER = {
    News: "nytEditorialSnippets_GroundTruth.txt",
    MovieSnippets: "movieReviewSnippets_GroundTruth.txt",
    Products: "amazonReviewSnippets_GroundTruth.txt",
    Tweets: "tweets_GroundTruth.txt",
}


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """Folder for small files that replace the packaged ones."""
    for module in ("vader", "movie_reviews", "bbc_news", "spam"):
        monkeypatch.setattr(
            f"lightning_transfer.data.domains.{module}.fetch", lambda name: tmp_path
        )
    return tmp_path


def write_ratings(path, count=60):
    lines = [
        f'{row // 6 + 1}_{row % 6 + 1}\t{row % 9 - 4}.5\tBits &amp; "pieces {row}, café'
        for row in range(count)
    ]
    path.write_bytes("\r\n".join(lines).encode())
    return str(path)


@pytest.mark.parametrize("domain", VADER)
def test_texts_with_sentiment_are_read_from_the_packaged_file(packaged, domain):
    write_ratings(packaged / VADER[domain])
    data = domain()
    data.setup("fit")
    assert data.labels.to_dict() == {
        "kind": "regression",
        "names": ["negative", "neutral", "positive"],
        "cutoffs": [-0.5, 0.5],
    }
    rows = [row for split in ("train", "validation", "test") for row in data.rows(split)]
    [row] = [row for row in rows if row["row"] == f"{VADER[domain]}, line 11"]
    assert row["text"] == 'Bits & "pieces 10, café'
    assert row["label"] == -3.5
    assert len(rows) == 60


@pytest.mark.parametrize("domain", [News, Products])
def test_sentences_of_an_article_stay_in_one_split(packaged, domain):
    data = domain(write_ratings(packaged / "own.txt"))
    data.setup("fit")
    splits_of = {
        split: {(int(row.split()[-1]) - 1) // 6 for row in data.rows(split)["row"]}
        for split in ("train", "validation", "test")
    }
    assert sum(map(len, splits_of.values())) == len(set.union(*splits_of.values())) == 10


def test_columns_of_texts_with_sentiment_can_be_selected(packaged):
    source = write_ratings(packaged / "own.txt")
    data = News(source, columns=Columns(label="article"), label=LabelSpec("single_label"))
    data.setup("fit")
    assert data.labels.names == tuple(sorted(map(str, range(1, 11))))
    with pytest.raises(
        ValueError, match=r"own.txt: no column 'stars' for the label; set data.columns.label to"
    ):
        News(source, columns=Columns(label="stars")).setup("fit")


def test_an_incomplete_line_is_a_bad_row(packaged):
    source = write_ratings(packaged / "own.txt")
    with open(source, "a") as file:
        file.write("\r\n11_1\t0.5")
    with pytest.raises(ValueError, match=r"own.txt, line 61, column 'text': no text"):
        Tweets(source).setup("fit")


def test_texts_with_sentiment_must_be_utf8(packaged):
    (packaged / "own.txt").write_bytes("1\t0.5\tgood\n2\t0.5\tcafé".encode("latin-1"))
    with pytest.raises(ValueError, match=r"own.txt, line 2: .*; save the file as UTF-8"):
        Tweets(str(packaged / "own.txt")).setup("fit")


@pytest.mark.parametrize("domain", [News, Imdb])
def test_a_missing_source_is_an_error_with_its_path(tmp_path, domain):
    with pytest.raises(FileNotFoundError, match=r"no file .*nothing; set data.source to a file"):
        domain(str(tmp_path / "nothing")).setup("fit")


def test_a_mapping_as_source_of_packaged_data_is_an_error():
    with pytest.raises(ValueError, match="source of News must be one path, got"):
        News({"train": "a.txt"}).setup("fit")


@pytest.mark.parametrize(
    ("domain", "origin"), [(Imdb, "imdb"), (RottenTomatoes, "rotten_tomatoes")]
)
def test_reviews_of_other_origins_are_left_out(packaged, domain, origin):
    lines = ["text,label,source"]
    for row in range(20):
        lines.append(f'"fine<br /><br />film, {row}",{row % 2},{origin}')
        lines.append(f'"not\nthese {row}",{row % 2},elsewhere')
    path = packaged / "combined_movie_reviews.csv"
    path.write_text("\n".join(lines), encoding="utf-8-sig")
    data = domain(splits=Splits(0, 0))
    data.setup("fit")
    assert data.label_counts == {"negative": 10, "positive": 10}
    rows = {row["text"]: row for row in data.rows("train")}
    row = rows["fine\n\nfilm, 3"]
    assert row["label"] == 1
    assert row["row"] == "combined_movie_reviews.csv, line 11"  # line breaks in quotes are counted
    path.write_text("text,label,source\nx,1,elsewhere\n")
    with pytest.raises(ValueError, match=f"no row has '{origin}' in the column 'source'"):
        domain().setup("fit")


def write_articles(folder):
    words = [f"word{number}" for number in range(400)]
    for topic in BbcTopics.default_label.names:
        (folder / topic).mkdir()
        for number in range(6):
            start = len(topic) * 23 + number * 40
            text = " ".join(words[start : start + 60])
            (folder / topic / f"{number:03}.txt").write_text(f"Headline {topic} {number}\n\n{text}")


def test_the_topic_is_the_folder_of_an_article(packaged):
    write_articles(packaged)
    (packaged / "tech" / "999.txt").write_bytes(b"Pounds\n\nIt cost \xa315.8m in all.")
    data = BbcTopics(splits=Splits(val=0, test=0))
    data.setup("fit")
    assert data.label_counts == {
        name: 7 if name == "tech" else 6 for name in BbcTopics.default_label.names
    }
    [row] = [row for row in data.rows("train") if row["row"] == "tech/999.txt"]
    assert row["text"] == "Pounds\n\nIt cost £15.8m in all."


def test_an_unknown_topic_is_a_bad_row(packaged):
    write_articles(packaged)
    (packaged / "weather").mkdir()
    (packaged / "weather" / "1.txt").write_text("Rain")
    with pytest.raises(ValueError, match=r"weather/1.txt, column 'topic': unknown label 'weather'"):
        BbcTopics().setup("fit")


def test_an_empty_folder_of_articles_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no <topic>/<article>.txt in"):
        BbcTopics(str(tmp_path)).setup("fit")


def write_mailboxes(folder):
    for number, mailbox in enumerate(("training_dataset", "test_dataset")):
        for kind in ("ham", "spam"):
            (folder / mailbox / kind).mkdir(parents=True)
            for mail in range(12):
                words = [f"{kind}{number}x{mail}x{place}" for place in range(90)]
                text = f"Subject: {kind} {mail}\r\n{' '.join(words)}\r\n"
                (folder / mailbox / kind / f"{mail:04}.{number}.txt").write_bytes(text.encode())


def test_the_source_selects_the_mailbox(packaged):
    write_mailboxes(packaged)
    both = Spam(splits=Splits(0, 0))
    both.setup("fit")
    assert both.label_counts == {"ham": 24, "spam": 24}
    for mailbox, number in (("kitchen", 0), ("kaminski", 1)):
        data = Spam(mailbox, splits=Splits(0, 0))
        data.setup("fit")
        assert data.label_counts == {"ham": 12, "spam": 12}
        row = next(row for row in data.rows("train") if row["row"] == f"spam/0003.{number}.txt")
        assert row["text"].startswith(f"Subject: spam 3\nspam{number}x3x0 ")  # Unix line ends
        assert row["label"] == 1


def test_a_folder_with_own_mails_is_read(packaged):
    write_mailboxes(packaged)
    mails = packaged / "test_dataset"
    (mails / "spam" / "0099.txt").write_bytes(b"Subject: cheap\n\nonly \xa35")
    (mails / "ham" / "0099.txt").write_bytes(b"\xef\xbb\xbfSubject: marked")
    data = Spam(str(mails), splits=Splits(0, 0))
    data.setup("fit")
    assert data.label_counts == {"ham": 13, "spam": 13}
    assert "Subject: marked" in data.rows("train")["text"]
    assert "Subject: cheap\n\nonly £5" in data.rows("train")["text"]
    with pytest.raises(FileNotFoundError, match=r"no <ham or spam>/<mail>.txt in .*nowhere"):
        Spam(str(packaged / "nowhere")).setup("fit")


def test_a_wave_of_spam_is_in_one_split(packaged):
    write_mailboxes(packaged)
    sent = (packaged / "test_dataset/spam/0001.1.txt").read_text()
    for number in range(8):
        (packaged / f"test_dataset/spam/wave{number}.txt").write_text(f"Subject: {number}\n{sent}")
    data = Spam("kaminski", splits=Splits(val=8, test=8))
    data.setup("fit")
    splits_of = {
        split
        for split in ("train", "validation", "test")
        for row in data.rows(split)
        if "spam1x1x0" in row["text"]
    }
    assert len(splits_of) == 1


def test_waves_of_both_mailboxes_are_left_out_of_kaminski(packaged):
    write_mailboxes(packaged)
    lines = [f"offer {number} of a mass mail" for number in range(12)]
    for box, mails in (("training_dataset", 2), ("test_dataset", 3)):
        for mail in range(mails):
            text = "\n".join([f"Subject: {box} {mail}", *lines[mail : mail + 9]])
            (packaged / box / f"spam/wave{mail}.txt").write_text(text)
    rows = {}
    for source in ("kitchen", "kaminski", None):
        data = Spam(source, splits=Splits(0, 0))
        data.setup("fit")
        rows[source] = [row["row"] for row in data.rows("train") if "mass mail" in row["text"]]
    assert {name: len(found) for name, found in rows.items()} == {
        "kitchen": 2,
        "kaminski": 0,
        None: 5,
    }
    assert data.n_train == 48 + 5


def test_short_mails_of_a_wave_are_in_one_split(packaged):
    write_mailboxes(packaged)
    for mail in range(6):
        text = f"Subject: {mail}\nplease let me know if i can help in any way"
        (packaged / f"training_dataset/ham/short{mail}.txt").write_text(text)
    data = Spam("kitchen", splits=Splits(val=6, test=6))
    data.setup("fit")
    splits_of = [
        sum("in any way" in row["text"] for row in data.rows(split))
        for split in ("train", "validation", "test")
    ]
    assert sorted(splits_of) == [0, 0, 6]


STORY = [f"word{number}" for number in range(300)]


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (["Another", "headline", *STORY], True),
        (STORY[:200], True),  # shortened
        ([*STORY[:150], "and", "now", *STORY[150:]], True),
        (STORY[::-1], False),  # the same words in another order
        ([f"other{number}" for number in range(300)], False),
        ([*STORY[:30], *(f"other{number}" for number in range(270))], False),  # a single quotation
    ],
)
def test_rewritten_articles_are_one_group(other, same):
    groups = near_duplicate_groups([" ".join(STORY), " ".join(other)])
    assert (groups == [0, 0]) is same


def test_texts_are_grouped_through_a_third_text():
    first, second = STORY[:200], STORY[100:]
    texts = [" ".join(first[:100]), " ".join(second[-100:]), " ".join(STORY)]
    assert near_duplicate_groups(texts) == [0, 0, 0]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_has_the_defaults_of_its_class(path):
    config = yaml.safe_load(path.read_text())
    first, second = path.read_text().splitlines()[:2]
    assert first.startswith("# ")
    assert second.startswith("# python -m lightning_transfer fit data@stages.target.data=")
    assert path.stem in second
    data = instantiate(config, _convert_="all")
    assert type(data).__name__ in lightning_transfer.data.__all__
    if type(data).default_label is not None:
        assert data.label == type(data).default_label
    assert data.columns == type(data).default_columns
    assert data.tokens == type(data).default_tokens
    assert (data.splits, data.batch_size, data.on_bad_row) == (Splits(), 32, "error")
    assert (data.source, data.train_size) == (None, None)


def test_every_data_set_has_a_config_with_all_keys():
    configs = [yaml.safe_load(path.read_text()) for path in CONFIGS]
    domains = {
        f"lightning_transfer.data.{name}"
        for name, found in vars(lightning_transfer.data).items()
        if isinstance(found, type) and issubclass(found, TextDataModule)
    }
    # Base classes have no rows, and the label of highlighted sentences cannot be configured.
    others = ("TextDataModule", "TaggedText", "HighlightedSentences")
    domains -= {f"lightning_transfer.data.{name}" for name in others}
    assert {config["_target_"] for config in configs} == domains
    assert len(configs) == len(domains)
    for config in configs:
        keys = {name: sorted(value) for name, value in config.items() if isinstance(value, dict)}
        assert keys == {
            "columns": ["_target_", "group", "label", "text", "text_pair"],
            "label": LABEL_KEYS[config["label"]["_target_"].rpartition(".")[2]],
            "splits": ["_target_", "seed", "test", "val"],
            "tokens": ["_target_", "head_fraction", "max_length", "truncation"],
        }
        assert {"source", "train_size", "batch_size", "on_bad_row"} <= config.keys()


@pytest.mark.network
@pytest.mark.parametrize(
    ("domain", "sizes"),
    [
        (News, (3565, 516, 1038)),
        (MovieSnippets, (7422, 1060, 2121)),
        (Products, (2556, 379, 754)),
        (Tweets, (2832, 404, 809)),
        (RottenTomatoes, (5969, 853, 1706)),
        (Imdb, (17431, 2490, 4980)),
        (BbcTopics, (1486, 212, 424)),
        (Spam, (765, 109, 218)),
    ],
)
def test_the_packaged_data_have_the_known_sizes(domain, sizes):
    data = domain()
    data.setup("fit")
    assert (data.n_train, data.n_val, data.n_test) == sizes
    assert all(data.label_counts.values())
    for split in ("train", "test"):
        assert not any("\ufffd" in text for text in data.rows(split)["text"])
