"""Generate many different names, or other short lines, with a model that was trained on a list of them.

    python -m export train --corpus names.txt --documents lines --name names
    python examples/names_in_bulk.py --model names --count 100 --exclude names.txt > new-names.txt

Prints one name per line, none of them twice and none from --exclude. The same --seed prints the same names.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import ostinato

CHOICES = 64  # completions per request: the server generates them in one batch


def names(client: ostinato.Client, options: argparse.Namespace, known: set[str]) -> Iterator[str]:
    """Yield new names; each request has another seed."""
    for seed in itertools.count(options.seed):
        sampling = {"temperature": options.temperature, "max_tokens": options.max_tokens, "seed": seed}
        generation = client.generate(model=options.model, n=CHOICES, stop="\n", **sampling)
        complete = [choice.text.strip() for choice in generation.choices if choice.finish_reason == "stop"]
        new = [name for name in dict.fromkeys(complete) if name and name not in known]
        if not new:
            sys.exit(f"error: {CHOICES} completions had no new name; raise --temperature or --max-tokens")
        known.update(new)
        yield from new


def main() -> None:
    """Parse the options and print the names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="URL of the server (default: OSTINATO_BASE_URL, or http://127.0.0.1:8000)")
    parser.add_argument("--model", help="model (default: the server's first)")
    parser.add_argument("--count", type=int, default=20, help="number of names (default: %(default)s)")
    parser.add_argument("--exclude", type=Path, metavar="FILE", help="names not to print, one per line")
    parser.add_argument("--temperature", type=float, default=0.8, help="sampling temperature (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=40, help="longer names are dropped (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first request (default: %(default)s)")
    options = parser.parse_args()
    try:
        known = {line.strip() for line in options.exclude.read_text("utf-8").splitlines()} if options.exclude else set()
        with ostinato.Client(options.url) as client:
            for name in itertools.islice(names(client, options, known), options.count):
                print(name, flush=True)
    except (ostinato.OstinatoError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
