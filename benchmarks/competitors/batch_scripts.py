"""Typical scripts that complete a file: `python -m benchmarks.competitors.batch_scripts threads|async IN OUT NUMBER`.

They use OpenAI's own client with a thread pool, or with asyncio and a semaphore, as in its documentation. The server is
OPENAI_BASE_URL. Lines are written whole as they complete; a killed run cannot be resumed.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import IO, Any

from openai import AsyncOpenAI, OpenAI


def _line(custom_id: str, completion: Any) -> str:
    return json.dumps({"custom_id": custom_id, "response": {"body": completion.model_dump()}}) + "\n"


def by_threads(lines: Iterable[dict[str, Any]], out: IO[str], concurrency: int) -> None:
    """Complete the lines with one client and a thread per concurrent request."""
    client = OpenAI(max_retries=2)
    with ThreadPoolExecutor(concurrency) as pool:
        complete: Callable[..., Any] = client.completions.create
        futures = {pool.submit(complete, **line["body"]): line["custom_id"] for line in lines}
        for future in as_completed(futures):
            out.write(_line(futures[future], future.result()))


async def by_tasks(lines: Iterable[dict[str, Any]], out: IO[str], concurrency: int) -> None:
    """Complete the lines with one asynchronous client and a semaphore."""
    semaphore = asyncio.Semaphore(concurrency)
    async with AsyncOpenAI(max_retries=2) as client:

        async def ask(line: dict[str, Any]) -> None:
            async with semaphore:
                completion = await client.completions.create(**line["body"])
            out.write(_line(line["custom_id"], completion))

        await asyncio.gather(*map(ask, lines))


def main() -> None:
    name, source, target, concurrency = sys.argv[1:]
    lines = map(json.loads, Path(source).read_text().splitlines())
    with Path(target).open("w") as out:
        if name == "threads":
            by_threads(lines, out, int(concurrency))
        else:
            asyncio.run(by_tasks(lines, out, int(concurrency)))


if __name__ == "__main__":
    main()
