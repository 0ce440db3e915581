"""UnlearnTrainer: a Hugging Face Trainer whose training step forgets one data set and keeps another."""

import contextlib
import dataclasses
import functools
from collections import defaultdict

import datasets
import torch
import torch.distributed as dist
from accelerate.utils import DistributedType, find_batch_size
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import Seq2SeqTrainer, TrainingArguments
from transformers.utils import logging

from .config import UnlearnConfig
from .methods import Method, build_method
from .methods.base import Visitor
from .per_sample import ParameterRows, PerSampleEngine, SampleMeanLoss
from .per_sample.check import MIXED, find_slow_parameters, samples_mix
from .per_sample.reference import per_sample_gradients, select_sample
from .per_sample.rows import Dense
from .retain import RetainSampler, retain_dataloader
from .stopping import StoppingRules

logger = logging.get_logger(__name__)


class UnlearnTrainer(Seq2SeqTrainer):
    """Makes a model forget `forget_dataset` while it keeps `retain_dataset`; in all else a `Seq2SeqTrainer`.

    Args:
        forget_dataset: what is to be forgotten; `train_dataset` is its alias, so that existing code needs one new
            line.
        retain_dataset: the (small) data that must be kept, with a length and indexed access.
        eval_dataset: best a dict of splits, `{"forget": ..., "retain": ..., "test": ...}`.
        peft_config: a `peft` configuration; the model is wrapped, and the adapter alone is trained.
        args, model, processing_class, data_collator, compute_metrics, callbacks, ...: as in `Seq2SeqTrainer`.

    The loss of a batch is the mean over its samples of what the model returns for each sample alone, in training and
    in evaluation, so that neither padding nor the composition of batches matters. Layers of the BatchNorm family keep
    their running statistics, since samples must not interact.

    Logged per step: `forget_loss`, `retain_loss`, and for orthograd `kept` = |u_perp| / |u|, `rank` (numerical rank of
    the retain gradients; its mean over the projections) and `residual` (the largest cosine left between u_perp and a
    retain gradient).

    Attributes:
        stopping: what ended the training, for reports: reason, step, rules and the value that decided.

    Raises:
        ValueError: at construction, for arguments that cannot work together; the message says why and what to do.
    """

    loss_is_scaled_for_ga = False  # Whisper takes **kwargs but averages over its batch

    def __init__(
        self,
        model=None,
        args: UnlearnConfig | None = None,
        data_collator=None,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        *more,
        forget_dataset=None,
        retain_dataset=None,
        peft_config=None,
        **keywords,
    ):
        args = _as_unlearn_config(args)
        self.method: Method = build_method(args)
        if train_dataset is not None and forget_dataset is not None:
            raise ValueError("train_dataset is an alias of forget_dataset: give one of them, not both")
        forget_dataset = train_dataset if forget_dataset is None else forget_dataset
        _check_data(self.method, forget_dataset, retain_dataset)
        if peft_config is not None:
            model = _with_adapter(model, args, peft_config)
        super().__init__(model, args, data_collator, forget_dataset, eval_dataset, processing_class, *more, **keywords)
        self.retain_dataset = retain_dataset
        _check_compatible(self.method, self)
        self._engine: PerSampleEngine | None = None
        self._one_by_one: bool | None = None  # whether the model's loss has to be computed for each sample by itself
        self._retain_batches, self._retain_step = None, -1
        self._gather_group = None
        self._statistics: dict[str, list[Tensor]] = defaultdict(list)
        self._rules = StoppingRules(self) if args.stop_when or args.abort_when else None
        if self._rules:
            self.add_callback(self._rules)

    @property
    def stopping(self) -> dict:
        if self._rules:
            return self._rules.report
        return {"reason": "max_steps", "step": self.state.global_step, "rule": None, "abort_rule": None}

    # ---- losses -----------------------------------------------------------------------------------------------------

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        with SampleMeanLoss(find_batch_size(inputs)):
            return super().compute_loss(model, inputs, return_outputs)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None, **gen_kwargs):
        with SampleMeanLoss(find_batch_size(inputs)) as losses:  # predict_with_generate does not call compute_loss
            loss, *more = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys, **gen_kwargs)
        if loss is not None:
            self._evaluated.append(self.accelerator.gather_for_metrics(losses.per_sample(loss)).cpu())
        return loss, *more

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        """As in Trainer, but every sample counts once: Trainer weighs the last, smaller batch like the others, and
        Seq2SeqTrainer keeps the samples that fill up the processes' last batches."""
        self._evaluated: list[Tensor] = []
        self.gather_function = self.accelerator.gather_for_metrics
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        if self._evaluated:
            output.metrics[f"{metric_key_prefix}_loss"] = float(torch.cat(self._evaluated).double().mean())
        return output

    # ---- the step ---------------------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        samples = torch.tensor(sum(find_batch_size(batch) for batch in batches), device=self.args.device)
        self._forget_samples = int(self.accelerator.reduce(samples))
        return batches, None

    def training_step(self, model: nn.Module, inputs: dict, num_items_in_batch=None) -> Tensor:
        """One micro-batch of forget samples and, after the last one of an optimizer step, the retain batch."""
        self._set_training_mode(model)
        step = _TrainerStep(self, model, self._prepare_inputs(inputs))
        if self._one_by_one is None:
            self._one_by_one = self._samples_mix(step.forget_batch)
        loss = torch.zeros((), device=self.args.device)
        if self.method.uses_forget:
            loss = self.method.forget(step)
            self._statistics["forget_loss"].append(loss)
        if self.accelerator.sync_gradients and self.method.uses_retain:
            step.draw_retain_batch()
            for name, value in self.method.retain(step).items():
                self._statistics[name].append(value)
            loss = loss if self.method.uses_forget else self._statistics["retain_loss"][-1]
        return loss

    def _set_training_mode(self, model: nn.Module) -> None:
        model.train()
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        if callable(getattr(self.optimizer, "train", None)):  # schedule-free optimizers, as in Trainer
            self.optimizer.train()

    def next_retain_batch(self) -> dict:
        """The retain batch of the current optimizer step."""
        if self._retain_step != self.state.global_step:
            sampler = RetainSampler(
                len(self.retain_dataset),
                self.args.per_device_retain_batch_size,
                self.args.data_seed if self.args.data_seed is not None else self.args.seed,
                self.args.process_index,
                self.args.world_size,
                self.state.global_step,
            )
            dataset, collator = self.retain_dataset, self.data_collator
            if isinstance(dataset, datasets.Dataset):
                dataset = self._remove_unused_columns(dataset, description="retain")
            else:
                collator = self._get_collator_with_removed_columns(collator, description="retain")
            self._retain_batches = iter(retain_dataloader(dataset, sampler, collator, self.args))
            self._retain_step = self.state.global_step
        self._retain_step += 1
        return self._prepare_inputs(next(self._retain_batches))

    def per_sample_engine(self, loss_of, batch: dict, k: int) -> PerSampleEngine:
        """The engine, held against one retain sample computed alone before its first use."""
        if self._engine is None:
            slow = self._find_slow(loss_of, batch, k)
            names = dict(self.model.named_parameters())
            self._engine = PerSampleEngine(self.model, [names[name] for name in slow])
            if slow and not self._one_by_one:
                reasons = defaultdict(list)
                for name, reason in slow.items():
                    reasons[reason].append(name)
                logger.warning(
                    "The per-sample gradients of these parameters are computed one sample at a time, which is exact "
                    "but slow: " + "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
                )
        return self._engine

    @contextlib.contextmanager
    def _without_randomness(self):
        if not _checkpoints(self.model):  # those work in training mode only; eval mode has no randomness
            self.model.eval()
        with torch.random.fork_rng(devices=[self.args.device] if self.args.device.type == "cuda" else []):
            yield
        self._set_training_mode(self.model)

    def _precision(self) -> torch.dtype:
        own = next(p.dtype for p in self.model.parameters() if p.is_floating_point())
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.accelerator.mixed_precision, own)

    def _samples_mix(self, batch: dict) -> bool:
        """Whether the model's loss of a batch is not the mean over its samples; then it is computed one by one."""

        def loss_of(batch):
            with self.compute_loss_context_manager():
                return self.compute_loss(self.model, dict(batch))

        with self._without_randomness():
            mix = samples_mix(self.model, loss_of, batch, find_batch_size(batch), self._precision())
        mix = bool(self.accelerator.reduce(torch.tensor(float(mix), device=self.args.device)))
        if mix:
            logger.warning(f"Each sample is computed by itself, which is exact but slow: {MIXED}.")
        return mix

    def _find_slow(self, loss_of, batch: dict, k: int) -> dict[str, str]:
        with self._without_randomness():
            slow = find_slow_parameters(self.model, loss_of, batch, k, self._precision())
        if self.args.world_size > 1:
            found = [None] * self.args.world_size
            dist.all_gather_object(found, slow)
            slow = {name: reason for one in found for name, reason in one.items()}
        return slow

    def gather_samples(self, tensor: Tensor) -> Tensor:
        """Tensors (k, T, ...) or (k, ...) of all processes, concatenated along the samples, padded with zeros in T."""
        if self._gather_group is None:  # a group of its own, so that DDP's reductions in flight do not mix with these
            self._gather_group = dist.new_group()
        return _all_gather(tensor, self._gather_group)

    # ---- logs -------------------------------------------------------------------------------------------------------

    def log(self, logs: dict, start_time: float | None = None) -> None:
        if "loss" in logs and self._statistics:
            logs = {**logs, **self._step_statistics()}
        super().log(logs, start_time)

    def _step_statistics(self) -> dict[str, float]:
        """Means over the optimizer steps since the last log, and over processes for what differs between them."""
        steps = max(1, self.state.global_step - self._logged_step())
        means = {}
        for name, values in self._statistics.items():
            total = torch.stack([value.float() for value in values]).sum() / steps
            if name in ("forget_loss", "retain_loss"):
                total = self.accelerator.reduce(total, "mean")
            means[name] = float(total)
        self._statistics.clear()
        return means

    def _logged_step(self) -> int:
        return max((row["step"] for row in self.state.log_history if "loss" in row), default=self._initial_global_step)


