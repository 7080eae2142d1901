"""Transfer of token embeddings and output layers between tokenizers, matched by token string."""

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
from tests.weight_transfer.weights import make, rows, run_transfer, weights_of

SPECIAL = ("[SEP]", "[CLS]", "[UNK]", "[MASK]", "[PAD]")


def make_other(words, special=SPECIAL):
    """Return a tokenizer of the given words, with ids in their order."""
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
    """Return a backbone for the old tokenizer, and one of the same config for the new one."""
    old = make(name, vocab_size=len(OLD), pad_token_id=0)
    torch.manual_seed(9)
    config = config_for(config_to_dict(old.config), Tokenizers(OLD, NEW))
    return old, Backbone.from_config(config)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "electra", "deberta-v2", "gpt2"])
def test_a_text_of_common_tokens_has_the_same_features(name):
    old, new = backbones(name)
    report = run_transfer(old, new, tokenizers=(OLD, NEW))
    texts = ["film movie plot the very cold", "sad scene"]
    one, other = (t(texts, return_tensors="pt", padding=True) for t in (OLD, NEW))
    assert not torch.equal(one["input_ids"], other["input_ids"])
    features = [
        backbone.eval()(batch["input_ids"], batch["attention_mask"])
        for backbone, batch in ((old, one), (new, other))
    ]
    mask = one["attention_mask"].bool()
    assert torch.equal(features[0][mask], features[1][mask])
    part = report.parts[0]
    shared = len(OLD) - 4
    assert (part.part, part.status) == ("token embeddings", "resized")
    assert part.why == f"{shared} of {len(NEW)} tokens matched by string, 4 not transferred"


def test_unknown_tokens_keep_their_initial_embeddings():
    old, new = backbones()
    before = new.token_embeddings.weight.detach().clone()
    run_transfer(old, new, tokenizers=(OLD, NEW))
    table, ids = new.token_embeddings.weight, NEW.get_vocab()
    for word in ("zebra", "yak"):
        assert torch.equal(table[ids[word]], before[ids[word]])
        assert table[ids[word]].any()
    assert torch.equal(table[ids["film"]], old.token_embeddings.weight[OLD.get_vocab()["film"]])


def test_tied_tables_stay_tied():
    old = make("bart", vocab_size=len(OLD))
    new = make("bart", seed=9, vocab_size=len(NEW))
    run_transfer(old, new, tokenizers=(OLD, NEW))
    tables = [new.model.get_submodule(f"{stack}.embed_tokens") for stack in ("encoder", "decoder")]
    assert tables[0].weight is tables[1].weight is new.model.shared.weight
    ids = (NEW.get_vocab()["film"], OLD.get_vocab()["film"])
    assert torch.equal(new.model.shared.weight[ids[0]], old.model.shared.weight[ids[1]])


def test_rows_beyond_an_equal_tokenizer_are_unchanged():
    old, new = make("bert", vocab_size=len(OLD)), make("bert", seed=9, vocab_size=len(OLD) + 7)
    before = new.token_embeddings.weight.detach().clone()
    report = run_transfer(old, new, tokenizers=(OLD, make_tokenizer()))
    table = new.token_embeddings.weight
    assert torch.equal(table[: len(OLD)], old.token_embeddings.weight)
    assert torch.equal(table[len(OLD) :], before[len(OLD) :])
    assert rows(report)[0] == ("token embeddings", "resized")


def test_a_table_without_a_common_token_is_reinitialised():
    foreign = make_other(["un", "deux"], ("<e>", "<s>", "<u>", "<m>", "<p>"))
    old, new = make("bert", vocab_size=len(OLD)), make("bert", seed=9, vocab_size=len(foreign))
    report = run_transfer(old, new, tokenizers=(OLD, foreign))
    assert rows(report)[0] == ("token embeddings", "reinitialised")
    assert report.parts[0].why == "no token in common with the weights"


