"""`promote` and `rollback` set the `stable` label; labeled versions stay served."""

import re
import shutil

import pytest

from contract.models_config import read_labels
from export.repository import removal
from export.repository.models_config import add_to_models_config, read_entries
from export.repository.promotion import move_labels
from tests.commands import main
from tests.faults import fill_disk
from tests.unit.export.repository.stored import store


@pytest.fixture(autouse=True)
def models_dir(repository):
    for version in (1, 2, 3, 4):
        store(repository, version=version)
    return repository


def run(capsys, *arguments):
    code = main([*arguments])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def entry(models_dir, name="m"):
    (found,) = [listing for listing in read_entries(models_dir) if listing.name == name]
    return dict(found.labels), sorted(found.policy.select(range(1, 10)))


def test_a_promoted_version_stays_served_beside_the_newest(models_dir, capsys):
    assert run(capsys, "promote", "m:2") == (0, "m: stable is now version 2\n")
    assert entry(models_dir) == ({"stable": 2, "previous": 4}, [2, 3, 4])
    for version in (5, 6, 7):
        store(models_dir, version=version)
    assert entry(models_dir) == ({"stable": 2, "previous": 4}, [2, 4, 6, 7])
    assert run(capsys, "promote", "m") == (0, "m: stable is now version 7 (was 2)\n")
    assert entry(models_dir) == ({"stable": 7, "previous": 2}, [2, 6, 7])
    assert run(capsys, "promote", "m:7") == (0, "m: stable is already version 7\n")
    assert entry(models_dir) == ({"stable": 7, "previous": 2}, [2, 6, 7])


def test_rollback_swaps_stable_and_previous(models_dir, capsys):
    assert run(capsys, "rollback", "m") == (0, "m: stable is now version 3 (was 4)\n")
    assert entry(models_dir)[0] == {"stable": 3, "previous": 4}
    assert run(capsys, "rollback", "m") == (0, "m: stable is now version 4 (was 3)\n")
    run(capsys, "promote", "m:1")
    assert entry(models_dir)[0] == {"stable": 1, "previous": 4}
    assert run(capsys, "rollback", "m") == (0, "m: stable is now version 4 (was 1)\n")


def test_a_command_is_done_if_the_audit_log_cannot_be_written(models_dir, capsys, monkeypatch):
    """After an error its user would repeat it, and a second rollback undoes the first."""
    monkeypatch.setenv("SOSTENUTO_AUDIT_FILE", str(models_dir))
    assert main(["rollback", "m"]) == 0
    out, err = capsys.readouterr()
    assert out == "m: stable is now version 3 (was 4)\n"
    assert "error: rollback: done, but the audit log cannot be written: [Errno 21] Is a directory" in err


def test_a_canary_changes_neither_stable_nor_previous(models_dir, capsys):
    run(capsys, "promote", "m:2")
    assert run(capsys, "promote", "m:1", "--label", "canary") == (0, "m: canary is now version 1\n")
    assert entry(models_dir) == ({"stable": 2, "previous": 4, "canary": 1}, [1, 2, 3, 4])


def test_list_shows_labels_beside_the_served_state(capsys):
    run(capsys, "promote", "m:2")
    run(capsys, "promote", "m:2", "--label", "canary")
    _, *lines = run(capsys, "list")[1].splitlines()
    states = [line.split("1970-01-01 00:00")[1].strip() for line in lines]
    assert states == ["not chosen", "yes, canary, stable", "yes", "yes, previous"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["promote", "m:9"], "m has no version 9"),
        (["promote", "n"], "no model 'n'"),
        (["promote", "damaged"], "generator.json: not a generator card"),
        # No model server would read the label.
        (["promote", "unlisted"], "unlisted is not in models/models.config"),
        (["promote", "m:2", "--label", "previous"], "got 'previous'"),
        (["promote", "m:2", "--label", "Not A Label"], "got 'Not A Label'"),
        (["rollback", "n"], "no model 'n'"),
        (["rollback", "single"], "single has no stable version before 7: nothing to roll back to"),
        (["rollback", "m:2"], "rollback takes NAME; .* promote m:2"),
    ],
)
def test_an_invalid_promotion_or_rollback_changes_nothing(models_dir, capsys, arguments, message):
    (store(models_dir, "damaged") / "assets.extra" / "generator.json").write_text("{")
    store(models_dir, "unlisted", listed=False)
    store(models_dir, "single", 7)
    before = (models_dir / "models.config").read_bytes()
    code, told = run(capsys, *arguments)
    assert (code, told.count("\n")) == (1, 1)
    assert told.startswith("error: ")
    assert re.search(message, told)
    assert (models_dir / "models.config").read_bytes() == before


