import pytest

from lightning_transfer.data.tag_spec import (
    detect_scheme,
    find_stray_entity,
    find_violation,
    to_bio,
)

BIO = "B-PER I-PER B-PER O B-LOC".split()
WRITTEN = {
    "bio": BIO,
    "iob1": "I-PER I-PER B-PER O I-LOC".split(),
    "iobes": "B-PER E-PER S-PER O S-LOC".split(),
}


@pytest.mark.parametrize("scheme", WRITTEN)
def test_a_sentence_in_any_scheme_has_the_same_bio_tags(scheme):
    tags = WRITTEN[scheme]
    assert detect_scheme([tags]) == scheme
    assert find_violation(tags, scheme) is None
    assert to_bio(tags, scheme) == BIO


def test_bilou_tags_are_detected_as_iobes():
    tags = "B-PER I-PER L-PER O U-LOC".split()
    assert detect_scheme([tags]) == "iobes"
    assert to_bio(tags, "iobes") == "B-PER I-PER I-PER O B-LOC".split()


def test_adjacent_iob1_entities_of_two_types_are_two_bio_entities():
    assert to_bio("I-PER I-LOC I-LOC".split(), "iob1") == "B-PER B-LOC I-LOC".split()


@pytest.mark.parametrize(
    ("sentences", "scheme"),
    [
        ([["O", "B-PER"], ["I-PER"]], "bio"),  # violates all schemes: the first one is detected
        ([["O", "O"]], "bio"),
        ([["NN", "VB"]], "plain"),
        ([["B-PER", "B-LOC"]], "bio"),
    ],
)
def test_detected_scheme(sentences, scheme):
    assert detect_scheme(sentences) == scheme


@pytest.mark.parametrize(
    ("tags", "scheme", "place", "message"),
    [
        ("I-PER O", "bio", 0, "'I-PER' cannot start a sentence in bio"),
        ("B-PER I-LOC", "bio", 1, "'I-LOC' cannot follow 'B-PER' in bio"),
        ("O I-PER", "bio", 1, "'I-PER' cannot follow 'O' in bio"),
        ("O E-PER", "bio", 1, "'E-PER' is not a bio tag"),
        ("O NN", "bio", 1, "'NN' is not a bio tag"),
        ("O B-PER", "iob1", 1, "'B-PER' cannot follow 'O' in iob1"),
        ("B-PER O", "iobes", 1, "'O' cannot follow 'B-PER' in iobes"),
        ("B-PER S-PER", "iobes", 1, "'S-PER' cannot follow 'B-PER' in iobes"),
        ("O E-PER", "iobes", 1, "'E-PER' cannot follow 'O' in iobes"),
        ("O B-PER", "iobes", 1, "'B-PER' cannot end a sentence in iobes"),
    ],
)
def test_the_first_violation_has_place_and_message(tags, scheme, place, message):
    found, text = find_violation(tags.split(), scheme)
    assert (found, text.partition(", allowed:")[0]) == (place, message)


@pytest.mark.parametrize("unknown", ["O-", "B", "B-", "-X-", "b-per", "o", "PER", "B_PER", "X-PER"])
@pytest.mark.parametrize("scheme", WRITTEN)
def test_a_single_unknown_tag_does_not_change_the_detected_scheme(scheme, unknown):
    assert detect_scheme([WRITTEN[scheme], ["O", unknown]]) == scheme
    place, message = find_violation(["O", unknown], scheme)
    assert place == 1
    assert f"{unknown!r} is not a {scheme} tag, allowed: O, B-…" in message
    assert "set data.label.scheme to bio, iob1, iobes, or plain" in message


@pytest.mark.parametrize(
    ("sentence", "scheme"),
    [("O I-PER", "bio"), ("B-PER E-PER", "bio"), ("O B-PER", "iob1"), ("B-PER O", "iobes")],
)
def test_a_single_violation_does_not_change_the_detected_scheme(sentence, scheme):
    assert detect_scheme([WRITTEN[scheme], ["O", "O"], sentence.split(), WRITTEN[scheme]]) == scheme
    assert find_violation(sentence.split(), scheme)


def test_an_entity_tag_among_plain_tags_is_found():
    sentences = [["NN", "VB", "O"], ["NN", "B-PER"]]
    assert detect_scheme(sentences) == "plain"
    assert find_stray_entity(sentences[0]) is None
    place, message = find_stray_entity(sentences[1])
    assert place == 1
    assert message.startswith("'B-PER' is an entity tag, but most tags are not; set data.label.")


def test_plain_tags_are_not_checked_or_changed():
    assert find_violation(["NN", "I-PER"], "plain") is None
    assert to_bio(["NN", "S-X"], "plain") == ["NN", "S-X"]
