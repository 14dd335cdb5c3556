"""A service in one process for API tests: a real catalog, roots and store in a folder, and a client with the token."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
from pathlib import Path
from typing import Any

import httpx2 as httpx
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Engine, event

from superbatch_server.schemas.attempts import CheckpointRef, CheckpointVerdict, SegmentStats, SourceCounts
from superbatch_server.schemas.errors import STATUS_OF_CODE
from superbatch_server.schemas.models import ModelManifest
from superbatch_server.service.app import create_app
from superbatch_server.service.catalog.checkpoints import give_verdict
from superbatch_server.service.catalog.consumers import log_digest_at
from superbatch_server.service.catalog.engine import read, write
from superbatch_server.service.catalog.lease import Attempt
from superbatch_server.service.catalog.models import finish_model, register_model
from superbatch_server.service.catalog.segments import commit_segment
from superbatch_server.service.context import Deployment
from superbatch_server.service.settings import Settings
from superbatch_server.service.upkeep.verification import model_digest, verify_pending
from superbatch_server.storage.roots import open_roots
from superbatch_server.storage.store import ArtifactStore, open_store
from tests.service.catalog.builders import DATASET_ID, claim_it, job, new_catalog, record_rows, segment_commit
from tests.service.postgres import shared_server

TOKEN = "token-of-the-tests"
URL = "http://127.0.0.1:8600"
Json = dict[str, Any]


def _forget_durability(dbapi_connection: Any, _record: object) -> None:
    dbapi_connection.execute("PRAGMA synchronous = OFF")  # a test outlives no power cut


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tar_of(num_samples: int, *, first: int = 0) -> bytes:
    """Return a tar of samples that nothing here decodes."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for number in range(first, first + num_samples):
            for suffix, data in (("png", b"picture"), ("txt", b"caption")):
                member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return content.getvalue()


def safetensors_of(value: float, **notes: str) -> bytes:
    """Return a weights file of one number."""
    header = {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}} | ({"__metadata__": notes} if notes else {})
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + struct.pack("<f", value)


_shared: list[FastAPI] = []


def _app_of(world: World) -> FastAPI:
    """Return the app that the tests share: FastAPI takes 60 ms to prepare the routes of a new one."""
    app = _shared[0] if _shared else world.make_app()
    _shared[:] = [app]
    roots = open_roots(world.settings.roots)
    app.state.deployment = Deployment(
        engine=world.engine, settings=world.settings, store=world.store, roots=roots, token=TOKEN
    )
    app.state.engine, app.state.settings = world.engine, world.settings
    return app