def test_the_bias_of_a_masked_lm_head_follows_the_tokens():
    old, new = backbones()
    labels = Labels("masked_tokens")
    head = make_head(LanguageModelHead, old, 0)
    torch.nn.init.normal_(head.bias)
    fresh = make_head(LanguageModelHead, new, 0)
    start = weights_of(old, head=head, labels=labels, tokenizer=OLD)
    report = transfer_weights(start, new, fresh, labels, tokenizer=NEW)
    assert str(report) == "head kept: tokens matched by string"
    old_ids, new_ids = OLD.get_vocab(), NEW.get_vocab()
    common = sorted(set(old_ids) & set(new_ids))
    for word in common:
        assert fresh.bias[new_ids[word]] == head.bias[old_ids[word]]
    known = head.bias[[old_ids[word] for word in common]]
    torch.testing.assert_close(fresh.bias[new_ids["yak"]], known.mean())
    assert torch.equal(fresh.transform.weight, head.transform.weight)


def test_the_bias_of_a_decoder_head_follows_the_target_tokens():
    labels = Labels("text")
    old = make("marian", vocab_size=len(OLD))
    new = make("marian", seed=9, vocab_size=len(NEW))
    head, fresh = (make_head(DecoderHead, backbone, 0) for backbone in (old, new))
    torch.nn.init.normal_(head.bias)
    start = weights_of(old, head=head, labels=labels, tokenizer=OLD)
    report = transfer_weights(start, new, fresh, labels, tokenizer=NEW)
    assert str(report) == "head kept: tokens matched by string"
    assert fresh.bias.shape == (1, len(NEW))
    old_ids, new_ids = OLD.get_vocab(), NEW.get_vocab()
    for word in set(old_ids) & set(new_ids):
        assert fresh.bias[0, new_ids[word]] == head.bias[0, old_ids[word]]


def test_the_embeddings_of_a_decoder_follow_the_target_tokens():
    tables = {"share_encoder_decoder_embeddings": False}
    old = make("marian-apart", vocab_size=len(OLD), decoder_vocab_size=len(NEW), **tables)
    new = make("marian-apart", seed=9, vocab_size=len(OLD), decoder_vocab_size=len(OLD), **tables)
    start = weights_of(old, tokenizer=OLD, target=NEW)
    report = run_transfer(start, new, tokenizers=(None, OLD), target_tokenizer=OLD)
    weights = [
        [b.model.get_submodule(f"{s}.embed_tokens").weight for s in ("encoder", "decoder")]
        for b in (old, new)
    ]
    assert torch.equal(weights[0][0], weights[1][0])
    old_ids, new_ids = NEW.get_vocab(), OLD.get_vocab()
    for word in set(old_ids) & set(new_ids):
        assert torch.equal(weights[1][1][new_ids[word]], weights[0][1][old_ids[word]])
    assert rows(report)[:2] == [
        ("encoder token embeddings", "transferred"),
        ("decoder token embeddings", "resized"),
    ]


def test_an_equal_target_tokenizer_transfers_everything():
    old = make("marian-apart", vocab_size=len(OLD), decoder_vocab_size=len(NEW))
    new = make("marian-apart", seed=9, vocab_size=len(OLD), decoder_vocab_size=len(NEW))
    start = weights_of(old, tokenizer=OLD, target=NEW)
    report = run_transfer(start, new, tokenizers=(None, OLD), target_tokenizer=NEW)
    assert {status for _, status in rows(report)} == {"transferred"}


def rows_agree(old, new, old_tokenizer, new_tokenizer):
    """Return True if the rows of all common tokens are equal in two tables."""
    old_ids, new_ids = old_tokenizer.get_vocab(), new_tokenizer.get_vocab()
    words = set(old_ids) & set(new_ids)
    return bool(words) and all(torch.equal(new[new_ids[w]], old[old_ids[w]]) for w in words)


def tables(backbone):
    """Return the token embeddings of encoder and decoder."""
    stacks = [backbone.model.get_submodule(stack) for stack in ("encoder", "decoder")]
    return [stack.embed_tokens.weight.detach() for stack in stacks]


def test_a_decoder_with_its_own_tokenizer_to_one_with_a_common_tokenizer():
    size = max(len(OLD), len(NEW))
    old = make("marian-apart", vocab_size=size, decoder_vocab_size=size)
    new = make("marian-apart", seed=9, vocab_size=size, decoder_vocab_size=size)
    report = run_transfer(weights_of(old, tokenizer=OLD, target=NEW), new, tokenizers=(None, OLD))
    assert torch.equal(tables(new)[0], tables(old)[0])
    assert rows_agree(tables(old)[1], tables(new)[1], NEW, OLD)
    assert dict(rows(report))["decoder token embeddings"] == "resized"


