"""The gateway's settings: each with its default, unit and bounds; read once, at the start."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


def _address(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536 or "," in value:
        raise ValueError("must be one host:port")
    return value


class Settings(BaseSettings):
    """Read from `OSTINATO_<NAME>` in the environment, then from the file that `OSTINATO_ENV_FILE` names."""

    model_config = SettingsConfigDict(env_prefix="OSTINATO_", frozen=True, extra="ignore", allow_inf_nan=False)

    backends: Annotated[str, AfterValidator(_address)] = Field(
        "127.0.0.1:8500", description="address of the model server, host:port"
    )
    models_dir: Path = Field(Path("models"), description="the model repository, as the model server sees it")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    max_running: int = Field(128, ge=1, le=4096, description="texts in the making at once")
    max_queued: int = Field(256, ge=0, le=65536, description="texts that may wait beyond those; more are answered 429")
    max_calls: int = Field(2, ge=1, le=256, description="calls to the model server at once; its number of cores")
    max_chunk: int = Field(128, ge=1, le=128, description="tokens that one call draws for a text at most")
    max_tokens: int = Field(100_000, ge=1, description="largest max_tokens of a request")
    max_prompt_tokens: int = Field(131_072, ge=1, description="longest prompt, in tokens")
    max_body_bytes: int = Field(4 * 2**20, ge=1024, description="largest request body, in bytes")
    call_timeout_s: float = Field(30.0, gt=0, description="deadline of one call to the model server, in seconds")
    backend_grace_s: float = Field(
        30.0, ge=0, description="seconds that a text waits for a model server that does not answer"
    )
    poll_s: float = Field(1.0, gt=0, description="seconds between two looks for new versions")
    drain_s: float = Field(30.0, ge=1, description="seconds that accepted requests have after SIGTERM")


class SettingsError(ValueError):
    """A setting is wrong; the message names it."""


def load_settings() -> Settings:
    """Read the settings.

    Raises:
        SettingsError: one is of the wrong type or out of its bounds.
    """
    file = os.environ.get("OSTINATO_ENV_FILE")
    if file is not None and not Path(file).is_file():
        raise SettingsError(f"OSTINATO_ENV_FILE: there is no file {file}")
    values: dict[str, Any] = {"_env_file": file}
    try:
        settings = Settings(**values)
        if "port" in settings.model_fields_set or "PORT" not in os.environ:
            return settings
        # PORT is what platforms that run containers set.
        return Settings(**values, port=os.environ["PORT"])
    except ValidationError as error:
        problems = (
            f"OSTINATO_{'_'.join(map(str, problem['loc'])).upper()}: {problem['msg']}, got {problem['input']!r}"
            for problem in error.errors()
        )
        raise SettingsError("; ".join(problems)) from error
