"""The parameters of one selection, and its result.

Letters: B candidates, b wanted rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from superbatch.selection.criteria import Criterion, criterion_weights
from superbatch.selection.errors import InvalidSelection

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int

Method = Literal["joint", "independent", "uniform", "hard_negatives", "gibbs", "greedy"]
Loss = Literal["sigmoid", "softmax"]
Sampling = Literal["gumbel", "top_k"]
FirstRound = Literal["probe", "diagonal"]
SoftmaxScore = Literal["conditional", "marginal"]
Precision = Literal["native", "bf16"]


@dataclass(frozen=True)
class SelectionSpec:
    """How to select b of the candidates; refuses bad values when made.

    `num_chunks` is N, the number of rounds of a joint selection. `gain` multiplies the score: a candidate is drawn
    with probability proportional to exp(gain * s_i + prior_i). `weights` are the sizes of the learner's and the
    reference's loss in the criterion; the criterion gives their signs. `sampling` is `gumbel` (draw) or `top_k` (take
    the best). `seed` is the job's, `seq` the position of the batch; the choice is a function of these and the
    candidates. `uniform` reads only b, f, seed, seq, the two exclusions of these and
    the candidates' prior: it is always drawn. Only `joint` and `hard_negatives` have rounds and read N.

    `loss` is the loss of both models. Under softmax with nothing chosen yet, an example is scored against a probe of
    `probe_size` candidates (None = b), or, with `first_round` = `diagonal`, by the bare difference of its own logits.
    `softmax_score` is `conditional` (the loss of i among the chosen; running sums) or `marginal` (the rise of the whole
    batch's criterion when i joins; for small B).

    `repetition_cap` excludes rows chosen that often before. `max_cosine` lets no two images into one batch whose
    cosine, under the reference (without one, under the learner), is at least this. The same content is never chosen
    twice.

    `precision`: `native` = products in the embeddings' own type, float32 at least; `bf16` = factors rounded to
    bfloat16, sums kept in float32. `num_iterations` bounds a Gibbs sampling; it stops earlier when its batch no longer
    improves.

    `f`, where it is given, is the share of the candidates thrown away: there must then be exactly
    `superbatch.formats.schedule.super_batch_size(b, f)` of them. None = as many as there are.
    """

    method: Method
    criterion: Criterion
    b: int
    num_chunks: int = 16
    gain: float = 1.0
    weights: tuple[float, float] = (1.0, 1.0)
    sampling: Sampling = "gumbel"
    seed: int = 0
    seq: int = 0
    loss: Loss = "sigmoid"
    probe_size: int | None = None
    first_round: FirstRound = "probe"
    softmax_score: SoftmaxScore = "conditional"
    repetition_cap: int | None = None
    max_cosine: float | None = None
    precision: Precision = "native"
    num_iterations: int = 2000
    f: float | None = None

    def __post_init__(self) -> None:
        for name, rule, holds in _RULES:
            if not holds(self):
                raise InvalidSelection(f"{rule}; got {getattr(self, name)!r} (selection.{name}, b = {self.b}).")
        criterion_weights(self.criterion, weights=self.weights)

    @property
    def has_rounds(self) -> bool:
        """True where the method draws its batch in N rounds."""
        return self.method in ("joint", "hard_negatives")


@dataclass(frozen=True, eq=False)
class Selection:
    """The batch that was chosen, and for every candidate why or why not.

    `chosen_index` are positions among the candidates in order of choice. For each candidate: `round` in which it was
    chosen, counted from 1, -1 = not chosen; `score`, s_i without noise or prior in that round (not chosen: in the
    last round); `perturbed`, what was compared there: gain * s_i + prior + noise, -inf where the candidate was
    excluded, or was like a row already in the batch.

    Where the candidates are split over processes, `chosen_index` are those of this process, and `chosen_place` is where
    each of them stands in the whole batch; None = the whole batch is here.
    """

    chosen_index: Int[np.ndarray, " b"]
    round: Int[np.ndarray, " B"]
    score: Float[np.ndarray, " B"]
    perturbed: Float[np.ndarray, " B"]
    chosen_place: Int[np.ndarray, " b"] | None = None


_Rule = tuple[str, str, Callable[[SelectionSpec], bool]]


def _one_of(name: str, names: object) -> _Rule:
    allowed = get_args(names)
    return name, f"{name} must be one of {', '.join(allowed)}", lambda s: _is_among(getattr(s, name), allowed)


def _is_among(value: object, allowed: tuple[object, ...]) -> bool:
    return isinstance(value, str) and value in allowed


def _is_whole(value: object) -> bool:
    """True and numpy's integers are refused too: neither has the bytes of which the noise is made."""
    return type(value) is int


def is_real(value: object) -> bool:
    """Return whether the value is a plain number; True is none, and NaN is one."""
    return isinstance(value, int | float) and not isinstance(value, bool)


# Rules of one field come in order: those of its type first. Comparisons with NaN are false.
_RULES: tuple[_Rule, ...] = (
    _one_of("method", Method),
    _one_of("criterion", Criterion),
    _one_of("loss", Loss),
    _one_of("sampling", Sampling),
    _one_of("first_round", FirstRound),
    _one_of("softmax_score", SoftmaxScore),
    _one_of("precision", Precision),
    ("b", "b must be at least 1, an int; ask for one row or more", lambda s: _is_whole(s.b) and s.b >= 1),
    (
        "num_chunks",
        "N must be in [1, b], an int; lower N or raise b",
        lambda s: _is_whole(s.num_chunks) and s.num_chunks >= 1 and (s.num_chunks <= s.b or not s.has_rounds),
    ),
    ("gain", "gain must be in [0, 1e6]; use 1 for the paper's", lambda s: is_real(s.gain) and 0 <= s.gain <= 1e6),
    (
        "weights",
        "weights must be two numbers; the criterion gives the signs, use (1, 1) for the plain difference",
        lambda s: isinstance(s.weights, tuple | list) and len(s.weights) == 2 and all(map(is_real, s.weights)),
    ),
    ("seed", "seed must fit in 64 bits without sign, an int", lambda s: _is_whole(s.seed) and 0 <= s.seed < 2**64),
    (
        "seq",
        "seq must fit in 64 bits without sign, an int; it counts from 0",
        lambda s: _is_whole(s.seq) and 0 <= s.seq < 2**64,
    ),
    (
        "probe_size",
        "probe_size must be at least 1, an int, or None for b",
        lambda s: s.probe_size is None or (_is_whole(s.probe_size) and s.probe_size >= 1),
    ),
    (
        "repetition_cap",
        "repetition_cap must be at least 1, an int, or None for no cap",
        lambda s: s.repetition_cap is None or (_is_whole(s.repetition_cap) and s.repetition_cap >= 1),
    ),
    (
        "max_cosine",
        "max_cosine must be in (0, 1], or None; 0.95 keeps all but near-copies",
        lambda s: s.max_cosine is None or (is_real(s.max_cosine) and 0 < s.max_cosine <= 1),
    ),
    (
        "max_cosine",
        "hard_negatives needs max_cosine, or it would fill the batch with near-copies; use 0.95",
        lambda s: s.method != "hard_negatives" or s.max_cosine is not None,
    ),
    (
        "num_iterations",
        "num_iterations must be in [1, 1e6], an int; the paper needed about 2000",
        lambda s: _is_whole(s.num_iterations) and 1 <= s.num_iterations <= 10**6,
    ),
    (
        "f",
        "f must be in [0, 1), or None; 0.8 keeps one in five",
        lambda s: s.f is None or (is_real(s.f) and 0 <= s.f < 1),
    ),
)
