"""Write toward an ending: a backward model generates the text before it.

    sostenuto train book.txt --name book-backward --direction backward
    python examples/write_toward_an_ending.py "and that was the end." --n 3

Prints --n different texts that all end with ENDING, separated by blank lines.
"""

import argparse
import sys

import sostenuto


def backward_model(client: sostenuto.Client) -> str:
    """Return the first backward model of the server."""
    for model in client.models():
        if model.direction == "backward":
            return model.id
    sys.exit("error: the server has no backward model; train one with: sostenuto train --direction backward …")


def main() -> None:
    """Parse the options and print the texts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ending", metavar="ENDING", help="the end of the text")
    parser.add_argument("--url", help="URL of the server (default: SOSTENUTO_BASE_URL, or http://127.0.0.1:8000)")
    parser.add_argument("--model", help="a backward model (default: the first that the server lists)")
    parser.add_argument("--n", type=int, default=1, help="number of texts (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=200, help="tokens before the ending (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, help="sampling temperature (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="the same seed prints the same texts (default: random)")
    options = parser.parse_args()
    try:
        with sostenuto.Client(options.url) as client:
            generation = client.generate(
                suffix=options.ending,
                model=options.model or backward_model(client),
                n=options.n,
                max_tokens=options.max_tokens,
                temperature=options.temperature,
                seed=options.seed,
            )
    except sostenuto.SostenutoError as error:
        sys.exit(f"error: {error}")
    print("\n\n".join(choice.text + options.ending for choice in generation.choices))


if __name__ == "__main__":
    main()
