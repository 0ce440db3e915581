"""Exchanges rows of retain gradients between processes."""

import contextlib
from functools import partial
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ... import ops
from ...per_sample import ParameterRows, Unsupported
from ...per_sample.rows import Dense, GatherableRows, Lookup, Product, Rows, Scaled
from ...per_sample.shards import lines_of, local
from ..processes import all_processes

# Latency of one message, in values that could be sent meanwhile.
LATENCY = 2**14
# The most values of G that a process materialises for sending. Above it, memory counts for more
# than the amount sent.
MAX_MATERIALISED = 2**27
# Number of uses per parameter that fit in the header message.
USES = 6
# Stands for the length of rows that have none (see `_length`).
CONVOLVED = -1


class SampleExchange:
    """Gives each process the inner products of the retain rows of all processes.

    For each parameter, a process first sends a few integers, from which all processes draw the same
    conclusion about how to continue:

    *gather*: each process sends the rows in the form in which their use left them, the inputs
    X (k, T, i) and output gradients B (k, T, o) of a matrix product. These are k T (i + o) values
    from each process to each other one. Every process then computes all of K and b.

    *re-shard*: each process sends the per-sample gradients G (k, o i) themselves, and receives its
    share of their lines from all others. These are k o i / processes values from each process to
    each other one; then K and b are summed over processes. This is less where T is large compared
    with the weight (Whisper's encoder). Where T is small (the token embedding), gathering is less.

    For a sharded parameter (FSDP2), each process only takes the lines that it holds. Either it
    receives just them, or it cuts them out of what was gathered; K and b are then summed.

    Args:
        parameters: the trainable parameters, in an order that is the same on all processes.
    """

    def __init__(self, parameters: list[nn.Parameter]):
        # A separate group keeps these messages apart from DistributedDataParallel's pending
        # reductions.
        self.group = dist.new_group()
        self.processes, self.process = dist.get_world_size(), dist.get_rank()
        self.indices = {id(p): index for index, p in enumerate(parameters)}

    def all_rows(self, rows: ParameterRows, counts: list[int]) -> "ParameterRows | SharedRows":
        """The rows of all processes, in the order of processes.

        Args:
            counts: how many retain samples each process has.

        Raises:
            RuntimeError, Unsupported: as `_lengths`.
        """
        p, (lengths, mixed) = rows.parameter, self._lengths(rows.parameter, rows.uses)
        lines = self._shares(p)[self.process] if p.ndim else slice(0, 1)
        if mixed or self._reshards(rows, lengths, max(counts)):
            return SharedRows(p, lines, self._reshard(rows, counts, mixed), sum(counts), self)
        # `_reshards` has kept all others out.
        gatherable = cast("list[GatherableRows]", rows.uses)
        uses = [
            use.gathered(partial(self.gather, counts, length))
            for use, length in zip(gatherable, lengths)
        ]
        if isinstance(p, DTensor):
            uses = [use.cut(lines) for use in uses] if lines.start < lines.stop else []
            return SharedRows(p, lines, uses, sum(counts), self)
        return ParameterRows(p, uses, rows.strategy)

    def _shares(self, p: nn.Parameter) -> list[slice]:
        """The lines of a parameter that each process takes. For a sharded one, those it holds."""
        if isinstance(p, DTensor):
            return lines_of(p)
        ends = [len(p) * (n + 1) // self.processes for n in range(self.processes)]
        return [slice(start, end) for start, end in zip([0, *ends], ends)]

    def _reshard(self, rows: ParameterRows, counts: list[int], mixed: bool) -> list[Rows]:
        """The rows of all processes, restricted to the lines of this one.

        Args:
            mixed: whether the rows of different processes may differ in precision.
        """
        p, k = rows.parameter, rows.k
        sizes = [lines.stop - lines.start for lines in self._shares(p)]
        width, mine = p.numel() // len(p), sizes[self.process]
        # (k, lines, ...)
        G = rows.written_out()
        G = G.to(torch.promote_types(G.dtype, torch.float32)) if mixed else G
        sent = torch.cat([part.flatten() for part in G.split(sizes, 1)])
        received = sent.new_empty(sum(counts) * mine * width)
        received_sizes = [count * mine * width for count in counts]
        sent_sizes = [k * size * width for size in sizes]
        dist.all_to_all_single(received, sent, received_sizes, sent_sizes, self.group)
        # (k of all processes, lines of this process, ...)
        return [Dense(received.reshape(sum(counts), mine, *p.shape[1:]))] if mine else []

    def announce_given_up(self, parameter: nn.Parameter) -> None:
        """Tells the other processes, which are about to exchange the rows of a parameter, that this
        one has given it up."""
        with contextlib.suppress(Unsupported):
            self._lengths(parameter, [])

    def _lengths(self, parameter: nn.Parameter, uses: list[Rows]) -> tuple[list[int], bool]:
        """Exchanges the lengths of the rows of each use of a parameter.

        Returns:
            The `_length` of each use, as the maximum over processes, because padding differs; and
            whether the forms of rows differ between processes, because of the lengths of their
            batches or because one process met shapes that a rule does not expect.

        Raises:
            RuntimeError: processes are at different parameters, or at different uses of one.
            Unsupported: a process has given the parameter up.
        """
        mine = [_length(use) for use in uses]
        header = [self.indices[id(parameter)], len(mine), *mine[:USES], *[0] * (USES - len(mine))]
        # (processes, 2 + USES)
        headers = self._all_gather(torch.tensor(header, device=parameter.device)).cpu()
        if (headers[:, 0] == headers[0, 0]).all() and (headers[:, 1] == 0).any():
            raise Unsupported(
                "in the batch of another process the samples cannot be told apart", (parameter,)
            )
        if (headers[:, :2] != headers[0, :2]).any():
            raise RuntimeError(
                "the processes met the model's parameters in different orders (parameter, uses): "
                f"{headers[:, :2].tolist()}. Something in the model is switched on at random or "
                "depending on the data, such as layerdrop: set it to 0, or leave "
                "freeze_randomness=True."
            )
        lengths = headers[:, 2 : 2 + len(mine)]
        return lengths.amax(0).tolist(), bool((lengths.sign() != lengths[0].sign()).any())

    def _reshards(self, rows: ParameterRows, lengths: list[int], k: int) -> bool:
        """Whether re-sharding the rows of a parameter is cheaper than gathering them."""
        p, others = rows.parameter, self.processes - 1
        if len(rows.uses) > USES or CONVOLVED in lengths:
            return True
        if p.ndim == 0 or k * p.numel() > MAX_MATERIALISED:
            return False
        per_sample = sum(_values(use, length) for use, length in zip(rows.uses, lengths))
        gathered = others * k * per_sample
        summed = 2 * (k * self.processes) ** 2
        resharded = others * k * p.numel() / self.processes + summed
        return resharded + LATENCY < gathered

    def gather(self, counts: list[int], length: int, tensor: Tensor) -> Tensor:
        """Concatenates tensors (k, T, ...) or (k,) of all processes along the samples.

        Args:
            counts: k on each process.
            length: T after padding with zeros; 0 for rows that need no padding.
        """
        shape = [max(counts)]
        if tensor.ndim > 1:
            shape = [max(counts), length or tensor.shape[1], *tensor.shape[2:]]
        padded = tensor.new_zeros(shape)
        padded[tuple(slice(0, size) for size in tensor.shape[:2])] = tensor
        return torch.cat([part[:count] for part, count in zip(self._all_gather(padded), counts)])

    def _all_gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, stacked."""
        parts = [torch.empty_like(tensor) for _ in range(self.processes)]
        dist.all_gather(parts, tensor, group=self.group)
        return torch.stack(parts)


class SharedRows:
    """The rows of all processes of one parameter, of which this process has some lines.

    Args:
        lines: the lines of the parameter that this process has.
        uses: the rows, restricted to these lines; empty if there are none.
        k: number of samples of all processes.
    """

    def __init__(
        self,
        parameter: nn.Parameter,
        lines: slice,
        uses: list[Rows],
        k: int,
        exchange: SampleExchange,
    ):
        self.parameter, self.lines, self.uses = parameter, lines, uses
        self.k, self.exchange = k, exchange

    def scaled(self, scale: Tensor) -> "SharedRows":
        """As in `ParameterRows`."""
        mine = scale[self.lines]
        # (lines, values of a line)
        uses = [Scaled(self.uses, mine.reshape(len(mine), -1))] if self.uses else []
        return SharedRows(self.parameter, self.lines, uses, self.k, self.exchange)

    def products(
        self, u: Tensor | None, exact: bool = False, keep: bool = True
    ) -> tuple[Tensor, Tensor]:
        """As in `ParameterRows`: K (k, k) and b (k,), as this process's share, summed over
        processes."""
        k, device = self.k, ops.float64_device(self.parameter.device)
        share = torch.zeros(k * k + k, dtype=torch.float64, device=device)
        if self.uses:
            rows = ParameterRows(self._mine(self.parameter), self.uses)
            K, b = rows.products(None if u is None else self._mine(u), exact)
            share = torch.cat([K.flatten(), b.flatten()])
        dist.all_reduce(share, group=self.exchange.group)
        return share[: k * k].reshape(k, k), share[k * k :]

    def _mine(self, tensor: Tensor) -> Tensor:
        return local(tensor) if isinstance(tensor, DTensor) else tensor.detach()[self.lines]


class SharedCheck:
    """How the processes that share a sharded model check it together; implements the protocol
    `per_sample.comparison.ShardedProcesses`.

    Args:
        k: the number of samples in this process's batch.
    """

    def __init__(self, exchange: SampleExchange, k: int):
        self.exchange, self.counts = exchange, all_processes(k)

    def any(self, flag: bool) -> bool:
        return any(all_processes(flag))

    def rows(self, rows: ParameterRows) -> ParameterRows | SharedRows:
        return self.exchange.all_rows(rows, self.counts)

    def announce_given_up(self, parameter: nn.Parameter) -> None:
        self.exchange.announce_given_up(parameter)

    def weights(self, weights: Tensor) -> Tensor:
        return self.exchange.gather(self.counts, 0, weights) / self.exchange.processes


def _length(use: Rows) -> int:
    """T; 0 for rows without such an axis; -1 for rows with several axes that may all differ, which
    are never gathered."""
    if isinstance(use, Dense):
        return 0
    return use.B.shape[1] if isinstance(use, Product | Lookup) else CONVOLVED


def _values(use: Rows, length: int) -> int:
    """How many values gathering sends for one sample."""
    if isinstance(use, Product):
        return length * (use.B.shape[2] + use.X.shape[2])
    return length * (use.B.shape[2] + 1) if isinstance(use, Lookup) else use.size
