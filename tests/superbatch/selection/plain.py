"""The slow, obvious selection: full matrices, fp64, one index at a time, no torch. The truth for every fast path.

Letters: B candidates.
"""

from __future__ import annotations

import hashlib
import math

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
    """Return (chosen in order, round, score, perturbed) by full sums in each round, as Algorithm 1 is printed."""
    B = len(candidates)
    uids = [candidates.uid[i].tobytes() for i in range(B)]
    S_BB = np.zeros((B, B))
    if spec.method != "uniform":
        S_BB = criterion_matrix(candidates, spec.criterion, spec.weights)
    never = [
        (candidates.eligible is not None and not candidates.eligible[i])
        or (candidates.prior is not None and candidates.prior[i] == -math.inf)
        for i in range(B)
    ]
    chosen, rounds, score, perturbed = [], [-1] * B, [0.0] * B, [0.0] * B
    sizes = round_sizes(spec.b, spec.num_chunks) if spec.method == "joint" else [spec.b]
    for r, n in enumerate(sizes, start=1):
        for i in range(B):
            if rounds[i] != -1:
                continue
            score[i] = S_BB[i, i] + sum(S_BB[k, i] + S_BB[i, k] for k in chosen)
            noisy = spec.sampling == "gumbel" or spec.method == "uniform"
            noise = gumbel(spec.seed, spec.seq, r, uids[i]) if noisy else 0.0
            prior = 0.0 if candidates.prior is None else candidates.prior[i]
            perturbed[i] = -math.inf if never[i] else spec.gain * score[i] + prior + noise
        free = [i for i in range(B) if rounds[i] == -1 and not never[i]]
        new = sorted(free, key=lambda i: (-perturbed[i], uids[i], candidates.dataset_index[i]))[:n]
        for i in new:
            rounds[i] = r
        chosen += new
    return chosen, rounds, score, perturbed


def sequence_probabilities(log_weights: list[float], n: int) -> dict[tuple[int, ...], float]:
    """The exact probability of each ordered draw of n without replacement, in proportion to exp(log_weights)."""
    found = {(): 1.0}
    for _ in range(n):
        longer = {}
        for drawn, p in found.items():
            rest = [i for i in range(len(log_weights)) if i not in drawn]
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
