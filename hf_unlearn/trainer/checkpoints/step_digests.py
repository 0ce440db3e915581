"""Records digests of the trained weights while a model unlearns, so that the run can be repeated
and compared step by step."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...per_sample.shards import gather_to_main, own_parameters
from ...report.weights import tensors_digest
from ..protocol import ModelView

# In the trainer's log, which checkpoints keep. There it is a number: texts are redacted when a
# checkpoint is pushed.
LOGGED = "weights_digest"


class StepDigests(TrainerCallback):
    """Notes the digest of the trained weights before the first step and after every `every` steps,
    and after the last of `max_steps`.

    Under DeepSpeed, whose engine owns the weights, it notes nothing.
    """

    def __init__(self, trainer: ModelView, every: int):
        self._trainer, self.every = trainer, every

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            self._note(state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._note(state)

    def _note(self, state: TrainerState) -> None:
        if self._trainer.is_deepspeed_enabled:
            return
        model = self._trainer.accelerator.unwrap_model(self._trainer.model)
        own_parameters(model)
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        whole = ((name, gather_to_main(p)) for name, p in sorted(trained, key=lambda one: one[0]))
        # All processes gather together.
        digest = tensors_digest(whole)
        if self._trainer.is_world_process_zero():
            state.log_history.append({"step": state.global_step, LOGGED: int(digest, 16)})


def step_digests(state: TrainerState) -> dict[str, str]:
    """{step: digest} that a run has recorded, including before it was resumed."""
    return {str(row["step"]): f"{row[LOGGED]:064x}" for row in state.log_history if LOGGED in row}
