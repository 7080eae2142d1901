import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lightning_transfer.data import Tokens
from lightning_transfer.data.tokenization.word_tokens import tokenize_words, word_targets
from tests.conftest import make_tokenizer

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##like", "##ly", "fun", "-", "film"]


def word_pieces(**changes):
    model = models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{**names, "sep_token": "[SEP]", **changes}
    )


def byte_level(*, trim):
    """Return a tokenizer with the space before a word in its token, as in RoBERTa and GPT-2."""
    pieces = ["<s>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 1), ("<s>", 0), trim_offsets=trim, add_prefix_space=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def words(table, row=0):
    return table.words[table.starts[row] : table.starts[row + 1]].tolist()


def table_of(sentences, tokenizer, **tokens):
    return tokenize_words(sentences, tokenizer=tokenizer, tokens=Tokens(**tokens))


def test_the_first_token_of_a_word_differs_from_its_others():
    table = table_of([["unlikely", "fun-film", "fun"], ["film"]], word_pieces())
    # [CLS] un ##like ##ly fun - film fun [SEP]
    assert words(table) == [-1, 0, -2, -2, 1, -3, -3, 2, -1]
    assert words(table, 1) == [-1, 0, -1]
    assert table.token_type_ids is None


@pytest.mark.parametrize("trim", [False, True])
def test_a_space_within_a_token_does_not_shift_the_words(trim):
    table = table_of([["ab", "é", "c"]], byte_level(trim=trim))
    # Each byte is a token: <s>, a, b, space and the two bytes of é, space, c, </s>.
    found = words(table)
    assert [word for word in found if word >= 0] == [0, 1, 2]
    assert found[:3] == [-1, 0, -2]
    assert found[-1] == -1


def test_ids_equal_those_of_the_joined_words():
    tokenizer = make_tokenizer()
    sentence = "a good film was not dull".split()
    table = table_of([sentence], tokenizer)
    assert table.input_ids.tolist() == tokenizer(" ".join(sentence))["input_ids"]


def test_a_dropped_word_becomes_the_unknown_token():
    table = table_of([["fun", "\u200b", "film"], ["\u200d"]], word_pieces())
    assert [words(table, row) for row in (0, 1)] == [[-1, 0, 1, 2, -1], [-1, 0, -1]]
    assert table.input_ids[2] == PIECES.index("[UNK]")


def test_without_an_unknown_token_a_dropped_word_is_an_error():
    with pytest.raises(ValueError, match=r"no token in the word '\\u200b' \(number 2 of 'fun"):
        table_of([["fun", "\u200b"]], word_pieces(unk_token=None))


def test_a_word_with_a_space_is_one_word():
    assert words(table_of([["fun film", "fun"]], word_pieces())) == [-1, 0, -2, 1, -1]


@pytest.mark.parametrize(
    ("truncation", "left"),
    # The first token of the second word is truncated, so that word has no first token.
    [("head", [-1, 0, -2, -2, -1]), ("tail", [-1, -3, -3, 2, -1])],
)
def test_a_long_sentence_is_truncated_and_flagged(truncation, left):
    sentences = [["unlikely", "unlikely", "fun"], ["fun"]]
    table = table_of(sentences, word_pieces(), max_length=5, truncation=truncation)
    assert words(table) == left
    assert table.truncated.tolist() == [True, False]


def test_targets_are_on_first_tokens_and_optionally_on_the_others():
    table = table_of([["unlikely", "fun"], ["film", "unlikely"]], word_pieces())
    tags = [[1, 0], [2, 1]]
    assert word_targets(table, tags).tolist() == [
        *(-100, 1, -100, -100, 0, -100),
        *(-100, 2, 1, -100, -100, -100),
    ]
    inside = np.array([0, 2, 2])
    assert word_targets(table, tags, inside=inside).tolist() == [
        *(-100, 1, 2, 2, 0, -100),
        *(-100, 2, 1, 2, 2, -100),
    ]


def test_slow_tokenizers_prefixes_and_short_rows_are_errors():
    tokenizer = word_pieces()
    with pytest.raises(ValueError, match="max_length must be >= 3, got 2"):
        table_of([["fun"]], tokenizer, max_length=2)
    with pytest.raises(ValueError, match=r"tokens\.prefix is not supported .* got 'tag: '"):
        table_of([["fun"]], tokenizer, prefix="tag: ")

    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match=r"need a fast tokenizer, .* got Slow"):
        tokenize_words([["fun"]], tokenizer=Slow(), tokens=Tokens())
