"""Same seed, same bytes: alone, in any batch, with other chunks, by another server, on other CPUs with --portable."""

import concurrent.futures
import contextlib
import itertools

import pytest

from contract.machine import has_fast_bfloat16
from tests.certificates import Stranger, make_certificate, ssl_config
from tests.conftest import MODEL_NAMES, TEXT

NUM_REQUESTS = 200
# Long enough for chunked prefill, between the decode calls of others.
LONG = TEXT * 80


def requests():
    """Return requests that differ in model, prompt, length, sampling, penalties, patterns, stop strings and `n`."""
    wanted = []
    for i in range(NUM_REQUESTS):
        model = (*MODEL_NAMES, "lstm")[i % 7]
        # A sliding-window model's long prompts would be slow: it needs a call of the whole model for each token.
        longest = 5000 if i % 20 == 3 and model != "window" else 500
        fields = {
            "model": model,
            "suffix" if model == "reverse" else "prompt": LONG[: (i * 131) % longest],
            "max_tokens": 1 + (i * 29) % 150,
            "temperature": (0, 0.7, 1.0, 1.6)[i % 4],
            "seed": i,
            "n": 1 + (i % 5 == 0),
        }
        fields |= [
            {},
            {"top_k": 5},
            {"top_p": 0.8},
            {"min_p": 0.1},
            {"stop": ["e", "10"]},
            {"frequency_penalty": 0.5},
            {"repetition_penalty": 1.3, "logit_bias": {"5": 2}},
            {"logprobs": 2},
            {"structured_outputs": {"banned_characters": "e"}},
            {"guided_regex": "(?s:.)*[stw](?s:.)*", "presence_penalty": 0.5},
        ][i % 10]
        wanted.append(fields)
    return wanted


def texts(gateway, fields):
    """Return text, finish reason and logprobs of each choice; even seeds are streamed, without logprobs."""
    if fields["seed"] % 2:
        status, answer = gateway.post(fields)
        assert status == 200, answer
        choices = answer["choices"]
        return [(choice["text"], choice["finish_reason"], choice["logprobs"]) for choice in choices]
    parts = [["", None] for _ in range(fields["n"])]
    # With `prepend` the backward model streams several chunks, too.
    for event in gateway.stream(**fields, stream_options={"prepend": True}):
        for choice in event["choices"] if event else []:
            part = parts[choice["index"]]
            part[0] = choice["text"] + part[0] if choice.get("prepend") else part[0] + choice["text"]
            part[1] = choice["finish_reason"]
    return [tuple(part) for part in parts]


def leave(gateway, number):
    """Send a request with a long completion, every other one with a long prompt, and disconnect in the middle."""
    fields = {"model": "lstm", "prompt": LONG[: (number % 2) * 5000], "max_tokens": 20_000, "seed": number}
    with contextlib.closing(gateway.stream(**fields)) as events:
        list(itertools.islice(events, 1 + number % 5))


def all_at_once(gateway, wanted):
    """Send requests concurrently, while other clients connect and disconnect."""
    with concurrent.futures.ThreadPoolExecutor(NUM_REQUESTS + 8) as pool:
        leaving = [pool.submit(leave, gateway, number) for number in range(40)]
        found = list(pool.map(lambda fields: texts(gateway, fields), wanted))
        for each in leaving:
            each.result()
    return found


@pytest.fixture(scope="module")
def alone(gateway):
    """Each request's choices when it is sent alone."""
    return [texts(gateway, fields) for fields in requests()]


def test_concurrent_requests_do_not_change_a_byte(gateway, alone):
    for _ in range(2):
        assert all_at_once(gateway, requests()) == alone


