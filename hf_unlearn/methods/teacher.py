"""Methods that compare the model with a frozen teacher: the original model, or a random one.

Student and teacher are compared at every label: at the class of an image or recording, or at each
token of a transcript, given the tokens before it (teacher forcing). A sample's value is the mean
over its labels. So neither padding nor the composition of the batch matters.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import IGNORE_INDEX, base_model
from .base import Preparation, Step
from .outputs import (
    as_teacher,
    distillation,
    is_causal,
    label_rows,
    log_likelihood,
    refuse_ctc,
)
from .weighted import WeightedSum

# Larger values in a new model come from uninitialised memory.
LARGEST_INITIAL_VALUE = 1e3


class WithTeacher(WeightedSum):
    """Base of methods that use a frozen copy of the original model.

    The copy doubles the memory for weights. It is not wrapped in DistributedDataParallel.
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
        self.teacher = as_teacher(copy.deepcopy(start.model))

    def label_logits(
        self, step: Step, batch: dict, model: nn.Module | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (k, L, V) of a model, by default the one that is trained, and labels (k, L)."""
        return label_rows(step.logits(batch, model), batch["labels"], self.causal)

    def divergence(self, step: Step, batch: dict, teacher: nn.Module, temperature: float) -> Tensor:
        """T^2 KL(teacher || student) at temperature T, averaged over the samples: a scalar."""
        student, labels = self.label_logits(step, batch)
        target, _ = self.label_logits(step, batch, teacher)
        return distillation(student, target, labels, temperature).mean()


class Scrub(WithTeacher):
    """SCRUB (Kurmanji et al., arXiv 2302.09880, algorithm 1): the student follows the original
    model on D_r, and in the first epochs moves away from it on D_f. Descends

        ce_weight CE + kl_weight KL(teacher || student)  on D_r        in every step,
        -KL(teacher || student)                          on D_f        in the first `msteps` epochs.

    The paper alternates between whole epochs over D_f and D_r. Here every optimizer step has a
    batch of both, so that a short run sees both, too. `stop_when` and `abort_when` replace
    rewinding (SCRUB+R).

    Args:
        ce_weight: weight of the cross entropy, gamma of the paper.
        kl_weight: weight of the divergence on D_r, alpha of the paper.
        temperature: of both divergences.
        msteps: number of epochs over the forget set that ascend. The published value is for runs
            of 3 epochs.

    Raises:
        ValueError: when the trainer is built, for CTC models.
    """

    def __init__(
        self,
        ce_weight: float = 0.99,
        kl_weight: float = 0.001,
        temperature: float = 4.0,
        msteps: int = 2,
    ):
        super().__init__(forget_weight=-1.0, retain_weight=1.0)
        self.ce_weight, self.kl_weight = ce_weight, kl_weight
        self.temperature, self.msteps = temperature, msteps

    def forget_objective(self, step: Step) -> Tensor:
        divergence = self.divergence(step, step.forget_batch, self.teacher, self.temperature)
        return divergence * step.forget_weight

    def forget(self, step: Step) -> Tensor:
        if step.epoch < self.msteps:
            return super().forget(step)
        with torch.no_grad():
            return self.forget_objective(step)

    def retain_objective(self, step: Step) -> Tensor:
        student, labels = self.label_logits(step, step.retain_batch)
        teacher, _ = self.label_logits(step, step.retain_batch, self.teacher)
        counts = (labels != IGNORE_INDEX).sum(1).clamp_min(1)
        # (k,)
        loss = -self.ce_weight * log_likelihood(student, labels) / counts
        divergence = distillation(student, teacher, labels, self.temperature)
        return (loss + self.kl_weight * divergence).mean() * step.retain_weight


class BadTeacher(WithTeacher):
    """Bad teaching (Chundawat et al., arXiv 2205.08096): descends

        (1 - alpha) KL(incompetent || student)  on D_f
        + alpha KL(original || student)         on D_r

    The incompetent teacher has the same architecture with new random weights, drawn with the seed
    of the run. The paper takes one mean over a batch of forget and retain samples together. With as
    many samples of both, alpha = 0.5 is the same.

    Args:
        alpha: weight of the retain samples.
        temperature: of both divergences.

    Raises:
        ValueError: when the trainer is built, for CTC models, and for models that are not of
            transformers.
    """

    def __init__(self, alpha: float = 0.5, temperature: float = 1.0):
        super().__init__(forget_weight=1 - alpha, retain_weight=alpha)
        self.temperature = temperature
        self.incompetent: nn.Module | None = None

    def check(self, model: nn.Module) -> None:
        super().check(model)
        if not hasattr(base_model(model), "config"):
            raise ValueError(
                "method='bad_teacher' needs a second model with random weights, which only a model "
                f"of transformers can be made from; this model is a {type(model).__name__}: use "
                "'scrub' or 'npo', which copy the model"
            )

    def prepare(self, start: Preparation) -> None:
        super().prepare(start)
        like = next(iter(start.parameters.values()))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(start.seed)
            original = base_model(start.model)
            new = type(original)(copy.deepcopy(original.config))
            self.incompetent = incompetent = as_teacher(new.to(like.device, like.dtype))
            for p in incompetent.parameters():
                # Some models leave parameters uninitialised.
                if not p.isfinite().all() or p.abs().amax() > LARGEST_INITIAL_VALUE:
                    p.normal_(std=0.02)

    def forget_objective(self, step: Step) -> Tensor:
        divergence = self.divergence(step, step.forget_batch, self.incompetent, self.temperature)
        return divergence * step.forget_weight

    def retain_objective(self, step: Step) -> Tensor:
        divergence = self.divergence(step, step.retain_batch, self.teacher, self.temperature)
        return divergence * step.retain_weight


class NPO(WithTeacher):
    """Negative preference optimisation with a retain loss, NPO + RT (Zhang et al., arXiv
    2404.05868): descends

        (1 - alpha) mean_n( -(2 / beta) log sigmoid(-beta log(p(y_n | x_n) / p_ref(y_n | x_n))) )
        + alpha L_r

    p is the probability of a sample's class or of its whole transcript (the product over its
    tokens, as for the answers in the paper). p_ref is that of the original model. The gradient of a
    sample fades as it is forgotten.

    Args:
        alpha: weight of the retain loss. 0.5 is the published equal weight.
        beta: inverse temperature, positive. The smaller it is, the closer to gradient ascent.

    Raises:
        ValueError: beta is not positive; when the trainer is built, for CTC models.
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
        # (k,) each
        log_p, log_ref = (
            log_likelihood(*self.label_logits(step, step.forget_batch, model))
            for model in (None, self.teacher)
        )
        mean = F.logsigmoid(-self.beta * (log_p - log_ref)).mean()
        return -2 / self.beta * mean * step.forget_weight
