"""Stores how much a request has changed each weight, so that later requests can avoid undoing
it."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import cast

import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..files import written_whole
from ..report.file_names import UPDATES

# Whole (*shape,), or the two factors (o, r) and (r, i) of a matrix (o, i).
Stored = tuple[Tensor, ...]
PARTS = {1: ("",), 2: ("/left", "/right")}


def write_updates(
    model: nn.Module, start: Path, folder: Path, rank: int, earlier: "EarlierUpdates | None"
) -> None:
    """Writes the updates of earlier requests, and after them that of the run which has just ended
    in `folder`: its weights minus those in the file `start`, which `save_start` has saved.

    The file holds 4 bytes for each trained weight and request. With a rank r, a matrix (o, i) takes
    4 r (o + i) bytes instead, if that is less.

    Args:
        rank: keep this many singular directions of each matrix's update; 0: all of it.
    """
    update = {name: stored(after, rank) for name, after in _updates(model, load_file(start))}
    tensors = {
        f"{request}:{name}{part}": tensor.contiguous()
        for request, one in enumerate([*(earlier.updates if earlier else ()), update])
        for name, kept in one.items()
        for part, tensor in zip(PARTS[len(kept)], kept)
    }
    with written_whole(folder / UPDATES) as partial:
        save_file(tensors, partial)


def _updates(model: nn.Module, start: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The change of each trained weight, by the name that it has in the model without adapters."""
    adapted, names = set(), {id(p): name for name, p in model.named_parameters()}
    for weight, A, B, scaling in _adapters(model):
        before = start[names[id(B)]].double() @ start[names[id(A)]].double()
        after = B.detach().cpu().double() @ A.detach().cpu().double()
        adapted |= {id(A), id(B)}
        yield weight, (scaling * (after - before)).float()
    for name, p in model.named_parameters():
        if p.requires_grad and id(p) not in adapted:
            yield plain_name(name), p.detach().cpu().float() - start[name].float()


def stored(update: Tensor, rank: int) -> Stored:
    """An update as it is stored: whole, or the factors of its best approximation of this rank where
    they are smaller."""
    if not rank or update.ndim < 2:
        return (update,)
    matrix = update.flatten(1)
    if rank * sum(matrix.shape) >= matrix.numel():
        return (update,)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left[:, :rank] * values[:rank], right[:rank]


def plain_name(name: str) -> str:
    """A parameter's name in the model without adapters."""
    name = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
    return name.replace(".modules_to_save.default.", ".")


def _adapters(model: nn.Module) -> Iterator[tuple[str, Tensor, Tensor, float]]:
    """(name of the weight, A (r, i), B (o, r), scaling) of each trained LoRA adapter: the weight is
    W + scaling B A.

    Raises:
        ValueError: an adapter has another form.
    """
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        linear = isinstance(module.get_base_layer(), nn.Linear)
        for adapter in module.active_adapters:
            more = module.use_dora.get(adapter) or module.lora_bias.get(adapter)
            if not linear or more or adapter not in module.lora_A:
                raise ValueError(
                    f"stored updates work with plain LoRA of linear layers, and {name} has "
                    "another adapter: adapt linear layers without DoRA and lora_bias, or train the "
                    "weights themselves"
                )
            # They are linear layers, because the one that they adapt is.
            A, B = (cast(nn.Linear, part[adapter]) for part in (module.lora_A, module.lora_B))
            yield f"{plain_name(name)}.weight", A.weight, B.weight, module.scaling[adapter]


