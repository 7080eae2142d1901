import pytest

from lightning_transfer.checkpoints.loading import load_tokenizer
from lightning_transfer.data import TokenizerTrainer
from tests.data.readers.test_documents import stories

TEXTS = [*stories(40), "Café naïve? Größe!"]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_a_trained_tokenizer_encodes_decodes_and_reloads(kind, tmp_path):
    trainer = TokenizerTrainer(kind, vocab_size=330)
    tokenizer = trainer.train(lambda: TEXTS)
    assert len(tokenizer) <= 330
    encoded = tokenizer("good film", "a plot")
    ids = encoded["input_ids"]
    assert ids[0] == tokenizer.cls_token_id
    assert ids.count(tokenizer.sep_token_id) == 2
    assert encoded["token_type_ids"][-1] == 1
    assert tokenizer.mask_token_id is not None
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True).split() == "good film a plot".split()
    tokenizer.save_pretrained(tmp_path)
    assert (
        load_tokenizer(tmp_path)("very good film")["input_ids"]
        == (tokenizer("very good film")["input_ids"])
    )


MANY = "".join(chr(code) for code in range(0xA000, 0xA000 + 600))  # Yi syllables
RARE = [*TEXTS * 2, *(MANY[at : at + 3] + " film" for at in range(0, 600, 3))]


@pytest.mark.parametrize(("kind", "size"), [("wordpiece", 120), ("unigram", 120), ("bpe", 261)])
def test_a_text_of_many_characters_does_not_exceed_vocab_size(kind, size, caplog):
    tokenizer = TokenizerTrainer(kind, vocab_size=size).train(lambda: RARE)
    assert len(tokenizer) <= size
    assert len(tokenizer.get_vocab()) == len(tokenizer)
    assert tokenizer.unk_token_id not in tokenizer("good film").input_ids
    assert ("no room for" in caplog.text) == (kind != "bpe")
    if kind != "bpe":
        assert tokenizer.unk_token_id in tokenizer(f"good {MANY[-1]}").input_ids
        again = TokenizerTrainer(kind, vocab_size=size).train(lambda: RARE[::-1])
        assert again.get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_all_characters_are_known_if_they_fit(kind, caplog):
    tokenizer = TokenizerTrainer(kind, vocab_size=4000).train(lambda: RARE)
    assert tokenizer.unk_token_id not in tokenizer(RARE).input_ids[-1]
    assert not caplog.text


def test_words_with_an_unknown_character_add_no_tokens():
    texts = ["ab ab ab c c c d d d e e e"] * 9 + ["c\u05d0d"] * 3 + ["cd"]
    for kind in ("wordpiece", "unigram"):
        tokenizer = TokenizerTrainer(kind, vocab_size=14, min_frequency=2).train(lambda: texts)
        assert not {"cd", "c##d"} & tokenizer.get_vocab().keys()


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_the_same_text_gives_the_same_ids(kind):
    one, other = (TokenizerTrainer(kind, vocab_size=320).train(lambda: TEXTS) for _ in range(2))
    assert one.get_vocab() == other.get_vocab()
    assert one.convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]) == [*range(5)]


def test_a_tokenizer_is_trained_once_and_cached():
    trainer = TokenizerTrainer(vocab_size=80)
    folder = trainer.cached(lambda: TEXTS, "one")
    assert trainer.cached(lambda: [], "one") == folder
    assert trainer.cached(lambda: TEXTS[:9], "two") != folder
    again = TokenizerTrainer(vocab_size=80).train(lambda: TEXTS)
    assert load_tokenizer(folder).get_vocab() == again.get_vocab()


def test_segments_false_gives_no_token_type_ids():
    with_them, without = (
        TokenizerTrainer(vocab_size=80),
        TokenizerTrainer(vocab_size=80, segments=False),
    )
    folders = [trainer.cached(lambda: TEXTS, "one") for trainer in (with_them, without)]
    typed, plain = (load_tokenizer(folder)("good film") for folder in folders)
    assert ("token_type_ids" in typed, "token_type_ids" in plain) == (True, False)
    assert typed["input_ids"] == plain["input_ids"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "words"}, "tokenizer.kind must be one of wordpiece, bpe, unigram, got 'words'"),
        (
            {"vocab_size": 5},
            "tokenizer.vocab_size must be > 5, the number of special tokens, got 5",
        ),
        (
            {"kind": "bpe", "vocab_size": 260},
            "tokenizer.vocab_size must be >= 261 for tokenizer.kind=bpe, .* got 260; set tok",
        ),
        ({"min_frequency": 0}, "tokenizer.min_frequency must be >= 1, got 0"),
    ],
)
def test_invalid_arguments_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        TokenizerTrainer(**arguments)


def test_an_empty_training_text_is_an_error():
    with pytest.raises(ValueError, match="has learned no token"):
        TokenizerTrainer().train(lambda: [""])


def test_an_empty_list_of_stages_is_an_error():
    with pytest.raises(ValueError, match=r"tokenizer.stage must name a stage, got \[\]"):
        TokenizerTrainer(stage=[])