def test_a_decoder_with_a_common_tokenizer_to_one_with_its_own_tokenizer():
    old = make("marian", vocab_size=len(OLD))
    new = make("marian-apart", seed=9, vocab_size=len(OLD), decoder_vocab_size=len(NEW))
    start = weights_of(old, tokenizer=OLD)
    report = run_transfer(start, new, tokenizers=(None, OLD), target_tokenizer=NEW)
    assert torch.equal(tables(new)[0], tables(old)[0])
    assert rows_agree(tables(old)[1], tables(new)[1], OLD, NEW)
    assert dict(rows(report))["decoder token embeddings"] == "resized"


def test_a_shared_table_gets_the_tokens_of_both_stacks():
    read, written = make_other(WORDS[:8]), make_other([*reversed(WORDS[4:12]), "yak"])
    joint = make_other([*WORDS[:12], "zebra"])
    sizes = {"vocab_size": len(read), "decoder_vocab_size": len(written)}
    old = make("marian-apart", **sizes)
    new = make("marian", seed=9, vocab_size=len(joint))
    before, ids = tables(new)[0].clone(), joint.get_vocab()
    report = run_transfer(
        weights_of(old, tokenizer=read, target=written), new, tokenizers=(None, joint)
    )
    table, (first, second) = tables(new)[0], tables(old)
    # A token of both stacks has the embedding of the encoder.
    assert rows_agree(first, table, read, joint)
    for word in WORDS[8:12]:
        assert torch.equal(table[ids[word]], second[written.get_vocab()[word]])
    assert torch.equal(table[ids["zebra"]], before[ids["zebra"]])
    assert (
        report.parts[0].why
        == f"{len(joint) - 1} of {len(joint)} tokens matched by string, 1 not transferred"
    )


def test_a_target_tokenizer_has_no_effect_on_an_encoder():
    old, new = make("bert", vocab_size=len(OLD)), make("bert", seed=9, vocab_size=len(OLD))
    labels = Labels("masked_tokens")
    head, fresh = (make_head(LanguageModelHead, backbone, 0) for backbone in (old, new))
    torch.nn.init.normal_(head.bias)
    start = weights_of(old, head=head, labels=labels, tokenizer=OLD)
    report = transfer_weights(start, new, fresh, labels, tokenizer=OLD, target_tokenizer=NEW)
    assert torch.equal(fresh.bias, head.bias)
    assert {part.status for part in report.parts} == {"transferred"}


@pytest.mark.parametrize("more", [0, 7])
def test_an_equal_tokenizer_keeps_the_rows_of_a_head(more):
    old, new = make("bert", vocab_size=len(OLD)), make("bert", seed=9, vocab_size=len(OLD) + more)
    labels = Labels("masked_tokens")
    head, fresh = (make_head(LanguageModelHead, backbone, 0) for backbone in (old, new))
    torch.nn.init.normal_(head.bias)
    start = weights_of(old, head=head, labels=labels, tokenizer=OLD)
    report = transfer_weights(start, new, fresh, labels, tokenizer=make_tokenizer())
    assert torch.equal(fresh.bias[: len(OLD)], head.bias)
    assert report.parts[-1].status == ("resized" if more else "transferred")


def test_a_head_without_a_common_token_copies_no_row_by_position():
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


def test_a_head_of_a_target_tokenizer_to_one_of_a_common_tokenizer():
    labels = Labels("text")
    size = max(len(OLD), len(NEW))
    old = make("marian-apart", vocab_size=size, decoder_vocab_size=size)
    new = make("marian-apart", seed=9, vocab_size=size, decoder_vocab_size=size)
    head, fresh = (make_head(DecoderHead, backbone, 0) for backbone in (old, new))
    torch.nn.init.normal_(head.bias)
    start = weights_of(old, head=head, labels=labels, tokenizer=OLD, target=NEW)
    transfer_weights(start, new, fresh, labels, tokenizer=OLD)
    assert rows_agree(head.bias[0], fresh.bias[0], NEW, OLD)