def test_a_policy_of_all_versions_is_kept(models_dir, capsys):
    path = models_dir / "models.config"
    path.write_text(path.read_text().replace("latest {\n        num_versions: 2\n      }", "all {\n      }"))
    run(capsys, "promote", "m:1")
    add_to_models_config(models_dir, "m")
    assert entry(models_dir)[1] == [*range(1, 10)]


def test_a_version_with_a_share_stays_served_when_newer_ones_are_published(models_dir):
    """Its requests would go to versions that nobody chose."""
    move_labels(models_dir, "m", {}, {"2": 50, "4": 50})
    for version in (5, 6, 7):
        store(models_dir, version=version)
    assert entry(models_dir) == ({}, [2, 4, 6, 7])
    move_labels(models_dir, "m", {}, {})
    assert read_entries(models_dir)[0].policy.latest == 2


def test_a_share_of_a_version_that_does_not_exist_is_not_waited_for(models_dir):
    (models_dir / "routing.toml").write_text("[m]\n9 = 1\n1 = 1\n")
    add_to_models_config(models_dir, "m")
    assert entry(models_dir) == ({}, [1, 3, 4])


def test_a_rollback_returns_to_the_predecessor_of_a_version_that_was_stable_before_its_promotion(capsys):
    run(capsys, "promote", "m:4")
    assert run(capsys, "rollback", "m") == (0, "m: stable is now version 3 (was 4)\n")


def test_a_stable_version_is_not_removed(models_dir, capsys):
    """Requests for the label would fail. The previous version may be removed, and its label with it."""
    run(capsys, "promote", "m:2")
    code, told = run(capsys, "remove", "m:2", "--yes")
    assert code == 1
    assert "m:2 is stable of m: promote another version first" in told
    code, told = run(capsys, "remove", "m:4", "--yes")
    assert (code, "served of m: versions 2, 3, 4 now; versions 2, 3 afterwards" in told) == (0, True)
    assert entry(models_dir) == ({"stable": 2}, [2, 3])
    assert "nothing to roll back to" in run(capsys, "rollback", "m")[1]
    assert run(capsys, "remove", "m", "--yes", "--wait", "0")[0] == 0
    assert (read_entries(models_dir), read_labels(models_dir)) == ([], {})


def test_a_version_promoted_during_the_confirmation_is_not_removed(models_dir, capsys, monkeypatch):
    def promote_and_agree():
        run(capsys, "promote", "m:2")
        return True

    monkeypatch.setattr(removal, "_is_confirmed", promote_and_agree)
    code, told = run(capsys, "remove", "m:2")
    assert (code, "m:2 is stable of m" in told) == (1, True)
    assert (models_dir / "m" / "2").exists()


def test_the_newest_versions_are_served_once_no_label_is_left(models_dir, capsys):
    """Labels of versions that are gone, however they were deleted, are dropped."""
    run(capsys, "promote", "m:2", "--label", "canary")
    (models_dir / "labels.json").write_text('{"m": {"canary": 2, "beta": 9}}')
    run(capsys, "promote", "m:3", "--label", "canary")
    assert entry(models_dir) == ({"canary": 3, "beta": 9}, [3, 4, 9])
    shutil.rmtree(models_dir / "m" / "3")
    assert run(capsys, "remove", "m:2", "--yes")[0] == 0
    assert entry(models_dir) == ({}, [8, 9])
    assert read_entries(models_dir)[0].policy.latest == 2


@pytest.mark.parametrize(
    "content",
    [
        *("{", "[]", '{"m": 5}', '{"m": {"stable": "2"}}', '{"m": {"Stable": 2}}'),
        *(f'{{"m": {{"canary": {number}}}}}' for number in (-1, 2**63)),
    ],
)
def test_a_damaged_labels_file_is_an_error_and_stays_unchanged(models_dir, capsys, content):
    """No command writes over a file that it cannot read."""
    (models_dir / "labels.json").write_text(content)
    code, told = run(capsys, "promote", "m:2")
    assert code == 1
    assert told.startswith("error: models/labels.json: ")
    assert (models_dir / "labels.json").read_text() == content


def test_a_full_disk_changes_nothing_and_names_the_file(models_dir, capsys, monkeypatch):
    """Served versions and labels stay the same, and no temporary file is left."""
    before, listed = sorted(path.name for path in models_dir.iterdir()), entry(models_dir)
    with monkeypatch.context() as patch:
        fill_disk(patch)
        code, said = run(capsys, "promote", "m:2")
    assert code == 1
    assert said == "error: [Errno 28] No space left on device: 'models/models.config'\n"
    assert sorted(path.name for path in models_dir.iterdir()) == before
    assert entry(models_dir) == listed
