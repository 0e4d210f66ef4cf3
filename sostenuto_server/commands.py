"""The server's commands of the program `sostenuto`: entry points of the group `sostenuto.commands`."""

from export.cli import (
    compare,
    import_,
    list_versions,
    promote,
    publish,
    remove,
    resume,
    rollback,
    show,
    train,
    verify,
    vocabulary,
)
from service.cli import demo, doctor, keys, serve

__all__ = [
    "compare",
    "demo",
    "doctor",
    "import_",
    "keys",
    "list_versions",
    "promote",
    "publish",
    "remove",
    "resume",
    "rollback",
    "serve",
    "show",
    "train",
    "verify",
    "vocabulary",
]
