"""Start a tiny model: config.json and a tokenizer.json learned from the captions of some tars, no weights.

python -m superbatch.tiny --captions clean-*.tar --out DIR
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from superbatch.formats.tar import iter_samples
from superbatch.tiny.config import TinyConfig
from superbatch.tiny.picture import BadRow, read_caption
from superbatch.tiny.tokenizer import train_tokenizer
from superbatch.tiny.weights import save_settings


def main(argv: list[str] | None = None) -> None:
    """Read the command line and write both files."""
    parser = argparse.ArgumentParser(prog="python -m superbatch.tiny", description="Start a tiny dual encoder.")
    parser.add_argument("--captions", type=Path, nargs="+", required=True, help="WebDataset tars with .txt members")
    parser.add_argument("--out", type=Path, required=True, help="folder for config.json and tokenizer.json")
    parser.add_argument("--vocab-size", type=int, default=TinyConfig.vocab_size, help="tokens at most")
    args = parser.parse_args(argv)
    config = TinyConfig(vocab_size=args.vocab_size)
    save_settings(args.out, config, train_tokenizer(_captions(args.captions), vocab_size=config.vocab_size))


def _captions(tars: list[Path]) -> Iterator[str]:
    for path in tars:
        with path.open("rb") as stream:
            for sample in iter_samples(stream, read=True, suffixes=("txt",), where=str(path)):
                try:
                    yield read_caption(sample.data.get("txt"))
                except BadRow:
                    continue  # a broken caption teaches the tokenizer nothing


if __name__ == "__main__":
    main()
