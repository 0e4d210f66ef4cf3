"""Load on a gateway: streams completions by the SDK, and compares each with that of an undisturbed run.

Runs in a pod, or anywhere with the SDK on its path. Knows seeds, hashes and times. Does not know what is disturbed.

    load.py --url http://gateway:80 --record              prints {"hashes": {seed: sha256}} of each seed's text
    load.py --url … --hashes FILE --stop FILE             streams until FILE exists, then prints {"completions": […]}

The API key is read from OSTINATO_API_KEY. The line "all streams have begun" goes to stdout when that is so.
"""

import argparse
import hashlib
import json
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import ostinato

PROMPT = "The "
PAUSE_AFTER_FAILURE_S = 0.5


@dataclass
class Completion:
    """What came of one completion.

    Attributes:
        seed: Its seed.
        started_at: Unix time in seconds.
        ended_at: Unix time in seconds.
        outcome: "same" as in the undisturbed run, "differed" or "failed"; "recorded" in that run itself.
        sha256: Hash of its text.
        error: The error's class and message; "" for none.
        longest_silence_s: Longest time between two text deltas, or before the first one.
        num_resumed: How often the stream was interrupted and resumed.
    """

    seed: int
    started_at: float
    ended_at: float = 0.0
    outcome: str = ""
    sha256: str = ""
    error: str = ""
    longest_silence_s: float = 0.0
    num_resumed: int = 0


class Load:
    """Workers that stream completions, one after another, each with seeds of its own."""

    def __init__(self, client, model, num_workers, num_seeds, max_tokens, hashes):
        self._client, self._model, self._max_tokens = client, model, max_tokens
        self._num_workers, self._num_seeds, self._hashes = num_workers, num_seeds, hashes
        self._lock = threading.Lock()
        self._num_begun = 0
        self.completions = []

    def run(self, is_over):
        """Stream until `is_over` returns true, or each seed once if there are no hashes; wait for the last streams."""
        threads = [
            threading.Thread(target=self._work, args=(number, is_over), daemon=True)
            for number in range(self._num_workers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self, number, is_over):
        seeds = range(number, self._num_seeds, self._num_workers)
        while True:
            for seed in seeds:
                completion = self._stream(seed, is_first=not self.completions)
                with self._lock:
                    self.completions.append(completion)
                if self._hashes is not None and is_over():
                    return
                if completion.outcome == "failed":
                    time.sleep(PAUSE_AFTER_FAILURE_S)
            if self._hashes is None:
                return

    def _stream(self, seed, *, is_first):
        completion = Completion(seed, time.time())
        last, hash_ = time.monotonic(), hashlib.sha256()
        stream = None
        try:
            stream = self._client.stream(
                PROMPT, model=self._model, seed=seed, max_tokens=self._max_tokens, ignore_eos=True, resume=True
            )
            for delta in stream:
                now = time.monotonic()
                completion.longest_silence_s = max(completion.longest_silence_s, round(now - last, 2))
                last = now
                hash_.update(delta.encode())
                if is_first:
                    is_first = False
                    self._note_begun()
        except ostinato.OstinatoError as error:
            completion.error = f"{type(error).__name__}: {error}"
        completion.longest_silence_s = max(completion.longest_silence_s, round(time.monotonic() - last, 2))
        completion.num_resumed = stream.num_resumed if stream is not None else 0
        completion.sha256, completion.ended_at = hash_.hexdigest(), time.time()
        completion.outcome = self._outcome(completion)
        return completion

    def _outcome(self, completion):
        if completion.error:
            return "failed"
        if self._hashes is None:
            return "recorded"
        return "same" if self._hashes[str(completion.seed)] == completion.sha256 else "differed"

    def _note_begun(self):
        with self._lock:
            self._num_begun += 1
            if self._num_begun == self._num_workers:
                print("all streams have begun", flush=True)


def main():
    """Run the load as the command line says, and print its result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=3000)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--hashes", type=Path)
    parser.add_argument("--stop", type=Path)
    options = parser.parse_args()
    hashes = None if options.record else json.loads(options.hashes.read_text())
    with ostinato.Client(options.url) as client:
        client.models()
        load = Load(client, options.model, options.workers, options.seeds, options.tokens, hashes)
        load.run(options.stop.exists if options.stop else None)
    failures = [each.error for each in load.completions if each.error]
    if hashes is None and failures:
        sys.exit(failures[0])
    result = {"completions": [asdict(each) for each in load.completions]}
    if hashes is None:
        result = {"hashes": {each.seed: each.sha256 for each in load.completions}}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
