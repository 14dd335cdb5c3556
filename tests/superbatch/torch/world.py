"""The kit's sample job without sockets, and a loader's samples that say which row they are."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import httpx
import torch

from superbatch.conformance.sample_job import JOB, SampleJob
from superbatch.conformance.service import Request, SampleService
from superbatch.formats.canonical import JsonValue
from superbatch.log import BatchLog
from superbatch.reading import Example
from superbatch.torch.opening import OpenLog

TOKEN = "secret"
B = 24
NUM_BATCHES = 24


def to_sample(example: Example) -> dict[str, object]:
    """The uid of a row as a tensor, so that it goes through collate, pinning and the frameworks like any other."""
    assert example.a.startswith(b"\x89PNG"), "a transform that finds no picture"
    return {"uid": torch.tensor(list(example.uid)), "caption": example.b.decode()}


def in_memory(service: SampleService) -> OpenLog:
    """Opens logs of a sample service that answers without a socket."""

    def answer(request: httpx.Request) -> httpx.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        reply = service.answer(Request(request.method, request.url.raw_path.decode(), headers, request.content))
        return httpx.Response(reply.status, content=reply.body, headers=dict(reply.headers))

    client = httpx.Client(transport=httpx.MockTransport(answer))
    return partial(BatchLog, "http://127.0.0.1:1", JOB, token=TOKEN, client=client, wait_s=0.1)


def uids_of(batch: Mapping[str, object]) -> list[bytes]:
    """The uids that went through the samples of a batch, not those that it says it holds."""
    uids = batch["uid"]
    assert isinstance(uids, torch.Tensor)
    return [bytes(row.tolist()) for row in uids]


def own_uids(
    job: SampleJob, seq: int, rank: int, *, world_size: int, accumulation: int = 1, micro: int = 0
) -> list[bytes]:
    """What a rank must train in a micro-step, by hand: the contract's formula."""
    part = len(job.batches[seq]) // (world_size * accumulation)
    start = (rank * accumulation + micro) * part
    return list(job.batches[seq][start : start + part])


def state_at(job: SampleJob, seq: int) -> dict[str, JsonValue]:
    """The state of a trainer that trained the batches before `seq`."""
    return job.state_at(seq)
