import pytest

from lightning_transfer.data import (
    BbcHeadlines,
    BbcLeads,
    PaperSummaries,
    PaperTitles,
    TargetColumns,
)
from tests.data.domains.test_aclsum import a_paper, write

STORY = [f"word{number}" for number in range(300)]


def write_articles(folder):
    (folder / "tech").mkdir()
    for number in range(10):
        body = " ".join(f"a{number}w{word}" for word in range(80))
        (folder / "tech" / f"{number:03}.txt").write_text(f"Headline {number}\n\n{body}\n")
    for number, words in ((20, STORY), (21, [*STORY, "more"])):
        (folder / "tech" / f"{number:03}.txt").write_text(f"Story {number}\n\n{' '.join(words)}")


def test_the_first_line_of_an_article_is_its_headline(tmp_path):
    write_articles(tmp_path)
    data = BbcHeadlines(str(tmp_path))
    data.setup("fit")
    rows = {r["target"]: r for split in ("train", "validation", "test") for r in data.rows(split)}
    assert len(rows) == 12
    assert rows["Headline 3"]["text"].startswith("a3w0 a3w1")
    assert "Headline" not in rows["Headline 3"]["text"]
    assert rows["Headline 3"]["row"] == "tech/003.txt"
    splits_of = [
        split
        for split in ("train", "validation", "test")
        for row in data.rows(split)
        if row["target"].startswith("Story")
    ]
    assert len(splits_of) == 2
    assert len(set(splits_of)) == 1


def test_an_article_without_a_body_is_a_bad_row(tmp_path):
    write_articles(tmp_path)
    (tmp_path / "tech" / "999.txt").write_text("A headline alone\n")
    with pytest.raises(ValueError, match=r"tech/999.txt, column 'article': empty text"):
        BbcHeadlines(str(tmp_path)).setup("fit")
    with pytest.raises(
        ValueError, match=r"no column 'body' for the text; .* one of article, headl"
    ):
        BbcHeadlines(str(tmp_path), columns=TargetColumns("body", "headline")).setup("fit")


def test_passages_begin_with_their_target_text(tmp_path):
    write_articles(tmp_path)
    sentences = [f"Here is sentence {number} of a long article on nothing." for number in range(30)]
    text = f"{sentences[0]} Too short.\n{' '.join(sentences[1:])}"
    (tmp_path / "tech/030.txt").write_text(f"A headline\n\n{text}")
    data = BbcLeads(str(tmp_path))
    data.setup("fit")
    rows = [row for split in ("train", "validation", "test") for row in data.rows(split)]
    assert not any("eadline" in row["text"] + row["target"] for row in rows)
    for row in rows:
        assert row["text"].startswith(row["target"])
        assert len(row["target"].split()) <= 12
    found = {row["row"]: row for row in rows if row["row"].startswith("tech/030.txt")}
    assert len(found) == 7  # from the first 20 sentences, one at every third
    assert found["tech/030.txt, passage 2"] == {
        "text": " ".join(sentences[3:7]),
        "target": "Here is sentence 3 of a long article on nothing.",
        "row": "tech/030.txt, passage 2",
    }
    columns = TargetColumns("body", "beginning")
    with pytest.raises(
        ValueError, match=r"no column 'body' for the text; .* one of beginning, pass"
    ):
        BbcLeads(str(tmp_path), columns=columns).setup("fit")


@pytest.fixture
def papers(tmp_path):
    for name, count in (("train", 5), ("val", 2), ("test", 3)):
        made = []
        for number in range(count):
            paper = a_paper(id=f"{name}{number}", title=f"Title {name} {number}")
            paper["summary"] = {k: f"{v} {name} {number}" for k, v in paper["summary"].items()}
            paper["sentences"]["abstract"][0] = f"We tag {name} {number} ."
            made.append(paper)
        write(tmp_path, made, f"{name}.jsonl")
    return tmp_path


def test_papers_are_in_the_splits_of_their_authors(papers):
    data = PaperTitles(str(papers))
    data.setup("fit")
    assert (data.n_train, data.n_val, data.n_test) == (5, 2, 3)
    [row] = [row for row in data.rows("test") if row["row"] == "test.jsonl, line 2"]
    assert row["text"] == "We tag test 1 . It works ."
    assert row["target"] == "Title test 1"


def test_columns_select_the_parts_of_a_paper(papers):
    data = PaperSummaries(str(papers))
    data.setup("fit")
    assert sorted(data.rows("validation")["target"]) == [f"The outcome . val {n}" for n in (0, 1)]
    data = PaperSummaries(str(papers), columns=TargetColumns("document", "challenge"))
    data.setup("fit")
    row = min(data.rows("test"), key=lambda row: row["target"])
    assert row["text"].splitlines() == [
        "We tag test 0 . It works .",
        "Words are many .",
        "We tagged words .",
    ]
    assert row["target"] == "The challenge . test 0"


@pytest.mark.network
@pytest.mark.parametrize(
    ("domain", "sizes"),
    [(BbcHeadlines, (1486, 212, 424)), (PaperTitles, (100, 50, 100))],
)
def test_the_packaged_data_have_the_known_sizes(domain, sizes):
    data = domain()
    data.setup("fit")
    assert (data.n_train, data.n_val, data.n_test) == sizes