class _TrainerStep:
    """What `methods.base.Step` asks for, for one call of `training_step`."""

    def __init__(self, trainer: UnlearnTrainer, model: nn.Module, forget_batch: dict):
        self.trainer, self.model, self.forget_batch = trainer, model, forget_batch
        self.processes = trainer.args.world_size
        self.parameters = [p for p in trainer.model.parameters() if p.requires_grad]

    def draw_retain_batch(self) -> None:
        self.retain_batch = self.trainer.next_retain_batch()
        self.samples = find_batch_size(self.retain_batch)
        counts = [self.samples]
        if self.processes > 1:
            counts = self.trainer.accelerator.gather(
                torch.tensor([self.samples], device=self.trainer.args.device)
            ).tolist()
        self.all_samples, self.first_sample = sum(counts), sum(counts[: self.trainer.args.process_index])

    def forget_loss(self) -> Tensor:
        share = find_batch_size(self.forget_batch) * self.processes / self.trainer._forget_samples
        return self._loss(self.model, self.forget_batch) * share

    def retain_loss(self) -> Tensor:
        return self._loss(self.model, self.retain_batch) * (self.samples * self.processes / self.all_samples)

    def _loss(self, model: nn.Module, batch: dict) -> Tensor:
        trainer, k = self.trainer, find_batch_size(batch)
        with trainer.compute_loss_context_manager():
            if not trainer._one_by_one:
                return trainer.compute_loss(model, dict(batch))
            return sum(trainer.compute_loss(model, select_sample(batch, n, k)) for n in range(k)) / k

    def backward(self, loss: Tensor, **keywords) -> None:
        self.trainer.accelerator.backward(loss, **keywords)

    def visit_retain_samples(self, *visitors: Visitor) -> Tensor:
        trainer, k = self.trainer, self.samples
        engine = trainer.per_sample_engine(lambda batch: self._loss(trainer.model, batch), self.retain_batch, k)
        loss = None
        for visitor in visitors:
            last = visitor is visitors[-1]
            # DistributedDataParallel reduces one backward pass for each forward pass: it gets a new one for the last.
            again = not last and self.processes == 1
            with contextlib.nullcontext() if last else trainer.accelerator.no_sync(self.model):
                if loss is None or self.processes > 1:
                    with engine.record(k):
                        loss = self._loss(self.model, self.retain_batch)
                visit = self._with_all_processes(visitor)
                if loss.requires_grad:  # not where all parameters are slow
                    engine.backward(functools.partial(self.backward, loss, retain_graph=again), visit, again)
            self._visit_slow(engine, visit)
        return loss.detach()

    def _with_all_processes(self, visitor: Visitor):
        if self.processes == 1:
            return lambda rows: visitor(rows, rows)
        return lambda rows: visitor(rows, rows.gathered(self.trainer.gather_samples, self.all_samples))

    def _visit_slow(self, engine: PerSampleEngine, visit) -> None:
        """The same for the parameters that the engine leaves out: one pass for each sample."""
        trainer, k = self.trainer, self.samples
        slow = [p for p in self.parameters if id(p) in engine.slow]
        if not slow:
            return
        scaler = trainer.accelerator.scaler
        scale = (scaler.get_scale() if scaler is not None else 1.0) / k

        def loss_of(batch):
            return self._loss(trainer.model, batch) * scale

        gradients = list(per_sample_gradients(trainer.model, loss_of, self.retain_batch, k, slow))
        for parameter, rows in zip(slow, zip(*gradients)):
            gradient = visit(ParameterRows(parameter, [Dense(torch.stack(rows))], k))
            if gradient is not None:
                gradient = trainer.accelerator.reduce(gradient, "mean")
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


