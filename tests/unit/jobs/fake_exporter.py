"""An exporter without TensorFlow: `python -m tests.unit.jobs.fake_exporter train TEXT …`, as the trainer calls it.

It "trains" epoch by epoch while a file `go-on` is in the directory of the models, and publishes a version that is only
a card. The text decides: `fail` ends it with an error, `crash` kills it, `unlisted` kills it before the version is
listed, `once` kills the trainer after the first epoch, but not again, `kills` kills the exporter after each epoch,
`terms` terminates it.
"""

import contextlib
import itertools
import json
import os
import signal
import sys
import time
from pathlib import Path

EPOCHS = 3


def option(name):
    return next(value for given, value in zip(sys.argv, sys.argv[1:], strict=False) if given == name)


def end(how):
    if how == "kills":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(128 + signal.SIGTERM)


def main():
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    command, models = sys.argv[1], Path(option("--models-dir"))
    if "--if-new" in sys.argv:
        assert not Path(sys.argv[2]).read_text(), "it would train if there were no version"
        with (models / "listed").open("a") as file:
            file.write(option("--name") + "\n")
        if (models / "kill-listing").exists():
            (models / "kill-listing").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return 0
    run = Path(sys.argv[2]) if command == "resume" else Path(option("--runs-dir")) / option("--name")
    if command == "train":
        run.mkdir(parents=True)
        text = "".join(path.read_text() for path in sorted(Path("text").rglob("*")) if path.is_file())
        state = {"argv": sys.argv[1:], "text": text, "epochs": 0, "job": option("--job"), "name": option("--name")}
        (run / "config.json").write_text(json.dumps(state))
    state = json.loads((run / "config.json").read_text())
    if state["text"] == "fail":
        print("warning: x\nerror: the corpus is too short", file=sys.stderr)
        return 1
    if state["text"] == "crash":
        with (models / "crashes").open("a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    while state["epochs"] < EPOCHS:
        while not (models / "go-on").exists():
            if stopped:
                return 143
            time.sleep(0.01)
        state["epochs"] += 1
        (run / "config.json").write_text(json.dumps(state))
        epoch = {"event": "epoch", "epoch": state["epochs"], "is_best": True, "train_loss": 2.0, "validation_loss": 2.1}
        update = {"event": "update", "epoch": state["epochs"], "train_loss": 2.0, "tokens": 10, "seconds_left": 5.0}
        with Path(option("--progress-file")).open("a") as file:
            file.write(json.dumps(update) + "\n" + json.dumps(epoch) + "\n")
        if state["text"] in ("kills", "terms"):
            end(state["text"])
        if state["text"] == "once" and state["epochs"] == 1:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
    # Exporters of two trainers may publish at the same time.
    for number in itertools.count(1):
        extra = models / state["name"] / str(number) / "assets.extra"
        with contextlib.suppress(FileExistsError):
            extra.mkdir(parents=True)
            break
    card = extra / "generator.json"
    card.write_text(json.dumps({"training": {"settings": {"job": state["job"], "argv": state["argv"]}}}))
    if state["text"] == "unlisted":
        os.kill(os.getpid(), signal.SIGKILL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
