"""The options that all recipes share."""

from dataclasses import dataclass, field
from typing import Annotated

from .option_effects import Affects, options_affecting


@dataclass
class RecipeArguments:
    """Which models a run uses, how they are trained, and which parameters unlearning may change.

    Shared models and cached measurements are found by a hash that covers every option, unless the
    option's type says that it does not affect them (see `Affects`).
    """

    _argument_group_name = "models and evaluation (the recipe)"

    model: Annotated[str, Affects.NEITHER] = field(
        default="train",
        metadata={
            "help": "The model to unlearn: a folder, a Hub id, or 'train' to train one first, "
            "into output_dir/original."
        },
    )
    gold: Annotated[str, Affects.NEITHER] = field(
        default="none",
        metadata={
            "help": "The retrained model, trained without the forget set: a folder, a Hub id, "
            "'train' to train it into output_dir/retrained, or 'none'."
        },
    )
    base_model: str | None = field(
        default=None,
        metadata={
            "help": "The model that 'train' fine-tunes: a folder or Hub id. By default 'train' "
            "starts from a small, randomly initialised model."
        },
    )
    models_dir: Annotated[str | None, Affects.NEITHER] = field(
        default=None,
        metadata={
            "help": "Folder in which runs share the models that they train (found by a hash of "
            "data, options and seed) and the measurements of the original and the retrained model "
            "(found by a hash of all that they depend on). By default models go to output_dir, "
            "'train' always trains again, and every run measures both models."
        },
    )
    train_seed: Annotated[int | None, Affects.MEASUREMENTS] = field(
        default=None,
        metadata={"help": "Training (model or gold is 'train'): random seed; default: seed."},
    )
    train_steps: int = field(
        default=1000, metadata={"help": "Training (model or gold is 'train'): optimizer steps."}
    )
    train_batch_size: int = field(
        default=16,
        metadata={"help": "Training (model or gold is 'train'): samples per step and process."},
    )
    train_learning_rate: float = field(
        default=2e-3, metadata={"help": "Training (model or gold is 'train'): peak learning rate."}
    )
    train_warmup: float = field(
        default=0.1,
        metadata={
            "help": "Training (model or gold is 'train'): fraction of the steps in which the "
            "learning rate warms up."
        },
    )
    trainable: Annotated[str, Affects.NEITHER] = field(
        default="",
        metadata={
            "help": "Regular expression: unlearning changes only the parameters whose names it "
            "matches; with LoRA, only matching layers get an adapter. Example: "
            "'model\\.encoder\\.' is Whisper's encoder ('encoder' would also match encoder_attn "
            "in the decoder)."
        },
    )
    limit_at_retrained: Annotated[bool, Affects.NEITHER] = field(
        default=False,
        metadata={
            "help": "Sets max_forget_loss to the retrained model's mean loss on the forget set: "
            "each forget sample counts only until it has that loss."
        },
    )
    lora_r: Annotated[int, Affects.NEITHER] = field(
        default=0,
        metadata={"help": "Rank of the LoRA adapter that unlearning trains; 0: all weights."},
    )
    lora_alpha: Annotated[int, Affects.NEITHER] = field(
        default=64, metadata={"help": "LoRA: the adapter is scaled by lora_alpha / lora_r."}
    )
    lora_target_modules: Annotated[list[str], Affects.NEITHER] = field(
        default_factory=list, metadata={"help": "LoRA: names of the layers that get an adapter."}
    )
    merge_adapter: Annotated[bool, Affects.NEITHER] = field(
        default=True,
        metadata={
            "help": "Where `model` is a LoRA adapter: merge it into its base model (as peft's "
            "merge_and_unload), and unlearn from there. false, with lora_r: stack the new adapter "
            "on it; both are saved as one adapter of the same base (as peft's combination_type "
            "'cat'), whose rank is the sum of both."
        },
    )
    keep_forgotten: Annotated[str, Affects.NEITHER] = field(
        default="none",
        metadata={
            "help": "How unlearning keeps earlier requests forgotten. "
            "samples: each step is orthogonal to the gradients of their samples, which must still "
            "be in the data. updates: to their weight changes; this needs no samples, but "
            "protects less; each run, the first one included, then writes its "
            "own into output_dir (save_update_sketch). none: nothing is done.",
            "choices": ["samples", "updates", "none"],
        },
    )
    digest_steps: Annotated[int, Affects.NEITHER] = field(
        default=20,
        metadata={
            "help": "Number of optimizer steps between two digests of the trained weights in "
            "forget_ledger.json, which hf-unlearn verify compares; 0: none. Each takes a second or "
            "two per GB."
        },
    )
    attacks: Annotated[bool, Affects.MEASUREMENTS] = field(
        default=True, metadata={"help": "Run membership inference attacks on all models."}
    )
    shadow_models: Annotated[int, Affects.MEASUREMENTS] = field(
        default=0,
        metadata={
            "help": "LiRA: number of shadow models (even; 8 is few). Each is trained like the "
            "original, on half of the forget samples and of similar unseen samples; 0: no LiRA."
        },
    )
    threads: Annotated[str, Affects.NEITHER] = field(
        default="auto",
        metadata={
            "help": "How many threads torch uses on a CPU while models are trained: a number, or "
            "auto (one for a model with fewer than 2 million parameters and at most 64 samples at "
            "once, else torch's default)."
        },
    )
    dry_run: Annotated[bool, Affects.NEITHER] = field(
        default=False,
        metadata={
            "help": "Only print the plan: splits, trained parameters, memory, number of steps."
        },
    )
    evaluate: Annotated[bool, Affects.NEITHER] = field(
        default=False,
        metadata={
            "help": "Only evaluate `model` on the splits, into evaluation.json (hf-unlearn "
            "evaluate)."
        },
    )
    dataset_hint: Annotated[str, Affects.NEITHER] = field(
        default="",
        metadata={"help": "How to make `dataset`; shown in the error message if it is missing."},
    )
    recipe: Annotated[str | None, Affects.NEITHER] = field(
        default=None,
        metadata={
            "help": "hf-unlearn run: the recipe's script; default: unlearn.py beside the YAML."
        },
    )
    launch: Annotated[str, Affects.NEITHER] = field(
        default="",
        metadata={
            "help": "hf-unlearn run: flags for accelerate launch, such as '--num_processes 2'; "
            "set in the YAML."
        },
    )

    def __post_init__(self) -> None:
        if self.threads != "auto" and not (self.threads.isdigit() and int(self.threads)):
            raise ValueError(f"threads is {self.threads!r}, but must be auto or a number from 1")
        if self.keep_forgotten not in ("samples", "updates", "none"):
            raise ValueError(
                f"keep_forgotten is {self.keep_forgotten!r}, but must be samples, updates or none"
            )
        if self.digest_steps < 0:
            raise ValueError(f"digest_steps is {self.digest_steps}, but must be 0 or more")

    @property
    def start(self) -> str | None:
        """The model that the run starts from, before any training: a folder or Hub id; None for a
        new model."""
        return self.base_model if self.model == "train" else self.model

    @property
    def trains(self) -> bool:
        """Whether the run trains models, which takes all training data."""
        return "train" in (self.model, self.gold) or self.shadow_models > 0

    @property
    def needs_training_data(self) -> bool:
        """Whether the run reads all training data: it trains models, and does not only plan to."""
        return self.trains and not self.dry_run

    def of_training(self) -> dict:
        """The options that the weights of a trained model may depend on."""
        return options_affecting(Affects.TRAINED_MODELS, self)

    def of_measurement(self) -> dict:
        """The options that the measurements of a model may depend on, besides its weights."""
        return options_affecting(Affects.MEASUREMENTS, self)


@dataclass
class ClassifierArguments(RecipeArguments):
    """The options that the recipes of classifiers share: relearning speed (see `relearning_steps`),
    for which `hf-unlearn audit` has settings of its own."""

    relearn_samples: Annotated[int, Affects.MEASUREMENTS] = field(
        default=0,
        metadata={
            "help": "Relearning speed: fine-tune a copy of each model on this many forget samples; "
            "0: do not measure it."
        },
    )
    relearn_steps: Annotated[int, Affects.MEASUREMENTS] = field(
        default=50, metadata={"help": "Relearning speed: maximum number of steps."}
    )
    relearn_learning_rate: Annotated[float, Affects.MEASUREMENTS] = field(
        default=1e-4, metadata={"help": "Relearning speed: learning rate of AdamW."}
    )


@dataclass
class TrainArguments:
    """What a recipe's `train.py` takes besides its other options."""

    without_forget: bool = field(
        default=False,
        metadata={"help": "Train without the forget set: the retrained model (option gold)."},
    )
