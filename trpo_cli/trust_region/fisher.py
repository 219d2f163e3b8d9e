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

    The network is linearised once, by whoever made the problem; every product is one pass forward and one backward.
    """
    weight = problem.metric_weight[:, None] / len(problem.metric_weight)
    return lambda v: problem.metric_vjp(weight * problem.metric_fisher(problem.metric_jvp(v)))


def empirical(problem: Problem) -> MatVec:
    """A = the mean of score outer products: the covariance of the gradients of log pi(a|s) by theta, over the actions
    that were sampled (the TRPO paper, section 6).

    `gauss_newton` averages over every action of the distribution instead, and so has less variance.
    """
    score = problem.metric_score()
    weighted = (problem.metric_weight / len(problem.metric_weight))[:, None, None] * score

    def product(v: Tensor) -> Tensor:
        along = (score * problem.metric_jvp(v)[:, None]).sum(-1, keepdim=True)
        return problem.metric_vjp((weighted * along).sum(1))

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
