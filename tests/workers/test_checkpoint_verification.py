"""A pushed checkpoint that is no learner of this job, in each way that can be: REJECTED with one clear reason, and the
one before stays ACTIVE and goes on scoring. All through a real attempt: fetch, digest, load, embed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from superbatch.tiny.model import initial_model
from superbatch_server.schemas.attempts import CheckpointVerdict
from superbatch_server.schemas.models import FileRef

from .fakes import FakeService, attempt, spec_of
from .world import CONFIG, HUGE, World

State = dict[str, Tensor]
PUSHED = {"learner": {"model": "model_0123456789abcdef", "updates": "pushed"}}
NAN, INFINITY = float("nan"), float("inf")


@dataclass
class Verdicts(FakeService):
    """Keeps what a driver says about each checkpoint."""

    reasons: dict[str, str | None] = field(default_factory=dict)

    def verdict(self, checkpoint_id: str, verdict: CheckpointVerdict) -> None:
        """Keep the reason too."""
        self.reasons[checkpoint_id] = verdict.reason
        super().verdict(checkpoint_id, verdict)


def state() -> State:
    return initial_model(CONFIG, seed=5).state_dict()


def changed(change: Callable[[State], object]) -> Callable[[], bytes]:
    """Return what saves a learner after one change to its state dict."""

    def content() -> bytes:
        tensors = state()
        change(tensors)
        return save(tensors)

    return content


def to_dtype(dtype: torch.dtype) -> Callable[[], bytes]:
    return changed(lambda tensors: tensors.update({name: t.to(dtype) for name, t in tensors.items()}))


def pickled() -> bytes:
    return b"\x80\x04\x95" + bytes(200)


def poisoned(tensors: State) -> None:
    tensors["text_tower.3.bias"][:] = HUGE


BAD = {
    "a tensor is missing": (changed(lambda s: s.pop("logit_bias")), "invalid_weights", "missing 'logit_bias'"),
    "a tensor too many": (changed(lambda s: s.update(m=torch.zeros(2))), "invalid_weights", "unexpected 'm'"),
    "another shape": (
        changed(lambda s: s.update(logit_bias=torch.zeros(2))),
        "invalid_weights",
        "must have the shape []; got [2]",
    ),
    "fp64": (to_dtype(torch.float64), "invalid_weights", "must be fp32, fp16 or bf16; got torch.float64"),
    "integers": (to_dtype(torch.int32), "invalid_weights", "must be fp32, fp16 or bf16; got torch.int32"),
    "NaN": (changed(lambda s: s["text_tower.3.bias"].fill_(NAN)), "invalid_weights", "holds NaN or infinity"),
    "infinity": (
        changed(lambda s: s.update(logit_bias=torch.tensor(INFINITY))),
        "invalid_weights",
        "holds NaN or infinity",
    ),
    "embeddings that are not finite": (changed(poisoned), "not_finite", "all of 4 fixed rows"),
    "cut off": (lambda: save(state())[:-100], "invalid_weights", "safetensors"),
    "a header only": (lambda: save(state())[:8], "invalid_weights", "safetensors"),
    "a pickle": (pickled, "invalid_weights", "got a pickle (torch.save)"),
    "weights of a model far larger": (
        changed(lambda s: s.update(extra=torch.zeros(1 << 22))),
        "invalid_weights",
        "at most 10",
    ),
    "wrapped twice": (
        changed(lambda s: s.update({f"module.{name}": tensor.clone() for name, tensor in s.items()})),
        "invalid_weights",
        "comes twice",
    ),
}


def pushed_second(world: World, content: bytes, *, digest: str | None = None) -> Verdicts:
    """Run a job whose trainer pushes a good checkpoint first and this content then; return the service after it."""
    good = world.checkpoint("good", seed=5)
    path = world.folder / "models" / "second" / "model.safetensors"
    path.parent.mkdir()
    path.write_bytes(content)
    found = digest or sha256(content).hexdigest()
    file = FileRef(role="weights", root="models", key="second/model.safetensors", sha256=found)

    def trainer(service: FakeService) -> int:
        if not service.checkpoints:
            service.push("good", good, trained_seq=0)
        elif len(service.checkpoints) == 1 and service.next_seq == 2:
            service.push("second", file, trained_seq=2)
        return service.next_seq

    service = Verdicts(spec_of(**PUSHED, refresh={"max_staleness": 100}, num_batches=4), trainer=trainer)
    assert attempt(world, service, num_fixed_rows=4) == "published"
    return service


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_learner_is_rejected_and_the_old_one_scores_on(world: World, name: str) -> None:
    content, code, said = BAD[name]
    service = pushed_second(world, content())
    assert {c.id: str(c.state) for c in service.checkpoints} == {"good": "ACTIVE", "second": "REJECTED"}
    reason = service.reasons["second"]
    assert reason is not None
    assert reason.startswith(f"{code}: ")
    assert said in reason
    assert [row.checkpoint.id for row in service.published_rows() if row.checkpoint] == ["good"] * 4


def test_a_file_that_changed_after_its_push_is_rejected_by_its_digest(world: World) -> None:
    service = pushed_second(world, save(state()), digest=sha256(b"what was pushed").hexdigest())
    assert service.reasons["second"] is not None
    assert service.reasons["second"].startswith("digest_mismatch: ")
    assert [row.checkpoint.id for row in service.published_rows() if row.checkpoint] == ["good"] * 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_wrapped_names_are_taken(world: World, dtype: torch.dtype) -> None:
    service = pushed_second(world, save({f"module.{name}": t.to(dtype) for name, t in state().items()}))
    assert {c.id: str(c.state) for c in service.checkpoints} == {"good": "ACTIVE", "second": "ACTIVE"}
    assert [row.checkpoint.id for row in service.published_rows() if row.checkpoint][-1] == "second"
