"""UnlearnConfig: the training arguments, extended by the options of unlearning."""

from dataclasses import dataclass, field

from transformers import Seq2SeqTrainingArguments

from ..privacy.redaction import without_names
from .field_checks import check_fields
from .suggestions import with_suggestions


@dataclass
class UnlearnConfig(Seq2SeqTrainingArguments):
    """Arguments of `UnlearnTrainer`. Every field of `Seq2SeqTrainingArguments` keeps its meaning.

    `per_device_train_batch_size` is the number of forget samples per micro-batch.
    `gradient_accumulation_steps`, `max_steps` and epochs refer to the forget set.
    `resume_from_checkpoint` is what `UnlearnTrainer.train` resumes from: a folder, "true" for the
    last complete checkpoint of `output_dir`, or "auto" for the same if there is one.
    `auto_find_batch_size` shrinks the forget batch or the retain batch, whichever does not fit into
    memory, logs it, and starts again from the initial weights; afterwards `trainer.args` holds
    the sizes that fit. It works in a single process only.

    Raises:
        ValueError: a field has a value that it cannot have.
    """

    _argument_group_name = (
        "unlearning and training (those of transformers' Seq2SeqTrainingArguments first)"
    )

    method: str = field(
        default="orthograd",
        metadata={
            "help": "The unlearning method, by its name in hf_unlearn.METHODS, such as orthograd, "
            "gradient_difference or scrub; print(list(hf_unlearn.METHODS)) lists them all. In "
            "Python, a Method instance works too."
        },
    )
    alpha: float = field(
        default=0.5,
        metadata={
            "help": "Weight of the retain gradient relative to the forget gradient, in [0, 1)."
        },
    )
    method_kwargs: dict | str | None = field(
        default=None,
        metadata={
            "help": "Further arguments of the method, in place of their defaults, such as "
            "{'temperature': 2} for scrub. Written as JSON on a command line."
        },
    )
    loss_temperature: float = field(
        default=1.0,
        metadata={
            "help": "Divides the logits by this number in the losses of a step, forget and retain. "
            "A pretrained model is nearly certain of most tokens, which then have no gradient; "
            "with 3, all tokens have one. Evaluation is not changed."
        },
    )
    forget_objective: str = field(
        default="loss",
        metadata={
            "help": "What a step raises on the forget samples. 'loss': the loss of their labels, "
            "as in the paper. 'silence': the log-probability that the text ends here, at every "
            "position of the labels (CTC: that of the blank in every frame), so that the model "
            "writes nothing for such audio. Steps of orthograd are then also orthogonal to the "
            "gradient of each retain sample's silence.",
            "choices": ["loss", "silence"],
        },
    )
    silence_texts: str = field(
        default="mixed",
        metadata={
            "help": "The text up to each position, with forget_objective 'silence' and a model "
            "with a decoder. 'mixed': each step gives about half of the forget samples texts of "
            "retain samples, and exchanges the texts in the silence of the retain samples "
            "likewise. Then only the audio, and not the text, tells the model when to be silent. "
            "'own': the sample's own text.",
            "choices": ["own", "mixed"],
        },
    )
    unheard_words: float = field(
        default=0.0,
        metadata={
            "help": "With forget_objective 'silence' and a Whisper: the share of positions, drawn "
            "anew in each step, whose target is not the end of the text, but the word that the "
            "model before unlearning expects there without hearing anything. Without them, the "
            "model still knows the words, and writes them if it may not end. Takes the memory of "
            "a second model."
        },
    )
    max_forget_loss: float | None = field(
        default=None,
        metadata={
            "help": "A forget sample whose loss has reached this value no longer counts in a step. "
            "Without it, a few samples can take all of the forgetting while others stay memorised, "
            "because the gradient of a sample grows with its loss."
        },
    )
    granularity: str = field(
        default="parameter",
        metadata={
            "help": "Whether orthograd projects the gradient of each 'parameter' tensor by itself, "
            "or that of the whole 'model' at once.",
            "choices": ["parameter", "model"],
        },
    )
    per_device_retain_batch_size: int = field(
        default=16,
        metadata={"help": "Number of retain samples k per optimizer step in each process."},
    )
    per_device_previous_batch_size: int = field(
        default=16,
        metadata={
            "help": "Number of samples of previous_forget_dataset per optimizer step in each "
            "process."
        },
    )
    save_update_sketch: bool = field(
        default=False,
        metadata={
            "help": "Write _forget_update.safetensors at the end of training: by how much the run "
            "has changed each trained weight. Later requests that get this file "
            "(previous_updates) do not move back along this change. They need no samples for it."
        },
    )
    update_sketch_rank: int = field(
        default=0,
        metadata={
            "help": "save_update_sketch: keep only this many singular directions of each weight "
            "matrix's update; 0: all of it."
        },
    )
    inner_products: str | None = field(
        default=None,
        metadata={
            "help": "How orthograd computes the inner products of per-sample gradients: "
            "'materialise' writes out a few lines of the gradients at a time, 'ghost' never writes "
            "them out, and 'fused' computes tiles of them on chip (on GPUs with fast float64). "
            "'ghost' and 'fused' fall back to 'materialise' where they are unavailable. Default: "
            "the cheapest for each parameter.",
            "choices": ["materialise", "ghost", "fused"],
        },
    )
    freeze_batch_norm: bool = field(
        default=True,
        metadata={
            "help": "Batch normalisation uses its running statistics, so that samples do not "
            "interact. With False it works as in ordinary training, which most published methods "
            "use; methods that need per-sample gradients refuse it."
        },
    )
    freeze_randomness: bool = field(
        default=True,
        metadata={
            "help": "Methods that project gradients (orthograd, pcgrad, pgu, ...) compute them "
            "without the model's randomness (dropout, LayerDrop, stochastic depth, SpecAugment, "
            "NEFTune's noise), so that all gradients belong to the network that is evaluated. With "
            "False, randomness stays on, and every pass over a batch draws the same random "
            "numbers. Methods without a projection train with randomness, as Trainer does."
        },
    )
    stop_when: str | None = field(
        default=None,
        metadata={
            "help": "Stop when this rule holds at a check, e.g. 'forget_wer >= 25': "
            "<split>_<metric> of eval_dataset, on the scale of compute_metrics. This project's own "
            "metrics are in percent, most others are fractions. A rule that holds before the first "
            "step is an error."
        },
    )
    abort_when: str | None = field(
        default=None,
        metadata={
            "help": "Abort when this rule holds at a check, e.g. 'test_wer > 30', and restore the "
            "best checked model. 'test_wer > original + 2' compares with the value before the "
            "first step; stop_when can, too. In recipes, 'earlier_wer < 30' applies to the worst "
            "of the earlier requests, and 'earlier_1_wer < 30' to the first."
        },
    )
    check_steps: int = field(
        default=10,
        metadata={"help": "Number of optimizer steps between two checks of the stopping rules."},
    )
    check_samples: int = field(
        default=64,
        metadata={"help": "Maximum number of samples of each split that a check evaluates."},
    )
    step_control: str = field(
        default="none",
        metadata={
            "help": "'drift' chooses the length of every step: the longest one along the "
            "optimizer's step after which no sample of the retain batch has a loss more than "
            "max_drift higher than before. learning_rate is then only the first try. 'none': the "
            "optimizer's step is taken as it is.",
            "choices": ["none", "drift"],
        },
    )
    max_drift: float = field(
        default=0.02,
        metadata={
            "help": "step_control='drift': by how much a step may raise the loss of any sample of "
            "the retain batch."
        },
    )
    frozen_cache_gb: float = field(
        default=4.0,
        metadata={
            "help": "Where the first part of the model is frozen (a decoder-only run, frozen first "
            "layers), its outputs are computed once for each sample and kept for later steps, "
            "checks and evaluation: up to this many gigabytes in each process, of which one is in "
            "memory and the rest in a temporary file. The values are the same. 0 computes them in "
            "every pass."
        },
    )
    max_skipped_steps: int = field(
        default=3,
        metadata={
            "help": "End the training after this many skipped optimizer steps in a row. A step is "
            "skipped if its loss or gradient is not finite."
        },
    )
    hide_names: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Names and ids of forgotten persons. Salted hashes replace them in everything "
            "that is pushed to the Hub, and trackers (report_to) never get them. Recipes fill this "
            "in themselves."
        },
    )
    name_forgotten: bool = field(
        default=False,
        metadata={
            "help": "Name the forgotten persons in the card, in everything that is pushed to the "
            "Hub, and to trackers."
        },
    )
    logging_steps: float = field(
        default=1,
        metadata={
            "help": "Number of optimizer steps between two log entries. The default is 1 because "
            "unlearning runs are short."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self)

    def to_dict(self) -> dict:
        """The arguments for trackers and results. `hide_names` is left out and, unless
        `name_forgotten` is set, these names are removed from all texts, because trackers upload
        them."""
        arguments = {**super().to_dict(), "method": str(self.method)}
        del arguments["hide_names"]
        return arguments if self.name_forgotten else without_names(arguments, self.hide_names)


UnlearnConfig.__init__ = with_suggestions()(UnlearnConfig.__init__)
