"""Token embeddings that follow the tokens' strings from one tokenizer to another."""

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lightning_transfer.backbones import Backbone
from lightning_transfer.heads import DecoderHead, LanguageModelHead
from lightning_transfer.heads.factory import make_head
from lightning_transfer.utils import Labels
from lightning_transfer.utils.checkpoint_format import config_to_dict
from lightning_transfer.weight_transfer import Tokenizers, config_for, transfer_weights
from tests.conftest import WORDS, make_tokenizer
from tests.weight_transfer.weights import hand, make, rows, weights_of

SPECIAL = ("[SEP]", "[CLS]", "[UNK]", "[MASK]", "[PAD]")


def make_other(words, special=SPECIAL):
    """A tokenizer with other ids for the same words, and with others."""
    ids = {word: index for index, word in enumerate([*special, *words])}
    sep, cls, unk, mask, pad = special
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=unk))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}", special_tokens=[(cls, ids[cls]), (sep, ids[sep])]
    )
    names = {"pad_token": pad, "unk_token": unk, "cls_token": cls, "sep_token": sep}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token=mask, **names)


OLD = make_tokenizer()
NEW = make_other(["zebra", *reversed(WORDS[4:]), "yak"])


def backbones(name="bert"):
    """One for the old tokenizer, and one of the same form for the new."""
    old = make(name, vocab_size=len(OLD), pad_token_id=0)
    torch.manual_seed(9)
    config = config_for(config_to_dict(old.config), Tokenizers(OLD, NEW))
    return old, Backbone.from_config(config)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "electra", "deberta-v2", "gpt2"])
def test_a_text_of_tokens_that_both_know_has_the_same_features(name):
    old, new = backbones(name)
    handed = hand(old, new, tokenizers=(OLD, NEW))
    texts = ["film movie plot the very cold", "sad scene"]
    one, other = (t(texts, return_tensors="pt", padding=True) for t in (OLD, NEW))
    assert not torch.equal(one["input_ids"], other["input_ids"])
    features = [
        backbone.eval()(batch["input_ids"], batch["attention_mask"])
        for backbone, batch in ((old, one), (new, other))
    ]
    mask = one["attention_mask"].bool()
    assert torch.equal(features[0][mask], features[1][mask])
    part = handed.parts[0]
    shared = len(OLD) - 4
    assert (part.part, part.status) == ("token embeddings", "resized")
    assert part.why == f"{shared} of {len(NEW)} tokens by string, 4 left behind"


def test_tokens_that_the_weights_do_not_know_start_as_the_model_makes_them():
    old, new = backbones()
    before = new.token_embeddings.weight.detach().clone()
    hand(old, new, tokenizers=(OLD, NEW))
    table, ids = new.token_embeddings.weight, NEW.get_vocab()
    for word in ("zebra", "yak"):
        assert torch.equal(table[ids[word]], before[ids[word]])
        assert table[ids[word]].any()
    assert torch.equal(table[ids["film"]], old.token_embeddings.weight[OLD.get_vocab()["film"]])


def test_tied_tables_stay_tied():
    old = make("bart", vocab_size=len(OLD))
    new = make("bart", seed=9, vocab_size=len(NEW))
    hand(old, new, tokenizers=(OLD, NEW))
    tables = [new.model.get_submodule(f"{side}.embed_tokens") for side in ("encoder", "decoder")]
    assert tables[0].weight is tables[1].weight is new.model.shared.weight
    ids = (NEW.get_vocab()["film"], OLD.get_vocab()["film"])
    assert torch.equal(new.model.shared.weight[ids[0]], old.model.shared.weight[ids[1]])


def test_the_same_tokenizer_leaves_rows_beyond_it_alone():
    old, new = make("bert", vocab_size=len(OLD)), make("bert", seed=9, vocab_size=len(OLD) + 7)
    before = new.token_embeddings.weight.detach().clone()
    handed = hand(old, new, tokenizers=(OLD, make_tokenizer()))
    table = new.token_embeddings.weight
    assert torch.equal(table[: len(OLD)], old.token_embeddings.weight)
    assert torch.equal(table[len(OLD) :], before[len(OLD) :])
    assert rows(handed)[0] == ("token embeddings", "resized")


def test_no_token_in_common_makes_the_table_anew():
    foreign = make_other(["un", "deux"], ("<e>", "<s>", "<u>", "<m>", "<p>"))
    old, new = make("bert", vocab_size=len(OLD)), make("bert", seed=9, vocab_size=len(foreign))
    handed = hand(old, new, tokenizers=(OLD, foreign))
    assert rows(handed)[0] == ("token embeddings", "reinitialised")
    assert handed.parts[0].why == "no token in common with the weights"


