"""Every mutant of the core is found by the fast tests of its file, but for those that compute the same."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
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
    "schedules.py": ("test_schedules.py", 4),
    "surrogates.py": ("test_surrogates.py", 2),
    "models/distributions.py": ("test_distributions.py", 3),
    "models/encoders.py": ("test_networks.py", 1),
    "models/passes.py": ("test_networks.py", 2),
    "exact/finite_mdp.py": ("test_finite_mdp.py", 3),
    "exact/kl_ball.py": ("test_kl_ball.py", 4),
}
EQUIVALENT = {
    "both tanh are the same but for rounding, and differ in speed": [
        "models/passes.py: _tanh: z.mul_(2).sigmoid_().mul_(2).sub_(1) if z.device.type == 'cpu' else z.tanh_() -> "
        "z.tanh_() if z.device.type == 'cpu' else z.mul_(2).sigmoid_().mul_(2).sub_(1)",
    ],
    "any fraction just below one does": ["schedules.py: module: 1e-06 -> 2e-06"],
    "the sum of the probabilities is one but for rounding": [
        "models/distributions.py: sample: uniform * cumulative[..., -1:] -> uniform / cumulative[..., -1:]",
    ],
    "nothing is below zero but by rounding": [
        "exact/finite_mdp.py: evaluate: visitation.clamp(min=0) -> visitation",
    ],
    "both tables have one type": ["exact/kl_ball.py: kl_divergence: old -> new"],
    "any positive number does where the old probability is zero": [
        "exact/kl_ball.py: kl_divergence: 1.0 -> 2.0",
        "exact/kl_ball.py: penalised_argmax: 1.0 -> 2.0",
    ],
    "these are far from where they would matter": [
        "exact/kl_ball.py: module: 1e-100 -> 2e-100",
        "exact/kl_ball.py: module: 1e-190 -> 2e-190",
        "exact/kl_ball.py: module: 1e-200 -> 2e-200",
    ],
    "at a ratio near one, and below it, both formulas and the series are accurate": [
        "exact/kl_ball.py: module: 0.01 -> 0.02",
        "exact/kl_ball.py: _tilted: (ratio - 1).abs() -> ratio - 1",
    ],
    "the last term of the series is below rounding": [
        "exact/kl_ball.py: _excess: 2 / 7 + y * (2 / 9) -> 2 / 7 - y * (2 / 9)",
        "exact/kl_ball.py: _excess: 2 / 7 + y * (2 / 9) -> 2 / 7",
        "exact/kl_ball.py: _excess: y * (2 / 9) -> y / (2 / 9)",
        "exact/kl_ball.py: _excess: 2 / 9 -> 2 * 9",
        "exact/kl_ball.py: _excess: 2 / 9 -> 2",
    ],
    "a bracket that is wider holds the same root; KL <= 1 / t^2 also below t = 2": [
        "exact/kl_ball.py: penalised_argmax: weight * states.mean_gap -> weight / states.mean_gap",
        "exact/kl_ball.py: _solve: radius.rsqrt().clamp(min=2.0) -> radius.rsqrt()",
        "exact/kl_ball.py: _solve: 2.0 -> 4.0",
    ],
    "a step more or less at the root changes no more than rounding": [
        "exact/kl_ball.py: _root: 1e-14 -> 2e-14",
        "exact/kl_ball.py: _root: 1e-15 -> 2e-15",
        "exact/kl_ball.py: _root: 1e-08 -> 2e-08",
        "exact/kl_ball.py: _root: done | hit -> done & hit",
        "exact/kl_ball.py: _root: done | hit -> done",
    ],
}


def excused() -> Counter[str]:
    return Counter(mutant for same in EQUIVALENT.values() for mutant in same)


def test_there_are_enough_of_them() -> None:
    assert sum(len(list(mutants.mutants(file))) for file in TESTED_BY) > 700


def test_what_is_said_to_be_equivalent_is_a_mutant() -> None:
    assert excused() <= Counter(str(mutant) for file in TESTED_BY for mutant in mutants.mutants(file))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "part"), [(file, part) for file, (_, parts) in TESTED_BY.items() for part in range(parts)]
)
def test_all_are_found(file: str, part: int) -> None:
    tests, parts = TESTED_BY[file]
    command = [sys.executable, mutants.__file__, file, str(part), str(parts), tests]
    done = subprocess.run(command, cwd=Path(mutants.__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Counter(done.stdout.splitlines()) <= excused()
