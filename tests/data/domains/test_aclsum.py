import json

import pytest

from lightning_transfer.data import read_aclsum
from lightning_transfer.data.domains.aclsum import ASPECTS, SECTIONS


def a_paper(**changes):
    sentences = {
        "abstract": ["We tag words .", "It works ."],
        "introduction": ["Words are many ."],
        "conclusion": ["We tagged words ."],
    }
    flags = {section: [0] * len(texts) for section, texts in sentences.items()}
    highlights = {aspect: dict(flags) for aspect in ASPECTS}
    highlights["outcome"] = {**flags, "abstract": [0, 1]}
    paper = {
        "id": "P06-1112",
        "title": "Tagging Words",
        "summary": {aspect: f"The {aspect} ." for aspect in ASPECTS},
        "sentences": sentences,
        "highlights": highlights,
    }
    return {**paper, **changes}


def write(folder, papers, name="val.jsonl"):
    # The published files end without a newline.
    (folder / name).write_text("\n".join(map(json.dumps, papers)), encoding="utf-8")
    return folder


def test_a_paper_is_read_with_its_sections_summaries_and_highlights(tmp_path):
    [paper, other] = read_aclsum("validation", folder=write(tmp_path, [a_paper(), a_paper(id="b")]))
    assert (paper.identity, other.identity, paper.title) == ("P06-1112", "b", "Tagging Words")
    assert paper.sentences["abstract"] == ("We tag words .", "It works .")
    assert paper.abstract == "We tag words . It works ."
    assert paper.summaries == {aspect: f"The {aspect} ." for aspect in ASPECTS}
    assert paper.highlights["outcome"]["abstract"] == (False, True)
    assert paper.highlights["approach"]["abstract"] == (False, False)
    assert other.place == "val.jsonl, line 2"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"title": " "}, r"val.jsonl, line 2: title must be a text, got ' '"),
        ({"summary": {"challenge": "a"}}, r"line 2: key 'summary.approach' is missing"),
        ({"sentences": {"abstract": "We tag ."}}, r"sentences.abstract must be a list of texts"),
        ({"sentences": {"abstract": [3]}}, r"sentences.abstract must be a text, got 3"),
        (
            {"highlights": {"challenge": {"abstract": [0]}}},
            r"line 2: highlights must be a list of 2 values 0 or 1, .* got \[0\]",
        ),
        ({"highlights": {"challenge": {"abstract": [0, 2]}}}, r"got \[0, 2\]"),
    ],
)
def test_a_line_that_is_not_a_paper_is_an_error(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_aclsum("validation", folder=write(tmp_path, [a_paper(), a_paper(**changes)]))


def test_an_unknown_split_or_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="'dev'"):
        read_aclsum("dev")
    with pytest.raises(FileNotFoundError, match=r"test\.jsonl"):
        read_aclsum("test", folder=tmp_path)


@pytest.mark.network
@pytest.mark.parametrize(("split", "count"), [("train", 100), ("validation", 50), ("test", 100)])
def test_all_packaged_papers_are_read(split, count):
    papers = read_aclsum(split)
    assert len({paper.identity for paper in papers}) == count
    assert all(set(paper.sentences) == set(SECTIONS) for paper in papers)
    assert all(any(any(flags) for flags in p.highlights["approach"].values()) for p in papers)
