"""The manifest: the small JSON head of a job's batch log, which a trainer polls."""

from __future__ import annotations

from dataclasses import dataclass, field

from superbatch.formats.canonical import JsonObject, JsonValue
from superbatch.formats.errors import CorruptFile
from superbatch.formats.json_fields import FORMAT_VERSION, JsonFields, as_fields
from superbatch.formats.segments import ScoredWith, Segment, segment_from
from superbatch.formats.slices import SLICE_RULE

__all__ = ["ENDS", "Manifest", "NumericsProfile", "Policy", "Revoked", "ScoredWith", "Segment", "Variant"]

ENDS = ("complete", "cancelled", "failed")


@dataclass(frozen=True, slots=True)
class Variant:
    """How an example is shown to the model: resolution and patch in pixels, and its share of the full FLOPs."""

    resolution: int
    patch: int | None
    flops_fraction: float

    def to_json(self) -> dict[str, JsonValue]:
        """Return the variant as a JSON object."""
        return {"resolution": self.resolution, "patch": self.patch, "flops_fraction": self.flops_fraction}


@dataclass(frozen=True, slots=True)
class Policy:
    """How the batches of the job are selected.

    method, criterion, f: the value, or the schedule {"points", "between"} as submitted; criterion is None for uniform.
    b: rows of every batch. B: size of the largest super-batch; the sizes that were used stand in the segments.
    N: rounds of a joint selection. variants: what the column `variant` indexes, 0 = full; may be empty.
    slice_rule: how a batch is divided over ranks; "contiguous" = superbatch.formats.slices.
    loss, precision, first_round, probe_size, repetition_cap, max_cosine: as in the job spec; None, and not written,
        where the job has none or the service that took it did not know them.
    """

    method: str | JsonObject
    criterion: str | JsonObject | None
    b: int
    B: int
    f: float | JsonObject
    N: int
    variants: tuple[Variant, ...] = ()
    slice_rule: str = SLICE_RULE
    loss: str | None = None
    precision: str | None = None
    first_round: str | None = None
    probe_size: int | None = None
    repetition_cap: int | None = None
    max_cosine: float | None = None

    def to_json(self) -> dict[str, JsonValue]:
        """Return the policy as a JSON object."""
        later: dict[str, JsonValue] = {
            "loss": self.loss,
            "precision": self.precision,
            "first_round": self.first_round,
            "probe_size": self.probe_size,
            "repetition_cap": self.repetition_cap,
            "max_cosine": self.max_cosine,
        }
        return {
            "method": self.method,
            "criterion": self.criterion,
            "b": self.b,
            "B": self.B,
            "f": self.f,
            "N": self.N,
            "variants": [variant.to_json() for variant in self.variants],
            "slice_rule": self.slice_rule,
            **{name: value for name, value in later.items() if value is not None},
        }


@dataclass(frozen=True, slots=True)
class NumericsProfile:
    """The numerics under which a job's lists are reproduced byte by byte: a digest, and its parts for people."""

    digest: str
    parts: JsonObject = field(default_factory=dict)

    def to_json(self) -> dict[str, JsonValue]:
        """Return the profile as a JSON object: the parts, and the digest beside them."""
        return {**self.parts, "digest": self.digest}


