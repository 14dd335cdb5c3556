"""The slow, obvious selection: full matrices, fp64, one index at a time, no torch. The truth for every fast path.

Letters: B candidates.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from superbatch.selection import Candidates, DualEmbeddings, SelectionSpec

SIGNS = {"learnability": (1, -1), "easy_reference": (0, -1), "hard_learner": (1, 0)}


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def pair_losses(model: DualEmbeddings) -> np.ndarray:
    """P_BB: row i is the image, column j the text."""
    image_BD, text_BD = model.image.double().numpy(), model.text.double().numpy()
    logits_BB = model.logit_scale * image_BD @ text_BD.T + model.logit_bias
    B = len(logits_BB)
    return np.array([[softplus(-logits_BB[i, j] if i == j else logits_BB[i, j]) for j in range(B)] for i in range(B)])


def criterion_matrix(candidates: Candidates, criterion: str, weights: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """S_BB = w_l P(learner) + w_r P(reference)."""
    S_BB = np.zeros((len(candidates), len(candidates)))
    models = (candidates.learner, candidates.reference)
    for sign, weight, model in zip(SIGNS[criterion], weights, models, strict=True):
        if sign * weight:
            S_BB += sign * weight * pair_losses(model)
    return S_BB


def softmax_logits(model: DualEmbeddings) -> np.ndarray:
    """L_BB without bias, as in CLIP: row i is the image, column j the text."""
    return np.asarray(model.logit_scale * model.image.double().numpy() @ model.text.double().numpy().T)


def softmax_loss(logits_BB: np.ndarray, i: int, others: Sequence[int]) -> float:
    """l_i in the set {i} + others; i counts once whether or not it is named again.

    LSE_j(L_ij) - L_ii = log(1 + sum over j other than i of e^(L_ij - L_ii)), which keeps the digits of small losses.
    """
    own, rest = logits_BB[i, i], [j for j in others if j != i]
    as_image = math.log1p(math.fsum(math.exp(logits_BB[i, j] - own) for j in rest))
    as_text = math.log1p(math.fsum(math.exp(logits_BB[j, i] - own) for j in rest))
    return (as_image + as_text) / 2


def softmax_set_loss(logits_BB: np.ndarray, members: Sequence[int]) -> float:
    return math.fsum(softmax_loss(logits_BB, i, members) for i in members)


def weighted_logits(candidates: Candidates, spec: SelectionSpec) -> list[tuple[float, np.ndarray]]:
    """(w, L_BB) of each model that counts."""
    models = (candidates.learner, candidates.reference)
    signed = zip(SIGNS[spec.criterion], spec.weights, models, strict=True)
    return [(sign * weight, softmax_logits(model)) for sign, weight, model in signed if sign * weight]


def softmax_criterion(candidates: Candidates, spec: SelectionSpec, members: Sequence[int]) -> float:
    return math.fsum(w * softmax_set_loss(logits_BB, members) for w, logits_BB in weighted_logits(candidates, spec))


def may_be_chosen(candidates: Candidates, i: int, *, repetition_cap: int | None = None) -> bool:
    if candidates.eligible is not None and not candidates.eligible[i]:
        return False
    if repetition_cap is not None and candidates.times_chosen is not None:
        return bool(candidates.times_chosen[i] < repetition_cap and may_be_chosen(candidates, i))
    return candidates.prior is None or bool(candidates.prior[i] != -math.inf)


def likeness(candidates: Candidates, spec: SelectionSpec) -> np.ndarray:
    """Which pairs may not be in one batch: of one content, or images too near under the reference, else the learner."""
    content = candidates.uid if candidates.content is None else candidates.content
    bytes_B = [row.tobytes() for row in content]
    like_BB = np.array([[one == other for other in bytes_B] for one in bytes_B])
    near = candidates.reference or candidates.learner
    if spec.max_cosine is not None and near is not None:
        like_BB |= image_cosines(near) >= spec.max_cosine
    return like_BB


def is_behind(candidates: Candidates, spec: SelectionSpec, i: int) -> bool:
    """Whether another row of the same uid and content goes before: a larger prior, then a smaller dataset_index."""
    content = candidates.uid if candidates.content is None else candidates.content

    def standing(k: int) -> tuple[float, int]:
        prior = 0.0 if candidates.prior is None else float(candidates.prior[k])
        allowed = may_be_chosen(candidates, k, repetition_cap=spec.repetition_cap)
        return (-prior if allowed else math.inf, int(candidates.dataset_index[k]))

    twins = [
        k
        for k in range(len(candidates))
        if (candidates.uid[k] == candidates.uid[i]).all() and (content[k] == content[i]).all()
    ]
    return min(twins, key=standing) != i


def image_cosines(model: DualEmbeddings) -> np.ndarray:
    image_BD = model.image.double().numpy()
    image_BD = image_BD / np.linalg.norm(image_BD, axis=1, keepdims=True)
    return np.asarray(image_BD @ image_BD.T)


def first_apart(ordered: Sequence[int], batch: Sequence[int], n: int, *, like_BB: np.ndarray) -> list[int]:
    """The first n of the ordered, those skipped that are like one of the batch or an earlier one of them."""
    new: list[int] = []
    for i in ordered:
        if len(new) < n and not any(like_BB[i, k] for k in [*batch, *new]):
            new.append(i)
    return new


def probe(candidates: Candidates, spec: SelectionSpec) -> list[int]:
    """The m with the largest round-0 noise among those that may be chosen."""
    allowed = [i for i in range(len(candidates)) if may_be_chosen(candidates, i, repetition_cap=spec.repetition_cap)]
    uids = [candidates.uid[i].tobytes() for i in range(len(candidates))]
    noise = {i: gumbel(spec.seed, spec.seq, 0, uids[i]) for i in allowed}
    return sorted(allowed, key=lambda i: (-noise[i], uids[i], candidates.dataset_index[i]))[: spec.probe_size or spec.b]


Scorer = Callable[[int, list[int]], float]


def scorer(candidates: Candidates, spec: SelectionSpec) -> Scorer:
    """The score of i given the chosen."""
    if spec.method == "uniform":
        return lambda i, chosen: 0.0
    if spec.method == "hard_negatives":
        return nearest_scorer(candidates)
    return softmax_scorer(candidates, spec) if spec.loss == "softmax" else sigmoid_scorer(candidates, spec)


def sigmoid_scorer(candidates: Candidates, spec: SelectionSpec) -> Scorer:
    S_BB = criterion_matrix(candidates, spec.criterion, spec.weights)
    return lambda i, chosen: S_BB[i, i] + sum(S_BB[k, i] + S_BB[i, k] for k in chosen)


def nearest_scorer(candidates: Candidates) -> Scorer:
    assert candidates.reference is not None
    logits_BB = softmax_logits(candidates.reference)
    return lambda i, chosen: max((max(logits_BB[i, k], logits_BB[k, i]) for k in chosen), default=0.0)


def softmax_scorer(candidates: Candidates, spec: SelectionSpec) -> Scorer:
    models = weighted_logits(candidates, spec)
    first_round = probe(candidates, spec)
    is_marginal = spec.method == "greedy" or spec.softmax_score == "marginal"

    def own_losses(i: int, others: list[int]) -> float:
        return sum(w * softmax_loss(logits_BB, i, others) for w, logits_BB in models)

    def score(i: int, chosen: list[int]) -> float:
        if not chosen and spec.first_round == "diagonal":
            return sum(w * -logits_BB[i, i] for w, logits_BB in models)
        if not chosen:
            return own_losses(i, first_round)
        if not is_marginal:
            return own_losses(i, chosen)
        return sum(
            w * (softmax_set_loss(logits_BB, [*chosen, i]) - softmax_set_loss(logits_BB, chosen))
            for w, logits_BB in models
        )

    return score


def mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def noise_hash(seed: int, seq: int, round_index: int, uid: bytes) -> int:
    message = b"superbatch-noise-v1\0" + seed.to_bytes(8, "little") + seq.to_bytes(8, "little")
    digest = hashlib.sha256(message + round_index.to_bytes(4, "little")).digest()
    k = int.from_bytes(digest[:8], "little")
    lo, hi = int.from_bytes(uid[:8], "little"), int.from_bytes(uid[8:], "little")
    return mix(mix(k ^ lo) ^ hi)


def gumbel(seed: int, seq: int, round_index: int, uid: bytes) -> float:
    u = ((noise_hash(seed, seq, round_index, uid) >> 12) + 0.5) * 2.0**-52
    return -math.log(-math.log(u))


def round_sizes(b: int, num_chunks: int) -> list[int]:
    stops = [math.floor((r + 1) * b / num_chunks) for r in range(num_chunks)]
    return [stop - start for start, stop in zip([0, *stops], stops, strict=False)]


def select(candidates: Candidates, spec: SelectionSpec) -> tuple[list[int], list[int], list[float], list[float]]:
    """Return (chosen in order, round, score, perturbed) by full sums in each round, as Algorithm 1 is printed.

    Exclusions by a walk down the round's order. Fewer than b are chosen where the walk runs out.
    """
    B = len(candidates)
    uids = [candidates.uid[i].tobytes() for i in range(B)]
    score_given = scorer(candidates, spec)
    like_BB = likeness(candidates, spec)
    never = [
        not may_be_chosen(candidates, i, repetition_cap=spec.repetition_cap) or is_behind(candidates, spec, i)
        for i in range(B)
    ]
    chosen, rounds, score, perturbed = [], [-1] * B, [0.0] * B, [0.0] * B
    in_rounds = round_sizes(spec.b, spec.num_chunks)
    sizes = {"joint": in_rounds, "hard_negatives": in_rounds, "greedy": [1] * spec.b}.get(spec.method, [spec.b])
    for r, n in enumerate(sizes, start=1):
        for i in range(B):
            if rounds[i] != -1:
                continue
            score[i] = score_given(i, chosen)
            noisy = spec.method == "uniform" or (spec.sampling == "gumbel" and spec.method != "greedy")
            noisy |= spec.method == "hard_negatives" and r == 1
            noise = gumbel(spec.seed, spec.seq, r, uids[i]) if noisy else 0.0
            prior = 0.0 if candidates.prior is None else candidates.prior[i]
            perturbed[i] = -math.inf if never[i] else spec.gain * score[i] + prior + noise
        free = [i for i in range(B) if rounds[i] == -1 and not never[i]]
        ordered = sorted(free, key=lambda i: (-perturbed[i], uids[i], candidates.dataset_index[i]))
        new = first_apart(ordered, chosen, n, like_BB=like_BB)
        for i in new:
            rounds[i] = r
        chosen += new
    for i in range(B):
        if rounds[i] == -1 and like_BB[i, chosen].any():
            perturbed[i] = -math.inf
    return chosen, rounds, score, perturbed


def sequence_probabilities(
    log_weights: list[float], n: int, *, like_BB: np.ndarray | None = None
) -> dict[tuple[int, ...], float]:
    """The exact probability of each ordered draw of n without replacement, in proportion to exp(log_weights).

    None that is like one drawn before is drawn. Only sequences that are possible are named.
    """
    found = {(): 1.0}
    for _ in range(n):
        longer = {}
        for drawn, p in found.items():
            rest = [i for i, weight in enumerate(log_weights) if weight > -math.inf and i not in drawn]
            if like_BB is not None:
                rest = [i for i in rest if not like_BB[i, list(drawn)].any()]
            total = sum(math.exp(log_weights[i]) for i in rest)
            for i in rest:
                longer[(*drawn, i)] = p * math.exp(log_weights[i]) / total
        found = longer
    return found


def chi_square_p(counts: dict[tuple[int, ...], int], probabilities: dict[tuple[int, ...], float]) -> float:
    """The p-value of the counts under the probabilities; outcomes expected less than 5 times are pooled."""
    total = sum(counts.values())
    assert set(counts) <= set(probabilities)
    cells, rare_seen, rare_expected = [], 0, 0.0
    for outcome, p in probabilities.items():
        seen, expected = counts.get(outcome, 0), total * p
        if expected < 5:
            rare_seen, rare_expected = rare_seen + seen, rare_expected + expected
        else:
            cells.append((seen, expected))
    if rare_expected > 0:
        cells.append((rare_seen, rare_expected))
    statistic = sum((seen - expected) ** 2 / expected for seen, expected in cells)
    half = torch.tensor([(len(cells) - 1) / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))
