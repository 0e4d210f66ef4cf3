"""Generate many distinct records: names, headlines, log lines, with a model that was trained on a list of them.

    sostenuto train names.txt --documents lines
    python examples/records_in_bulk.py --model names --count 1000 --regex "[A-Z][a-z]+" --new > new-names.txt

Prints one record per line, each once. With --regex all match it, with --new none is in the training text.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator

import sostenuto

MAX_CHOICES = 5000  # per request


def records(client: sostenuto.Client, options: argparse.Namespace) -> Iterator[str]:
    """Yield distinct records; each request has another seed."""
    fields = {"model": options.model, "n": min(MAX_CHOICES, max(64, options.count)), "temperature": options.temperature}
    fields |= {"max_tokens": 100, "stop": "\n", "unique": True, "not_in_training": options.new, "regex": options.regex}
    known: set[str] = set()
    for seed in itertools.count(options.seed):
        choices = client.generate(seed=seed, **fields).choices
        # Without a pattern, a completion that `max_tokens` cut off is not a whole record.
        whole = [choice.text for choice in choices if options.regex or choice.finish_reason == "stop"]
        new = [record for record in whole if record and record not in known]
        if not new:
            sys.exit(f"error: {len(choices)} completions had no new record; raise --temperature")
        known.update(new)
        yield from new


def main() -> None:
    """Parse the options and print the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="URL of the server (default: SOSTENUTO_BASE_URL, or http://127.0.0.1:8000)")
    parser.add_argument("--model", help="model (default: the first that the server lists)")
    parser.add_argument("--count", type=int, default=20, help="number of records (default: %(default)s)")
    parser.add_argument("--regex", help="regular expression that each record matches")
    parser.add_argument("--new", action="store_true", help="none that is in the training text")
    parser.add_argument("--temperature", type=float, default=1.0, help="sampling temperature (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first request (default: %(default)s)")
    options = parser.parse_args()
    try:
        with sostenuto.Client(options.url) as client:
            for record in itertools.islice(records(client, options), options.count):
                print(record)
    except sostenuto.SostenutoError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
