"""Alert rules and dashboard query metrics and labels that the gateway exports."""

import json
import re

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service import errors
from service.observability.metrics import Metrics
from tests.metrics import watch_everything
from tests.paths import ROOT

# Added by Prometheus itself.
COMMON = {"job", "instance"}


@pytest.fixture(scope="module")
def known():
    """The names of all series that a gateway can export, each with its label names."""
    metrics = Metrics("1")
    watch_everything(metrics)
    families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    found: dict[str, set[str]] = {"up": set()}
    for family in families:
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def alerts():
    groups = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def panels():
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/sostenuto.json").read_text())
    return {
        panel["title"]: [target["expr"] for target in panel["targets"]]
        for panel in dashboard["panels"]
        if panel["type"] != "row"
    }


EXPRESSIONS = {f"alert {name}": [rule["expr"]] for name, rule in alerts().items()} | {
    f"panel {title}": expressions for title, expressions in panels().items()
}


@pytest.mark.parametrize("expressions", EXPRESSIONS.values(), ids=EXPRESSIONS.keys())
def test_every_queried_series_and_label_is_exported(known, expressions):
    for expression in expressions:
        names = re.findall(r"\b(sostenuto_\w+|process_\w+|up)\b", expression)
        assert names
        labels = COMMON.union(*(known[name] for name in names))
        asked = set(re.findall(r"(\w+)=~?\"", expression))
        for listed in re.findall(r"\bby \(([^)]*)\)", expression):
            asked |= {label.strip() for label in listed.split(",")}
        assert asked <= labels


def test_the_alert_on_failed_requests_counts_every_server_error():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.GatewayError)]
    (counted,) = re.findall(r'code=~"([^"]+)"', alerts()["RequestsFail"]["expr"])
    assert set(counted.split("|")) == {kind.code or "server_error" for kind in kinds if kind.status >= 500}
