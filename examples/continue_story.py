"""Continue a story where the last run stopped, by a resume token that is saved in a file.

    python examples/continue_story.py story.json "Once upon a time"
    python examples/continue_story.py story.json
    python examples/continue_story.py story.json " But then"

Prints what is new: PROMPT, if there is one, and the generated text. The model does not process the earlier text again,
and several runs print the same text as one run with as many tokens.
"""

import argparse
import json
import sys
from pathlib import Path

import sostenuto


def next_part(client: sostenuto.Client, story: dict[str, str], prompt: str, **sampling: float) -> sostenuto.Generation:
    """Generate the next part from the resume token; from the whole text if the server no longer accepts the token."""
    try:
        return client.resume(story["state"], prompt, return_state=True, **sampling)
    except sostenuto.StateRefused as error:
        print(f"the whole text is processed again: {error}", file=sys.stderr)
        return client.generate(story["text"] + prompt, return_state=True, **sampling)


def main() -> None:
    """Parse the options, print the next part and save the story."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE", help="file of the story; the first run creates it")
    parser.add_argument("prompt", nargs="?", default="", metavar="PROMPT", help="text to append before generating")
    parser.add_argument("--url", help="URL of the server (default: SOSTENUTO_BASE_URL, or http://127.0.0.1:8000)")
    parser.add_argument("--model", help="model of the first run (default: the first that the server lists)")
    parser.add_argument("--max-tokens", type=int, default=200, help="tokens of this run (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, help="sampling temperature (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="seed of the first run (default: random)")
    options = parser.parse_args()
    sampling = {"max_tokens": options.max_tokens, "temperature": options.temperature}
    try:
        with sostenuto.Client(options.url) as client:
            if options.file.exists():
                story = json.loads(options.file.read_text("utf-8"))
                part = next_part(client, story, options.prompt, **sampling)
            else:
                story, first = {"text": ""}, {"model": options.model, "seed": options.seed, **sampling}
                part = client.generate(options.prompt, return_state=True, **first)
        new = options.prompt + part.text
        options.file.write_text(json.dumps({"text": story["text"] + new, "state": part.state}), "utf-8")
        print(new)
    except (sostenuto.SostenutoError, OSError) as error:
        sys.exit(f"error: {error}")
    except (ValueError, KeyError):
        sys.exit(f"error: {options.file} is not a file of this program")


if __name__ == "__main__":
    main()