@dataclass(frozen=True, slots=True)
class Revoked:
    """Published batches [first_seq, first_seq + num_batches) that hold a row excluded since."""

    first_seq: int
    num_batches: int
    reason: str

    def to_json(self) -> dict[str, JsonValue]:
        """Return the withdrawn range as a JSON object."""
        return {"first_seq": self.first_seq, "num_batches": self.num_batches, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Manifest:
    """The head of a job's log and a page of its segments.

    job, history_id: the job, and its log; a new history only when a log is lost.
    dataset_fingerprint, reference_digest, eligible_digest: 64 hexadecimal digits; the last two None where they do not
        apply or are not known yet.
    shard_table, next_link: links relative to the manifest's address; next_link (JSON key "next") leads to the segments
        after this page, None on the last one.
    oldest_seq, next_seq: batches [oldest_seq, next_seq) can be fetched now.
    end: None while the job may publish more, else complete, cancelled or failed. final_seq: all it will ever publish.
    segments: in order, without gaps between them; not more than fit 64 KiB.
    """

    job: str
    history_id: str
    dataset_fingerprint: str
    shard_table: str
    policy: Policy
    reference_digest: str | None
    eligible_digest: str | None
    numerics_profile: NumericsProfile | None
    oldest_seq: int
    next_seq: int
    end: str | None
    final_seq: int | None
    segments: tuple[Segment, ...]
    revoked: tuple[Revoked, ...] = ()
    next_link: str | None = None

    def to_json(self) -> dict[str, JsonValue]:
        """Return the manifest as a JSON object."""
        return {
            "format_version": FORMAT_VERSION,
            "job": self.job,
            "history_id": self.history_id,
            "dataset_fingerprint": self.dataset_fingerprint,
            "shard_table": self.shard_table,
            "policy": self.policy.to_json(),
            "reference_digest": self.reference_digest,
            "eligible_digest": self.eligible_digest,
            "numerics_profile": None if self.numerics_profile is None else self.numerics_profile.to_json(),
            "oldest_seq": self.oldest_seq,
            "next_seq": self.next_seq,
            "end": self.end,
            "final_seq": self.final_seq,
            "segments": [segment.to_json() for segment in self.segments],
            "revoked": [revoked.to_json() for revoked in self.revoked],
            "next": self.next_link,
        }

    @classmethod
    def from_json(cls, source: JsonObject | bytes | str, *, where: str = "manifest") -> Manifest:
        """Return the manifest that `to_json` wrote; unknown keys are ignored.

        Args:
            source: JSON text, or the object already parsed.
            where: name of the document, for messages.
        Raises:
            CorruptFile: not JSON, a field missing or of another type, an end without its final_seq, counts that
                contradict each other.
            UnsupportedVersion: another major version.
        """
        fields = as_fields(source, where=where)
        fields.check_version()
        end = None if fields.is_null("end") else fields.choice("end", ENDS)
        final_seq = fields.optional_integer("final_seq")
        if end is not None and final_seq is None:
            raise CorruptFile(f"final_seq must be given once end is; got null beside {end!r} ({where}).")
        next_seq = fields.integer("next_seq")
        segments = tuple(segment_from(segment) for segment in fields.objects("segments"))
        published = max((segment.stop_seq for segment in segments), default=next_seq)
        if published > next_seq or (end is not None and final_seq != next_seq):
            raise CorruptFile(
                f"next_seq must be the end of the segments, and final_seq once end is there; got next_seq {next_seq}, "
                f"segments up to {published}, final_seq {final_seq} ({where})."
            )
        profile = fields.optional_object("numerics_profile")
        return cls(
            job=fields.text("job"),
            history_id=fields.text("history_id"),
            dataset_fingerprint=fields.sha256_hex("dataset_fingerprint"),
            shard_table=fields.text("shard_table"),
            policy=policy_from(fields.object("policy")),
            reference_digest=fields.optional_sha256_hex("reference_digest"),
            eligible_digest=fields.optional_sha256_hex("eligible_digest"),
            numerics_profile=None if profile is None else _profile_from(profile),
            oldest_seq=fields.integer("oldest_seq"),
            next_seq=next_seq,
            end=end,
            final_seq=final_seq,
            segments=segments,
            revoked=tuple(_revoked_from(revoked) for revoked in fields.objects("revoked")),
            next_link=fields.optional_text("next"),
        )


def policy_from(fields: JsonFields) -> Policy:
    """Return the policy in an object that is part of a larger document."""
    return Policy(
        method=fields.text_or_object("method"),
        criterion=None if fields.is_null("criterion") else fields.text_or_object("criterion"),
        b=fields.integer("b", minimum=1),
        B=fields.integer("B", minimum=1),
        f=fields.number_or_object("f"),
        N=fields.integer("N", minimum=1),
        variants=tuple(
            Variant(
                resolution=variant.integer("resolution", minimum=1),
                patch=variant.optional_integer("patch"),
                flops_fraction=variant.number("flops_fraction"),
            )
            for variant in fields.objects("variants")
        ),
        slice_rule=fields.text("slice_rule"),
        loss=fields.optional_text("loss"),
        precision=fields.optional_text("precision"),
        first_round=fields.optional_text("first_round"),
        probe_size=fields.optional_integer("probe_size"),
        repetition_cap=fields.optional_integer("repetition_cap"),
        max_cosine=None if fields.is_null("max_cosine") else fields.number("max_cosine"),
    )


def _profile_from(fields: JsonFields) -> NumericsProfile:
    parts = {name: value for name, value in fields.value.items() if name != "digest"}
    return NumericsProfile(digest=fields.text("digest"), parts=parts)


def _revoked_from(fields: JsonFields) -> Revoked:
    return Revoked(
        first_seq=fields.integer("first_seq"),
        num_batches=fields.integer("num_batches", minimum=1),
        reason=fields.text("reason"),
    )
