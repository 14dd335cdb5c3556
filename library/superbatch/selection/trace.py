"""How a Gibbs sampling gets to where it is flat, one step after the other."""

from __future__ import annotations

from collections.abc import Iterator

from superbatch.selection.candidates import Candidates
from superbatch.selection.dispatch import opened_problem
from superbatch.selection.errors import InvalidSelection
from superbatch.selection.methods.gibbs import GibbsChain, GibbsStep
from superbatch.selection.methods.peers import OneProcess
from superbatch.selection.noise import NoiseSource
from superbatch.selection.spec import SelectionSpec


def gibbs_trace(
    candidates: Candidates, spec: SelectionSpec, *, noise: NoiseSource | None = None
) -> Iterator[GibbsStep]:
    """Yield the batch and its criterion after every iteration of the Gibbs sampling that `select` would run.

    Step 0 is the uniform start; the last step is the batch that `select` returns, which is flat, or `num_iterations`
    were done. A caller may stop early.
    Args:
        candidates: as for `select`.
        spec: as for `select`, with method gibbs.
        noise: as for `select`.
    Returns: an iterator; the criterion is of the whole set, in nats: divide it by b to compare batches of other sizes.
    Raises: as `select`, when the first step is asked for.
    Cost: that of `methods.gibbs.select_gibbs`.
    Source: JEST (arXiv:2406.17711), figure 2.
    """
    if spec.method != "gibbs":
        raise InvalidSelection(f"a trace is of method gibbs; got {spec.method} (selection.method). Replace it.")
    with opened_problem(candidates, spec, noise=noise, peers=OneProcess()) as problem:
        yield from GibbsChain(problem).steps()
