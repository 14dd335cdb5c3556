from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest

from superbatch.tiny.tokenizer import MIN_VOCAB_SIZE, PADDING_ID, InvalidTokenizer, TinyTokenizer, train_tokenizer

CAPTIONS = ["red heart", "green heart", "red arrow left", "arrow right outline", "Flag of France", "grinning face"] * 5


@pytest.fixture(scope="module")
def tokenizer() -> TinyTokenizer:
    return train_tokenizer(CAPTIONS, vocab_size=300)


def test_rows_are_padded_at_the_end_and_cut_at_the_context_length(tokenizer: TinyTokenizer) -> None:
    tokens_nT = tokenizer.encode(["red heart", "red heart red heart red heart"], context_length=4)
    assert tokens_nT.shape == (2, 4)
    assert tokens_nT.dtype == "int64"
    assert tokens_nT[0, -1] == PADDING_ID
    assert PADDING_ID not in tokens_nT[1]


def test_words_seen_often_become_one_token(tokenizer: TinyTokenizer) -> None:
    assert (tokenizer.encode(["heart"], context_length=8) != PADDING_ID).sum() == 1


def test_case_does_not_matter(tokenizer: TinyTokenizer) -> None:
    assert (
        tokenizer.encode(["RED Heart"], context_length=8) == tokenizer.encode(["red heart"], context_length=8)
    ).all()


def test_any_text_has_tokens_and_none_is_padding(tokenizer: TinyTokenizer) -> None:
    for text in ("日本語", "🎉", "\x00", "<pad", "a" * 1000):
        assert PADDING_ID not in tokenizer.encode([text], context_length=1)


def test_a_caption_that_spells_padding_is_not_padding(tokenizer: TinyTokenizer) -> None:
    assert PADDING_ID not in tokenizer.encode(["<pad>"], context_length=1)


def test_training_does_not_depend_on_the_order_of_captions(tokenizer: TinyTokenizer) -> None:
    shuffled = random.Random(1).sample(CAPTIONS, len(CAPTIONS))
    assert train_tokenizer(shuffled, vocab_size=300).to_bytes() == tokenizer.to_bytes()


def test_training_in_another_process_gives_the_same_bytes(tokenizer: TinyTokenizer) -> None:
    script = (
        "import sys, json; from superbatch.tiny.tokenizer import train_tokenizer;"
        "sys.stdout.buffer.write(train_tokenizer(json.loads(sys.argv[1]), vocab_size=300).to_bytes())"
    )
    command = [sys.executable, "-c", script, json.dumps(CAPTIONS)]
    assert subprocess.run(command, check=True, capture_output=True).stdout == tokenizer.to_bytes()


def test_saved_and_read_again_it_is_the_same(tokenizer: TinyTokenizer) -> None:
    again = TinyTokenizer.from_bytes(tokenizer.to_bytes())
    assert again.to_bytes() == tokenizer.to_bytes()
    assert (again.encode(CAPTIONS, context_length=6) == tokenizer.encode(CAPTIONS, context_length=6)).all()


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b'{"model": 3}'])
def test_a_file_that_is_no_tokenizer_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidTokenizer):
        TinyTokenizer.from_bytes(data)


def test_a_tokenizer_without_padding_is_refused(tokenizer: TinyTokenizer) -> None:
    with pytest.raises(InvalidTokenizer, match="<pad>"):
        TinyTokenizer.from_bytes(tokenizer.to_bytes().replace(b"<pad>", b"<cls>"))


def test_a_vocabulary_must_hold_all_bytes() -> None:
    with pytest.raises(InvalidTokenizer, match=str(MIN_VOCAB_SIZE)):
        train_tokenizer(CAPTIONS, vocab_size=256)
