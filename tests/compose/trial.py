"""docker-compose.yml does what its first lines say, in the order in which a user meets it.

Not named as tests are, since it needs Docker: `tests/compose/run` runs it. All tests share one project, which the
last one stops.
"""

import concurrent.futures
import json
import os
import signal
import subprocess
import threading
import time

import sostenuto
from tests.servers import TENSORFLOW_MODEL_SERVER

BODY = {"model": "demo", "prompt": "The ", "seed": 1}
NUM_STREAMS = 64
MODEL_SERVER = "tensorflow-serving"
TEXT = "".join(f"{number}. It was the best of times, it was the worst of times.\n" for number in range(2000))
# Trains in seconds.
TINY = {"units": 16, "embedding": 8, "batch_size": 4}


def image(name):
    found = subprocess.run(["docker", "image", "inspect", name], capture_output=True, check=True).stdout
    return json.loads(found)[0]


def in_container(container, code):
    command = ["docker", "exec", container["Id"], "/usr/bin/python3.13", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_up_trains_a_model_and_serves_it(project):
    states = {each["Config"]["Labels"]["com.docker.compose.service"]: each["State"] for each in project.containers()}
    assert {name: (state["Status"], state["ExitCode"]) for name, state in states.items()} == {
        "export": ("exited", 0),
        "keys": ("exited", 0),
        "trainer": ("running", 0),
        "tensorflow-serving": ("running", 0),
        "gateway": ("running", 0),
    }
    assert {states[name]["Health"]["Status"] for name in (MODEL_SERVER, "gateway")} == {"healthy"}
    text = project.gateway.text(**BODY, max_tokens=200, ignore_eos=True)
    assert len(text) == 200
    assert text == project.gateway.text(**BODY, max_tokens=200, ignore_eos=True)


def test_up_again_trains_nothing(project):
    project.run("up", "--detach", "--wait")
    assert "models/demo/1 exists already: nothing to train" in project.run("logs", "export")
    assert [path.name for path in (project.models / "demo").iterdir()] == ["1"]


def test_every_container_has_least_privilege(project):
    """No root, no capabilities, a read-only file system, a memory limit; only the gateway publishes a port."""
    published = {}
    for container in project.containers():
        host, name = container["HostConfig"], container["Config"]["Labels"]["com.docker.compose.service"]
        user = container["Config"]["User"] or image(container["Image"])["Config"]["User"]
        assert user.split(":")[0] not in {"", "0", "root"}, name
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        assert host["Memory"] > 0, name
        assert host["Init"], name
        if host["PortBindings"]:
            published[name] = host["PortBindings"]
    assert published == {"gateway": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(project.port)}]}}
    (gateway,) = project.containers("gateway")
    assert "Read-only file system" in in_container(gateway, "open('/sostenuto/models/x', 'w')").stderr
    assert "Read-only file system" in in_container(gateway, "open('/sostenuto/keys/x', 'w')").stderr
    # Model servers are on an internal network: it resolves their names, and has no route to the outside.
    (server,) = project.containers(MODEL_SERVER)
    assert list(server["NetworkSettings"]["Networks"]) == ["sostenuto-compose-test_backend"]
    network = subprocess.run(
        ["docker", "network", "inspect", "sostenuto-compose-test_backend"], capture_output=True, check=True
    )
    assert json.loads(network.stdout)[0]["Internal"] is True


def test_the_gateways_image_is_small_and_has_no_tensorflow(project):
    (container,) = project.containers("gateway")
    found = image(container["Image"])
    assert found["Size"] < 250e6
    assert found["Config"]["Labels"]["org.opencontainers.image.revision"] == os.environ["COMMIT"]
    code = (
        "import pathlib; print({path.suffix for name in ('tensorflow', 'tensorflow_serving') "
        "for path in pathlib.Path('/sostenuto/packages', name).rglob('*') if path.is_file()} - {'.py', '.pyc'})"
    )
    assert in_container(container, code).stdout.strip() == "set()"


def published(project, name):
    listed = (project.models / "models.config").read_text().count(f'"{name}"')
    return sorted(path.name for path in (project.models / name).iterdir() if path.name.isdigit()), listed


