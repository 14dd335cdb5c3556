"""The deployment's settings: read once in a main from SUPERBATCH_* variables and passed in.

Nothing here may change the bytes of a list, except what enters the numerics profile (`threads_per_worker`,
`composer_threads`, `micro_batch`), which is recorded at the start of a job.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from superbatch_server.schemas.attempts import Runtime
from superbatch_server.schemas.base import RootName
from superbatch_server.schemas.uploads import UPLOADS_ROOT

PREFIX = "SUPERBATCH_"

CLIENT_KEYS = frozenset({"SUPERBATCH_URL", "SUPERBATCH_TOKEN"})
"""Keys that the command line's client reads; they may stand in the same shell and mean nothing here."""

DRIVER_COMMAND = (sys.executable, "-m", "superbatch_server.workers.driver")

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Threads = Annotated[int, Field(ge=1, le=1024)]


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def as_url(location: str) -> str:
    """Return `location` as a URL: a plain path becomes the file URL of its absolute form."""
    if "://" in location:
        return location
    return _absolute(Path(location)).as_uri()


def _http_url(address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"the address of a Ray cluster must be like http://ray-head:8265; got {address!r}")
    return address.rstrip("/")


class Settings(BaseSettings):
    """Everything a deployment may choose; each field is the variable SUPERBATCH_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", validate_default=True)

    data_dir: Annotated[Path, AfterValidator(_absolute)] = Field(
        default=Path("~/.local/share/superbatch"), description="Folder of the catalog, token, logs and scratch files."
    )
    token_file: Annotated[Path, AfterValidator(_absolute)] = Field(
        default_factory=lambda fields: fields["data_dir"] / "token",
        description="File that holds the deployment's token; default: made in data_dir.",
    )
    database_password_file: Annotated[Path, AfterValidator(_absolute)] | None = Field(
        default=None, description="File that holds the password of database_url, which then names none."
    )
    database_url: SecretStr = Field(
        default_factory=lambda fields: SecretStr(f"sqlite:///{fields['data_dir']}/catalog.sqlite"),
        description="SQLAlchemy URL of the catalog; default: SQLite in data_dir.",
    )
    store_url: Annotated[str, AfterValidator(as_url)] = Field(
        default_factory=lambda fields: str(fields["data_dir"] / "store"),
        description="URL or path under which everything that the service writes is kept; default: in data_dir.",
    )
    roots: dict[RootName, Annotated[str, AfterValidator(as_url)]] = Field(
        default_factory=dict, description="Named places that hold data: JSON, root name to URL or path."
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: Annotated[int, Field(ge=0, le=65_535)] = Field(default=8600, description="TCP port; 0 picks a free one.")
    allowed_hosts: tuple[str, ...] = Field(
        default=(), description="Further host names that requests may name: of a reverse proxy, of a container. JSON."
    )
    api_url: str | None = Field(
        default=None, description="URL by which drivers reach the API; default: host and port, on this machine."
    )
    cors_origins: tuple[str, ...] = Field(default=(), description="Origins that browsers may call from; none.")

    uploads_dir: Annotated[Path, AfterValidator(_absolute)] = Field(
        default_factory=lambda fields: fields["data_dir"] / "uploads",
        description="Folder of uploaded checkpoints, which drivers read too; default: in data_dir.",
    )
    upload_quota_bytes: Annotated[int, Field(ge=1)] = Field(
        default=64 << 30, description="Bytes that uploads of all jobs may take together."
    )
    upload_expiry_s: Annotated[float, Field(gt=0, le=31_536_000)] = Field(
        default=86_400.0, description="Seconds after which an upload that nobody went on with or pushed is removed."
    )
    uploads_kept: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=8, description="SUPERSEDED checkpoints of a job whose uploaded files are kept, newest first."
    )

    gc_min_age_s: Annotated[float, Field(ge=0, le=31_536_000)] = Field(
        default=86_400.0, description="Age in seconds that a file must have before `superbatch gc` removes it."
    )

    requests_per_s: Annotated[float, Field(gt=0, le=1_000_000)] = Field(
        default=2000.0, description="Requests a second that one credential may send; twice as many at once."
    )
    max_requests: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=1024, description="Requests of one credential that may be under way at the same time."
    )
    max_waiting: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=2048, description="Long polls of all credentials that may wait at the same time."
    )
    max_streams: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=256, description="Streams of server-sent events that may be open at the same time."
    )
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=4096, description="Connections to the API; what comes beyond is answered with 503."
    )
    open_metrics: bool = Field(
        default=False, description="Whether /metrics needs no credential; by default it needs one of scope read."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Form of the lines of the API's and the supervisor's log."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least important lines that are logged."
    )

    lease_s: Seconds = Field(default=30.0, description="Seconds after which a silent driver's job may be taken over.")
    heartbeat_s: Seconds = Field(default=10.0, description="Seconds between a driver's heartbeats.")
    first_heartbeat_s: Seconds = Field(
        default=30.0, description="Seconds that a driver has until its first heartbeat: its imports take several."
    )
    poll_s: Seconds = Field(default=0.5, description="Seconds between two looks of the supervisor at the queue.")
    max_running: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=2, description="Drivers that one supervisor runs at the same time."
    )
    max_crashes: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=5, description="Crashes in a row without progress after which a job FAILED."
    )
    stop_grace_s: Seconds = Field(
        default=10.0, description="Seconds between the request to a driver to stop and its killing."
    )
    idle_release_s: Seconds = Field(
        default=60.0, description="Seconds of waiting after which a driver frees the machine."
    )

    num_workers: Annotated[int, Field(ge=1, le=4096)] = Field(
        default_factory=lambda: min(2, os.cpu_count() or 1),
        description="Workers of an attempt; default: the machine's cores, at most 2.",
    )
    shards_per_task: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=1, description="Input shards that one Ray task takes."
    )
    threads_per_worker: Threads = Field(default=1, description="Threads of a worker; part of the numerics profile.")
    composer_threads: Threads = Field(default=1, description="Threads of the composer; part of the numerics profile.")
    micro_batch: Annotated[int, Field(ge=1, le=65_536)] = Field(
        default=64, description="Rows embedded at once; part of the numerics profile."
    )
    driver_command: tuple[str, ...] = Field(
        default=DRIVER_COMMAND, min_length=1, description="Command that runs one attempt of a job; JSON list."
    )

    runner: Literal["local", "ray_jobs"] = Field(
        default="local", description="Where drivers run: processes of this machine, or a Ray cluster by its Jobs API."
    )
    ray_address: Annotated[str, AfterValidator(_http_url)] | None = Field(
        default=None, description="URL of the Ray cluster's dashboard, for ray_jobs: http://host:8265."
    )
    ray_token: SecretStr | None = Field(default=None, description="Token of the Ray cluster (RAY_AUTH_MODE=token).")
    ray_token_file: Annotated[Path, AfterValidator(_absolute)] | None = Field(
        default=None, description="File that holds the token of the Ray cluster, instead of ray_token."
    )
    ray_entrypoint: tuple[str, ...] = Field(
        default=("python", *DRIVER_COMMAND[1:]),
        min_length=1,
        description="Command that runs one attempt on the Ray cluster; JSON list.",
    )
    ray_entrypoint_num_cpus: Annotated[float, Field(ge=0, le=1024)] = Field(
        default=0.0,
        description="CPUs of the Ray cluster that a driver holds beside its workers; with 0 it runs on the head.",
    )
    ray_entrypoint_num_gpus: Annotated[float, Field(ge=0, le=1024)] = Field(
        default=0.0, description="GPUs of the Ray cluster that a driver takes."
    )
    ray_scratch_dir: str = Field(
        default="/tmp/superbatch", description="Folder for temporary files on each machine of the Ray cluster."
    )
    ray_patience_s: Seconds = Field(
        default=30.0, description="Seconds without an answer of the Ray cluster after which its drivers count as lost."
    )

    @field_validator("database_url")
    @classmethod
    def _is_database_url(cls, url: SecretStr) -> SecretStr:
        if not urlsplit(url.get_secret_value()).scheme:
            raise ValueError(
                "database_url must be a SQLAlchemy URL; got a value without a scheme (SUPERBATCH_DATABASE_URL). "
                "Use sqlite:////absolute/path or postgresql+psycopg://user@host/name"
            )
        return url

    @field_validator("database_url")
    @classmethod
    def _with_password(cls, url: SecretStr, info: ValidationInfo) -> SecretStr:
        file = info.data.get("database_password_file")
        if file is None:
            return url
        parts = urlsplit(url.get_secret_value())
        user, _, host = parts.netloc.rpartition("@")
        login = f"{user.partition(':')[0]}:{quote(secret_of(file, setting='database_password_file'), safe='')}"
        return SecretStr(parts._replace(netloc=f"{login}@{host}").geturl())

    @field_validator("roots")
    @classmethod
    def _names_are_free(cls, roots: dict[str, str]) -> dict[str, str]:
        if UPLOADS_ROOT in roots:
            raise ValueError(
                f"a root may not be named {UPLOADS_ROOT!r}, as uploaded checkpoints are; got {roots[UPLOADS_ROOT]!r} "
                "(SUPERBATCH_ROOTS). Give it another name"
            )
        return roots

    @model_validator(mode="after")
    def _heart_beats_in_time(self) -> Settings:
        if self.heartbeat_s * 2 > self.lease_s:
            raise ValueError(
                f"heartbeat_s must be at most half of lease_s; got {self.heartbeat_s} and {self.lease_s} "
                "(SUPERBATCH_HEARTBEAT_S, SUPERBATCH_LEASE_S). One lost heartbeat must not lose a lease"
            )
        return self

    @model_validator(mode="after")
    def _runner_has_its_cluster(self) -> Settings:
        if self.runner == "ray_jobs" and self.ray_address is None:
            raise ValueError(
                "the runner ray_jobs needs the address of a cluster; got none (SUPERBATCH_RAY_ADDRESS). "
                "Set it to the URL of the cluster's dashboard, for example http://ray-head:8265"
            )
        return self

    @property
    def lease_ms(self) -> int:
        """Length of a lease in the catalog's unit."""
        return round(self.lease_s * 1000)

    @property
    def first_lease_ms(self) -> int:
        """Length of the lease that a claim gives."""
        return max(self.lease_ms, round(self.first_heartbeat_s * 1000))

    @property
    def service_url(self) -> str:
        """Address of the service for a process on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def driver_url(self) -> str:
        """Address of the service for a driver, which may run on another machine."""
        return (self.api_url or self.service_url).rstrip("/")

    @property
    def logs_dir(self) -> Path:
        """Folder of the drivers' logs."""
        return self.data_dir / "logs"

    def runtime(self) -> Runtime:
        """Return what a driver needs to know of the deployment."""
        return Runtime(
            roots={**self.roots, UPLOADS_ROOT: self.uploads_dir.as_uri()},
            store_url=self.store_url,
            scratch_dir=str(self.data_dir / "scratch"),
            lease_s=self.lease_s,
            heartbeat_s=self.heartbeat_s,
            num_workers=self.num_workers,
            shards_per_task=self.shards_per_task,
            threads_per_worker=self.threads_per_worker,
            composer_threads=self.composer_threads,
            micro_batch=self.micro_batch,
            idle_release_s=self.idle_release_s,
        )

    def environment(self) -> dict[str, str]:
        """Return the variables from which another process reads the same settings."""
        shown = self.model_dump(mode="json", exclude_none=True)
        secret = {name: value for name in shown if isinstance(value := getattr(self, name), SecretStr)}
        plain = shown | {name: value.get_secret_value() for name, value in secret.items()}
        return {
            PREFIX + name.upper(): value if isinstance(value, str) else json.dumps(value)
            for name, value in plain.items()
        }