class EarlierUpdates:
    """The updates of earlier requests, each (weights after minus before), as further rows that a
    step is orthogonal to. Moving back along an update would undo its forgetting.

    Args:
        paths: files that `write_updates` wrote, or the folders that hold them.

    Attributes:
        updates: {name of a weight: what is stored of its update}, one for each request.

    Raises:
        ValueError: there is no such file.
    """

    def __init__(self, paths: Iterable[str | Path]):
        self.updates = [update for path in paths for update in _read(Path(path))]
        if not self.updates:
            raise ValueError("previous_updates names no file: leave it out where there is none")

    def __len__(self) -> int:
        return len(self.updates)

    def check(self, model: nn.Module) -> None:
        """Raises ValueError if the updates belong to another model, or to weights that this run
        does not train."""
        shapes = {plain_name(name): p.shape for name, p in model.named_parameters()}
        trained = {plain_name(n) for n, p in model.named_parameters() if p.requires_grad}
        trained |= {name for name, *_ in _adapters(model)}
        for update in self.updates:
            for name, kept in update.items():
                if name not in shapes or shapes[name].numel() != _numel(kept):
                    raise ValueError(
                        f"previous_updates has an update of {name} with {_numel(kept)} values, and "
                        "the model has no such weight: give the updates of this model"
                    )
            if not trained & set(update):
                raise ValueError(
                    "previous_updates has an update of weights that this run does not train, such "
                    f"as {min(update)}: leave it out, or train these weights"
                )

    def rows(self, model: nn.Module) -> dict[int, Callable[[], Tensor]]:
        """What gives the rows (q, *shape) of each trained parameter, by its id.

        A row of an adapter's A or B is the gradient of <W, update> with respect to it, where
        W = W_0 + scaling B A is the weight that it adapts: orthogonal to it, to first order W does
        not move along the update.
        """
        row_functions: dict[int, Callable[[], Tensor]] = {}
        for weight, A, B, s in _adapters(model):
            row_functions[id(A)] = partial(self._rows_of_A, weight, A, B, s)
            row_functions[id(B)] = partial(self._rows_of_B, weight, A, B, s)
        for name, p in model.named_parameters():
            if p.requires_grad and id(p) not in row_functions:
                row_functions[id(p)] = partial(self._stack, plain_name(name), p, p.shape)
        return row_functions

    def _rows_of_A(self, name: str, A: Tensor, B: Tensor, scaling: float) -> Tensor:
        update = self._stack(name, A, (B.shape[0], A.shape[1]))  # (q, o, i)
        return scaling * (B.detach().T.to(update.dtype) @ update)

    def _rows_of_B(self, name: str, A: Tensor, B: Tensor, scaling: float) -> Tensor:
        update = self._stack(name, A, (B.shape[0], A.shape[1]))  # (q, o, i)
        return scaling * (update @ A.detach().T.to(update.dtype))

    def _stack(self, name: str, like: Tensor, shape: Iterable[int]) -> Tensor:
        """The updates (q, *shape) of a weight; zero where a request did not train it."""
        zero = torch.zeros(tuple(shape))
        rows = [_whole(update[name], shape) if name in update else zero for update in self.updates]
        return torch.stack(rows).to(like.device, torch.promote_types(like.dtype, torch.float32))


def _read(path: Path) -> list[dict[str, Stored]]:
    """The updates of each request in a file, the first one first."""
    path = path / UPDATES if path.is_dir() else path
    if not path.is_file():
        raise ValueError(
            f"there is no {path}, which a run writes with save_update_sketch=True: name the "
            "output folder of such a run"
        )
    updates: dict[int, dict[str, dict[str, Tensor]]] = {}
    for key, tensor in load_file(path).items():
        request, name = key.split(":", 1)
        name, slash, part = name.partition("/")
        updates.setdefault(int(request), {}).setdefault(name, {})[slash + part] = tensor
    return [
        {name: tuple(kept[part] for part in PARTS[len(kept)]) for name, kept in update.items()}
        for _, update in sorted(updates.items())
    ]


def _whole(kept: Stored, shape: Iterable[int]) -> Tensor:
    return (kept[0] @ kept[1] if len(kept) == 2 else kept[0]).reshape(tuple(shape))


def _numel(kept: Stored) -> int:
    return kept[0].shape[0] * kept[1].shape[1] if len(kept) == 2 else kept[0].numel()
