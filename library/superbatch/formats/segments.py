"""A segment of the batch log: one published batch list, and how it came about."""

from __future__ import annotations

from dataclasses import dataclass

from superbatch.formats.canonical import JsonObject, JsonValue
from superbatch.formats.errors import InvalidInput
from superbatch.formats.json_fields import JsonFields, as_fields

BEFORE_FIRST_RULES = ("easy_reference", "uniform", "initial_weights")


@dataclass(frozen=True, slots=True)
class ScoredWith:
    """The learner checkpoint that scored a segment.

    checkpoint: id of the checkpoint.
    trained_seq: batches of this job already in its weights.
    sha256: digest of its weights file, 64 hexadecimal digits.
    """

    checkpoint: str
    trained_seq: int
    sha256: str

    def to_json(self) -> dict[str, JsonValue]:
        """Return the checkpoint as a JSON object."""
        return {"checkpoint": self.checkpoint, "trained_seq": self.trained_seq, "sha256": self.sha256}


@dataclass(frozen=True, slots=True)
class Segment:
    """Batches [first_seq, first_seq + num_batches) of a job, as published.

    f, B: filter ratio and super-batch size per batch.
    list_link: where the batch list is, relative to the job's address or prefix ("lists/<name>"); JSON key "list".
    num_bytes, sha256: length and digest of the list file; JSON keys "bytes" and "sha256".
    generation: learner refreshes so far; 0 = before the first checkpoint.
    scored_with: the checkpoint that scored these batches; None where a rule stood in.
    rule: easy_reference, uniform or initial_weights where no checkpoint scored; None where one did or none is needed.
    log_digest_end: log digest after the last batch of the segment, 64 hexadecimal digits.
    """

    first_seq: int
    num_batches: int
    f: tuple[float, ...]
    B: tuple[int, ...]
    list_link: str
    num_bytes: int
    sha256: str
    generation: int
    scored_with: ScoredWith | None
    rule: str | None
    log_digest_end: str

    def __post_init__(self) -> None:
        if self.num_batches < 1 or not len(self.f) == len(self.B) == self.num_batches or min(self.B) < 1:
            raise InvalidInput(
                f"a segment has one f and one B >= 1 for each of its batches; got {len(self.f)}, {len(self.B)} "
                f"(smallest B {min(self.B, default=None)}) for {self.num_batches} (first_seq {self.first_seq}). "
                "Write the segment again."
            )

    @property
    def stop_seq(self) -> int:
        """The seq after the last batch of the segment."""
        return self.first_seq + self.num_batches

    def staleness(self, seq: int) -> int | None:
        """Return seq - trained_seq of the scoring checkpoint, in batches; None where no checkpoint scored."""
        return None if self.scored_with is None else seq - self.scored_with.trained_seq

    def to_json(self) -> dict[str, JsonValue]:
        """Return the segment as a JSON object."""
        return {
            "first_seq": self.first_seq,
            "num_batches": self.num_batches,
            "f": list(self.f),
            "B": list(self.B),
            "list": self.list_link,
            "bytes": self.num_bytes,
            "sha256": self.sha256,
            "generation": self.generation,
            "scored_with": None if self.scored_with is None else self.scored_with.to_json(),
            "rule": self.rule,
            "log_digest_end": self.log_digest_end,
        }

    @classmethod
    def from_json(cls, source: JsonObject | bytes | str, *, where: str = "segment") -> Segment:
        """Return the segment that `to_json` wrote; unknown keys are ignored.

        Raises:
            CorruptFile: not JSON, or a field missing or of another type.
        """
        return segment_from(as_fields(source, where=where))


def segment_from(fields: JsonFields) -> Segment:
    """Return the segment in an object that is part of a larger document."""
    scored_with = fields.optional_object("scored_with")
    num_batches = fields.integer("num_batches", minimum=1)
    return Segment(
        first_seq=fields.integer("first_seq"),
        num_batches=num_batches,
        f=fields.numbers("f", length=num_batches),
        B=fields.integers("B", length=num_batches),
        list_link=fields.text("list"),
        num_bytes=fields.integer("bytes", minimum=1),
        sha256=fields.sha256_hex("sha256"),
        generation=fields.integer("generation"),
        scored_with=None
        if scored_with is None
        else ScoredWith(
            checkpoint=scored_with.text("checkpoint"),
            trained_seq=scored_with.integer("trained_seq"),
            sha256=scored_with.sha256_hex("sha256"),
        ),
        rule=fields.optional_text("rule"),
        log_digest_end=fields.sha256_hex("log_digest_end"),
    )
