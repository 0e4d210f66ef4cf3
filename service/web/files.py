"""The endpoints of uploaded files."""

from flask import Response, g, request
from werkzeug.wsgi import FileWrapper

from jobs.database import StoredFile
from jobs.operations import JobActive
from service.api.body import shorten
from service.api.training import DeletedObject, FileList, FileObject
from service.errors import Conflict, InvalidRequest, NotFound
from service.training import Training, require_training
from service.web.endpoint import TRAINING, Endpoint, QueryParameter, Services, integer

_PURPOSE = "fine-tune"
# Copies of a file while it is received: the worker's, and Werkzeug's buffer.
_RECEIVING_COPIES = 2
_BLOCK_BYTES = 2**16
AFTER = QueryParameter("after", "id of the last object of the page before")


@Endpoint("POST /v1/files", TRAINING, "Upload a file", (400, 404, 429), uploads=True)
def upload_file(services: Services) -> FileObject:
    """Upload a text to train on, as multipart/form-data with the fields `file` and `purpose`.

    The name decides the format: `.jsonl` (records with a field `text`, or `prompt` and `completion`), `.csv` (columns
    of these names), `.zip` (a directory of texts), any other: text in UTF-8.
    """
    training = require_training(services.training)
    g.context.charge_request()
    request.max_content_length = limit = services.settings.max_upload_bytes
    g.context.memory.hold(_RECEIVING_COPIES * min(limit, request.content_length or limit), "the body")
    purpose, file = request.form.get("purpose"), request.files.get("file")
    if purpose != _PURPOSE:
        raise InvalidRequest(f"purpose must be {_PURPOSE}, got {shorten(purpose)}", param="purpose")
    if file is None:
        raise InvalidRequest("file is required, as a part of multipart/form-data with a file name", param="file")
    stored = training.add_file(g.context.tenant, file.filename or "", file.stream)
    training.record("upload", g.context, file=stored.id, bytes=stored.bytes)
    return _file_object(stored, training)


@Endpoint(
    "GET /v1/files",
    TRAINING,
    "List files",
    (404,),
    query=(
        AFTER,
        integer("limit", "maximum number of files", 1, 10_000, 10_000),
        QueryParameter("order", "by creation", {"type": "string", "enum": ["asc", "desc"], "default": "desc"}),
        QueryParameter("purpose", "only files of this purpose"),
    ),
)
def list_files(services: Services, after: str | None, limit: int, order: str, purpose: str | None) -> FileList:
    """Return the files of the key's tenant."""
    training = require_training(services.training)
    found = training.store.list_files(g.context.tenant, after, limit, newest_first=order != "asc")
    if purpose not in (None, _PURPOSE):
        found = []
    data = [_file_object(file, training) for file in found[:limit]]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(found) > limit,
    }


@Endpoint("GET /v1/files/{file_id}", TRAINING, "Get a file", (404,))
def get_file(services: Services, file_id: str) -> FileObject:
    """Return the metadata of a file."""
    training = require_training(services.training)
    return _file_object(find_file(training, file_id), training)


@Endpoint("GET /v1/files/{file_id}/content", TRAINING, "Download a file", (404,))
def file_content(services: Services, file_id: str) -> Response:
    """Return the content of a file, as uploaded."""
    training = require_training(services.training)
    file = find_file(training, file_id)
    try:
        content = training.uploads.path(file_id).open("rb")
    except FileNotFoundError:
        raise _not_found(file_id) from None
    # A download, whatever a browser makes of its content.
    headers = {"Content-Disposition": "attachment", "Content-Length": str(file.bytes)}
    # The response closes the file.
    return Response(FileWrapper(content, _BLOCK_BYTES), mimetype="application/octet-stream", headers=headers)


@Endpoint("DELETE /v1/files/{file_id}", TRAINING, "Delete a file", (404, 409))
def delete_file(services: Services, file_id: str) -> DeletedObject:
    """Delete a file at once, unless a job that has not ended needs it."""
    training = require_training(services.training)
    try:
        if not training.store.remove_file(g.context.tenant, file_id):
            raise _not_found(file_id)
    except JobActive as error:
        raise Conflict(f"the job {error} needs the file; cancel it first", param="file_id") from error
    training.uploads.remove(file_id)
    training.record("delete_file", g.context, file=file_id)
    return {"id": file_id, "object": "file", "deleted": True}


def find_file(training: Training, file_id: str, param: str = "file_id") -> StoredFile:
    file = training.store.file(g.context.tenant, file_id)
    if file is None:
        raise _not_found(file_id, param)
    return file


def _not_found(file_id: str, param: str = "file_id") -> NotFound:
    return NotFound(f"there is no file {shorten(file_id)}", param=param)


def _file_object(file: StoredFile, training: Training) -> FileObject:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "expires_at": int(file.created_at + training.settings.max_file_age_s),
        "filename": file.filename,
        "purpose": "fine-tune",
        "status": "processed",
        "status_details": None,
    }