def test_a_text_that_a_client_uploads_becomes_a_model(project):
    with sostenuto.Client(f"http://127.0.0.1:{project.port}") as client:
        job = client.train(TEXT, name="book", minutes=0.1, **TINY).wait(600)
        assert (job.status, job.version) == ("succeeded", 1)
        assert len(client.generate("It was", model="book", max_tokens=10).text) == 10
        (file,) = client.files()
        client.delete_file(file.id)
        assert client.files() == []
    assert project.gateway.ask("GET", "/v1/files", headers={"Host": "evil.example"})[0] == 421
    # Docker's published port, which a host may forward, and the setting that says who trains are one variable.
    (gateway,) = project.containers("gateway")
    assert "SOSTENUTO_PUBLISHED_HOST=127.0.0.1" in gateway["Config"]["Env"]


def test_a_killed_trainer_continues_its_job_and_publishes_it_once(project):
    with sostenuto.Client(f"http://127.0.0.1:{project.port}") as client:
        job = client.train(TEXT, name="killed", epochs=5, max_minutes=10, **TINY)
        with job.events() as events:
            assert next(event.epoch for event in events if event.is_best is not None) == 1
        project.run("kill", "trainer")
        project.run("rm", "--force", "trainer")
        assert job.refresh().status == "running"
        project.run("up", "--detach", "trainer")
        job.wait(600)
        events = list(job.events())
    assert [event.epoch for event in events if event.is_best is not None] == [1, 2, 3, 4, 5]
    assert "training again: its trainer has ended" in [event.message for event in events]
    assert published(project, "killed") == (["1"], 1)


def test_the_trainer_shares_no_more_than_its_volumes(project):
    (trainer,) = project.containers("trainer")
    assert trainer["HostConfig"]["NetworkMode"] == "none"
    assert trainer["HostConfig"]["CpuShares"] == 16
    assert {mount["Destination"] for mount in trainer["Mounts"]} == {
        *("/sostenuto/models", "/sostenuto/training", "/var/tmp")
    }


def streams_while(project, happen):
    """Return the texts of many streams, and call `happen` while they run."""
    bodies = [{**BODY, "seed": seed, "max_tokens": 10_000, "ignore_eos": True} for seed in range(NUM_STREAMS)]
    with concurrent.futures.ThreadPoolExecutor(NUM_STREAMS) as pool:
        running = [pool.submit(project.gateway.streamed_text, **body) for body in bodies]
        time.sleep(1)
        assert not any(text.done() for text in running), "too short to be disturbed"
        happen()
        return [text.result(300) for text in running]


def test_scaled_model_servers_are_discovered_and_one_may_die(project):
    """The gateway finds new ones by DNS; when one is killed under load no stream changes, and Docker restarts it."""
    expected = streams_while(project, lambda: None)
    project.run("up", "--detach", "--wait", "--no-recreate", "--scale", f"{MODEL_SERVER}=3")
    project.until(lambda: project.backends() == [None] * 3)
    victim = project.containers(MODEL_SERVER)[0]
    # Its process 1, which ends the container; `docker kill` would do so too, but then Docker does not restart it.
    assert streams_while(project, lambda: os.kill(victim["State"]["Pid"], signal.SIGKILL)) == expected
    project.until(lambda: len(project.backends()) == 3 and set(project.backends()) == {None}, timeout=120)
    assert [each["RestartCount"] for each in project.containers(MODEL_SERVER)].count(1) == 1
    project.run("up", "--detach", "--wait", "--no-recreate", "--scale", f"{MODEL_SERVER}=1")
    project.until(lambda: project.backends() == [None])


def test_no_request_fails_while_versions_change(project):
    failed, ended = [], threading.Event()

    def ask(seed):
        while not ended.is_set():
            status, answer = project.gateway.post({**BODY, "seed": seed, "max_tokens": 50})
            if status != 200:
                failed.append(answer)

    def version():
        return project.gateway.post({**BODY, "max_tokens": 1})[1]["version"]

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    try:
        recipe = ("--config", "demo", "--units", "32", "--max-minutes", "0.2")
        project.run("run", "--rm", "export", "promote", "demo:1")
        project.run("run", "--rm", "export", "train", *recipe)
        assert version() == 1
        project.run("run", "--rm", "export", "promote", "demo:2")
        project.until(lambda: version() == 2)
        project.run("run", "--rm", "export", "rollback", "demo")
        project.until(lambda: version() == 1)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert failed == [], f"{len(failed)} requests, {failed[0]}\n{project.logs()}"


def test_an_unwritable_models_directory_is_an_error(project):
    """The exporter runs as a user who may not own models/; it names both before it trains."""
    os.chown(project.models, 0, 0)
    try:
        command = ["run", "--rm", "export", "train", "--config", "demo"]
        done = project.start(*command)
        assert done.returncode == 1
        assert "uid 1000 (gid 1000) may not write to models, which belongs to 0:0" in done.stderr
        assert "chown -R 1000:1000 models" in done.stderr
    finally:
        os.chown(project.models, 1000, 1000)


