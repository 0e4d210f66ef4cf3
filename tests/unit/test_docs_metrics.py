"""The documentation lists every metric and every alert, as the code has them."""

import re

import pytest
import yaml
from prometheus_client.registry import CollectorRegistry

from service.observability.metrics import Metrics
from tests.documents import page_with, rows
from tests.metrics import watch_everything
from tests.paths import ROOT

PAGE = page_with(r"^\| metric \|")
ALERTS = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
# Metrics of the process and of Python, whose units Prometheus's client does not put into every name.
OTHER_UNITS = {"process_open_fds": "descriptors", "process_max_fds": "descriptors"}


def exported() -> CollectorRegistry:
    """Return the registry of a gateway in which every event has happened."""
    metrics = Metrics("1")
    watch_everything(metrics)
    return metrics.registry


def described(family):
    """Return a metric's name, type, unit, labels and meaning, as a row of the page begins."""
    suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
    labels = {label for sample in family.samples for label in sample.labels} - {"le"}
    return (f"`{family.name}{suffix}`", family.type, unit_of(family), frozenset(labels), family.documentation)


def unit_of(family):
    units = "seconds|tokens|sequences|requests|errors|failures|retries|rejections|bytes|states|backends"
    found = re.findall(rf"(?<=_)(?:{units})(?=_|$)", family.name)
    return OTHER_UNITS.get(family.name) or (found[-1] if found else "none")


def test_the_page_has_every_metric_as_it_is_exported_and_no_other():
    documented = []
    for name, facts, text in rows("metric"):
        kind_and_unit, _, labels = facts.partition("; ")
        kind, _, unit = kind_and_unit.partition(", ")
        meaning, _, _ = text.partition(" *Watch:* ")
        documented.append((name, kind, unit or "none", frozenset(re.findall(r"`(\w+)`", labels)), meaning))
    assert sorted(documented, key=str) == sorted(map(described, exported().collect()), key=str)


def test_the_page_says_what_to_watch_each_metric_for():
    assert [name for name, _, text in rows("metric") if not re.search(r" \*Watch:\* \w|\*Watch:\* `", text)] == []


def test_the_page_has_every_alert_with_its_condition_and_no_other():
    # A table needs the backslash before a | within a cell.
    documented = sorted((name, condition.replace("\\|", "|")) for name, condition, _ in rows("alert"))
    rules = [rule for group in ALERTS for rule in group["rules"]]
    expected = [
        (
            f"*{rule['alert']}*, {rule['labels']['severity']}",
            f"`{rule['expr']}`" + (f" for {rule['for']}" if "for" in rule else ""),
        )
        for rule in rules
    ]
    assert documented == sorted(expected)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"sostenuto_\w+", PAGE))))
def test_every_series_in_the_pages_queries_exists(name):
    series = {sample.name for family in exported().collect() for sample in family.samples}
    families = {family.name for family in exported().collect()}
    assert name in series | families
