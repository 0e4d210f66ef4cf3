"""Models are changed and deleted by the API, while the trainer that does it runs a job, and beside two gateways."""

import functools
import json
import shutil
import sys
import threading

import pytest

import sostenuto
from export.repository.models_config import add_to_models_config
from service.context import owned_name
from service.web.openapi import EXAMPLE_RESPONSES
from tests.access import ask, keys
from tests.built import built
from tests.conftest import publish_versions
from tests.e2e.conftest import AMPLE
from tests.pages import LOOKS, Models
from tests.servers import Gateway, ModelServer, Process
from tests.uploads import multipart
from tests.waiting import until

TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom.\n" * 60
# A job that does not end by itself.
LONG = {"batch_size": 4, "max_minutes": 30, "epochs": 100_000, "patience": 0}
BODY = {"prompt": "It was", "max_tokens": 5}
OWN = owned_name("acme", "book")


class Service:
    """A model server, two gateways with keys, and a trainer."""

    def __init__(self, folder):
        self.folder, self.models, self._published = folder, folder / "models", built("versions", publish_versions)
        self.models.mkdir()
        for name, versions in (("base", [1]), ("public", [1, 2]), (OWN, [1, 2, 3])):
            self.add_model(name, versions)
        path = folder / "keys.json"
        self.keys = {
            name: keys(path, "add", "--tenant", tenant, *(f"--role={role}" for role in roles))
            for name, tenant, roles in (
                ("admin", "operator", ("admin", "read", "generate", "train")),
                ("acme", "acme", ("train", "read", "generate")),
                ("acme-reader", "acme", ("read", "generate")),
                ("other", "other", ("train", "read", "generate")),
            )
        }
        self.server = ModelServer(self.models, folder / "server.log")
        shared = {"keys_file": path, "training_dir": folder / "training", "poll_s": 1, **AMPLE}
        self.gateways = [
            Gateway(self.models, self.server.port, folder / f"gateway{number}.log", **shared) for number in range(2)
        ]
        self.start_trainer()

    def start_trainer(self):
        directories = ["--training-dir", str(self.folder / "training"), "--models-dir", str(self.models)]
        audit = {"SOSTENUTO_AUDIT_FILE": str(self.folder / "audit.jsonl")}
        # At the lowest priority: its job is to be in progress, not to get on.
        command = ["nice", "-n", "19", sys.executable, "-m", "jobs", *directories]
        self.trainer = Process(command, self.folder / "trainer.log", **audit)

    def end(self):
        for process in (self.trainer, self.server):
            process.end(timeout=120)
        for gateway in self.gateways:
            gateway.kill()

    def add_model(self, name, versions=(1,)):
        for number in versions:
            shutil.copytree(self._published / "demo" / str(number), self.models / name / str(number))
        add_to_models_config(self.models, name)
        return name

    def serve(self, name, versions=(1,)):
        """Add a model of at most two versions, and wait until both gateways serve all of them."""
        self.add_model(name, versions)

        def are_served():
            models = [f"{name}:{version}" for version in versions]
            return all(self.generate(model, gateway=number)[0] == 200 for model in models for number in range(2))

        until(are_served)
        return name

    def ask(self, method, path, body=None, key="admin", gateway=0, **headers):
        status, _, answer = ask(self.gateways[gateway], self.keys[key], body, path, method, **headers)
        return status, answer

    def change(self, name, key="admin", gateway=0, **body):
        return self.ask("PATCH", f"/v1/models/{name}", body, key, gateway)

    def generate(self, model, key="admin", gateway=0, **fields):
        return self.ask("POST", "/v1/completions", {**BODY, "model": model, **fields}, key, gateway)

    def version(self, model, **where):
        return self.generate(model, seed=1, **where)[1]["version"]

    def audit(self, action):
        path = self.folder / "audit.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if line["action"] == action]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """The service, in the middle of a long job that continues from `base`."""
    running = Service(tmp_path_factory.mktemp("changes"))
    try:
        running.job = start_job(running)
        yield running
        running.ask("POST", f"/v1/fine_tuning/jobs/{running.job}/cancel", {})
    finally:
        running.end()


def start_job(service):
    """Start a job, and wait until it trains."""
    body, headers = multipart(TEXT.encode())
    file = service.ask("POST", "/v1/files", body, **headers)[1]
    fields = {"model": "base", "training_file": file["id"], "suffix": "long", "settings": LONG}
    status, job = service.ask("POST", "/v1/fine_tuning/jobs", fields)
    assert status == 200, job

    def trains():
        found = service.ask("GET", f"/v1/fine_tuning/jobs/{job['id']}")[1]
        assert found["error"] is None, found
        return found["trained_tokens"]

    until(trains, timeout=300)
    return job["id"]


def test_labels_split_and_rollback_are_in_effect_when_the_response_comes(service):
    status, routing = service.change(OWN, "acme", labels={"stable": 2, "canary": 1})
    assert (status, routing["version"]) == (200, 2)
    assert routing.keys() == EXAMPLE_RESPONSES["PATCH /v1/models/{name}"].keys()
    assert service.version(OWN) == 2
    assert routing["labels"] == {"stable": 2, "canary": 1, "previous": 3}
    # It was not loaded, and on a busy machine that takes longer than the response waits.
    until(lambda: service.generate(f"{OWN}@canary")[0] == 200)
    assert service.version(f"{OWN}@canary") == 1
    until(lambda: service.version(OWN, gateway=1) == 2)

    status, routing = service.change(OWN, "acme", shares={"stable": 3, "canary": 1})
    shares = {entry["version"]: entry["share"] for entry in routing["versions"]}
    assert (status, shares) == (200, {1: 0.25, 2: 0.75, 3: 0.0})
    found = {service.generate(OWN, seed=seed)[1]["version"] for seed in range(30)}
    assert found == {1, 2}
    status, answer = service.change(OWN, "acme", labels={"canary": None})
    assert (status, answer["error"]["code"]) == (409, "conflict")

    status, routing = service.change(OWN, "acme", labels={"canary": None}, shares={})
    assert (status, routing["shares"], routing["labels"]) == (200, {}, {"stable": 2, "previous": 3})
    status, routing = service.ask("POST", f"/v1/models/{OWN}/rollback", key="acme", gateway=1)
    assert (status, routing["version"], service.version(OWN, gateway=1)) == (200, 3, 3)
    assert routing.keys() == EXAMPLE_RESPONSES["POST /v1/models/{name}/rollback"].keys()
    until(lambda: service.version(OWN) == 3)
    key_id = service.keys["acme"].split("-")[1]
    for action in ("route", "rollback"):
        line = service.audit(action)[-1]
        assert (line["actor"], line["tenant"], line["model"]) == (f"key:{key_id}", "acme", OWN)
    assert service.audit("rollback")[-1]["labels"] == {"stable": 3}
    assert service.ask("GET", f"/v1/fine_tuning/jobs/{service.job}")[1]["status"] == "running"
    # It takes a core until it pauses, and then still needs its base.
    service.ask("POST", f"/v1/fine_tuning/jobs/{service.job}/pause", {})


def test_details_describe_every_version(service):
    status, model = service.ask("GET", "/v1/models/public")
    assert (status, [version["version"] for version in model["versions"]]) == (200, [1, 2])
    for version in model["versions"]:
        home = service.models / "public" / str(version["version"])
        files = [path for path in home.rglob("*") if path.is_file()]
        assert version["size_bytes"] == sum(path.stat().st_size for path in files)
        assert 0 < version["weights_bytes"] < version["size_bytes"]
        assert (version["validation_loss"], version["corpus"]) == (None, None)  # not trained, but published by a test
    assert "size_bytes" not in json.dumps(service.ask("GET", "/v1/models")[1])


def test_a_version_and_a_model_are_deleted(service):
    name = service.serve("going", [1, 2])
    running = []
    thread = threading.Thread(target=lambda: running.append(service.generate(f"{name}:1", max_tokens=5_000_000)))
    thread.start()
    until(lambda: running or service.ask("GET", "/v1/status")[1]["sequences"]["accepted"] == 1)
    assert running == []
    assert service.ask("DELETE", f"/v1/models/{name}:1") == (
        200,
        {"id": f"{name}:1", "object": "model", "deleted": True},
    )
    assert service.generate(f"{name}:1")[0] == 404
    thread.join(60)
    ((status, answer),) = running
    assert (status, answer["error"]["code"]) == (503, "version_gone")
    assert service.ask("DELETE", f"/v1/models/{name}:1")[0] == 404
    assert service.version(name) == 2

    assert service.ask("DELETE", f"/v1/models/{name}")[1]["deleted"]
    assert [service.generate(name)[0], service.ask("GET", f"/v1/models/{name}")[0]] == [404, 404]
    assert name not in [model["id"] for model in service.ask("GET", "/v1/models")[1]["data"]]
    until(lambda: service.generate(name, gateway=1)[0] == 404)
    assert service.audit("remove")[-1]["versions"] == [2]
    until(lambda: not (service.models / name / "2").exists(), timeout=60)
    # A model of the same name is served again.
    service.serve(name)


@pytest.mark.parametrize(
    ("method", "name", "body", "status", "parts"),
    [
        ("PATCH", "public", {"labels": {"stable": 9}}, 400, ["labels must have existing versions: 1, 2", "stable: 9"]),
        ("PATCH", "public", {"shares": {"canary": 1}}, 400, ["shares must have labels", "'canary'"]),
        ("PATCH", "public:1", {"labels": {"stable": 1}}, 400, ["name must be NAME"]),
        ("DELETE", "public@stable", None, 400, ["name must be NAME or NAME:VERSION"]),
        ("DELETE", "public:9", None, 404, ["public has no version 9; it has 1, 2"]),
        ("DELETE", "..", None, 404, []),
        ("DELETE", "..%2Fmodels%2Fpublic", None, 404, []),
        ("DELETE", ".%2e", None, 404, []),
        ("DELETE", "public%00", None, 404, []),
        ("DELETE", "public:1%2F..%2F2", None, 404, []),
        ("DELETE", "base", None, 409, ["needs base, and has not ended; cancel it first"]),
        ("DELETE", "base:1", None, 409, ["needs base:1"]),
        ("POST", "nothing/rollback", None, 404, []),
    ],
)
def test_errors_name_field_limit_and_value_and_change_nothing(service, method, name, body, status, parts):
    before = sorted(path for path in service.models.glob("*/*") if path.name.isdigit())
    got, answer = service.ask(method, f"/v1/models/{name}", body)
    assert got == status, answer
    assert all(part in answer["error"]["message"] for part in parts), answer
    assert sorted(path for path in service.models.glob("*/*") if path.name.isdigit()) == before
    assert service.ask("GET", "/v1/models/public")[1]["labels"] == {}


@pytest.mark.parametrize(
    ("key", "model", "status"),
    [
        ("acme-reader", OWN, 403),
        ("acme", "public", 403),
        ("other", "public", 403),
        # As a model that does not exist.
        ("other", OWN, 404),
        ("acme", "no-such-model", 404),
    ],
)
def test_only_an_admin_or_the_tenant_that_trained_it_changes_a_model(service, key, model, status):
    answers = [
        service.change(model, key, labels={"stable": 1}),
        service.ask("DELETE", f"/v1/models/{model}", key=key),
        service.ask("DELETE", f"/v1/models/{model}:1", key=key),
        service.ask("POST", f"/v1/models/{model}/rollback", key=key),
    ]
    assert [found for found, _ in answers] == [status] * 4, answers
    if status == 404:
        unknown = "no-such-model" if model == OWN else OWN
        others = service.ask("DELETE", f"/v1/models/{unknown}", key="other")[1]["error"]
        shown = answers[1][1]["error"]
        assert shown["message"].replace(model, "") == others["message"].replace(unknown, "")
    assert (service.models / "public/1").is_dir()
    assert (service.models / OWN / "1").is_dir()


@pytest.fixture
def page(service, open_page):
    page = open_page(functools.partial(Models, key=service.keys["admin"]), service.gateways[0])
    page.excuse_failed_loads()  # before it had the key
    return page


def done(card):
    card.locator(".status", has_text="Done.").wait_for()


def test_the_page_promotes_splits_and_rolls_back(service, page):
    name = service.serve("paged", [1, 2])
    page.page.reload()
    card, keyboard = page.card(name), page.page.keyboard
    assert card.locator("h3").all_inner_texts() == ["Version 2", "Version 1"]
    assert page.violations() == []
    card.get_by_role("button", name="Promote version 1").focus()
    keyboard.press("Enter")
    done(card)
    assert (service.version(name), card.locator(".badge").all_inner_texts()) == (1, ["previous", "stable"])

    card.locator(".percent").fill("25")
    card.get_by_role("button", name="Apply").click()
    card.locator(".traffic", has_text="25%").wait_for()
    routing = service.ask("GET", f"/v1/models/{name}")[1]
    assert (routing["shares"], routing["labels"]["canary"]) == ({"stable": 75, "canary": 25}, 2)
    card.get_by_role("button", name="Promote version 2").click()  # which ends the split
    card.locator("li", has_text="Version 2").locator(".badge.stable").wait_for()
    routing = service.ask("GET", f"/v1/models/{name}")[1]
    assert (routing["shares"], routing["labels"]) == ({}, {"stable": 2, "previous": 1})
    card.get_by_role("button", name="Promote version 1").click()
    card.locator("li", has_text="Version 1").locator(".badge.stable").wait_for()

    card.locator(".percent").fill("10")
    card.get_by_role("button", name="Apply").click()
    card.locator(".traffic", has_text="90%").wait_for()
    card.locator(".percent").fill("0")
    card.get_by_role("button", name="Apply").click()
    card.locator(".traffic", has_text="100%").wait_for()
    assert service.ask("GET", f"/v1/models/{name}")[1]["shares"] == {}

    card.get_by_role("button", name="Roll back").click()
    card.locator("li", has_text="Version 2").locator(".badge.stable").wait_for()
    assert service.version(name) == 2


def test_the_page_deletes_what_is_confirmed(service, page):
    name = service.serve("paged-out", [1, 2])
    page.page.reload()
    card, keyboard = page.card(name), page.page.keyboard
    erase = card.get_by_role("button", name="Delete version 1")
    erase.click()
    assert page.violations() == []
    keyboard.press("Escape")
    assert (service.models / name / "1").is_dir()
    erase.click()
    keyboard.press("Enter")  # on the button that keeps it, which has the focus
    assert (service.models / name / "1").is_dir()
    erase.click()
    page.page.get_by_role("button", name="Delete", exact=True).click()
    card.locator("h3", has_text="Version 1").wait_for(state="detached")
    assert not (service.models / name / "1").exists()

    page.card("base").get_by_role("button", name="Delete model").click()
    page.page.get_by_role("button", name="Delete", exact=True).click()
    assert "has not ended; cancel it first" in page.wait_for_notice("needs base")
    assert page.card("base").is_visible()
    page.excuse_failed_loads()

    card.get_by_role("button", name="Delete model").click()
    page.page.get_by_role("button", name="Delete", exact=True).click()
    card.wait_for(state="detached")
    assert service.generate(name)[0] == 404


@pytest.mark.parametrize("look", LOOKS)
def test_the_page_is_accessible_and_fits(service, open_page, look):
    page = open_page(functools.partial(Models, key=service.keys["admin"]), service.gateways[0], **look)
    page.excuse_failed_loads()
    page.card(OWN)
    assert (page.violations(), page.fits()) == ([], True)


def test_the_sdk_does_the_same(service):
    name = service.serve("by-sdk", [1, 2])
    url = f"http://127.0.0.1:{service.gateways[0].port}"
    with sostenuto.Client(url, api_key=service.keys["admin"], max_retries=0) as client:
        model = client.promote(name, 1)
        assert (model.version, model.labels) == (1, {"stable": 1, "previous": 2})
        model = client.update_model(name, labels={"canary": 2}, shares={"stable": 3, "canary": 1})
        assert [version.share for version in model.versions] == [0.75, 0.25]
        with pytest.raises(sostenuto.Conflict, match="is stable of by-sdk"):
            client.delete_model(f"{name}:1")
        details = client.model(name)
        assert all(version.size_bytes > version.weights_bytes > 0 for version in details.versions)
        client.update_model(name, labels={"canary": None}, shares={})
        assert client.rollback(name).labels == {"stable": 2, "previous": 1}
        client.delete_model(name)
        assert name not in [model.id for model in client.models()]
