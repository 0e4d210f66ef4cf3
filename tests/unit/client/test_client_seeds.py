"""Seeds of `generate_many`: derived from one seed, or one per prompt."""

import itertools

import numpy as np
import pytest

import sostenuto
from tests.unit.client.scripted_responses import COMPLETION, answer_json


def sent(client, server, prompts, **options):
    server.script = [answer_json(COMPLETION)] * 9
    list(client.generate_many(prompts, model="tiny", concurrency=1, **options))
    return [body.get("seed") for body in server.bodies]


@pytest.mark.parametrize(
    ("options", "seeds"),
    [
        ({}, [None, None, None]),
        ({"seed": 7}, [7, 8, 9]),
        ({"seed": -1}, [-1, 0, 1]),
        ({"seeds": [5, 5, 2**62]}, [5, 5, 2**62]),
        ({"seeds": tuple(np.array([1, 2, 3]))}, [1, 2, 3]),
        ({"seeds": range(3)}, [0, 1, 2]),
        ({"extra_body": {"seed": 7}}, [7, 7, 7]),
    ],
)
def test_each_prompt_gets_its_seed(client, server, options, seeds):
    assert sent(client, server, ["a"] * 3, **options) == seeds
    assert sent(client, server, iter(["a"] * 3), **options) == seeds * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": [1, 2]}, "seeds has 2 entries for 3 prompts: pass one seed per prompt"),
        ({"seeds": range(4)}, "seeds has 4 entries for 3 prompts"),
        ({"seeds": [1, 2, 3], "seed": 1}, "seed is 1 and seeds is given, too: pass one of them"),
        ({"seeds": [1, 2, "3"]}, r"seeds\[2\] is '3': pass an int"),
        ({"seed": [1, 2, 3]}, r"seed is \[1, 2, 3\]: pass an int, or seeds with one per prompt"),
    ],
)
def test_invalid_seeds_are_rejected_before_anything_is_sent(client, server, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        client.generate_many(["a", "b", "c"], **options)
    assert isinstance(caught.value, sostenuto.InvalidArgument)
    assert server.requests == []


@pytest.mark.parametrize(
    ("num_prompts", "message"),
    [(4, "seeds has 3 entries for more than 3 prompts"), (2, "seeds has 3 entries for 2 prompts")],
)
def test_a_wrong_number_of_seeds_for_unknown_prompts_is_raised_after_the_results(client, server, num_prompts, message):
    server.script = [answer_json(COMPLETION)] * 4
    results = client.generate_many(iter("abcd"[:num_prompts]), model="tiny", concurrency=1, seeds=[1, 2, 3])
    assert len([next(results) for _ in range(min(num_prompts, 3))]) == min(num_prompts, 3)
    with pytest.raises(sostenuto.InvalidArgument, match=message):
        next(results)


def test_one_seed_is_enough_for_infinite_prompts(client, server):
    server.script = [answer_json(COMPLETION)] * 50
    results = client.generate_many(itertools.repeat("a"), model="tiny", concurrency=1, seed=10)
    assert len([next(results) for _ in range(3)]) == 3
    results.close()
    assert [body["seed"] for body in server.bodies[:3]] == [10, 11, 12]
