"""Examples in the OpenAPI document: requests to a small model, its responses, and one error of each status.

The model is `demo` of `make run`. Long lists are shortened. Tests validate the examples and compare them with real
responses.
"""

import json
from typing import Any

from contract.tokenizer import CharacterTokenizer
from contract.tokenizers.pretrained import tokenizer_config, tokenizer_json
from service.errors import (
    BodyTimeout,
    BodyTooLarge,
    ClientGone,
    Conflict,
    CrossOrigin,
    DeadlineExceeded,
    GatewayError,
    HostNotAllowed,
    InternalError,
    InvalidRequest,
    ModelLoading,
    ModelNotFound,
    Overloaded,
    StateRefused,
    Unauthorized,
)

MODEL = "demo"
_VERSION: dict[str, Any] = {"model": MODEL, "version": 1}
_FINGERPRINT = {"system_fingerprint": "fp_5b8dafb7ac523165"}
_BATCH_SIZES = [8, 16, 24, 32, 40, 48, 56, 64]
_MODEL_FACTS = {
    "id": MODEL,
    "object": "model",
    "created": 1795778581,
    "owned_by": "sostenuto",
    "root": MODEL,
    "parent": None,
    "provenance": None,
    "corpus": "shakespeare",
    "validation_loss": 1.353,
    "trained_s": 162.4,
    "discoveries": [
        {"feature": "brackets", "layer": 1, "kind": "cell", "unit": 451, "ranked": 0.81, "validated": 0.79}
    ],
    "max_model_len": None,
    "version": 1,
    **_FINGERPRINT,
    "cell": "lstm",
    "layers": 1,
    "units": 512,
    "unit": "character",
    "direction": "forward",
    "context": None,
    "vocab_size": 75,
    "precision": "bfloat16",
    "batch_sizes": _BATCH_SIZES,
    "deterministic": True,
}
_SERVED_VERSION: dict[str, Any] = {"version": 1, "labels": ["stable"], "share": 0.9}
_CANARY = {"version": 2, "labels": ["canary"], "share": 0.1}
_DETAILS = {
    **_SERVED_VERSION,
    "created": 1795778581,
    "parameters": 1280587,
    "size_bytes": 11862400,
    "weights_bytes": 5122348,
    "validation_loss": 1.353,
    "bits_per_character": 1.952,
    "accuracy": 0.586,
    "corpus": "shakespeare",
    "corpus_characters": 5283795,
    "parent": None,
    "sample": {"temperature": 0.5, "given": "KING.\n", "text": "I will not stay the way to see the king"},
}
_ROUTING = {"labels": {"stable": 1, "canary": 2}, "shares": {"stable": 90.0, "canary": 10.0}, "unloaded": []}
_MODEL_ROUTING = {
    "id": MODEL,
    "object": "model.routing",
    "version": 1,
    "versions": [_SERVED_VERSION, _CANARY],
    **_ROUTING,
}
_FILE = {
    "id": "file-5f0e3c9a2b7d41e6a8c0d9f1",
    "object": "file",
    "bytes": 1115394,
    "created_at": 1795926016,
    "expires_at": 1798518016,
    "filename": "book.txt",
    "purpose": "fine-tune",
    "status": "processed",
    "status_details": None,
}
_HYPERPARAMETERS = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
_JOB: dict[str, Any] = {
    "id": "ftjob-1a854581b005bc998feb39c7",
    "object": "fine_tuning.job",
    "created_at": 1795926030,
    "finished_at": None,
    "estimated_finish": 1795926214,
    "status": "running",
    "error": None,
    "model": "characters-3-minutes",
    "fine_tuned_model": None,
    "version": None,
    "organization_id": "",
    "training_file": _FILE["id"],
    "validation_file": None,
    "result_files": [],
    "seed": 0,
    "trained_tokens": 98304,
    "trained_s": 6.5,
    "hyperparameters": _HYPERPARAMETERS,
    "method": {"type": "supervised", "supervised": {"hyperparameters": _HYPERPARAMETERS}},
    "settings": {"seed": 0, "max_minutes": 2.9},
    "user_provided_suffix": "book",
    "integrations": [],
    "metadata": None,
}
_EVENT = {
    "id": "ftevent-1a854581b005bc998feb39c7-9",
    "object": "fine_tuning.job.event",
    "created_at": 1795926061,
    "level": "info",
    "type": "metrics",
    "message": "epoch 1: training loss 2.711, validation loss 2.336, best so far",
    "data": {
        "epoch": 1,
        "is_best": True,
        "sample": "[lest that be process of thy] had cout susse, his lor the at of nor",
        "train_loss": 2.711,
        "validation_loss": 2.336,
        "accuracy": 0.33,
        "tokens": 249600,
        "seconds": 8.2,
    },
}
_CHECKPOINT = {
    "id": "ftckpt-1a854581b005bc998feb39c7",
    "object": "fine_tuning.job.checkpoint",
    "created_at": 1795926214,
    "fine_tuned_model_checkpoint": "book:1",
    "fine_tuning_job_id": _JOB["id"],
    "step_number": 7,
    "metrics": {"step": 7, "train_loss": 1.31, "valid_loss": 1.442, "valid_mean_token_accuracy": 0.57},
}
UPLOAD = {"file": "HAMLET.\nTo be, or not to be: that is the question.\n", "purpose": "fine-tune"}
# By parameter in the path.
IN_PATH = {"name": MODEL, "file_id": _FILE["id"], "job_id": _JOB["id"]}
_TOKENIZER = CharacterTokenizer.train(["\n !"], end_token=True)
_COMPLETION = {
    "id": "cmpl-d863097b1d8d4c7aa49ca4bb714e19e3",
    "object": "text_completion",
    "created": 1795784759,
    **_VERSION,
    **_FINGERPRINT,
    "seed": 1,
}


