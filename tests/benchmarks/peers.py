"""OrthoGrad's step by other libraries, written as plainly as each allows.

Each function takes (model, forget batch, retain batch, alpha) and leaves the gradient to descend in
`.grad`. Except for `opacus_ghost`, this is g = alpha mean_n(g_n) - (1 - alpha) u_perp of
`hf_unlearn.methods.orthograd`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def published_reference(model: nn.Module, forget: dict, retain: dict, alpha: float) -> None:
    """The published algorithm: per-sample gradients by vmap, then one Householder QR for each
    parameter tensor."""
    model(**forget).loss.backward()
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def loss_of(values: dict[str, Tensor], sample: dict[str, Tensor]) -> Tensor:
        one = {name: value[None] for name, value in sample.items()}
        return torch.func.functional_call(model, values, kwargs=one).loss

    gradients = torch.func.vmap(torch.func.grad(loss_of), in_dims=(None, 0))(parameters, retain)
    for name, p in model.named_parameters():
        if name in gradients:
            _combine(p, gradients[name], alpha)


def opacus_hooks(model: nn.Module, forget: dict, retain: dict, alpha: float) -> None:
    """Per-sample gradients by Opacus' hooks, then one Householder QR for each parameter tensor."""
    from opacus.grad_sample import GradSampleModule

    if not isinstance(getattr(model, "per_sample", None), list):
        # In a list, so that it does not become a submodule.
        model.per_sample = [GradSampleModule(model, loss_reduction="mean", strict=False)]
    sampled = model.per_sample[0]
    sampled.disable_hooks()
    model(**forget).loss.backward()
    forget_gradients = {p: p.grad for p in model.parameters()}
    sampled.enable_hooks()
    sampled.zero_grad()
    sampled(**retain).loss.backward()
    for p in model.parameters():
        p.grad = forget_gradients[p]
        if p.requires_grad:
            _combine(p, p.grad_sample, alpha)
            p.grad_sample = None


def opacus_ghost(model: nn.Module, forget: dict, retain: dict, alpha: float) -> None:
    """A step with ghost clipping, in two backward passes over the retain batch.

    Ghost clipping only computes the norms of per-sample gradients, so this is not OrthoGrad's step.
    It shows what a step costs that weights the retain samples by these norms.
    """
    from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import (
        GradSampleModuleFastGradientClipping,
    )

    if not isinstance(getattr(model, "per_sample", None), list):
        model.per_sample = [
            GradSampleModuleFastGradientClipping(model, loss_reduction="mean", strict=False)
        ]
    sampled = model.per_sample[0]
    sampled.enable_hooks()
    losses = _losses(sampled, retain)
    losses.mean().backward(retain_graph=True)
    weights = sampled.get_clipping_coef()
    sampled.zero_grad()
    sampled.disable_hooks()
    (alpha * (weights * losses).mean()).backward()
    (-(1 - alpha) * model(**forget).loss).backward()


def torchjd_gramian(model: nn.Module, forget: dict, retain: dict, alpha: float) -> None:
    """The whole model's projection from TorchJD's Gramian of all samples' losses, then one weighted
    backward pass."""
    from torchjd.autogram import Engine

    if not isinstance(getattr(model, "gramian", None), list):
        model.gramian = [Engine(model, batch_dim=0)]
    k, forgotten = len(retain["labels"]), len(forget["labels"])
    batch = {name: torch.cat([retain[name], forget[name]]) for name in retain}
    losses = _losses(model, batch)
    gramian = model.gramian[0].compute_gramian(losses)
    mean = torch.full((forgotten,), 1 / forgotten, device=losses.device)
    K, b = gramian[:k, :k].double(), (gramian[:k, k:] @ mean).double()
    c = torch.linalg.pinv(K, hermitian=True) @ b
    weights = torch.cat([alpha / k + (1 - alpha) * c.float(), -(1 - alpha) * mean])
    (losses * weights).sum().backward()


def _losses(model: nn.Module, batch: dict) -> Tensor:
    """The loss of each sample, (k,). There is no padding."""
    logits, labels = model(**batch).logits, batch["labels"]
    losses = F.cross_entropy(logits.movedim(-1, 1), labels, reduction="none")
    return losses.reshape(len(labels), -1).mean(1)


def _combine(p: nn.Parameter, gradients: Tensor, alpha: float) -> None:
    """Replaces u in p.grad by the gradient to descend.

    Args:
        gradients: (k, *shape of p), of the retain samples.
    """
    u = p.grad.flatten()
    # (d, k)
    Q = torch.linalg.qr(gradients.flatten(1).T).Q
    g = alpha * gradients.mean(0).flatten() - (1 - alpha) * (u - Q @ (Q.T @ u))
    p.grad = g.reshape(p.shape)


PEERS = {
    "published reference": published_reference,
    "opacus hooks": opacus_hooks,
    "opacus ghost (norms)": opacus_ghost,
    "torchjd gramian": torchjd_gramian,
}
