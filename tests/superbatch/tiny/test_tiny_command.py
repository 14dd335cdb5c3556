from __future__ import annotations

from pathlib import Path

from superbatch.tiny.__main__ import main
from superbatch.tiny.weights import load_settings
from tests.superbatch.formats.sample_batches import a_tar


def test_a_model_is_started_from_the_captions_of_tars(tmp_path: Path) -> None:
    tars = []
    for shard, words in enumerate((["red heart", "green heart"], ["blue heart", "heart", " ", "caf\xe9"])):
        tars.append(tmp_path / f"{shard}.tar")
        files = [(f"{row}.txt", caption.encode("latin-1")) for row, caption in enumerate(words)]
        tars[-1].write_bytes(a_tar([*files, ("x.png", b"no caption")]))
    main(["--captions", *map(str, tars), "--out", str(tmp_path / "model"), "--vocab-size", "280"])
    config, tokenizer = load_settings(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "tokenizer.json"]
    assert config.vocab_size == 280
    assert tokenizer.encode(["heart"], context_length=4).tolist()[0][1:] == [0, 0, 0]
