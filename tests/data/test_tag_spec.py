import pytest

from lightning_transfer.data.tag_spec import detect_scheme, fault, stray_entity, to_bio

BIO = "B-PER I-PER B-PER O B-LOC".split()
WRITTEN = {
    "bio": BIO,
    "iob1": "I-PER I-PER B-PER O I-LOC".split(),
    "iobes": "B-PER E-PER S-PER O S-LOC".split(),
}


@pytest.mark.parametrize("scheme", WRITTEN)
def test_one_sentence_in_any_scheme_is_the_same_in_bio(scheme):
    tags = WRITTEN[scheme]
    assert detect_scheme([tags]) == scheme
    assert fault(tags, scheme) is None
    assert to_bio(tags, scheme) == BIO


def test_bilou_is_iobes_with_other_letters():
    tags = "B-PER I-PER L-PER O U-LOC".split()
    assert detect_scheme([tags]) == "iobes"
    assert to_bio(tags, "iobes") == "B-PER I-PER I-PER O B-LOC".split()


def test_adjacent_entities_of_two_types_are_two_in_iob1():
    assert to_bio("I-PER I-LOC I-LOC".split(), "iob1") == "B-PER B-LOC I-LOC".split()


@pytest.mark.parametrize(
    ("sentences", "scheme"),
    [
        ([["O", "B-PER"], ["I-PER"]], "bio"),  # broken either way: BIO is said to be broken
        ([["O", "O"]], "bio"),
        ([["NN", "VB"]], "plain"),
        ([["B-PER", "B-LOC"]], "bio"),
    ],
)
def test_what_is_detected(sentences, scheme):
    assert detect_scheme(sentences) == scheme


@pytest.mark.parametrize(
    ("tags", "scheme", "place", "what"),
    [
        ("I-PER O", "bio", 0, "'I-PER' cannot stand at the beginning of a sentence in bio"),
        ("B-PER I-LOC", "bio", 1, "'I-LOC' cannot stand behind 'B-PER' in bio"),
        ("O I-PER", "bio", 1, "'I-PER' cannot stand behind 'O' in bio"),
        ("O E-PER", "bio", 1, "'E-PER' is no tag of bio"),
        ("O NN", "bio", 1, "'NN' is no tag of bio"),
        ("O B-PER", "iob1", 1, "'B-PER' cannot stand behind 'O' in iob1"),
        ("B-PER O", "iobes", 1, "'O' cannot stand behind 'B-PER' in iobes"),
        ("B-PER S-PER", "iobes", 1, "'S-PER' cannot stand behind 'B-PER' in iobes"),
        ("O E-PER", "iobes", 1, "'E-PER' cannot stand behind 'O' in iobes"),
        ("O B-PER", "iobes", 1, "'B-PER' cannot end a sentence in iobes"),
    ],
)
def test_the_first_broken_rule_is_told(tags, scheme, place, what):
    found, said = fault(tags.split(), scheme)
    assert (found, said.partition(", which has")[0]) == (place, what)


@pytest.mark.parametrize("odd", ["O-", "B", "B-", "-X-", "b-per", "o", "PER", "B_PER", "X-PER"])
@pytest.mark.parametrize("scheme", WRITTEN)
def test_an_odd_tag_leaves_the_scheme_of_the_others(scheme, odd):
    assert detect_scheme([WRITTEN[scheme], ["O", odd]]) == scheme
    place, said = fault(["O", odd], scheme)
    assert place == 1
    assert f"{odd!r} is no tag of {scheme}, which has O, B-…" in said
    assert "set label.scheme to how the tags are written (bio, iob1, iobes, or plain" in said


@pytest.mark.parametrize(
    ("sentence", "scheme"),
    [("O I-PER", "bio"), ("B-PER E-PER", "bio"), ("O B-PER", "iob1"), ("B-PER O", "iobes")],
)
def test_a_broken_sentence_leaves_the_scheme_of_the_others(sentence, scheme):
    assert detect_scheme([WRITTEN[scheme], ["O", "O"], sentence.split(), WRITTEN[scheme]]) == scheme
    assert fault(sentence.split(), scheme)


def test_the_tag_of_an_entity_among_plain_ones_is_told():
    sentences = [["NN", "VB", "O"], ["NN", "B-PER"]]
    assert detect_scheme(sentences) == "plain"
    assert stray_entity(sentences[0]) is None
    place, said = stray_entity(sentences[1])
    assert place == 1
    assert said.startswith("'B-PER' is the tag of an entity, and most words have others; set label")


def test_plain_tags_have_no_rules():
    assert fault(["NN", "I-PER"], "plain") is None
    assert to_bio(["NN", "S-X"], "plain") == ["NN", "S-X"]
