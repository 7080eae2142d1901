"""Model configs with the vocabulary of other tokenizers."""

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from lightning_transfer.backbones import Backbone
from lightning_transfer.backbones.lm_heads import GENERATION
from lightning_transfer.checkpoints.model_folder import export
from lightning_transfer.heads import DecoderHead
from lightning_transfer.heads.factory import make_head
from lightning_transfer.tasks import SequenceToSequence
from lightning_transfer.utils import Labels
from lightning_transfer.utils.checkpoint_format import config_to_dict
from lightning_transfer.weight_transfer import Tokenizers, config_for, transfer_weights
from tests.conftest import WORDS
from tests.weight_transfer.test_embedding_tables import NEW, OLD, make_other
from tests.weight_transfer.weights import make, weights_of

FOREIGN = make_other(["un"], ("</s>", "<s>", "<unk>", "<mask>", "<pad>"))
BOTH = Tokenizers(OLD, NEW)


def bart(**changes):
    config = config_to_dict(make("bart", vocab_size=len(OLD)).config)
    return {**config, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3, **changes}


def test_special_tokens_keep_their_roles():
    found = config_for(bart(), BOTH)
    assert found["vocab_size"] == len(NEW)
    assert found["pad_token_id"] == NEW.pad_token_id == 4
    assert found["bos_token_id"] == NEW.cls_token_id == 1
    assert found["eos_token_id"] == found["decoder_start_token_id"] == NEW.sep_token_id == 0
    found = config_for(bart(), Tokenizers(OLD, FOREIGN))
    assert (found["pad_token_id"], found["eos_token_id"], found["bos_token_id"]) == (4, 0, 1)
    unknown = config_for({"vocab_size": 9, "unk_token_id": 7}, Tokenizers(OLD, FOREIGN))
    assert unknown["unk_token_id"] is None


def test_token_ids_of_generation_settings_are_converted():
    old_ids, new_ids = OLD.get_vocab(), NEW.get_vocab()
    film, plot, story = WORDS[4], WORDS[5], WORDS[-1]
    settings = {
        "num_beams": 4,
        "forced_bos_token_id": old_ids[film],
        "eos_token_id": [old_ids["[SEP]"], old_ids[plot]],
        "bad_words_ids": [
            [old_ids[film]],
            [old_ids[plot], old_ids[story]],
            [old_ids[plot], old_ids[WORDS[0]]],
        ],
        "suppress_tokens": [old_ids[film], old_ids[WORDS[0]], old_ids[plot]],
        "sequence_bias": [[[old_ids[film], old_ids[plot]], -1.5], [[old_ids[WORDS[0]]], 2.0]],
    }
    assert WORDS[0] not in new_ids
    found = config_for(bart(**{GENERATION: settings}), BOTH)[GENERATION]
    assert found == {
        "num_beams": 4,
        "forced_bos_token_id": new_ids[film],
        "eos_token_id": [new_ids["[SEP]"], new_ids[plot]],
        "bad_words_ids": [[new_ids[film]], [new_ids[plot], new_ids[story]]],
        "suppress_tokens": [new_ids[film], new_ids[plot]],
        "sequence_bias": [[[new_ids[film], new_ids[plot]], -1.5]],
    }
    assert config_for(bart(**{GENERATION: settings}), Tokenizers(OLD, OLD))[GENERATION] == settings


def test_a_token_with_several_roles_is_converted_by_the_role_of_its_key():
    one = make_other(["film"])
    one.unk_token = one.eos_token = one.bos_token = "[SEP]"  # as in GPT-2
    config = {"vocab_size": 6, "eos_token_id": 0, "bos_token_id": 0, "unk_token_id": 0}
    other = make_other(["film"], ("</s>", "<s>", "<unk>", "<mask>", "<pad>"))
    other.eos_token, other.bos_token = "</s>", "<s>"
    found = config_for(config, Tokenizers(one, other))
    ids = (found["eos_token_id"], found["bos_token_id"], found["unk_token_id"])
    assert ids == (other.eos_token_id, other.bos_token_id, other.unk_token_id)