def _all_gather(tensor: Tensor, group) -> Tensor:
    tensor = tensor.contiguous()
    processes = dist.get_world_size(group)
    shape = torch.tensor(tensor.shape[:2], device=tensor.device)
    shapes = [torch.empty_like(shape) for _ in range(processes)]
    dist.all_gather(shapes, shape, group=group)
    largest = torch.stack(shapes).amax(0).tolist()
    padded = tensor.new_zeros(*largest, *tensor.shape[len(largest) :])
    padded[tuple(slice(0, size) for size in tensor.shape[: len(largest)])] = tensor
    parts = [torch.empty_like(padded) for _ in range(processes)]
    dist.all_gather(parts, padded, group=group)
    return torch.cat([part[: int(size[0])] for part, size in zip(parts, shapes)])


def _as_unlearn_config(args) -> UnlearnConfig:
    """Plain TrainingArguments are taken as they are, with the defaults of unlearning beside them."""
    if args is None:
        return UnlearnConfig(output_dir="tmp_unlearn")
    if isinstance(args, UnlearnConfig):
        return args
    if not isinstance(args, TrainingArguments):
        raise TypeError(f"args is a {type(args).__name__}, but must be an UnlearnConfig (or TrainingArguments)")
    known = {f.name for f in dataclasses.fields(UnlearnConfig) if f.init}
    given = {name: value for name, value in args.to_dict().items() if name in known}
    return UnlearnConfig(**{**given, "hub_token": args.hub_token})