def test_a_language_models_head_follows_the_tokens_too():
    old, new = backbones()
    labels = Labels("masked_tokens")
    head = make_head(LanguageModelHead, old, 0)
    torch.nn.init.normal_(head.bias)
    fresh = make_head(LanguageModelHead, new, 0)
    start = weights_of(old, head=head, labels=labels, tokenizer=OLD)
    handed = transfer_weights(start, new, fresh, labels, tokenizer=NEW)
    assert str(handed) == "head kept with its tokens by string"
    there, here = OLD.get_vocab(), NEW.get_vocab()
    common = sorted(set(there) & set(here))
    for word in common:
        assert fresh.bias[here[word]] == head.bias[there[word]]
    known = head.bias[[there[word] for word in common]]
    torch.testing.assert_close(fresh.bias[here["yak"]], known.mean())
    assert torch.equal(fresh.transform.weight, head.transform.weight)


def test_the_head_of_a_decoder_follows_the_tokens_of_the_targets():
    labels = Labels("text")
    old = make("marian", vocab_size=len(OLD))
    new = make("marian", seed=9, vocab_size=len(NEW))
    head, fresh = (make_head(DecoderHead, backbone, 0) for backbone in (old, new))
    torch.nn.init.normal_(head.bias)
    start = weights_of(old, head=head, labels=labels, tokenizer=OLD)
    handed = transfer_weights(start, new, fresh, labels, tokenizer=NEW)
    assert str(handed) == "head kept with its tokens by string"
    assert fresh.bias.shape == (1, len(NEW))
    there, here = OLD.get_vocab(), NEW.get_vocab()
    for word in set(there) & set(here):
        assert fresh.bias[0, here[word]] == head.bias[0, there[word]]


def test_a_decoder_follows_the_tokens_of_the_targets():
    tables = {"share_encoder_decoder_embeddings": False}
    old = make("marian-apart", vocab_size=len(OLD), decoder_vocab_size=len(NEW), **tables)
    new = make("marian-apart", seed=9, vocab_size=len(OLD), decoder_vocab_size=len(OLD), **tables)
    start = weights_of(old, tokenizer=OLD, target=NEW)
    handed = hand(start, new, tokenizers=(None, OLD), target_tokenizer=OLD)
    sides = [
        [b.model.get_submodule(f"{s}.embed_tokens").weight for s in ("encoder", "decoder")]
        for b in (old, new)
    ]
    assert torch.equal(sides[0][0], sides[1][0])
    there, here = NEW.get_vocab(), OLD.get_vocab()
    for word in set(there) & set(here):
        assert torch.equal(sides[1][1][here[word]], sides[0][1][there[word]])
    assert rows(handed)[:2] == [
        ("encoder token embeddings", "transferred"),
        ("decoder token embeddings", "resized"),
    ]


def test_targets_are_read_as_before_where_their_tokenizer_stays():
    old = make("marian-apart", vocab_size=len(OLD), decoder_vocab_size=len(NEW))
    new = make("marian-apart", seed=9, vocab_size=len(OLD), decoder_vocab_size=len(NEW))
    start = weights_of(old, tokenizer=OLD, target=NEW)
    handed = hand(start, new, tokenizers=(None, OLD), target_tokenizer=NEW)
    assert {became for _, became in rows(handed)} == {"transferred"}


def rows_agree(old, new, there, here):
    """Whether the rows of the tokens of both are the same in two tables."""
    there, here = there.get_vocab(), here.get_vocab()
    words = set(there) & set(here)
    return bool(words) and all(torch.equal(new[here[w]], old[there[w]]) for w in words)


def tables(backbone):
    sides = [backbone.model.get_submodule(side) for side in ("encoder", "decoder")]
    return [side.embed_tokens.weight.detach() for side in sides]


def test_a_decoder_of_two_tokenizers_goes_to_one_that_has_one_for_both():
    size = max(len(OLD), len(NEW))
    old = make("marian-apart", vocab_size=size, decoder_vocab_size=size)
    new = make("marian-apart", seed=9, vocab_size=size, decoder_vocab_size=size)
    handed = hand(weights_of(old, tokenizer=OLD, target=NEW), new, tokenizers=(None, OLD))
    assert torch.equal(tables(new)[0], tables(old)[0])
    assert rows_agree(tables(old)[1], tables(new)[1], NEW, OLD)
    assert dict(rows(handed))["decoder token embeddings"] == "resized"


