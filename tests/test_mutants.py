"""Every mutant of the core is found by the fast tests of its file, but for those that compute the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mutants
import pytest

TESTED_BY = {  # and how many processes share its mutants
    "trust_region/constraint.py": ("test_trust_region.py", 1),
    "trust_region/fisher.py": ("test_trust_region.py", 1),
    "trust_region/geometry.py": ("test_trust_region.py", 1),
    "trust_region/problem.py": ("test_trust_region.py", 1),
    "trust_region/solve.py": ("test_trust_region.py", 1),
    "trust_region/step.py": ("test_trust_region.py", 1),
    "trust_region/update.py": ("test_trust_region.py", 1),
    "returns.py": ("test_returns.py", 2),
    "surrogates.py": ("test_surrogates.py", 2),
    "models/distributions.py": ("test_distributions.py", 3),
    "exact/finite_mdp.py": ("test_finite_mdp.py", 3),
}
EQUIVALENT = {
    # the sum of the probabilities is one but for rounding
    "models/distributions.py: sample: uniform * cumulative[..., -1:] -> uniform / cumulative[..., -1:]",
    # nothing is below zero but by rounding
    "exact/finite_mdp.py: evaluate: visitation.clamp(min=0) -> visitation",
}


def test_there_are_enough_of_them() -> None:
    assert sum(len(list(mutants.mutants(file))) for file in TESTED_BY) > 400


def test_what_is_said_to_be_equivalent_is_a_mutant() -> None:
    assert {str(mutant) for file in TESTED_BY for mutant in mutants.mutants(file)} >= EQUIVALENT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "part"), [(file, part) for file, (_, parts) in TESTED_BY.items() for part in range(parts)]
)
def test_all_are_found(file: str, part: int) -> None:
    tests, parts = TESTED_BY[file]
    command = [sys.executable, mutants.__file__, file, str(part), str(parts), tests]
    done = subprocess.run(command, cwd=Path(mutants.__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) <= EQUIVALENT
