"""What `--dry_run` prints: the plan of a run, without training anything."""

from torch import nn
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from ...report.tasks import TASKS, Task
from ...trainer import check_steps
from ..checks.model_checks import first_trainer
from ..checks.processor_checks import check_processors
from ..recipe import Recipe


def dry_run(recipe: Recipe) -> dict:
    """Prints what a run would do with the model it would start from, and returns it.

    Raises:
        ValueError: the run could not work (see `first_trainer`).
    """
    options, args, task = recipe.options, recipe.args, TASKS[recipe.task]
    check_steps(args, recipe.splits.forget)
    check_processors(recipe)
    trainer = first_trainer(recipe)
    settings = [f"{name} {value}" for name, value in trainer.method_settings.items()]
    described = recipe.splits.describe()
    optimizer = OptimizerNames(args.optim).value
    plan = {
        "dataset": recipe.data.dataset,
        "forgotten": _forgotten(described, task),
        task.units: described[task.units],
        "model": options.model,
        "retrained model": options.gold,
        "shadow models": options.shadow_models,
        "method": ", ".join([str(args.method), *settings]),
        "learning rate": f"{args.learning_rate:g} ({SchedulerType(args.lr_scheduler_type).value})",
        "optimizer": optimizer,
        "trainable": options.trainable or "all parameters",
        "stop when": args.stop_when or "never, before the last step",
        "abort when": args.abort_when or "never",
        "steps": args.max_steps if args.max_steps > 0 else f"{args.num_train_epochs:g} epochs",
        **recipe.plan(),
        **training_memory(trainer.model, optimizer),
        "not counted": "activations, per-sample gradients of one layer",
        "output": args.output_dir,
    }
    if trainer.is_world_process_zero():
        print("\n".join(f"{name}: {value}" for name, value in plan.items()))
    return plan


def _forgotten(described: dict, task: Task) -> str:
    """Who or what is forgotten: speakers, classes, or a number of images."""
    if task.forgotten == task.group:
        return ", ".join(map(str, described[task.groups].get("forget", [])))
    return f"{described[task.units]['forget']} {task.units}"


def training_memory(model: nn.Module, optimizer: str) -> dict[str, str]:
    """The numbers of parameters, and the MiB of weights, gradients and optimizer states."""
    total = sum(p.numel() for p in model.parameters())
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = sum(p.numel() * p.element_size() for p in trained)
    states = 2 * gradients if "adam" in optimizer else 0 if optimizer == "sgd" else None
    count = sum(p.numel() for p in trained)
    sizes = {"weights": weights, "gradients": gradients, f"states of {optimizer}": states}
    return {
        "trained parameters": f"{count:,} of {total:,} ({100 * count / total:.2f} %)",
        "memory": ", ".join(
            f"{name} {'not known' if size is None else f'{size / 2**20:.1f} MiB'}"
            for name, size in sizes.items()
        ),
    }
