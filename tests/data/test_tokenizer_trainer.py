import pytest

from lightning_transfer.data import TokenizerTrainer
from lightning_transfer.loading import load_tokenizer
from tests.data.test_documents import stories

TEXTS = [*stories(40), "Café naïve? Größe!"]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_a_trained_tokenizer_is_whole(kind, tmp_path):
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


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_the_same_text_gives_the_same_ids(kind):
    one, other = (TokenizerTrainer(kind, vocab_size=320).train(lambda: TEXTS) for _ in range(2))
    assert one.get_vocab() == other.get_vocab()
    assert one.convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]) == [*range(5)]


def test_it_is_trained_once_and_kept():
    trainer = TokenizerTrainer(vocab_size=80)
    folder = trainer.cached(lambda: TEXTS, "one")
    assert trainer.cached(lambda: [], "one") == folder
    assert trainer.cached(lambda: TEXTS[:9], "two") != folder
    again = TokenizerTrainer(vocab_size=80).train(lambda: TEXTS)
    assert load_tokenizer(folder).get_vocab() == again.get_vocab()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "words"}, "tokenizer.kind must be one of wordpiece, bpe, unigram, got 'words'"),
        ({"vocab_size": 5}, "tokenizer.vocab_size must be > 5, the special tokens, got 5"),
        ({"min_frequency": 0}, "tokenizer.min_frequency must be >= 1, got 0"),
    ],
)
def test_bad_arguments_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        TokenizerTrainer(**arguments)


def test_an_empty_text_is_told():
    with pytest.raises(ValueError, match="has learned no token"):
        TokenizerTrainer().train(lambda: [""])


def test_a_list_of_no_stage_is_refused():
    with pytest.raises(ValueError, match=r"tokenizer.stage must name a stage, got \[\]"):
        TokenizerTrainer(stage=[])