@pytest.mark.parametrize("family", ["marian-apart", "bert2bert"])
def test_special_tokens_are_those_of_the_targets(family):
    old = make(family)
    config = config_to_dict(old.config)
    config |= {"eos_token_id": 3, "pad_token_id": 0, "decoder_start_token_id": 2}
    tokenizers = Tokenizers(OLD, OLD, OLD, NEW)
    found = config_for(config, tokenizers)
    ids = {name: found[f"{name}_token_id"] for name in ("eos", "pad", "decoder_start")}
    assert ids == {"eos": 0, "pad": 4, "decoder_start": 1}
    torch.manual_seed(0)
    new = Backbone.from_config(found)
    assert new.token_embeddings.num_embeddings == old.token_embeddings.num_embeddings
    assert new.target_embeddings.num_embeddings == len(NEW)


def test_encoder_and_decoder_configs_get_the_vocabulary_of_their_tokenizers():
    both = {
        "is_encoder_decoder": True,
        "encoder": {"vocab_size": 31},
        "decoder": {"vocab_size": 31},
    }

    def sizes(*tokenizers):
        found = config_for(both, Tokenizers(*tokenizers))
        return found["encoder"]["vocab_size"], found["decoder"]["vocab_size"]

    assert sizes(OLD, NEW) == (len(NEW), len(NEW))
    assert sizes(OLD, NEW, FOREIGN, FOREIGN) == (len(NEW), 31)
    assert sizes(OLD, OLD, FOREIGN, NEW) == (31, len(NEW))
    assert sizes(OLD, FOREIGN, OLD, NEW) == (len(FOREIGN), len(NEW))


def test_an_unknown_tokenizer_changes_nothing():
    assert config_for(bart(), Tokenizers(None, NEW)) == bart()


def test_a_model_folder_generates_with_the_new_target_tokenizer(tmp_path):
    labels, words = Labels("text"), NEW.get_vocab()
    old = make("marian-apart", vocab_size=len(OLD), decoder_vocab_size=len(OLD))
    old_ids = OLD.get_vocab()
    settings = {"bad_words_ids": [[old_ids[WORDS[4]]]], "forced_bos_token_id": old_ids[WORDS[5]]}
    config = config_to_dict(old.config) | {"eos_token_id": 3, "decoder_start_token_id": 2}
    config = config_for({**config, GENERATION: settings}, Tokenizers(OLD, OLD, None, NEW))
    torch.manual_seed(0)
    new = Backbone.from_config(config)
    head = make_head(DecoderHead, new, 0)
    transfer_weights(
        weights_of(old, labels=labels, tokenizer=OLD, head=make_head(DecoderHead, old, 0)),
        new,
        head,
        labels,
        tokenizer=OLD,
        target_tokenizer=NEW,
    )
    task = SequenceToSequence(new, head, labels=labels, generation={"max_new_tokens": 6}).eval()
    assert export(task, OLD, tmp_path / "model", target_tokenizer=NEW)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model")
    found = model.generation_config
    assert (found.eos_token_id, found.pad_token_id, found.decoder_start_token_id) == (0, 4, 1)
    assert found.forced_bos_token_id == words[WORDS[5]]
    assert found.bad_words_ids == [[words[WORDS[4]]]]
    written = model.generate(torch.tensor([[5, 6, 3]]))
    assert written[0, :2].tolist() == [NEW.cls_token_id, words[WORDS[5]]]
    assert words[WORDS[4]] not in written


@pytest.mark.parametrize("strange", [-100, 10_000])
def test_an_id_without_a_token_becomes_none(strange):
    found = config_for({"vocab_size": len(OLD), "forced_bos_token_id": strange}, BOTH)
    assert found == {"vocab_size": len(NEW), "forced_bos_token_id": None}
