"""Stream completions by the SDK, with `resume=True`, in several threads; print the result of each as a line of JSON.

Runs in a pod until it is killed, or anywhere with the SDK on its path. Each thread streams its own seeds in turn.

    load_generator.py --url http://gateway:80      prints {"seed": …, "sha256": …, "error": …, …} for each completion

The API key is read from SOSTENUTO_API_KEY.
"""

import argparse
import hashlib
import itertools
import json
import threading
import time
from dataclasses import asdict, dataclass

import sostenuto

PROMPT = "The "
PAUSE_AFTER_FAILURE_S = 0.5


@dataclass
class Completion:
    """Result of one completion.

    Attributes:
        seed: Its seed.
        sha256: Hash of its text.
        error: The error's class and message; "" for none.
        longest_gap_s: Longest time between two text deltas, or before the first one.
        num_resumed: How often the stream was interrupted and resumed.
    """

    seed: int
    sha256: str = ""
    error: str = ""
    longest_gap_s: float = 0.0
    num_resumed: int = 0


def stream(client, model, seed, max_tokens):
    """Stream a completion; return its result."""
    completion = Completion(seed)
    deltas, text_hash = None, hashlib.sha256()
    last = time.monotonic()

    def note_gap():
        nonlocal last
        now = time.monotonic()
        completion.longest_gap_s = max(completion.longest_gap_s, round(now - last, 2))
        last = now

    try:
        deltas = client.stream(PROMPT, model=model, seed=seed, max_tokens=max_tokens, ignore_eos=True, resume=True)
        for delta in deltas:
            note_gap()
            text_hash.update(delta.encode())
    except sostenuto.SostenutoError as error:
        completion.error = f"{type(error).__name__}: {error}"
    note_gap()
    completion.num_resumed = deltas.num_resumed if deltas is not None else 0
    completion.sha256 = text_hash.hexdigest()
    return completion


def main():
    """Run threads that stream until the process is killed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True, help="of the gateway")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--threads", type=int, default=12, help="concurrent streams")
    parser.add_argument("--seeds", type=int, default=24, help="number of seeds, divided among the threads")
    parser.add_argument("--tokens", type=int, default=20_000, help="length of each completion")
    options = parser.parse_args()
    lock = threading.Lock()

    def report(seed):
        completion = stream(client, options.model, seed, options.tokens)
        with lock:
            print(json.dumps(asdict(completion)), flush=True)
        if completion.error:
            time.sleep(PAUSE_AFTER_FAILURE_S)

    def work(number):
        for seed in itertools.cycle(range(number, options.seeds, options.threads)):
            # In a thread, and so on a connection, of its own: a connection that is kept would stay at the gateway that
            # survives a fault, and later faults of the other one would meet no stream.
            thread = threading.Thread(target=report, args=(seed,))
            thread.start()
            thread.join()

    with sostenuto.Client(options.url) as client:
        client.models()
        workers = [threading.Thread(target=work, args=(number,)) for number in range(options.threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()


if __name__ == "__main__":
    main()
