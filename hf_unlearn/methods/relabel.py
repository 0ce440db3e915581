"""Methods that teach the forget samples something else: wrong labels, or those of the other side of
the boundary."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from .base import Preparation, Step
from .outputs import class_labels, is_causal
from .weighted import WeightedSum

# Other transcripts that are kept to choose from; more would only cost time to read.
TRANSCRIPTS = 512


class RandomLabel(WeightedSum):
    """Relabelling (Graves et al., arXiv 2010.10981; as in Fan et al., arXiv 2310.12508): (1 -
    alpha) times the loss of the forget samples with wrong labels, + alpha L_r. New ones are drawn
    in each step.

    For classes: one of the other classes, all equally likely. For transcripts: that of another
    utterance, drawn from the (first 512) retain samples, since a wrong transcript must still be
    one; words drawn at random would teach the decoder a language of noise. Published: an epoch over
    D_f, then one over D_r; here a step has a batch of both.

    Args:
        alpha: weight of the retain loss; 0.5 is the published equal weight.
    """

    prepares = ("forget", "retain")

    def __init__(self, alpha: float = 0.5):
        super().__init__(forget_weight=1 - alpha, retain_weight=alpha)
        self.classes: int | None = None
        self.transcripts: list[Tensor] = []

    def check(self, model: nn.Module) -> None:
        if is_causal(model):
            raise ValueError(
                "random_label puts another text in the place of a sample's label, but a causal "
                "language model reads its "
                "label as its input: use 'npo' or 'gradient_difference'"
            )

    def prepare(self, start: Preparation) -> None:
        batch = next(start.batches("forget", shared=False))
        if batch["labels"].ndim == 1:
            class_labels(batch, "random_label")
            with torch.no_grad():
                self.classes = start.logits(batch).shape[-1]
            if self.classes < 2:
                raise ValueError("random_label needs at least two classes, but the model has one")
            return
        if batch["labels"].is_floating_point() or batch["labels"].ndim != 2:
            raise ValueError(
                "random_label knows classes and transcripts, not labels "
                f"{tuple(batch['labels'].shape)}"
            )
        self.transcripts.clear()
        for batch in start.batches("retain", shared=False):
            self.transcripts += [labels[labels != -100].cpu() for labels in batch["labels"]]
            if len(self.transcripts) >= TRANSCRIPTS:
                break
        del self.transcripts[TRANSCRIPTS:]

    def forget_objective(self, step: Step) -> Tensor:
        batch, labels = dict(step.forget_batch), step.forget_batch["labels"]
        if self.classes is not None:
            other = [
                torch.randint(1, self.classes, (), generator=step.generator(n))
                for n in range(len(labels))
            ]
            batch["labels"] = (labels + torch.stack(other).to(labels.device)) % self.classes
        else:
            other = [
                self._transcript(own[own != -100].cpu(), step.generator(n))
                for n, own in enumerate(labels)
            ]
            batch["labels"] = pad_sequence(other, batch_first=True, padding_value=-100).to(
                labels.device
            )
            for name in ("decoder_input_ids", "decoder_attention_mask"):  # those of the true label
                batch.pop(name, None)
        return step.forget_loss(batch)

    def _transcript(self, own: Tensor, generator: torch.Generator) -> Tensor:
        first = int(torch.randint(len(self.transcripts), (), generator=generator))
        for other in self.transcripts[first:] + self.transcripts[:first]:
            if not torch.equal(other, own):
                return other
        raise ValueError(
            f"random_label found no other transcript: all of the first {len(self.transcripts)} "
            "retain samples have the "
            "forget sample's own. Give retain samples with other texts, or use another method."
        )
