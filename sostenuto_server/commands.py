"""The server's commands of the program `sostenuto`: entry points of the group `sostenuto.commands`."""

from export.cli import (  # noqa: F401 - entry points
    compare,
    import_,
    list_versions,
    promote,
    publish,
    remove,
    resume,
    rollback,
    show,
    tune,
    verify,
    vocabulary,
)
from jobs.cli import trainer  # noqa: F401 - entry point
from service.cli import demo, doctor, keys, serve  # noqa: F401 - entry points
from sostenuto_server.training import train  # noqa: F401 - entry point