def test_a_decoder_of_one_tokenizer_for_both_goes_to_one_that_has_two():
    old = make("marian", vocab_size=len(OLD))
    new = make("marian-apart", seed=9, vocab_size=len(OLD), decoder_vocab_size=len(NEW))
    start = weights_of(old, tokenizer=OLD)
    handed = hand(start, new, tokenizers=(None, OLD), target_tokenizer=NEW)
    assert torch.equal(tables(new)[0], tables(old)[0])
    assert rows_agree(tables(old)[1], tables(new)[1], OLD, NEW)
    assert dict(rows(handed))["decoder token embeddings"] == "resized"


def test_one_table_for_both_sides_gets_the_tokens_of_either():
    read, written = make_other(WORDS[:8]), make_other([*reversed(WORDS[4:12]), "yak"])
    joint = make_other([*WORDS[:12], "zebra"])
    sizes = {"vocab_size": len(read), "decoder_vocab_size": len(written)}
    old = make("marian-apart", **sizes)
    new = make("marian", seed=9, vocab_size=len(joint))
    before, ids = tables(new)[0].clone(), joint.get_vocab()
    handed = hand(weights_of(old, tokenizer=read, target=written), new, tokenizers=(None, joint))
    table, (first, second) = tables(new)[0], tables(old)
    assert rows_agree(first, table, read, joint)  # what both know is the encoder's
    for word in WORDS[8:12]:
        assert torch.equal(table[ids[word]], second[written.get_vocab()[word]])
    assert torch.equal(table[ids["zebra"]], before[ids["zebra"]])
    assert (
        handed.parts[0].why == f"{len(joint) - 1} of {len(joint)} tokens by string, 1 left behind"
    )


def test_a_run_with_a_tokenizer_of_targets_leaves_a_model_that_only_reads_alone():
    old, new = make("bert", vocab_size=len(OLD)), make("bert", seed=9, vocab_size=len(OLD))
    labels = Labels("masked_tokens")
    head, fresh = (make_head(LanguageModelHead, backbone, 0) for backbone in (old, new))
    torch.nn.init.normal_(head.bias)
    start = weights_of(old, head=head, labels=labels, tokenizer=OLD)
    handed = transfer_weights(start, new, fresh, labels, tokenizer=OLD, target_tokenizer=NEW)
    assert torch.equal(fresh.bias, head.bias)
    assert {part.status for part in handed.parts} == {"transferred"}


@pytest.mark.parametrize("more", [0, 7])
def test_a_heads_rows_stay_where_the_tokens_do(more):
    old, new = make("bert", vocab_size=len(OLD)), make("bert", seed=9, vocab_size=len(OLD) + more)
    labels = Labels("masked_tokens")
    head, fresh = (make_head(LanguageModelHead, backbone, 0) for backbone in (old, new))
    torch.nn.init.normal_(head.bias)
    start = weights_of(old, head=head, labels=labels, tokenizer=OLD)
    handed = transfer_weights(start, new, fresh, labels, tokenizer=make_tokenizer())
    assert torch.equal(fresh.bias[: len(OLD)], head.bias)
    assert handed.parts[-1].status == ("resized" if more else "transferred")


def test_a_head_takes_no_row_by_position_where_no_token_is_the_same():
    foreign = make_other(
        [f"w{i}" for i in range(len(OLD) - 5)], ("<e>", "<s>", "<u>", "<m>", "<p>")
    )
    old, new = make("bert", vocab_size=len(OLD)), make("bert", seed=9, vocab_size=len(foreign))
    labels = Labels("masked_tokens")
    head, fresh = (make_head(LanguageModelHead, backbone, 0) for backbone in (old, new))
    torch.nn.init.normal_(head.bias)
    start = weights_of(old, head=head, labels=labels, tokenizer=OLD)
    transfer_weights(start, new, fresh, labels, tokenizer=foreign)
    assert not fresh.bias.any()
    assert torch.equal(fresh.transform.weight, head.transform.weight)


def test_the_head_of_two_tokenizers_goes_to_one_for_both():
    labels = Labels("text")
    size = max(len(OLD), len(NEW))
    old = make("marian-apart", vocab_size=size, decoder_vocab_size=size)
    new = make("marian-apart", seed=9, vocab_size=size, decoder_vocab_size=size)
    head, fresh = (make_head(DecoderHead, backbone, 0) for backbone in (old, new))
    torch.nn.init.normal_(head.bias)
    start = weights_of(old, head=head, labels=labels, tokenizer=OLD, target=NEW)
    transfer_weights(start, new, fresh, labels, tokenizer=OLD)
    assert rows_agree(head.bias[0], fresh.bias[0], NEW, OLD)