@pytest.mark.parametrize(
    "settings",
    [
        # All four at once; max_chunk = 1 alone makes the most calls.
        {"max_chunk": 4, "max_calls": 1, "max_running": 9, "prefix_cache_bytes": 0},
        pytest.param({"max_chunk": 1}, marks=pytest.mark.slow),
        pytest.param({"max_chunk": 4}, marks=pytest.mark.slow),
        pytest.param({"max_calls": 1}, marks=pytest.mark.slow),
        pytest.param({"max_running": 9}, marks=pytest.mark.slow),
        pytest.param({"prefix_cache_bytes": 0}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_scheduler_settings_do_not_change_a_byte(models_dir, start_gateway, alone, settings):
    """Decode steps, calls in flight, slots and prefix cache affect only speed; another gateway gives the same bytes."""
    assert all_at_once(start_gateway(repository=models_dir, **settings), requests()[::5]) == alone[::5]


def test_a_new_model_server_and_tls_do_not_change_a_byte(
    gateway, two_models_dir, own_model_server, start_gateway, alone, tmp_path
):
    """The same fingerprint and bytes, over mutual TLS; a second backend without a trusted certificate gets no call."""
    made = {name: make_certificate(tmp_path, name) for name in ("server", "stranger", "gateway")}
    flag = ssl_config(tmp_path / "server.config", made["server"], made["gateway"])
    server, stranger = own_model_server(two_models_dir, flag), Stranger(made["stranger"])
    safe = start_gateway(
        backends=f"127.0.0.1:{server.port},127.0.0.1:{stranger.port}",
        backend_tls_ca_file=made["server"].cert,
        backend_tls_cert_file=made["gateway"].cert,
        backend_tls_key_file=made["gateway"].key,
    )
    safe.wait_until(lambda: safe.get("/v1/status")[1]["backends"][0]["ejected_because"] is None)
    assert prints(safe).items() <= prints(gateway).items()
    served = [i for i, fields in enumerate(requests()) if fields["model"] in ("lstm", "words")]
    assert all_at_once(safe, [requests()[i] for i in served]) == [alone[i] for i in served]
    ejections = {backend["address"]: backend["ejected_because"] for backend in safe.get("/v1/status")[1]["backends"]}
    assert ejections[f"127.0.0.1:{server.port}"] is None
    assert "UNAVAILABLE" in ejections[f"127.0.0.1:{stranger.port}"]
    stranger.end()
    assert stranger.calls == []


def test_models_list_their_bit_exact_batch_sizes(gateway):
    """On a CPU without products in bfloat16, which the test asks for nevertheless, it may be one."""
    for model in gateway.get("/v1/models")[1]["data"]:
        is_emulated = model["precision"] == "bfloat16" and not has_fast_bfloat16()
        assert len(model["batch_sizes"]) > (0 if is_emulated else 1)
        assert model["deterministic"] is True


def test_a_precision_is_part_of_the_fingerprint(models_dir, gateway, start_gateway, alone):
    """A gateway that calls the same version in float32 generates other bytes, and says so."""
    exact = start_gateway(repository=models_dir, precision="float32")
    models = [
        {model["id"]: (model["precision"], model["system_fingerprint"]) for model in own.get("/v1/models")[1]["data"]}
        for own in (gateway, exact)
    ]
    assert [name for name in MODEL_NAMES if models[0][name] != models[1][name]] == ["gru"]
    assert [own["gru"][0] for own in models] == ["bfloat16", "float32"]
    wanted = [fields for fields in requests() if fields["model"] == "gru"]
    assert [texts(exact, fields) for fields in wanted] != [alone[fields["seed"]] for fields in wanted]


# Emulates another CPU on this one: limits oneDNN to AVX2, and glibc to kernels without AVX2, AVX-512 and FMA.
OTHER_KIND = {"ONEDNN_MAX_CPU_ISA": "AVX2", "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX2,-FMA"}


def prints(gateway):
    return {model["id"]: model["system_fingerprint"] for model in gateway.get("/v1/models")[1]["data"]}


@pytest.mark.slow
def test_a_portable_model_server_gives_the_same_bytes_on_another_cpu(
    two_models_dir, own_model_server, start_gateway, alone
):
    wanted = [fields for fields in requests() if fields["model"] in ("lstm", "words")]
    found = []
    for flags, variables in (((), OTHER_KIND), (("--portable",), {}), (("--portable",), OTHER_KIND)):
        server = own_model_server(two_models_dir, *flags, **variables)
        gateway = start_gateway(repository=two_models_dir, backend=server.port)
        found.append((prints(gateway), [texts(gateway, fields) for fields in wanted]))
        gateway.end()
        server.end()
    (other, other_texts), (here, here_texts), (there, there_texts) = found
    assert (here, here_texts) == (there, there_texts)
    usual = prints(start_gateway())
    usual_texts = [alone[fields["seed"]] for fields in wanted]
    differing = {fields["model"] for fields, a, b in zip(wanted, usual_texts, other_texts, strict=True) if a != b}
    assert differing <= {name for name in other if usual[name] != other[name]}
