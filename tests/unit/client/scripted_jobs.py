"""A training job as a scripted server responds with it: its text, its states and its events."""

from tests.unit.client.scripted_responses import answer_json

TEXT = "It was the best of times,\nit was the worst of times.\n"
JOB = {"id": "ftjob-1", "object": "fine_tuning.job", "created_at": 5, "status": "queued", "seed": 0}
JOB |= {"model": "characters-3-minutes", "training_file": "file-1", "validation_file": None, "settings": {"seed": 0}}
JOB |= dict.fromkeys(("finished_at", "estimated_finish", "error", "fine_tuned_model", "version", "trained_tokens"))
SUCCEEDED = {**JOB, "status": "succeeded", "finished_at": 9, "fine_tuned_model": "book", "version": 2}


def uploaded(number=1):
    return answer_json({"id": f"file-{number}", "bytes": 3, "created_at": 4, "filename": "book.txt", "purpose": "x"})


def job_event(number, message, **data):
    fields = {"type": "metrics", "data": data} if data else {"type": "message"}
    return {"id": f"ftevent-1-{number}", "created_at": number, "level": "info", "message": message, **fields}


SAMPLE = {"temperature": 0.7, "given": "It was\nthe", "text": "best", "labels": {}}
EPOCH = {"is_best": True, "samples": [SAMPLE], "train_loss": 2.0, "validation_loss": 1.9, "tokens": 200}
EVENTS = [
    job_event(1, "the job is queued"),
    job_event(2, "training"),
    job_event(3, "epoch 1: training loss 2.500", epoch=1, train_loss=2.5, tokens=100, fraction=0.25, seconds_left=99.6),
    job_event(4, "epoch 1: training loss 2.000, validation loss 1.900, best so far", epoch=1, **EPOCH),
    job_event(5, "published book:2"),
]
