"""The HTTP server: gunicorn's worker, its connections, listening sockets and client disconnects."""
