"""The gateway process: gunicorn worker, connections, listening sockets, client disconnects."""
