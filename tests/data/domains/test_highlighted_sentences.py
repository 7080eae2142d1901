import numpy as np
import pytest

from lightning_transfer.data import Extract, HighlightedSentences, Tokens
from lightning_transfer.data.domains.aclsum import ASPECTS, SECTIONS
from lightning_transfer.data.domains.highlighted_sentences import Extraction
from tests.conftest import GOOD, WORDS
from tests.data.domains.test_aclsum import a_paper, write

PLAIN = WORDS[10:]


def papers(count, seed, first=0):
    """Return papers with good words in the highlighted sentences only."""
    draw = np.random.default_rng(seed)

    def sentence(words):
        return " ".join(draw.choice(words, draw.integers(4, 7)))

    made = []
    for number in range(first, first + count):
        sentences, flags, good = {}, {a: {} for a in ASPECTS}, {}
        for section in SECTIONS:
            sentences[section] = [sentence(PLAIN) for _ in range(5)]
            for aspect in ASPECTS:
                flags[aspect][section] = [0] * 5
        for aspect, section in zip(ASPECTS, SECTIONS, strict=True):
            place = int(draw.integers(2, 5))
            good[aspect] = sentences[section][place] = sentence(GOOD)
            flags[aspect][section][place] = 1
        made.append(a_paper(id=f"p{number}", sentences=sentences, highlights=flags, summary=good))
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("aclsum")
    write(place, papers(16, 0), "train.jsonl")
    write(place, papers(6, 1, 100), "val.jsonl")
    write(place, papers(6, 2, 200), "test.jsonl")
    return str(place)


def make_data(folder, tokenizer=None, **arguments):
    data = HighlightedSentences(folder, **{"tokens": Tokens(max_length=24), **arguments})
    data.tokenizer = tokenizer
    data.setup("fit")
    return data


def test_each_sentence_is_a_row_and_papers_stay_in_their_split(folder):
    data = make_data(folder)
    assert (data.n_train, data.n_val, data.n_test) == (16 * 15, 6 * 15, 6 * 15)
    assert data.labels.names == ("other", "highlight")
    assert data.label_counts == {"other": 16 * 12, "highlight": 16 * 3}
    for row in data.rows("test"):
        assert (row["label"] == 1) is (row["text"].split()[0] in GOOD)


def test_each_aspect_has_its_highlights_and_reference(folder):
    data = make_data(folder, extract=Extract(aspect="outcome", sentences=1))
    assert data.label_counts["highlight"] == 16
    whole = make_data(folder).extraction.references[0]
    assert whole.endswith(data.extraction.references[0])
    assert whole != data.extraction.references[0]


@pytest.mark.parametrize("context", ["none", "position", "neighbours", "both"])
def test_the_second_text_of_a_row_is_its_context(folder, context):
    data = make_data(folder, extract=Extract(context=context))
    rows, extraction = data._corpus.rows, data.extraction
    if context == "none":
        assert rows.pairs is None
        return
    for row in (0, 1, 6):  # the first row of a paper, and two more
        document, place = int(extraction.document[row]), int(extraction.position[row])
        sentences, number = extraction.documents[document], place % 5
        near = [place + step for step in (-1, 1) if 0 <= number + step < 5]
        words = {
            "position": f"{SECTIONS[place // 5]} {number + 1} of 5",
            "neighbours": " ".join(sentences[at] for at in near),
        }
        words["both"] = f"{words['position']} {words['neighbours']}"
        assert rows.pairs[row] == words[context]


def test_rows_are_assigned_to_sentences_and_batches_have_positions(folder, tokenizer):
    data = make_data(folder, tokenizer)
    extraction = data.extraction
    for batch in data.test_dataloader():
        for row, position, index in zip(
            *(batch[name].tolist() for name in ("row", "position", "index")), strict=True
        ):
            assert extraction.position[row] == position
            sentence = extraction.documents[extraction.document[row]][position]
            assert data.rows("test")[index]["text"] == sentence


def test_summaries_have_the_best_sentences_in_the_order_of_the_document():
    documents, rows = [["a", "b", "c"], ["d", "e", "f"]], np.arange(6)
    extraction = Extraction(documents, ["", ""], document=rows // 3, position=rows % 3, size=2)
    scores = np.array([0.1, 0.9, 0.2, 0.5, 0.5, 0.5])
    assert extraction.summaries(rows, scores) == {0: "b c", 1: "d e"}
    order = np.array([5, 2, 0, 4, 1, 3, 3])  # one row scored twice, as with several devices
    assert extraction.summaries(order, scores[order]) == {0: "b c", 1: "d e"}
    assert extraction.summaries(rows[1:3], scores[1:3]) == {0: "b c"}
    one = Extraction(documents, ["", ""], document=rows // 3, position=rows % 3, size=9)
    assert one.summaries(rows, scores)[0] == "a b c"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sentences": 0}, "extract.sentences must be >= 1, got 0"),
        ({"context": "all"}, "none, position, neighbours, both, got 'all'"),
        ({"aspect": "aim"}, "null or one of challenge, approach, outcome, got 'aim'"),
    ],
)
def test_bad_arguments_are_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        Extract(**arguments)


def test_extraction_before_setup_is_an_error(folder):
    with pytest.raises(RuntimeError, match=r"call setup\(\) first"):
        _ = HighlightedSentences(folder).extraction


def test_a_sentence_of_the_test_papers_is_not_in_the_training_rows(tmp_path):
    files = {"train": papers(4, 0), "val": papers(4, 1, 100), "test": papers(4, 2, 200)}
    for place, (name, made) in enumerate(files.items()):
        # At another position in each file, so the context differs.
        made[0]["sentences"]["abstract"][place] = "It is in all ."
        if name != "test":
            made[0]["sentences"]["conclusion"][place] = "It is in two ."
        write(tmp_path, made, f"{name}.jsonl")
    data = make_data(str(tmp_path))
    assert (data.n_train, data.n_val, data.n_test) == (58, 59, 60)