def test_api_keys_are_required_and_resume_tokens_outlast_the_gateway(project):
    whole = project.gateway.text(**BODY, max_tokens=100)
    half = project.gateway.post({**BODY, "max_tokens": 50, "return_state": True})[1]["choices"][0]
    key = project.run("run", "--rm", "keys", "keys", "add", "--tenant", "anna").split()[-1]
    (project.folder / "gateway.env").write_text("SOSTENUTO_KEYS_FILE=keys/api.json\n")
    project.run("up", "--detach", "--wait", "gateway")
    body = json.dumps({"model": "demo", "state": half["state"], "max_tokens": 50})
    assert project.gateway.ask("POST", "/v1/completions", body)[0] == 401
    connection = project.gateway.connect()
    connection.request("POST", "/v1/completions", body, {"Authorization": f"Bearer {key}"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    # The token belongs to the tenant of a gateway without keys, which no API key has.
    assert answer["error"]["code"] == "state_foreign"
    (project.folder / "gateway.env").unlink()
    project.run("up", "--detach", "--wait", "gateway")
    status, answer = project.gateway.post({"model": "demo", "state": half["state"], "max_tokens": 50})
    assert (status, half["text"] + answer["choices"][0]["text"]) == (200, whole)


def test_prometheus_scrapes_the_gateway_and_loads_the_rules(project):
    project.run("--profile", "cpu", "--profile", "monitoring", "up", "--detach", "--no-recreate", "prometheus")
    (gateway,) = project.containers("gateway")

    def ask(address):
        code = (
            f"import urllib.request as r; print(r.urlopen('http://prometheus:9090/api/v1/{address}').read().decode())"
        )
        done = in_container(gateway, code)
        return json.loads(done.stdout)["data"] if done.returncode == 0 else {}

    def gateway_is_up():
        return any(
            target["labels"]["job"] == "gateway" and target["health"] == "up"
            for target in ask("targets").get("activeTargets", [])
        )

    project.until(gateway_is_up, timeout=90)
    project.until(lambda: ask("query?query=sostenuto_backends").get("result"), timeout=90)
    ((group),) = ask("rules")["groups"]
    assert len(group["rules"]) >= 7
    assert {rule["health"] for rule in group["rules"]} <= {"ok", "unknown"}
    # Before the first scrape there was no target, so GatewayDown may be pending.
    assert [alert for alert in ask("alerts")["alerts"] if alert["state"] == "firing"] == []


def test_a_stopped_gateway_triggers_an_alert(project):
    project.run("stop", "gateway")
    command = ["docker", "exec", project.containers("prometheus")[0]["Id"], "promtool", "query", "instant"]

    def pending():
        query = 'ALERTS{alertname="GatewayDown"}'
        done = subprocess.run([*command, "http://127.0.0.1:9090", query], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return "GatewayDown" in done.stdout

    project.until(pending, timeout=120)
    project.run("up", "--detach", "--wait", "gateway")


def test_stop_shuts_down_gracefully(project):
    """A stream that outlasts the drain gets an error event, and both programs end on SIGTERM."""
    # The default limits allow no completion that outlasts the drain on every machine.
    settings = (
        "SOSTENUTO_MAX_TOKENS=5000000\nSOSTENUTO_MAX_REQUEST_TOKENS=5000000\nSOSTENUTO_MAX_QUEUED_TOKENS=10000000\n"
    )
    (project.folder / "gateway.env").write_text(settings)
    project.run("up", "--detach", "--wait", "gateway")
    events = []

    def read():
        events.extend(project.gateway.stream(**BODY, max_tokens=5_000_000, timeout_s=300, ignore_eos=True))

    reader = threading.Thread(target=read)
    reader.start()
    project.until(lambda: project.gateway.accepted == 1)
    project.run("stop", timeout=120)
    reader.join(timeout=10)
    assert not reader.is_alive()
    error = next(event["error"] for event in events if event and "error" in event)
    assert error["code"] == "shutting_down"
    for service in ("gateway", MODEL_SERVER):
        (container,) = project.containers(service)
        # 143 is SIGTERM: TensorFlow Serving has no handler. 137 would be SIGKILL after the grace period.
        is_tensorflow_serving = service == MODEL_SERVER and TENSORFLOW_MODEL_SERVER in os.environ
        assert (service, container["State"]["ExitCode"]) == (service, 143 if is_tensorflow_serving else 0)