def secret_of(file: Path, *, setting: str) -> str:
    """Return the one word that a secret's file holds; raise ValueError where it cannot be read or holds none."""
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"the file of a secret must be readable; got {error} ({PREFIX}{setting.upper()}). "
            "Mount or write it, readable by the service's user"
        ) from None
    if not secret or any(character.isspace() for character in secret):
        raise ValueError(
            f"the file of a secret must hold one word; {file} does not ({PREFIX}{setting.upper()}). "
            "Write the secret into it, alone"
        )
    return secret


def refuse_unknown_keys(environ: Mapping[str, str]) -> None:
    """Raise ValueError when `environ` holds a SUPERBATCH_* key that no setting reads: a typo must not pass silently."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | CLIENT_KEYS
    unknown = sorted(key for key in environ if key.upper().startswith(PREFIX) and key.upper() not in known)
    if unknown:
        raise ValueError(
            f"every {PREFIX}* variable must be a setting; got {', '.join(unknown)} (environment). "
            f"Remove or correct it; the settings are {', '.join(sorted(known))}"
        )


def read_settings(environ: Mapping[str, str] = os.environ, **overrides: object) -> Settings:
    """Return the settings of this process: `overrides` win over the environment, which wins over defaults."""
    refuse_unknown_keys(environ)
    return Settings(**overrides)  # type: ignore[arg-type]
