"""Compare two versions of a model, or two models: the same prompts and seeds, side by side.

    python examples/compare_versions.py demo:1 demo:2
    python examples/compare_versions.py demo:1 demo:2 --prompt "The " --prompt "A list " --seeds 3

Prints for each prompt and seed both texts in two columns, with the mean log probability per token that each model gave
its own text, and at the end the means over all. Higher means more certain, which is not always better.
"""

import argparse
import sys
import textwrap
from itertools import product, zip_longest

import sostenuto

WIDTH = 48  # characters of a column


def column(client: sostenuto.Client, model: str, **request: object) -> tuple[float, list[str]]:
    """Generate a text; return its mean log probability per token, and its lines wrapped to the width of a column."""
    choice = client.generate(model=model, logprobs=0, **request).choices[0]
    logprobs = [logprob for logprob in choice.logprobs["token_logprobs"] if logprob is not None]
    mean = sum(logprobs) / max(1, len(logprobs))
    lines = [part for line in choice.text.splitlines() for part in textwrap.wrap(line, WIDTH) or [""]]
    return mean, [f"{model}: {mean:.3f}", *lines]


def main() -> None:
    """Parse the options and print the columns of each prompt and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs=2, metavar="MODEL", help="NAME, NAME:VERSION or NAME@LABEL")
    parser.add_argument("--prompt", action="append", metavar="TEXT", help="prompt; repeatable (default: 'The ')")
    parser.add_argument("--seeds", type=int, default=2, help="number of seeds per prompt (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=120, help="tokens per text (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, help="sampling temperature (default: %(default)s)")
    parser.add_argument("--url", help="URL of the server (default: SOSTENUTO_BASE_URL, or http://127.0.0.1:8000)")
    options = parser.parse_args()
    sampling = {"max_tokens": options.max_tokens, "temperature": options.temperature}
    means: list[list[float]] = [[], []]
    try:
        with sostenuto.Client(options.url) as client:
            for prompt, seed in product(options.prompt or ["The "], range(options.seeds)):
                pair = [column(client, model, prompt=prompt, seed=seed, **sampling) for model in options.models]
                print(f"--- {prompt!r}, seed {seed}")
                for left, right in zip_longest(*(lines for _, lines in pair), fillvalue=""):
                    print(f"{left:{WIDTH}} | {right}".rstrip())
                for collected, (mean, _) in zip(means, pair, strict=True):
                    collected.append(mean)
    except sostenuto.SostenutoError as error:
        sys.exit(f"error: {error}")
    for model, collected in zip(options.models, means, strict=True):
        print(f"{model}: mean log probability per token {sum(collected) / max(1, len(collected)):.3f}")


if __name__ == "__main__":
    main()
