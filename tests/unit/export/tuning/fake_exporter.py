"""A stand-in of the exporter for trials: the validation loss is the dropout, and falls by 0.01 from one to the next."""

import json
import os
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path

command, *arguments = sys.argv[1:]
options = dict(argument.split("=", 1) for argument in arguments if argument.startswith("--") and "=" in argument)
pairs = dict(pairwise(arguments))
if command == "publish":
    if "--interrupted" in os.environ.get("FAKE", ""):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: None)
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(1)
    Path("published").write_text(json.dumps(arguments))
    sys.exit("--unpublished" in os.environ.get("FAKE", ""))
print(*arguments)
if "--fail" in os.environ.get("FAKE", ""):
    sys.exit("error: the loss is nan in epoch 1")
loss, evaluations = float(options["--dropout"]), int(pairs["--evaluations"])
with Path(pairs["--progress-file"]).open("a", buffering=1) as progress:
    for count in range(1, evaluations + 1):
        fraction = count / evaluations
        time.sleep(0.05)
        update = {"event": "update", "epoch": 1, "train_loss": loss, "tokens": 9, "fraction": fraction}
        evaluation = {"event": "evaluation", "fraction": fraction, "validation_loss": loss - 0.01 * count}
        progress.write(f"{json.dumps(update)}\n{json.dumps(evaluation)}\n")
    epoch = {"event": "epoch", "epoch": 1, "is_best": True, "validation_loss": loss - 0.01 * evaluations, "seconds": 1}
    progress.write(json.dumps(epoch) + "\n")
if "--hang" in os.environ.get("FAKE", ""):
    time.sleep(30)
