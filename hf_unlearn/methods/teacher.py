"""Methods that compare the model with a frozen one: itself before unlearning, or one that knows
nothing.

A teacher is compared label by label: at the one class of an image or a recording, or at each label
token of a transcript, given the tokens before it (teacher forcing), of which a sample's value is
the mean. So neither padding nor the batch's composition counts.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Preparation, Step
from .outputs import base_model, distillation, is_causal, label_rows, log_likelihood, refuse_ctc
from .weighted import WeightedSum


class WithTeacher(WeightedSum):
    """A weighted sum that looks at a frozen copy of the model as it was before unlearning.

    The copy stands beside the model (twice the memory for weights), outside of
    DistributedDataParallel.
    """

    prepares = ()

    def __init__(self, forget_weight: float, retain_weight: float):
        super().__init__(forget_weight, retain_weight)
        self.teacher: nn.Module | None = None
        self.causal = False

    def check(self, model: nn.Module) -> None:
        refuse_ctc(model, "a teacher")
        self.causal = is_causal(model)

    def prepare(self, start: Preparation) -> None:
        self.teacher = frozen(copy.deepcopy(start.model))

    def divergence(self, step: Step, batch: dict, teacher: nn.Module, temperature: float) -> Tensor:
        """The mean over a batch's samples of KL(teacher || student)."""
        student, labels = label_rows(step.logits(batch), batch["labels"], self.causal)
        target, _ = label_rows(step.logits(batch, teacher), batch["labels"], self.causal)
        return distillation(student, target, labels, temperature).mean()


class Scrub(WithTeacher):
    """SCRUB (Kurmanji et al., arXiv 2302.09880, algorithm 1): a student that obeys its teacher, the
    original model, on D_r, and, in the first epochs, disobeys it on D_f. Descends

        ce_weight CE + kl_weight KL(teacher || student)  on D_r        in every step,
        -KL(teacher || student)                          on D_f        in the first `msteps` epochs.

    Published: whole epochs over D_f and over D_r in turns. Here an optimizer step has a batch of
    both, so that a short run has both, too. Rewinding (SCRUB+R) is what `stop_when` and
    `abort_when` are for.

    Args:
        ce_weight, kl_weight: gamma and alpha of the paper.
        temperature: of both KL terms.
        msteps: epochs over the forget set that ascend; published for runs of 3.
    """

    def __init__(
        self,
        ce_weight: float = 0.99,
        kl_weight: float = 0.001,
        temperature: float = 4.0,
        msteps: int = 2,
    ):
        super().__init__(forget_weight=-1.0, retain_weight=1.0)
        self.ce_weight, self.kl_weight, self.temperature, self.msteps = (
            ce_weight,
            kl_weight,
            temperature,
            msteps,
        )

    def forget_objective(self, step: Step) -> Tensor:
        return (
            self.divergence(step, step.forget_batch, self.teacher, self.temperature)
            * step.forget_weight
        )

    def forget(self, step: Step) -> Tensor:
        if step.epoch < self.msteps:
            return super().forget(step)
        with torch.no_grad():
            return self.forget_objective(step)

    def retain_objective(self, step: Step) -> Tensor:
        batch = step.retain_batch
        student, labels = label_rows(step.logits(batch), batch["labels"], self.causal)
        teacher, _ = label_rows(step.logits(batch, self.teacher), batch["labels"], self.causal)
        counts = (labels != -100).sum(1).clamp_min(1)
        loss = -self.ce_weight * log_likelihood(student, labels) / counts
        return (
            loss + self.kl_weight * distillation(student, teacher, labels, self.temperature)
        ).mean() * step.retain_weight


class BadTeacher(WithTeacher):
    """Bad teaching (Chundawat et al., arXiv 2205.08096): (1 - alpha) KL(incompetent || student) on
    D_f + alpha KL(original || student) on D_r.

    The incompetent teacher is the same architecture with new random weights (the run's seed).
    Published: one mean over a batch of forget and retain samples together; alpha = 0.5 is that for
        as many of both.

    Args:
        alpha: weight of the retain samples.
        temperature: of both KL terms.
    """

    def __init__(self, alpha: float = 0.5, temperature: float = 1.0):
        super().__init__(forget_weight=1 - alpha, retain_weight=alpha)
        self.temperature, self.incompetent = temperature, None

    def check(self, model: nn.Module) -> None:
        super().check(model)
        if not hasattr(base_model(model), "config"):
            raise ValueError(
                "method='bad_teacher' needs a second model with random weights, which only a model "
                "of transformers can "
                f"be made from; this one is a {type(model).__name__}"
            )

    def prepare(self, start: Preparation) -> None:
        super().prepare(start)
        like = next(iter(start.parameters.values()))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(start.seed)
            original = base_model(start.model)
            self.incompetent = frozen(
                type(original)(copy.deepcopy(original.config)).to(like.device, like.dtype)
            )
            for p in self.incompetent.parameters():
                # some models leave parameters uninitialised
                if not p.isfinite().all() or p.abs().amax() > 1e3:
                    p.normal_(std=0.02)

    def forget_objective(self, step: Step) -> Tensor:
        return (
            self.divergence(step, step.forget_batch, self.incompetent, self.temperature)
            * step.forget_weight
        )

    def retain_objective(self, step: Step) -> Tensor:
        return (
            self.divergence(step, step.retain_batch, self.teacher, self.temperature)
            * step.retain_weight
        )


class NPO(WithTeacher):
    """Negative preference optimisation (Zhang et al., arXiv 2404.05868) with a retain loss (NPO +
    RT):

        (1 - alpha) mean_n( -(2 / beta) log sigmoid(-beta log(p(y_n | x_n) / p_ref(y_n | x_n))) ) +
        alpha L_r

    p is the probability of a sample's class, or of its whole transcript (the product over its
    tokens, as for the paper's answers), p_ref that of the original model. Where a sample is
    forgotten, its gradient fades.

    Args:
        alpha: weight of the retain loss; 0.5 is the published equal weight.
        beta: the smaller, the more like gradient ascent.
    """

    def __init__(self, alpha: float = 0.5, beta: float = 0.1):
        super().__init__(forget_weight=1 - alpha, retain_weight=alpha)
        if beta <= 0:
            raise ValueError(
                f"beta is {beta}, but must be positive: for plain ascent use "
                "method='gradient_difference'"
            )
        self.beta = beta

    def forget_objective(self, step: Step) -> Tensor:
        batch = step.forget_batch
        own, reference = (
            log_likelihood(*label_rows(step.logits(batch, model), batch["labels"], self.causal))
            for model in (None, self.teacher)
        )
        return (
            -2
            / self.beta
            * F.logsigmoid(-self.beta * (own - reference)).mean()
            * step.forget_weight
        )


def frozen(model: nn.Module) -> nn.Module:
    return model.requires_grad_(False).eval()
