"""Many logistic regressions on the same inputs, solved together."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Array = NDArray[np.float64]


def logistic_weights(x: Array, y: Array, steps: int = 50) -> Array:
    """L2-regularised logistic regressions of all attributes at once (C = 1, free bias).

    Newton's method; each step is solved by conjugate gradients on all columns together, in the principal axes of x,
    where the Hessian Xᵀ diag(p(1−p)) X + I is nearly diagonal. One matrix product serves every attribute.

    Args:
        x: (n, m) standardised.
        y: (n, a) of 0, 1, NaN (left out).
        steps: at most this many Newton steps (six to ten are usual).

    Returns:
        (m + 1, a): weights, then the bias.
    """
    axes = np.linalg.eigh(x.T @ x)[1]
    x = np.concatenate([x @ axes, np.ones((len(x), 1))], axis=1)
    known, y = (~np.isnan(y)).astype(float), np.nan_to_num(y)
    ridge = np.append(np.ones(len(axes)), 1e-9)[:, None]  # the bias is free; 1e-9 bounds it where only one value occurs
    w, z = np.zeros((len(ridge), y.shape[1])), np.zeros(y.shape)
    for _ in range(steps):
        p = expit(z)
        gradient = x.T @ (known * (p - y)) + ridge * w
        k = np.flatnonzero(np.abs(gradient).max(axis=0) > 1e-5 * len(x))  # attributes that are not solved yet
        if not len(k):
            break
        step = _conjugate_gradients(x, (known * p * (1 - p))[:, k], ridge, -gradient[:, k])
        w[:, k], z[:, k] = _damped(x, y[:, k], known[:, k], ridge, w[:, k], z[:, k], step)
    return np.concatenate([axes @ w[:-1], w[-1:]])


def _conjugate_gradients(x: Array, curvature: Array, ridge: Array, target: Array, steps: int = 30) -> Array:
    """Solve (Xᵀ diag(curvature_k) X + diag(ridge)) d_k = target_k for every column k."""
    inverse = 1 / ((x * x).T @ curvature + ridge)
    d, r = np.zeros_like(target), target
    q = inverse * r
    rho = first = (r * q).sum(axis=0)
    for _ in range(steps):
        product = x.T @ (curvature * (x @ q)) + ridge * q
        alpha = rho / np.maximum((q * product).sum(axis=0), 1e-300)
        d, r = d + alpha * q, r - alpha * product
        rho, before = (r * inverse * r).sum(axis=0), rho
        if (rho <= 1e-2 * first).all():
            break
        q = inverse * r + rho / np.maximum(before, 1e-300) * q
    return d


def _damped(x: Array, y: Array, known: Array, ridge: Array, w: Array, z: Array, step: Array) -> tuple[Array, Array]:
    """Halve the step of each attribute until its loss does not rise; returns new w and z = x w."""

    def loss(w: Array, z: Array) -> Array:
        misfit: Array = known * (np.logaddexp(0, z) - y * z)
        penalty: Array = 0.5 * ridge * w * w
        total: Array = misfit.sum(axis=0) + penalty.sum(axis=0)
        return total

    change, before, size = x @ step, loss(w, z), np.ones(w.shape[1])
    for _ in range(20):
        worse = loss(w + size * step, z + size * change) > before * (1 + 1e-9)
        if not worse.any():
            break
        size[worse] /= 2
    return w + size * step, z + size * change


def sparse_logistic_weights(x: Array, y: Array, penalty: float, steps: int = 2000, tolerance: float = 1e-4) -> Array:
    """L1-regularised logistic regressions of all attributes at once (free bias).

    min_{w,b} mean_i [log(1 + exp(z_i)) − y_i z_i] + penalty · ‖w‖₁,  z = w·x + b

    FISTA (Beck & Teboulle 2009) with adaptive restart: gradient step, soft threshold, momentum.

    Args:
        x: (n, m) standardised.
        y: (n, a) of 0, 1, NaN (left out).
        penalty: in units of the mean loss; a latent whose correlation with the residual is below it gets weight 0.
        steps: at most this many.
        tolerance: stop when no weight moves further than this in a step.

    Returns:
        (m, a) weights, many of them exactly 0.
    """
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    known, y = (~np.isnan(y)).astype(float), np.nan_to_num(y)
    known /= np.maximum(known.sum(axis=0), 1)
    length = 4 / (
        np.linalg.norm(x, 2) ** 2 * np.maximum(known.max(axis=0), 1 / len(x))
    )  # 1 / Lipschitz constant: p(1−p) ≤ 1/4
    threshold = length * penalty * np.append(np.ones(x.shape[1] - 1), 0)[:, None]
    w = look = np.zeros((x.shape[1], y.shape[1]))
    momentum = np.ones(y.shape[1])
    for _ in range(steps):
        ahead = look - length * (x.T @ (known * (expit(x @ look) - y)))
        new = np.sign(ahead) * np.maximum(np.abs(ahead) - threshold, 0)
        overshoot = ((look - new) * (new - w)).sum(axis=0) > 0
        momentum[overshoot] = 1
        before, momentum = momentum, (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        look = new + (before - 1) / momentum * (new - w)
        done = np.abs(new - w).max() < tolerance
        w = new
        if done:
            break
    return w[:-1]
