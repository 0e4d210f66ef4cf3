"""Static files of the pages: compressed, and at paths that name their content, so that browsers keep them."""

import functools
import gzip
import hashlib
import mimetypes
from pathlib import Path

from flask import Response, abort, request
from werkzeug.security import safe_join

_YEAR_S = 365 * 24 * 3600
_COMPRESSED_TYPES = frozenset({"text/css", "text/javascript", "application/javascript", "image/svg+xml"})


class StaticFiles:
    """The files of a directory.

    Attributes:
        version: A hash of all names and contents. A path that begins with it may be kept for a year; modules import
            each other by relative paths, and so from the same version.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        digest = hashlib.sha256()
        for path in sorted(path for path in directory.rglob("*") if path.is_file()):
            digest.update(str(path.relative_to(directory)).encode() + b"\0" + path.read_bytes())
        self.version = digest.hexdigest()[:16]

    def respond(self, name: str) -> Response:
        """Return a file, `name` or `version/name`; gzipped if the browser accepts that, or 304 if it has it."""
        version, _, rest = name.partition("/")
        is_versioned = version == self.version
        path = safe_join(str(self._directory), rest if is_versioned else name)
        if path is None or not Path(path).is_file():
            abort(404)
        mimetype = mimetypes.guess_type(path)[0] or "application/octet-stream"
        is_compressed = mimetype in _COMPRESSED_TYPES and request.accept_encodings["gzip"] > 0
        response = Response(_gzipped(path) if is_compressed else Path(path).read_bytes(), mimetype=mimetype)
        if mimetype in _COMPRESSED_TYPES:
            response.vary.add("Accept-Encoding")
        if is_compressed:
            response.content_encoding = "gzip"
        # A name alone may get another content with the next release.
        kept = f"public, max-age={_YEAR_S}, immutable" if is_versioned else "no-cache"
        response.headers["Cache-Control"] = kept
        response.set_etag(f"{self.version}-gzip" if is_compressed else self.version)
        response.make_conditional(request)
        return response


@functools.cache
def _gzipped(path: str) -> bytes:
    return gzip.compress(Path(path).read_bytes(), mtime=0)
