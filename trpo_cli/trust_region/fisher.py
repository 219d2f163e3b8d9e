"""Metrics: each turns a problem into the function v -> A v, without ever forming A. Vectors are (D,)."""

from __future__ import annotations

import torch
from torch import Tensor

from trpo_cli.trust_region.problem import MatVec, Problem


def identity(problem: Problem) -> MatVec:
    """A = I: distance is Euclidean distance between parameters (seed 002, the vanilla gradient)."""
    return lambda v: v


def gauss_newton(problem: Problem) -> MatVec:
    """A = J^T M J, the mean over states (seed 004, equation 36): J of the network's outputs, M of the distribution.

    J^T u is linear in u, so its derivative along v is J v: one graph, built here, serves every product.
    """
    theta = problem.theta_old.detach().requires_grad_()
    outputs = problem.metric_outputs(theta)
    u = torch.zeros_like(outputs, requires_grad=True)
    (jt_u,) = torch.autograd.grad(outputs, theta, u, create_graph=True)
    weight = problem.metric_weight[:, None] / len(outputs)

    def product(v: Tensor) -> Tensor:
        (j_v,) = torch.autograd.grad(jt_u, u, v, retain_graph=True)
        (jt_m_j_v,) = torch.autograd.grad(outputs, theta, weight * problem.metric_fisher(j_v), retain_graph=True)
        return jt_m_j_v

    return product


def kl_hessian(problem: Problem) -> MatVec:
    """A = the Hessian of the mean KL at theta_old, by differentiating its gradient once more (the TRPO paper, appendix
    C).

    Equal to `gauss_newton`: the second term of seed 004, equation 36 vanishes at theta_old.
    """
    theta = problem.theta_old.detach().requires_grad_()
    mean_kl = (problem.metric_weight * problem.metric_kl(problem.metric_outputs(theta))).mean()
    (gradient,) = torch.autograd.grad(mean_kl, theta, create_graph=True)

    def product(v: Tensor) -> Tensor:
        (hessian_v,) = torch.autograd.grad(gradient, theta, v, retain_graph=True)
        return hessian_v

    return product
