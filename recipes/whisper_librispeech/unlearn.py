"""Makes a Whisper model forget speakers, and measures what is forgotten and what is kept.

    accelerate launch recipes/whisper_librispeech/unlearn.py recipes/whisper_librispeech/whisper_tiny.yaml
    accelerate launch recipes/whisper_librispeech/unlearn.py recipes/whisper_librispeech/whisper_tiny.yaml \
        --forget_speakers 103 --method gradient_difference --alpha 0.8 --output_dir out/difference
    accelerate launch recipes/whisper_librispeech/unlearn.py recipes/whisper_librispeech/fsdd_digits.yaml --gold none

`output_dir` then holds the unlearned model with its card, `results.json` and `forgetting.png`. `--help` lists all
options: the recipe's (arguments.py), the data's (SpeechArguments) and the trainer's (UnlearnConfig).
"""

import copy
import dataclasses
import re
import shlex
import sys
from pathlib import Path

from arguments import RecipeArguments, parse, run
from peft import LoraConfig
from torch.utils.data import ConcatDataset
from train import augmented, load_model, load_processor, train
from transformers import WhisperConfig

from hf_unlearn import UnlearnConfig, UnlearnTrainer
from hf_unlearn.data.speech import SpeechArguments, SpeechCollator
from hf_unlearn.data.splits import SpeakerSplits, load_splits, prepare_splits
from hf_unlearn.evaluation import asr_metrics, evaluate_splits
from hf_unlearn.model_card import build_card
from hf_unlearn.report import environment, plot_history, results_table, write_results


def get_model(role: str, choice: str, recipe: RecipeArguments, data: SpeechArguments, splits, processor, args):
    """The original or the retrained model (role): loaded, or trained into output_dir/<role>."""
    if choice == "train":
        model = load_model(recipe.base_model, recipe, data, processor, args.seed)
        choice = str(Path(args.output_dir) / role)
        train(model, recipe, splits, processor, args, choice, without_forget=role == "retrained")
    return load_model(choice, recipe, data, processor, args.seed)  # from its folder, which an adapter refers to


def make_trainer(model, recipe: RecipeArguments, data: SpeechArguments, splits: SpeakerSplits, processor, args):
    lora = LoraConfig(r=recipe.lora_r, lora_alpha=recipe.lora_alpha, target_modules=recipe.lora_target_modules)
    forget, retain = splits.forget, splits.retain
    if recipe.augment:
        forget, retain = (augmented(rows, recipe, processor, model.config) for rows in (forget, retain))
        retain = ConcatDataset([retain] * recipe.augment)
    return UnlearnTrainer(
        model=model,
        args=args,
        forget_dataset=forget,
        retain_dataset=retain,
        eval_dataset=splits.evaluation(data.max_eval_samples),
        processing_class=processor,
        data_collator=SpeechCollator(processor, model.config.decoder_start_token_id),
        compute_metrics=asr_metrics(processor, normalize=recipe.normalize, seed=args.seed),
        peft_config=lora if recipe.lora_r else None,
    )


def freeze(model, trainable: str) -> None:
    """Leaves only the parameters trainable whose name matches. Raises ValueError where that leaves none."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and re.search(trainable, name) is not None)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"trainable is {trainable!r}, which matches no parameter, such as {name!r}")


def evaluate(model, recipe, data, splits, processor, args) -> dict:
    """Evaluates a model that is not unlearned, by the same trainer."""
    args = copy.copy(args)
    args.stop_when = args.abort_when = None
    trainer = make_trainer(model, dataclasses.replace(recipe, lora_r=0), data, splits, processor, args)
    return evaluate_splits(trainer, trainer.eval_dataset)


def fill_in_retrained(rule: str | None, retrained: dict | None) -> str | None:
    """Puts the retrained model's value in place of the word: "forget_wer >= retrained" -> "forget_wer >= 61.8".

    Raises:
        ValueError: the rule has the word, but there is no retrained model, or it has no such metric.
    """
    match = re.fullmatch(r"\s*(\w+)_([a-z]+)(.*)\bretrained\s*", rule or "")
    if match is None:
        return rule
    split, metric, comparison = match.groups()
    if retrained is None:
        raise ValueError(f"the rule {rule!r} needs the retrained model: set gold to 'train', a folder or a Hub id")
    if metric not in retrained.get(split, {}):
        raise ValueError(f"the rule {rule!r} names no metric of the retrained model: write <split>_wer or <split>_cer")
    return f"{split}_{metric}{comparison}{retrained[split][metric]:.4f}"


def history(trainer: UnlearnTrainer, original: dict) -> list[dict]:
    """The checks over the steps, with the original model as step 0."""
    rows = [row for row in trainer.state.log_history if any(key.startswith("check_") for key in row)]
    start = {f"check_{split}_{name}": value for split, row in original.items() for name, value in row.items()}
    return [{"step": 0, **start}, *rows]


def report(results: dict, trainer: UnlearnTrainer, recipe: RecipeArguments, data: SpeechArguments) -> None:
    """Prints the table; writes results.json, the plot and the model's card."""
    folder = Path(trainer.args.output_dir)
    print(f"\n{results_table(results)}\n\n{results['stopping']}")
    write_results(folder / "results.json", results)
    levels = {"original": results["original"], "retrained": results["retrained"]}
    plot = plot_history(results["history"], folder / "forgetting.png", **levels)
    base = recipe.base_model if recipe.model == "train" else recipe.model
    card = build_card(
        results,
        model_name=folder.name,
        base_model=base,
        datasets=[data.dataset],
        language=data.language,
        plot=plot.name,
    )
    card.save(folder / "README.md")
    print(f"model, results.json, forgetting.png and README.md are in {folder}")


def main(argv: list[str]) -> None:
    recipe, data, args = parse((RecipeArguments, SpeechArguments, UnlearnConfig), argv)
    args.predict_with_generate, args.label_names = True, ["labels"]
    with args.main_process_first(desc="loading the data"):
        splits = load_splits(data, args.seed)
    start = recipe.base_model if recipe.model == "train" else recipe.model
    processor = load_processor(start, recipe, splits)
    longest = WhisperConfig.from_pretrained(start).max_target_positions if start else recipe.max_target_positions
    training = "train" in (recipe.model, recipe.gold)
    with args.main_process_first(desc="features"):  # the others find them in the cache
        splits = prepare_splits(splits, processor, data, max_label_length=longest, retain_pool=training)

    shared = (recipe, data, splits, processor, args)
    original = get_model("original", recipe.model, *shared)
    retrained = None
    if recipe.gold != "none":
        retrained = evaluate(get_model("retrained", recipe.gold, *shared), *shared)
    args.stop_when = fill_in_retrained(args.stop_when, retrained)
    args.abort_when = fill_in_retrained(args.abort_when, retrained)

    freeze(original, recipe.trainable)
    trainer = make_trainer(original, *shared)
    before = evaluate_splits(trainer, trainer.eval_dataset)
    trainer.train()
    after = evaluate_splits(trainer, trainer.eval_dataset)
    trainer.save_model()
    if trainer.is_world_process_zero():
        results = {
            "config": {"recipe": vars(recipe), "data": vars(data), "trainer": args.to_dict()},
            "data": splits.describe(),
            "seed": args.seed,
            "environment": environment(),
            "original": before,
            "unlearned": after,
            "retrained": retrained,
            "stopping": trainer.stopping,
            "history": history(trainer, before),
            "command": shlex.join(sys.argv),
        }
        report(results, trainer, recipe, data)


if __name__ == "__main__":
    run(main)
