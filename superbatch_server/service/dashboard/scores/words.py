"""Sentences that several pages say."""

from __future__ import annotations

from superbatch_server.schemas.selection import Criterion, SelectionSpec
from superbatch_server.service.scored_batches.measures import Quantity
from superbatch_server.service.scored_batches.published import PublishedBatch

_RULES = {
    "checkpoint": "a checkpoint that the trainer pushed",
    "fixed": "fixed weights of the learner",
    "easy_reference": "the reference alone, before the first checkpoint",
    "uniform": "nobody, because the batch is uniform",
    "initial_weights": "the learner's initial weights, before the first checkpoint",
    "no_learner": "the reference alone: the job has no learner",
}


def amount(count: int, noun: str) -> str:
    """Return 1 batch, 2 batches, 1,200 rows."""
    plural = f"{noun}es" if noun.endswith("ch") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def measured_by(quantity: Quantity, selection: SelectionSpec) -> str:
    """Return what the quantity of the charts is."""
    if quantity is Quantity.SCORE:
        return (
            "This method reads no losses, so its own score is shown: of a chosen row in the round of its choice, "
            "of every other row in the last round."
        )
    probe = f"against a probe of {selection.probe_size or selection.b:,} candidates"
    how = probe if selection.loss == "softmax" else "alone (the diagonal of its loss)"
    return (
        f"{str(quantity).capitalize()} = {quantity.formula}, of each candidate {how}, before any row of its batch was "
        f"chosen ({selection.loss} loss)."
    )


def not_scored(batch: PublishedBatch, *, num_batches: int = 1) -> str:
    """Return why batches have no scores."""
    which = f"Batch {batch.seq:,} is" if num_batches == 1 else f"{num_batches:,} of the batches read are"
    return f"{which} uniform: rows were drawn at random, so no candidate has a loss or a score."


def scored_by(batch: PublishedBatch) -> str:
    """Return who scored a batch."""
    used = batch.checkpoint
    if not batch.is_scored:
        return _RULES["uniform"]
    if used is None:
        return _RULES[batch.row.rule]
    return (
        f"checkpoint {used.id}, generation {used.generation:,}, which had trained {amount(used.trained_seq, 'batch')}"
    )


def selected_by(batch: PublishedBatch) -> str:
    """Return how a batch was selected: method, criterion, noise."""
    row, criterion = batch.row, batch.criterion
    said = [row.method.value.replace("_", " ")]
    if criterion is not None:
        said.append(criterion.value.replace("_", " "))
    noise = f"drawn with Gumbel noise at gain {row.gain:g}" if batch.has_noise else "the best were taken, without noise"
    if not batch.is_scored:
        noise = "drawn at random"
    weights = ""
    if criterion is Criterion.LEARNABILITY and row.weights != (1.0, 1.0):
        weights = f"; weights {row.weights[0]:g} (learner) and {row.weights[1]:g} (reference)"
    return f"{', '.join(said)}; {noise}{weights}"


def missing_losses(quantity: Quantity | None) -> str:
    """Return why a batch's rows have a loss fewer than two, empty where they have both."""
    return {
        Quantity.EASE: "Scored by the reference alone, so there is no learner loss.",
        Quantity.HARDNESS: "Scored by the learner alone, so there is no reference loss.",
        Quantity.SCORE: "This method reads no losses; it has a score only.",
        None: "A uniform batch: no losses and no scores.",
    }.get(quantity, "")