class World:
    """What a test talks to."""

    def __init__(self, folder: Path, *, engine: Engine | None = None, **settings: Any) -> None:
        """Make one over a catalog of its own, which it lets go of at the end, or over the one that is given."""
        self.data = folder / "data"
        self.data.mkdir()
        self.engine = engine or new_catalog(folder)
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _forget_durability)
        self.settings = Settings(
            data_dir=folder, roots={"pool": str(self.data), "empty": str(folder / "none")}, num_workers=1, **settings
        )
        self.store: ArtifactStore = open_store(self.settings.store_url)
        self.app = self.make_app() if settings else _app_of(self)
        self.client = self.client_with(Authorization=f"Bearer {TOKEN}")
        self.client.__enter__()  # one event loop for all requests of a test
        self.attempt: Attempt | None = None

    def make_app(self) -> FastAPI:
        """Return an app that only this test uses, so that it may be changed."""
        return create_app(engine=self.engine, settings=self.settings, store=self.store, token=TOKEN)

    def lose_catalog(self) -> None:
        """Take the database away for good."""
        self.engine.dispose()
        if self.engine.dialect.name == "postgresql":
            shared_server().sql(f"DROP DATABASE {self.engine.url.database} WITH (FORCE)")
        else:
            (self.settings.data_dir / "catalog.sqlite").unlink()
            (self.settings.data_dir / "catalog.sqlite").mkdir()

    def restart(self) -> None:
        """Go on with an app that knows nothing but what is on the disk and in the catalog."""
        self.app.state.deployment = Deployment(
            engine=self.engine,
            settings=self.settings,
            store=open_store(self.settings.store_url),
            roots=open_roots(self.settings.roots),
            token=TOKEN,
        )

    def client_with(self, **headers: str) -> TestClient:
        """Return a client with these headers only."""
        return TestClient(
            self.app, base_url=URL, headers=headers, raise_server_exceptions=False, follow_redirects=False
        )

    def close(self) -> None:
        """Let go of the catalog and the event loop."""
        self.client.__exit__()
        self.engine.dispose()

    def get(self, path: str, **options: Any) -> Json:
        """GET, which must succeed."""
        return answered(self.client.get(path, **options), 200)

    def post(self, path: str, body: Json, *, status: int = 202, **options: Any) -> Json:
        """POST, which must succeed."""
        return answered(self.client.post(path, json=body, **options), status)

    def put_file(self, key: str, content: bytes) -> str:
        """Write a file into the root `pool` and return its digest."""
        path = self.data / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return sha256(content)

    def verify(self) -> None:
        """Let the supervisor's part look at everything that is VERIFYING."""
        while verify_pending(self.engine, self.app.state.deployment.roots):
            pass

    def dataset(self, *, rows: tuple[int, ...] = (30, 20), **changes: Any) -> str:
        """Register a READY data set of one shard per number."""
        for number, num_samples in enumerate(rows):
            self.put_file(f"shard-{number}.tar", tar_of(num_samples, first=1000 * number))
        shards = [{"key": f"shard-{{0..{len(rows) - 1}}}.tar", "source": "emoji"}]
        found = self.post("/v1/datasets", {"name": "pool", "root": "pool", "shards": shards} | changes)
        self.verify()
        return str(found["id"])

    def file_ref(self, role: str, content: bytes, key: str | None = None) -> Json:
        """Write a file of a model and return its reference."""
        key = key or f"models/{sha256(content)[:12]}.{role}"
        return {"role": role, "root": "pool", "key": key, "sha256": self.put_file(key, content)}

    def model_files(self, *, weights: bytes | None = None, value: float = 1.0) -> list[Json]:
        """Return the references of a complete model."""
        return [
            self.file_ref("weights", safetensors_of(value) if weights is None else weights),
            self.file_ref("config", b'{"width": 8}'),
            self.file_ref("tokenizer", b'{"vocab": {}}'),
        ]

    def model(self, *, has_weights: bool = True) -> str:
        """Return a READY model whose files nobody reads; `test_models.py` registers real ones."""
        roles = ("config", "tokenizer", "weights") if has_weights else ("config", "tokenizer")
        files = [{"role": role, "root": "pool", "key": role, "sha256": sha256(role.encode())} for role in roles]
        manifest = ModelManifest.model_validate({"name": "reference", "family": "tiny", "files": files})
        with write(self.engine) as connection:
            model = register_model(connection, manifest)
            finish_model(connection, model.id, digest=model_digest(manifest))
        return model.id

    def spec(self, *, dataset: str | None = None, **changes: Any) -> Json:
        """Return a small uniform job, which needs no model; its data set has 100 rows that nobody reads."""
        selection = {"method": "uniform", "b": 4, "N": 1, "f": 0.5} | changes.pop("selection", {})
        return {"dataset": dataset or DATASET_ID, "selection": selection, "num_batches": 20} | changes

    def pushed_spec(self, **changes: Any) -> Json:
        """Return a job that curates with a pushed learner."""
        learned = {
            "reference": self.model(),
            "learner": {"model": self.model(has_weights=False), "updates": "pushed"},
            "selection": {"method": "joint", "b": 4, "N": 2, "f": 0.5} | changes.pop("selection", {}),
            "refresh": {"max_staleness": 10} | changes.pop("refresh", {}),
        }
        return self.spec(**(learned | changes))

    def submit(self, spec: Json | None = None) -> str:
        """Submit a job."""
        return str(self.post("/v1/jobs", spec or self.spec())["id"])

    def publish(
        self,
        job_id: str,
        num_segments: int = 1,
        *,
        per_source: dict[str, tuple[int, int]] | None = None,
        checkpoint: CheckpointRef | None = None,
        batches: int = 1,
        f: float = 0.5,
        B: int = 8,
    ) -> list[bytes]:
        """Publish segments as a driver does, with lists that are really in the store; return their contents."""
        if self.attempt is None or self.attempt.job_id != job_id:
            self.attempt = claim_it(self.engine)
            assert self.attempt.job_id == job_id
        counts = {
            name: SourceCounts(candidates=candidates, selected=selected)
            for name, (candidates, selected) in (per_source or {}).items()
        }
        stats = SegmentStats(
            per_source=counts,
            learnability_batch=[0.5] * batches,
            learnability_super_batch=[0.25] * batches,
            score_s=1.0,
            select_s=0.5,
            commit_s=0.1,
        )
        contents = []
        for _ in range(num_segments):
            row = job(self.engine, job_id)
            content = f"list from {row['next_seq']} of {job_id} ".encode() * 50
            record_rows(self.engine, self.attempt, row["next_seq"], batches)
            commit = segment_commit(
                row,
                row["next_seq"],
                batches,
                f=[f] * batches,
                B=[B] * batches,
                bytes=len(content),
                sha256=sha256(content),
                stats=stats,
                checkpoint=checkpoint,
                rule="checkpoint" if checkpoint else "no_learner",
                generation=checkpoint.generation if checkpoint else 0,
            )
            self.store.put_new(commit.list_key, content)
            with write(self.engine) as connection:
                commit_segment(connection, self.attempt, commit)
            contents.append(content)
        return contents

    def push(self, job_id: str, trained_seq: int, *, value: float | None = None) -> Json:
        """Push a checkpoint whose weights are one number."""
        file = self.file_ref("weights", safetensors_of(trained_seq if value is None else value))
        return self.post(f"/v1/jobs/{job_id}/checkpoints", {"trained_seq": trained_seq, "files": [file]})

    def verdict(self, job_id: str, checkpoint_id: str, *, ok: bool = True, reason: str | None = None) -> Json:
        """Give the verdict that a driver gives."""
        with write(self.engine) as connection:
            verdict = CheckpointVerdict(ok=ok, reason=reason)
            return give_verdict(connection, job_id, checkpoint_id, verdict).model_dump(mode="json")

    def log_digest(self, job_id: str, count: int) -> str:
        """Return the log digest that a trainer has after `count` batches."""
        with read(self.engine) as connection:
            return str(log_digest_at(connection, job_id, count))

    def report(self, job_id: str, trained_seq: int = 0, **changes: Any) -> Json:
        """Return a learner's report."""
        fields = {
            "role": "learner",
            "world_size": 2,
            "accumulation": 1,
            "read_ahead": 2,
            "checkpoint_every": 4,
            "delivered_seq": trained_seq,
            "trained_seq": trained_seq,
            "durable_seq": 0,
            "log_digest": self.log_digest(job_id, trained_seq),
            "ttl_s": 60,
        }
        return fields | changes

    def put_consumer(self, job_id: str, report: Json, name: str = "trainer") -> httpx.Response:
        """Send a report."""
        return self.client.put(f"/v1/jobs/{job_id}/consumers/{name}", json=report)


def answered(response: httpx.Response, status: int) -> Json:
    """Return the body of an answer that must have this status."""
    assert response.status_code == status, response.text
    body: Json = response.json()
    return body


def problem(response: httpx.Response, code: str, *said: str) -> Json:
    """Check an error: its body has the one form of all errors, and its detail says all of `said`. Return the body."""
    body: Json = response.json()
    assert body["code"] == code, body
    assert response.status_code == STATUS_OF_CODE[code] == body["status"]
    assert response.headers["content-type"] == "application/problem+json"
    assert body["type"] == f"urn:superbatch:problem:{code}"
    assert body["instance"] == response.request.url.path
    assert body["title"]
    assert "Traceback" not in response.text
    assert ";" in body["detail"], "a message is: rule; got value; where; what to do"
    for text in said:
        assert text in body["detail"], body["detail"]
    return body
