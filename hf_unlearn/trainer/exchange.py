"""What processes tell each other: rows of retain gradients, decisions that all must share, the
reason of a failure."""

import contextlib
import json
import math
from collections.abc import Iterator
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .. import ops
from ..per_sample import ParameterRows, Unsupported
from ..per_sample.rows import Convolved, Dense, Product, Rows, Scaled
from ..per_sample.shards import lines_of, local

# A further message costs about as much time as sending this many values.
LATENCY = 2**14
# Most values of G that a process makes for sending; above it memory counts more than what is sent.
MATERIALISE = 2**27
# Uses of one parameter whose lengths fit into the first message about it.
USES = 6
CONVOLVED = -1  # in the place of a length, see `_length`
FAILURE = "hf_unlearn/failure"


class SampleExchange:
    """Gives each process the inner products of the retain rows of all processes.

    For each parameter a process first sends a few integers, by which all choose alike what follows:

    *gather*: the rows in the form that their use leaves them in, inputs X (k, T, i) and output
    gradients B (k, T, o) of a matrix product, so k T (i + o) values from each process to each
    other. Every process then computes all of K and b.

    *re-shard*: the per-sample gradients G (k, o i) themselves, of which each process gets its share
    of the lines from all others, so k o i / processes values from each process to each other, and
    then K and b are summed. This is less where T is large beside the weight (Whisper's encoder);
    where T is small (the token embedding) gathering is.

    Of a parameter in shards (FSDP2) each process only takes the lines that it has: it is sent them,
    or cuts them out of what was gathered, and K and b are summed.

    Args:
        parameters: the trainable parameters, in the order that all processes have.
    """

    def __init__(self, parameters: list[nn.Parameter]):
        # A group of its own, so that DistributedDataParallel's reductions in flight do not mix with
        # these.
        self.group, self.processes, self.process = (
            dist.new_group(),
            dist.get_world_size(),
            dist.get_rank(),
        )
        self.places = {id(p): place for place, p in enumerate(parameters)}

    def all_rows(self, rows: ParameterRows, counts: list[int]) -> "ParameterRows | SharedRows":
        """The rows of all processes, in the order of processes; counts: how many retain samples
        each process has."""
        p, (lengths, mixed) = rows.parameter, self._lengths(rows.parameter, rows.uses)
        lines = self._shares(p)[self.process] if p.ndim else slice(0, 1)
        if mixed or self._reshards(rows, lengths, max(counts)):
            return SharedRows(p, lines, self._resharded(rows, counts, mixed), sum(counts), self)
        uses = [
            use.gathered(partial(self.gather, counts, length))
            for use, length in zip(rows.uses, lengths)
        ]
        if isinstance(p, DTensor):
            uses = [use.cut(lines) for use in uses] if lines.start < lines.stop else []
            return SharedRows(p, lines, uses, sum(counts), self)
        return ParameterRows(p, uses, rows.strategy)

    def _shares(self, p: nn.Parameter) -> list[slice]:
        """The lines of a parameter that each process takes: those that it has, where they are in
        shards."""
        if isinstance(p, DTensor):
            return lines_of(p)
        ends = [len(p) * (n + 1) // self.processes for n in range(self.processes)]
        return [slice(start, end) for start, end in zip([0, *ends], ends)]

    def _resharded(self, rows: ParameterRows, counts: list[int], mixed: bool) -> list[Rows]:
        """The rows of all processes, of the lines of this one; mixed: they may differ in
        precision."""
        p, k = rows.parameter, rows.k
        sizes = [(lines.stop - lines.start) for lines in self._shares(p)]
        width, mine = p.numel() // len(p), sizes[self.process]
        G = rows.written_out()
        G = G.to(torch.promote_types(G.dtype, torch.float32)) if mixed else G
        sent = torch.cat([part.flatten() for part in G.split(sizes, 1)])
        received = sent.new_empty(sum(counts) * mine * width)
        taken, given = (
            [count * mine * width for count in counts],
            [k * size * width for size in sizes],
        )
        dist.all_to_all_single(received, sent, taken, given, self.group)
        return [Dense(received.reshape(sum(counts), mine, *p.shape[1:]))] if mine else []

    def missed(self, parameter: nn.Parameter) -> None:
        """Tells the others, who are about to exchange the rows of a parameter, that this process
        has given it up."""
        with contextlib.suppress(Unsupported):
            self._lengths(parameter, [])

    def _lengths(self, parameter: nn.Parameter, uses: list[Rows]) -> tuple[list[int], bool]:
        """`_length` of each use, the largest over the processes (padding differs). And whether
        processes have rows of different forms, by the lengths of their batches, or since one has
        met shapes that a rule does not expect.

        Raises:
            RuntimeError: processes are at different parameters, or at different uses of it.
            Unsupported: a process has given the parameter up.
        """
        mine = [_length(use) for use in uses]
        header = [self.places[id(parameter)], len(mine), *mine[:USES], *[0] * (USES - len(mine))]
        headers = self._all_gather(torch.tensor(header, device=parameter.device)).cpu()
        if (headers[:, 0] == headers[0, 0]).all() and (headers[:, 1] == 0).any():
            raise Unsupported(
                "in the batch of another process the samples cannot be told apart", (parameter,)
            )
        if (headers[:, :2] != headers[0, :2]).any():
            raise RuntimeError(
                "the processes met the model's parameters in different orders (parameter, uses): "
                f"{headers[:, :2].tolist()}. Something in the model is switched on by chance or by "
                "the data, such as "
                "layerdrop: set it to 0, or leave freeze_randomness=True."
            )
        lengths = headers[:, 2 : 2 + len(mine)]
        return lengths.amax(0).tolist(), bool((lengths.sign() != lengths[0].sign()).any())

    def _reshards(self, rows: ParameterRows, lengths: list[int], k: int) -> bool:
        p = rows.parameter
        if len(rows.uses) > USES or CONVOLVED in lengths:
            return True
        if p.ndim == 0 or k * p.numel() > MATERIALISE:
            return False
        gathered = (
            (self.processes - 1)
            * k
            * sum(_values(use, length) for use, length in zip(rows.uses, lengths))
        )
        resharded = (self.processes - 1) * k * p.numel() / self.processes + 2 * (
            k * self.processes
        ) ** 2
        return resharded + LATENCY < gathered

    def gather(self, counts: list[int], length: int, tensor: Tensor) -> Tensor:
        """Tensors (k, T, ...) or (k, ...) of all processes, concatenated along the samples, padded
        with zeros in T."""
        shape = (
            [max(counts), length or tensor.shape[1], *tensor.shape[2:]]
            if tensor.ndim > 1
            else [max(counts)]
        )
        padded = tensor.new_zeros(shape)
        padded[tuple(slice(0, size) for size in tensor.shape[:2])] = tensor
        return torch.cat([part[:count] for part, count in zip(self._all_gather(padded), counts)])

    def _all_gather(self, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(self.processes)]
        dist.all_gather(parts, tensor, group=self.group)
        return torch.stack(parts)


class SharedRows:
    """The rows of all processes of one parameter, of which this process has some lines.

    Args:
        uses: the rows, of these lines only; none where there are no lines.
    """

    def __init__(
        self,
        parameter: nn.Parameter,
        lines: slice,
        uses: list[Rows],
        k: int,
        exchange: SampleExchange,
    ):
        self.parameter, self.lines, self.uses, self.k, self.exchange = (
            parameter,
            lines,
            uses,
            k,
            exchange,
        )

    def scaled(self, scale: Tensor) -> "SharedRows":
        """As in `ParameterRows`."""
        mine = scale[self.lines]
        uses = [Scaled(self.uses, mine.reshape(len(mine), -1))] if self.uses else []
        return SharedRows(self.parameter, self.lines, uses, self.k, self.exchange)

    def products(
        self, u: Tensor | None, exact: bool = False, keep: bool = True
    ) -> tuple[Tensor, Tensor]:
        """As in `ParameterRows`: this process's share of K and b, summed over processes."""
        k = self.k
        share = torch.zeros(
            k * k + k, dtype=torch.float64, device=ops.home_of_doubles(self.parameter.device)
        )
        if self.uses:
            rows = ParameterRows(self._mine(self.parameter), self.uses)
            share = torch.cat(
                [
                    part.flatten()
                    for part in rows.products(None if u is None else self._mine(u), exact)
                ]
            )
        dist.all_reduce(share, group=self.exchange.group)
        return share[: k * k].reshape(k, k), share[k * k :]

    def _mine(self, tensor: Tensor) -> Tensor:
        return local(tensor) if isinstance(tensor, DTensor) else tensor.detach()[self.lines]


class Together:
    """Implements `per_sample.comparison.ShardedProcesses`; k: samples in this process's batch."""

    def __init__(self, exchange: SampleExchange, k: int):
        self.exchange, self.counts = exchange, all_processes(k)

    def any(self, flag: bool) -> bool:
        return any(all_processes(flag))

    def rows(self, rows: ParameterRows) -> ParameterRows | SharedRows:
        return self.exchange.all_rows(rows, self.counts)

    def announce_given_up(self, parameter: nn.Parameter) -> None:
        self.exchange.missed(parameter)

    def weights(self, weights: Tensor) -> Tensor:
        return self.exchange.gather(self.counts, 0, weights) / self.exchange.processes


def _length(use: Rows) -> int:
    """T; 0 where rows have no such axis, -1 where they have several that may all differ: these are
    never gathered."""
    if isinstance(use, Dense):
        return 0
    return CONVOLVED if isinstance(use, Convolved) else use.B.shape[1]


def _values(use: Rows, length: int) -> int:
    """Values of one sample that gathering sends."""
    if isinstance(use, Dense):
        return math.prod(use.G.shape[1:])
    return length * (use.B.shape[2] + (use.X.shape[2] if isinstance(use, Product) else 1))


def any_process(flags: list[bool], device: torch.device) -> list[bool]:
    """Which of some flags is set on any process."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return flags
    shared = torch.tensor(flags, dtype=torch.int32, device=device)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return shared.bool().tolist()


def all_processes(value) -> list:
    """A picklable object of each process."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


@contextlib.contextmanager
def failures_told() -> Iterator[None]:
    """An error of any process ends the main process with a message that has that error in it; the
    main process itself only sees that a connection is lost.
    """
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        yield
        return
    store = dist.distributed_c10d._get_default_store()
    try:
        yield
    except Exception as error:
        mine, process = f"{type(error).__name__}: {error}", dist.get_rank()
        if process != 0 and not store.check([FAILURE]):
            store.set(FAILURE, json.dumps([process, mine]))
        if process == 0 and store.check([FAILURE]):
            other, its = json.loads(store.get(FAILURE))
            if its != mine:  # else all have found the same
                raise RuntimeError(f"process {other} has failed, so the run ends: {its}") from error
        raise