def _choice(text: str, finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}


def _page(data: list[Any]) -> dict[str, Any]:
    return {"object": "list", "data": data, "has_more": False}


def _event(text: str, finish_reason: str | None) -> str:
    return f"data: {json.dumps({**_COMPLETION, 'choices': [_choice(text, finish_reason)]})}\n\n"


# By rule and title; the first one has the response below.
REQUESTS: dict[str, dict[str, dict[str, Any]]] = {
    "POST /v1/completions": {
        "Continue a prompt": {
            "model": MODEL,
            "prompt": "HAMLET.\n",
            "max_tokens": 60,
            "temperature": 0.5,
            "seed": 1,
        },
        "Match a regular expression": {
            "model": MODEL,
            "prompt": "",
            "max_tokens": 40,
            "n": 3,
            "seed": 1,
            "structured_outputs": {"regex": "[A-Z][a-z]{2,9} of [A-Z][a-z]{2,9}\\."},
        },
    },
    "POST /v1/embeddings": {"Two texts": {"model": MODEL, "input": ["HAMLET.", "OTHELLO."]}},
    "POST /v1/inspect": {
        "Two units": {"model": MODEL, "input": "The", "include": ["hidden"], "max_units": 2, "logprobs": 1}
    },
    "POST /tokenize": {"A text": {"model": MODEL, "prompt": "HAMLET.", "return_token_strs": True}},
    "POST /detokenize": {"Token ids": {"model": MODEL, "tokens": [28, 21, 33]}},
    "POST /v1/reports": {
        "Names": {"generated": ["anna", "bertha"], "training": ["anna", "berta"], "pattern": "[a-z]+"},
        "Rows of a table": {
            "generated": [{"city": "Ulm", "age": 31}],
            "training": [{"city": "Ulm", "age": 30}, {"city": "Bonn", "age": 44}],
        },
    },
    "PATCH /v1/models/{name}": {
        "Promote a version": {"labels": {"stable": 1}},
        "Give another version a tenth of the traffic": {
            "labels": {"canary": 2},
            "shares": {"stable": 90, "canary": 10},
        },
        "End the split": {"labels": {"canary": None}, "shares": {}},
    },
    "POST /v1/fine_tuning/jobs": {
        "A new model in three minutes": {
            "model": "characters-3-minutes",
            "training_file": _FILE["id"],
            "suffix": "book",
        },
        "Fine-tune a model": {
            "model": MODEL,
            "training_file": _FILE["id"],
            "settings": {"max_minutes": 1, "patience": 2},
        },
    },
}
RESPONSES: dict[str, dict[str, Any]] = {
    "POST /v1/completions": {
        **_COMPLETION,
        "choices": [_choice("I am a fearful infirmity in the master.\n\nDOLABELLA.\nI am a g", "length")],
        "usage": {
            "prompt_tokens": 8,
            "completion_tokens": 60,
            "total_tokens": 68,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    },
    "POST /v1/embeddings": {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.6958858, 0.5482497, -0.10532981]},
            {"object": "embedding", "index": 1, "embedding": [0.7711429, 0.831783, -0.2080488]},
        ],
        **_VERSION,
        **_FINGERPRINT,
        "usage": {"prompt_tokens": 15, "total_tokens": 15},
    },
    "POST /v1/inspect": {
        "object": "inspection",
        **_VERSION,
        **_FINGERPRINT,
        "expected": {" ": -0.2593045},
        "token_ids": [40, 56, 53],
        "tokens": ["T", "h", "e"],
        "token_logprobs": [None, -2.8866625, -1.1644363],
        "top_logprobs": [None, {"I": -1.1792636, "h": -2.8866625}, {"e": -1.1644363}],
        "text_offset": [0, 1, 2],
        "positions": [0, 1, 2],
        "layers": [
            {
                "layer": 1,
                "units": [0, 511],
                "values": {
                    "hidden": [[0.08064868, 0.070884585], [-0.18070485, -0.3147619], [-0.42569163, 0.00006081275]]
                },
            }
        ],
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    },
    "GET /v1/models/{name}/embedding/neighbors": {
        "object": "list",
        **_VERSION,
        "token_id": 53,
        "token": "e",
        "data": [
            {"token_id": 25, "token": "E", "cosine": 0.603744},
            {"token_id": 8, "token": "&", "cosine": 0.338008},
            {"token_id": 13, "token": "2", "cosine": 0.333681},
        ],
    },
    "GET /v1/models/{name}/tokenizer/tokenizer.json": tokenizer_json(_TOKENIZER),
    "GET /v1/models/{name}/tokenizer/tokenizer_config.json": tokenizer_config(_TOKENIZER),
    "GET /v1/models/{name}/embedding/map": {
        "object": "embedding_map",
        **_VERSION,
        "token_ids": [3, 4, 5],
        "tokens": ["\n", " ", "!"],
        "x": [0.47512, 1.75432, -2.05345],
        "y": [-0.21835, -1.24066, 0.58242],
        "explained": [0.171145, 0.122725],
    },
    "GET /v1/models": {"object": "list", "data": [{**_MODEL_FACTS, "versions": [_SERVED_VERSION, _CANARY]}]},
    "GET /v1/models/{name}": {
        **_MODEL_FACTS,
        "versions": [_DETAILS, {**_DETAILS, **_CANARY, "parent": f"{MODEL}:1"}],
        **_ROUTING,
    },
    "PATCH /v1/models/{name}": _MODEL_ROUTING,
    "POST /v1/models/{name}/rollback": {**_MODEL_ROUTING, "labels": {"stable": 1, "canary": 2, "previous": 2}},
    "DELETE /v1/models/{name}": {"id": MODEL, "object": "model", "deleted": True},
    "POST /tokenize": {
        "count": 7,
        "tokens": [28, 21, 33, 32, 25, 40, 12],
        "token_strs": ["H", "A", "M", "L", "E", "T", "."],
        "max_model_len": None,
    },
    "POST /detokenize": {"prompt": "HAM"},
    "GET /tokenizer_info": {
        "tokenizer_class": "CharacterTokenizer",
        **_VERSION,
        "unit": "character",
        "vocab_size": 75,
        "bos_token": "<end>",
        "eos_token": "<end>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "chat_template": None,
        "vocabulary": [
            {"token_id": 0, "token": "<pad>", "special": True},
            {"token_id": 1, "token": "<unk>", "special": True},
            {"token_id": 2, "token": "<end>", "special": True},
        ],
    },
    "POST /v1/reports": {
        "object": "report",
        "schema_version": 1,
        "sostenuto_version": "0.1.0",
        "created_at": "2026-11-29T12:00:00+00:00",
        "seed": 0,
        "checks": ["pattern"],
        "training": {"name": "training", "records": 2, "distinct": 2},
        "compared_records": 2,
        "length_edges": [4, 5, 6, 7],
        "generated": {
            "name": "generated",
            "records": 2,
            "valid": 2,
            "valid_share": 1.0,
            "novel": 1,
            "novel_share": 0.5,
        },
        "held_out": None,
        "notes": ["No held-out records were given: there is no ceiling."],
        "summary": "       generated\nvalid     100.0%  by pattern\nnovel      50.0%  of the distinct ones",
        "html": None,
    },
    "POST /v1/files": _FILE,
    "GET /v1/files": {**_page([_FILE]), "first_id": _FILE["id"], "last_id": _FILE["id"]},
    "GET /v1/files/{file_id}": _FILE,
    "DELETE /v1/files/{file_id}": {"id": _FILE["id"], "object": "file", "deleted": True},
    "POST /v1/fine_tuning/jobs": _JOB,
    "GET /v1/fine_tuning/jobs": {
        **_page([_JOB]),
        "training_minutes": {"limit": 1440.0, "trained": 12.5, "reserved": 2.9},
    },
    "GET /v1/fine_tuning/jobs/{job_id}": _JOB,
    "POST /v1/fine_tuning/jobs/{job_id}/cancel": _JOB,
    "POST /v1/fine_tuning/jobs/{job_id}/pause": _JOB,
    "POST /v1/fine_tuning/jobs/{job_id}/resume": {**_JOB, "status": "queued", "estimated_finish": None},
    "GET /v1/fine_tuning/jobs/{job_id}/events": _page([_EVENT]),
    "GET /v1/fine_tuning/jobs/{job_id}/checkpoints": {
        **_page([_CHECKPOINT]),
        "first_id": _CHECKPOINT["id"],
        "last_id": _CHECKPOINT["id"],
    },
    "GET /v1/status": {
        "status": "ok",
        "version": "0.1.0",
        "uptime_s": 27.4,
        "models": [
            {
                "id": MODEL,
                "version": 1,
                **_FINGERPRINT,
                "precision": "bfloat16",
                "batch_sizes": _BATCH_SIZES,
                "running": 0,
                "waiting": 0,
            }
        ],
        "sequences": {"accepted": 0, "max": 384},
        "tokens": {"accepted": 0, "max": 4000000},
        "memory": {"accepted": 0, "max": 402653184},
        "backends": [{"address": "127.0.0.1:8500", "ejected_because": None, "config_drift": None}],
    },
    "GET /readyz": {"status": "ready", "num_models": 1, "models": [MODEL]},
    "GET /healthz": {"status": "ok"},
    "GET /version": {"version": "0.1.0"},
}
STREAM = "".join(
    (
        _event("I am a fearful i", None),
        _event("nfirmity in the master.\n\nDOLABELLA.\nI am a g", "length"),
        "data: [DONE]\n\n",
    )
)

# Error responses by status; each message says what the status means.
ERRORS: dict[int, GatewayError] = {
    error.status: error
    for error in (
        InvalidRequest("a field is invalid; `param` names it", param="temperature"),
        Unauthorized("the API key is missing or invalid"),
        CrossOrigin(
            "the request comes from a page of another origin, the key has not the endpoint's role, or the resume token "
            "belongs to another tenant"
        ),
        ModelNotFound("there is no such model", param="model"),
        Conflict("the state of the job or the model does not allow it, or a job needs the file or the model"),
        BodyTimeout("the body did not arrive in time"),
        StateRefused("the version of the resume token is no longer served", "state_outdated"),
        BodyTooLarge("the body exceeds the maximum size"),
        HostNotAllowed("the Host header names another server; see SOSTENUTO_ALLOWED_HOSTS"),
        Overloaded("the queue or the memory for requests is full, or a limit is reached; see Retry-After"),
        ClientGone(),
        InternalError("an internal error of the gateway or the model server"),
        ModelLoading("the model is not loaded, no backend is available, or the server is draining; see Retry-After"),
        DeadlineExceeded("the request's deadline, timeout_s, has passed"),
    )
}
