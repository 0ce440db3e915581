"""The options that all recipes share, and how YAML file and command line become arguments."""

from dataclasses import dataclass, field


@dataclass
class RecipeArguments:
    """Which models there are, how they are trained, and what of the model unlearning may change."""

    _argument_group_name = "models and evaluation (the recipe)"

    model: str = field(
        default="train",
        metadata={
            "help": "The model to unlearn: folder, Hub id, or 'train' to train it first into "
            "output_dir/original."
        },
    )
    gold: str = field(
        default="none",
        metadata={
            "help": "The retrained reference, which never met what is forgotten: folder, Hub id, "
            "'train' to train it "
            "into output_dir/retrained, or 'none'."
        },
    )
    base_model: str | None = field(
        default=None,
        metadata={
            "help": "What 'train' starts from: folder or Hub id to fine-tune; without it a "
            "new, small model."
        },
    )
    models_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder for the models trained here, by a hash of data, options and seed, so "
            "that other runs find "
            "them; without it output_dir, and 'train' trains anew."
        },
    )
    train_seed: int | None = field(
        default=None,
        metadata={
            "help": "'train': seed; without it that of the run, so that each seed has models "
            "of its own."
        },
    )
    train_steps: int = field(default=1000, metadata={"help": "'train': optimizer steps."})
    train_batch_size: int = field(
        default=16, metadata={"help": "'train': samples per step and process."}
    )
    train_learning_rate: float = field(
        default=2e-3, metadata={"help": "'train': peak learning rate."}
    )
    train_warmup: float = field(
        default=0.1, metadata={"help": "'train': share of the steps spent on warming up."}
    )
    trainable: str = field(
        default="",
        metadata={
            "help": "Regular expression: unlearning changes only parameters whose name it matches, "
            "with LoRA only the "
            "adapters of such layers. 'model\\.encoder\\.' is Whisper's encoder ('encoder' also "
            "matches encoder_attn in its "
            "decoder)."
        },
    )
    lora_r: int = field(
        default=0,
        metadata={"help": "Rank of the LoRA adapter that unlearning trains; 0: all weights."},
    )
    lora_alpha: int = field(
        default=64, metadata={"help": "LoRA: the adapter's scale is lora_alpha / lora_r."}
    )
    lora_target_modules: list[str] = field(
        default_factory=list, metadata={"help": "LoRA: names of the layers that get an adapter."}
    )
    attacks: bool = field(default=True, metadata={"help": "Membership attacks on all models."})
    shadow_models: int = field(
        default=0,
        metadata={
            "help": "LiRA: train so many models (even, 8 is a small number) as the original was, "
            "each with half of the "
            "forgotten training samples and of unseen ones like them; 0: no LiRA."
        },
    )
    dry_run: bool = field(
        default=False,
        metadata={
            "help": "Only say what would be done: splits, trained parameters, memory, steps."
        },
    )
    evaluate: bool = field(
        default=False,
        metadata={
            "help": "Only evaluate `model` on the splits, into evaluation.json (hf-unlearn "
            "evaluate)."
        },
    )
    recipe: str | None = field(
        default=None,
        metadata={
            "help": "hf-unlearn run: the recipe's script; without it, unlearn.py beside the YAML."
        },
    )
    launch: str = field(
        default="",
        metadata={
            "help": "hf-unlearn run, in the YAML: flags of accelerate launch, '--num_processes 2'."
        },
    )

    _not_of_training = frozenset({
        "model", "gold", "models_dir", "train_seed", "trainable", "lora_r", "lora_alpha", "lora_target_modules",
        "attacks", "shadow_models", "dry_run", "evaluate", "recipe", "launch",
    })  # fmt: skip

    @property
    def trains(self) -> bool:
        """Whether models are trained, which takes all training data."""
        return "train" in (self.model, self.gold) or self.shadow_models > 0

    def of_training(self) -> dict:
        """The options that a trained model can depend on: all that are not known to be others."""
        return {
            name: value for name, value in vars(self).items() if name not in self._not_of_training
        }


@dataclass
class ReferenceArguments:
    """What a recipe's `train.py` takes beside its other options."""

    without_forget: bool = field(
        default=False,
        metadata={"help": "Train without what is to be forgotten: the retrained reference."},
    )
