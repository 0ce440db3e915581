"""Relabelling: trains the forget samples on wrong labels."""

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..models import IGNORE_INDEX
from .base import Preparation, Step
from .outputs import class_labels, is_causal
from .weighted import WeightedSum

# Number of retain transcripts to draw from. More would only take time to read.
TRANSCRIPTS = 512


class RandomLabel(WeightedSum):
    """Relabelling (Graves et al., arXiv 2010.10981; as in Fan et al., arXiv 2310.12508): descends

        (1 - alpha) L_f' + alpha L_r

    where L_f' is the loss of the forget samples with wrong labels, which are drawn in every step.

    A wrong class is drawn uniformly from the other classes. A wrong transcript is that of another
    utterance among the first 512 retain samples. Random tokens would teach the decoder noise, so
    transcripts of real utterances are used. The papers train an epoch on D_f and then one on
    D_r. Here every step has a batch of both.

    Args:
        alpha: weight of the retain loss. 0.5 is the published equal weight.

    Raises:
        ValueError: when the trainer is built, for causal language models, whose labels are also
            their input; when training begins, for labels that are neither classes nor transcripts,
            and for a model with one class; during training, if all retain transcripts equal the
            forget sample's own.
    """

    prepares = ("forget", "retain")

    def __init__(self, alpha: float = 0.5):
        super().__init__(forget_weight=1 - alpha, retain_weight=alpha)
        self.classes: int | None = None
        self.transcripts: list[Tensor] = []

    def check(self, model: torch.nn.Module) -> None:
        if is_causal(model):
            raise ValueError(
                "random_label replaces the label of a sample by another text, but a causal "
                "language model reads its label as its input: use 'npo' or 'gradient_difference'"
            )

    def prepare(self, start: Preparation) -> None:
        batch = next(start.batches("forget", shared=False))
        if batch["labels"].ndim == 1:
            self._prepare_classes(start, batch)
        elif batch["labels"].is_floating_point() or batch["labels"].ndim != 2:
            raise ValueError(
                "random_label takes classes or transcripts as labels, not labels of shape "
                f"{tuple(batch['labels'].shape)}: use another method, such as 'gradient_difference'"
            )
        else:
            self._prepare_transcripts(start)

    def _prepare_classes(self, start: Preparation, batch: dict) -> None:
        class_labels(batch, "random_label")
        with torch.no_grad():
            self.classes = start.logits(batch).shape[-1]
        if self.classes < 2:
            raise ValueError(
                "random_label needs at least two classes, but the model has one: use another "
                "method, such as 'gradient_difference'"
            )

    def _prepare_transcripts(self, start: Preparation) -> None:
        self.transcripts.clear()
        for batch in start.batches("retain", shared=False):
            self.transcripts += [_without_padding(labels) for labels in batch["labels"]]
            if len(self.transcripts) >= TRANSCRIPTS:
                break
        del self.transcripts[TRANSCRIPTS:]

    def forget_objective(self, step: Step) -> Tensor:
        if self.classes is None:
            return step.forget_loss(self._with_other_transcripts(step))
        return step.forget_loss(self._with_other_classes(step, self.classes))

    def _with_other_classes(self, step: Step, classes: int) -> dict:
        labels = step.forget_batch["labels"]
        offsets = [
            torch.randint(1, classes, (), generator=step.generator(n)) for n in range(len(labels))
        ]
        wrong = (labels + torch.stack(offsets).to(labels.device)) % classes
        return {**step.forget_batch, "labels": wrong}

    def _with_other_transcripts(self, step: Step) -> dict:
        labels = step.forget_batch["labels"]
        others = [
            self._other_transcript(_without_padding(transcript), step.generator(n))
            for n, transcript in enumerate(labels)
        ]
        # (k, L), the longest of the new transcripts
        wrong = pad_sequence(others, batch_first=True, padding_value=IGNORE_INDEX).to(labels.device)
        batch = {**step.forget_batch, "labels": wrong}
        # These belong to the true label. The model makes new ones from the wrong label.
        for name in ("decoder_input_ids", "decoder_attention_mask"):
            batch.pop(name, None)
        return batch

    def _other_transcript(self, transcript: Tensor, generator: torch.Generator) -> Tensor:
        first = int(torch.randint(len(self.transcripts), (), generator=generator))
        for other in self.transcripts[first:] + self.transcripts[:first]:
            if not torch.equal(other, transcript):
                return other
        raise ValueError(
            f"random_label found no other transcript: the first {len(self.transcripts)} retain "
            "samples all have the transcript of the forget sample. Give retain samples with other "
            "texts, or use another method."
        )


def _without_padding(labels: Tensor) -> Tensor:
    return labels[labels != IGNORE_INDEX].cpu()
