"""Shows each parameter's per-sample gradients once, during one backward pass, to a visitor.

The visitor decides which combination of them reaches `.grad`.

While the engine records, it looks for calls of torch functions that combine samples with a
trainable parameter, or with something computed from parameters alone (a cast, a weight norm, a
slice of a position table). An identity, the `Tap`, follows the output of each such call. In the
backward pass, the tap has what the weight gradient is made of: the call's inputs X and the output's
gradient B. It gives autograd any weighted sum of the per-sample gradients in place of their plain
sum. So the gradient reaches `.grad` in the way that autograd, DistributedDataParallel and gradient
checkpointing expect.

Because the engine works on function calls rather than on modules, tied, reused and bare parameters
need no special treatment, and no use of a parameter is missed. A call without a rule raises
`Unsupported`, and its parameters take the slow, exact path (`reference.py`).
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from .gradients import rows_of
from .inner_products import Buffer
from .parameter_rows import ParameterRows
from .recorder import Recorder, fsdp_hidden
from .reference import patch_owners
from .rows import Rows
from .rules import Unsupported
from .shards import add_gradient, own_parameters, whole_tensors
from .trace import Call, Trace

# Returns what is added to `.grad`.
RowsVisitor = Callable[[ParameterRows], Tensor | None]


def _outside_of_passes(rows: ParameterRows) -> None:
    raise RuntimeError("the rows are shown within `backward` and `replay` only")


class PerSampleEngine:
    """Shows a visitor the per-sample gradients of every trainable parameter in one backward pass.

    Args:
        model: the module whose trainable parameters count; wrappers around it
            (DistributedDataParallel) do not matter. It may be sharded (FSDP2). Then all processes
            create and use an engine together. Rows cover the whole parameter, while
            `rows.parameter` and its `.grad` are sharded.
        slow: parameters that take the slow path: the engine gives them no gradient.
        strategy: how inner products are computed, one of `inner_products.STRATEGIES`; None: the
            cheapest for each parameter.

    Usage::

        with engine.record(k):
            loss = ...                                  # the mean over k samples of their losses
        engine.backward(loss.backward, visit)

    `visit(rows)` is called when the backward pass has reached the last use of a parameter. Autograd
    adds what it returns to `.grad`. Because the loss is a mean, the rows are the gradients of
    L_n / k.

    Raises:
        Unsupported: while recording or in the backward pass, with the parameters that have to take
            the slow path.
    """

    def __init__(
        self, model: nn.Module, slow: Iterable[nn.Parameter] = (), strategy: str | None = None
    ):
        self.model, self.strategy, self._whole = model, strategy, whole_tensors(model)
        # id -> why it was given up during a pass; "" for those named in the constructor.
        self.slow = dict.fromkeys(map(id, slow), "")
        self._parameters: list[nn.Parameter] = []
        self._reset(0)

    def _reset(self, k: int) -> None:
        self._trace = Trace(k, self._whole, self.slow, self._receive, self.give_up)
        self._uses: dict[int, tuple[nn.Parameter, list[Rows]]] = {}
        self._visited: set[int] = set()
        # The parameters given up in the current pass.
        self._given_up: set[int] = set()
        self._visit: RowsVisitor = _outside_of_passes
        self._received: list[tuple[tuple[nn.Parameter, ...], Callable[[], list]]] | None = None
        self._on_given_up: Callable[[nn.Parameter], None] | None = None
        self._buffer: Buffer | None = None

    @contextlib.contextmanager
    def record(self, k: int, batch: dict | None = None) -> Iterator[None]:
        """Records forward passes over a batch of k samples within this context.

        Args:
            batch: required if its samples have parts of different sizes in one tensor
                (`patch_owners`).
        """
        self._reset(k)
        self._parameters = own_parameters(self.model)
        self._trace.start(self._parameters, self.model.buffers())
        with self._recording() as recorder:
            batch = batch or {}
            for name, owners in patch_owners(batch, k).items():
                recorder.layouts.share(batch[name], owners)
            yield

    @contextlib.contextmanager
    def _recording(self) -> Iterator[Recorder]:
        """Records calls within this context, and hides the slow parameters from autograd."""
        hidden = [
            t for p in self._parameters if id(p) in self.slow for t in (p, self._trace.leaf(p))
        ]
        recorder = Recorder(self._trace)
        for t in hidden:
            t.requires_grad_(False)
        try:
            with fsdp_hidden(self.model, recorder), recorder:
                yield recorder
        finally:
            for t in hidden:
                t.requires_grad_(True)

    def backward(
        self,
        backward: Callable[[], None],
        visit: RowsVisitor,
        keep_for: Literal["replay", "backward"] | None = None,
        on_given_up: Callable[[nn.Parameter], None] | None = None,
    ) -> None:
        """Runs `backward()` and shows `visit` the rows of each parameter.

        Args:
            keep_for: how the rows will be shown again. "replay": what the rows are made of is kept
                for `replay`, and takes as much memory as the graph that is freed meanwhile.
                "backward": the graph is kept for another call of this method (`backward` must
                retain it, too). None: nothing is kept.
            on_given_up: called instead of `visit` with a parameter that was given up in this pass,
                because other processes may be waiting for its rows. If `visit` raises
                `Unsupported` because another process has given the parameter up, this process
                gives it up, too.
        """
        awaited = self._begin(visit, on_given_up)
        self._received = [] if keep_for == "replay" else None
        try:
            with self._recording():
                backward()
            self._show_rest()
            self._end(awaited)
        except BaseException:
            keep_for = None
            raise
        finally:
            if keep_for is None:
                self._reset(0)

    def replay(self, visit: RowsVisitor, keep: bool = False) -> None:
        """Shows `visit` the rows of the last backward pass again, without a pass through the model.

        Args:
            keep: this method will be called again.
        """
        received, self._received = self._received, None
        if received is None:
            raise RuntimeError("no backward pass has kept its rows for `replay`")
        awaited = self._begin(visit, None)
        for index, (roots, rows) in enumerate(received):
            with torch.no_grad():
                for parameter, gradient in zip(roots, self._file(roots, rows())):
                    add_gradient(parameter, gradient)
            if not keep:
                # Frees what the rows are computed from.
                received[index] = (), list
        self._show_rest()
        self._end(awaited)
        self._received = received
        if not keep:
            self._reset(0)

    def _begin(
        self, visit: RowsVisitor, on_given_up: Callable[[nn.Parameter], None] | None
    ) -> Counter[int]:
        """Prepares for showing rows; returns the counts of uses, which another pass needs again."""
        self._visit, self._on_given_up, self._given_up = visit, on_given_up, set()
        self._trace.in_backward, self._buffer = True, Buffer()
        return self._trace.awaited.copy()

    def _end(self, awaited: Counter[int]) -> None:
        self._uses, self._visited, self._buffer = {}, set(), None
        self._visit = _outside_of_passes
        self._trace.awaited, self._trace.in_backward = awaited, False

    def _show_rest(self) -> None:
        """Shows the parameters of which some use is not part of the loss."""
        for parameter in self._parameters:
            if self._is_due(parameter) and id(parameter) not in self._visited:
                add_gradient(parameter, self._show(parameter))

    def give_up(self, parameters: Iterable[nn.Parameter], reason: str) -> None:
        """Leaves some parameters to the slow path from here on, even in the middle of a pass."""
        for parameter in parameters:
            self.slow.setdefault(id(parameter), reason)
            self._given_up.add(id(parameter))
            self._uses.pop(id(parameter), None)

    def _receive(self, call: Call, B: Tensor, samples: tuple[Tensor, ...]) -> list[Tensor | None]:
        """Files the rows of one call.

        Returns the gradient of each parameter behind the call, or None while other uses of it are
        still to come.
        """
        # The backward pass of a checkpoint may run under autocast.
        without_autocast = torch.autocast(B.device.type, enabled=False)
        with torch.no_grad(), torch._C.DisableTorchFunction(), without_autocast:
            rows = list(rows_of(call, self._trace.k, B, samples))
            if self._received is not None:
                self._received.append((call.roots, self._recipe(call, B, samples, rows)))
            return self._file(call.roots, rows)

    def _recipe(
        self, call: Call, B: Tensor, samples: tuple[Tensor, ...], rows: list
    ) -> Callable[[], list]:
        """A function that gives the rows of a call again.

        It holds the rows, or what they are made of if that is smaller. (A convolution's rows hold
        its unfolded inputs.)
        """
        if sum(use.stored for _, use in rows) <= sum(x.numel() for x in (B, *samples)):
            return lambda: rows
        return lambda: list(rows_of(call, self._trace.k, B, samples))

    def _file(
        self, roots: tuple[nn.Parameter, ...], rows: list[tuple[nn.Parameter, Rows]]
    ) -> list[Tensor | None]:
        """Files some rows under their parameters; returns the gradient of each root, or None."""
        for parameter, use in rows:
            # It may have been given up since the rows were recorded.
            if id(parameter) not in self.slow:
                self._uses.setdefault(id(parameter), (parameter, []))[1].append(use)
        return [self._gradient(parameter) for parameter in roots]

    def _gradient(self, parameter: nn.Parameter) -> Tensor | None:
        """Counts one use; returns the visitor's result after the last one."""
        key = id(parameter)
        self._trace.awaited[key] -= 1
        if self._trace.awaited[key] > 0 or not self._is_due(parameter):
            return None
        if key in self._visited:
            raise Unsupported("several re-entrant checkpoints share it", (parameter,))
        return self._show(parameter)

    def _is_due(self, parameter: nn.Parameter) -> bool:
        """Whether it has rows to show, or was given up while other processes wait for its rows."""
        key = id(parameter)
        given_up = self._on_given_up is not None and key in self._given_up - self._visited
        return key in self._uses or given_up

    def _show(self, parameter: nn.Parameter) -> Tensor | None:
        self._visited.add(id(parameter))
        if id(parameter) in self._uses:
            uses = self._uses.pop(id(parameter))
            rows = ParameterRows(*uses, self.strategy, self._buffer)
            try:
                return self._visit(rows)
            except Unsupported as problem:
                self.give_up((parameter,), str(problem))
            finally:
                rows.drop_kept()
        elif self._on_given_up is not None:
            self._on_given_up(parameter)
        # DistributedDataParallel waits for a gradient of every parameter.
        return torch.zeros_like(self._trace.leaf(parameter))
