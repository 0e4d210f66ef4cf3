"""Score texts with a model and sort them by perplexity: the most predictable first, the strangest last.

    python examples/score_corpus.py chapter1.txt chapter2.txt
    python examples/score_corpus.py --lines corpus.txt | tail

Prints for each file, or with --lines for each line that is not blank: perplexity per token, bits per character, number
of tokens, and the file or the line. Bits per character can be compared between models with different tokenizers.
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import sostenuto

BATCH_SIZE = 32  # texts per request


def labelled_texts(files: list[Path], *, lines: bool) -> Iterator[tuple[str, str]]:
    """Yield the label and the text of each file or line."""
    for path in files:
        content = path.read_text("utf-8")
        if not lines:
            yield str(path), content
        else:
            yield from ((line, line) for line in content.splitlines() if line.strip())


def main() -> None:
    """Parse the options, score the texts and print a sorted table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="text file in UTF-8")
    parser.add_argument("--lines", action="store_true", help="score each line by itself")
    parser.add_argument("--url", help="URL of the server (default: SOSTENUTO_BASE_URL, or http://127.0.0.1:8000)")
    parser.add_argument("--model", help="model, a forward one (default: the first that the server lists)")
    options = parser.parse_args()
    results = []
    try:
        with sostenuto.Client(options.url) as client:
            texts = labelled_texts(options.files, lines=options.lines)
            while batch := list(islice(texts, BATCH_SIZE)):
                scores = client.score([text for _, text in batch], model=options.model)
                results += [(score, label) for score, (label, _) in zip(scores, batch, strict=True) if score.num_scored]
    except (sostenuto.SostenutoError, OSError, UnicodeDecodeError) as error:
        sys.exit(f"error: {error}")
    print("perplexity  bits/character  tokens  text")
    for score, label in sorted(results, key=lambda result: result[0].perplexity):
        print(f"{score.perplexity:10.2f}  {score.bits_per_character:14.3f}  {len(score.tokens):6}  {label}")


if __name__ == "__main__":
    main()
