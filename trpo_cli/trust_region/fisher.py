"""Metrics: each turns a geometry into the function v -> A v, without ever forming A. Vectors are (D,)."""

from __future__ import annotations

import torch
from torch import Tensor

from trpo_cli.trust_region.geometry import Geometry, MatVec


def identity(geometry: Geometry) -> MatVec:
    """A = I: distance is Euclidean distance between parameters, as in equation 18 of the TRPO paper."""
    return lambda v: v


def gauss_newton(geometry: Geometry) -> MatVec:
    """A = J^T M J, the mean over states (the TRPO paper, appendix C.1).

    J is the Jacobian of the network's outputs, M the Fisher matrix of the distribution that they describe. The network
    is linearised once; each product is then one pass forward and one backward.
    """
    jacobian = geometry.linearise()
    weight = geometry.weight[:, None] / len(geometry.weight)
    return lambda v: jacobian.vjp(weight * geometry.fisher(jacobian.jvp(v)))


def empirical(geometry: Geometry) -> MatVec:
    """A = the covariance of the gradients of log pi(a|s) by theta, over the actions that were sampled.

    It is the alternative in section 6 of the TRPO paper. `gauss_newton` averages over every action of the
    distribution instead, and so has less variance.
    """
    jacobian, (score, share) = geometry.linearise(), geometry.scores()
    score = share.sqrt()[..., None] * score  # so that the sum of outer products is their mean
    weighted = (geometry.weight / len(geometry.weight))[:, None, None] * score

    def product(v: Tensor) -> Tensor:
        along = (score * jacobian.jvp(v)[:, None]).sum(-1, keepdim=True)
        return jacobian.vjp((weighted * along).sum(1))

    return product


def kl_hessian(geometry: Geometry) -> MatVec:
    """A = the Hessian of the mean KL at theta_old, from the gradient of its gradient (the TRPO paper, appendix C.1).

    It equals `gauss_newton`: the term with the second derivatives of the network vanishes at theta_old.
    """
    theta = geometry.theta_old.detach().requires_grad_()
    mean_kl = (geometry.weight * geometry.kl(geometry.outputs(theta))).mean()
    (gradient,) = torch.autograd.grad(mean_kl, theta, create_graph=True)

    def product(v: Tensor) -> Tensor:
        (hessian_v,) = torch.autograd.grad(gradient, theta, v, retain_graph=True)
        return hessian_v

    return product
