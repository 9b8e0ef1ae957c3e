import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from actune.errors import UserError
from actune.script.vocabulary import Vocabulary
from script_tools import byte_fallback, byte_level

SAMPLES = ["我来做饭。", "a b  c\n<&x&>", "<b>😀é</b>", "\x7f\xa0ÿ"]


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
def test_bytes_of_tokens_are_the_bytes_of_the_text(make) -> None:
    tokenizer = make()
    vocabulary = Vocabulary.from_tokenizer(tokenizer, len(tokenizer), [tokenizer.eos_token_id])
    for text in SAMPLES:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert b"".join(vocabulary.token_bytes[i] or b"!" for i in ids) == text.encode()
        # One token at a time is what a decoder cannot show; together it agrees.
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
def test_special_padding_and_stop_ids_are_never_written(make) -> None:
    tokenizer = make()
    length = len(tokenizer)
    plain = tokenizer.convert_tokens_to_ids("a")
    vocabulary = Vocabulary.from_tokenizer(tokenizer, length + 7, [plain, tokenizer.eos_token_id, plain])
    assert vocabulary.stop_ids == tuple(sorted((plain, tokenizer.eos_token_id)))
    special = [i for i, token in tokenizer.added_tokens_decoder.items() if token.special]
    silent = [*tokenizer.all_special_ids, *special, plain, *range(length, length + 7)]
    assert all(vocabulary.token_bytes[i] is None for i in silent)
    assert not vocabulary.ordinary[silent].any()
    assert vocabulary.ordinary.sum() == length + 7 - len(set(silent))
    assert vocabulary.token_bytes[tokenizer.convert_tokens_to_ids("<b>")] == b"<b>"


def test_model_smaller_than_tokenizer() -> None:
    tokenizer = byte_level()
    vocabulary = Vocabulary.from_tokenizer(tokenizer, 300, [0])
    assert len(vocabulary.token_bytes) == len(vocabulary.ordinary) == 300


def test_tokens_spelled_alike_and_without_bytes() -> None:
    vocabulary = Vocabulary([b"a", b"b", b"a", b"", None], 6, [5])
    assert vocabulary.keys == [b"a", b"b"]
    assert vocabulary.ids == [(0, 2), (1,)]
    assert vocabulary.ordinary.tolist() == [True, True, True, False, False, False]


def test_stop_id_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="stop ids"):
        Vocabulary([b"a"], 1, [1])


def test_unknown_decoder_is_refused() -> None:
    tokenizer = Tokenizer(models.WordPiece({"a": 0, "##b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    for decoder in (decoders.WordPiece(), None):
        if decoder is not None:
            tokenizer.decoder = decoder
        with pytest.raises(UserError, match="--free"):
            Vocabulary.from_tokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer), 3, [])
