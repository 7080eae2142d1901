import pytest

from lightning_transfer.data.tokenization.sentences import first_sentences, split_sentences


def test_joined_sentences_are_the_text():
    text = 'He said "no." She left!\n\nWhy? Dr. Who...  knows'
    parts = split_sentences(text)
    assert "".join(parts) == text
    assert parts[:3] == ['He said "no."', " She left!", "\n\nWhy?"]


@pytest.mark.parametrize(
    ("text", "count", "beginning"),
    [
        ("We tag words . It works .", 1, "We tag words ."),
        ("  We tag. It works. Well.", 2, "We tag. It works."),
        (
            "Relations ( e.g. common sense ) matter . We look .",
            1,
            "Relations ( e.g. common sense ) matter .",
        ),
        ("Words, i.e. , tokens help. Élan follows.", 1, "Words, i.e. , tokens help."),
        ("A headline\nand a line in lower case.", 1, "A headline"),
        ("No full stop", 3, "No full stop"),
    ],
)
def test_first_sentences_are_the_beginning_of_the_text(text, count, beginning):
    assert first_sentences(text, count) == beginning