def _check_data(method: Method, forget_dataset, retain_dataset) -> None:
    if forget_dataset is None:
        raise ValueError("forget_dataset is missing: give the samples to forget (train_dataset is its alias)")
    if not method.uses_retain:
        return
    if retain_dataset is None:
        raise ValueError("retain_dataset is missing: this method needs samples to keep, if only a few dozen")
    if isinstance(retain_dataset, (torch.utils.data.IterableDataset, datasets.IterableDataset)):
        raise ValueError(
            "retain_dataset is iterable only, but the retain batch of a step must not depend on what was read before: "
            "take the samples into a list or a Dataset first"
        )
    if len(retain_dataset) == 0:
        raise ValueError("retain_dataset is empty: give at least one sample to keep, or use method='gradient_ascent'")


def _checkpoints(model: nn.Module) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def _with_adapter(model: nn.Module, args: UnlearnConfig, peft_config) -> nn.Module:
    from peft import get_peft_model

    if args.gradient_checkpointing or _checkpoints(model):  # else checkpoints drop what comes before an adapter
        model.enable_input_require_grads()
    return get_peft_model(model, peft_config)


def _check_compatible(method: Method, trainer: UnlearnTrainer) -> None:
    """Refuses at construction what could only be wrong later."""
    args, accelerator = trainer.args, trainer.accelerator

    def refuse(what: str, why: str, instead: str):
        raise ValueError(f"{what} does not work with method={args.method!r}: {why}. {instead}")

    if args.label_smoothing_factor:
        refuse("label_smoothing_factor", "its loss averages over the tokens of the batch", "Set it to 0.")
    if method.edits_gradient and accelerator.distributed_type == DistributedType.DEEPSPEED:
        refuse(
            "DeepSpeed", "it owns the gradients and steps inside backward", "Use DDP, or method='gradient_difference'."
        )
    if not method.per_sample:
        return
    if args.n_gpu > 1:
        refuse(
            f"DataParallel on {args.n_gpu} GPUs",
            "it copies the parameters",
            "Start with `accelerate launch` or `torchrun`, or set CUDA_VISIBLE_DEVICES to one GPU.",
        )
    if args.fsdp or accelerator.distributed_type == DistributedType.FSDP:
        refuse(
            "FSDP", "the engine does not see sharded parameters yet", "Use DDP, LoRA, or method='gradient_difference'."
        )
    if args.torch_compile:
        refuse("torch_compile", "a compiled graph hides the layers whose samples are told apart", "Set it to False.")
    if args.use_liger_kernel:
        refuse("use_liger_kernel", "its fused loss averages over the tokens of the batch", "Set it to False.")
