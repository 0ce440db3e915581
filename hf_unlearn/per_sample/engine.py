"""Shows every sample's gradient of every parameter, once, during one backward pass, and lets a
visitor decide what of it reaches `.grad`.

While the engine records, each call of a torch function that joins a trainable parameter (or
something computed from parameters alone: a cast, a weight norm, a slice of a position table) with
sample data gets an identity behind its output, the `Tap`. In the backward pass the tap holds what
the weight gradient is made of, the call's inputs X and the output's gradient B, and hands autograd
any weighted sum of the per-sample gradients in place of their plain sum. So the gradient reaches
`.grad` the way autograd, DistributedDataParallel and checkpointing expect.

Working on function calls rather than on modules means that tied, reused and bare parameters are no
special cases, and that no use of a parameter can be missed: what has no rule raises `Unsupported`
and goes to the slow, exact path (`reference.py`).
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from .. import ops
from . import inner_products
from .gradients import rows_of
from .recorder import Recorder, fsdp_hidden
from .reference import patch_owners
from .rows import Convolved, Dense, Lookup, Product, Rows, Scaled, written_out
from .rules import Unsupported
from .shards import add_gradient, own_parameters, whole_tensors
from .trace import Call, Trace


class ParameterRows:
    """The k rows of A that belong to one parameter, summed over its uses; they need not exist in
    memory."""

    def __init__(self, parameter: nn.Parameter, uses: list[Rows], way: str | None = None):
        # A look-up adds to what is there, in place: after products, which make it new, before rows
        # that exist already.
        order = (Product, Convolved, Lookup, Dense, Scaled)
        self.parameter, self.uses, self.way = (
            parameter,
            sorted(uses, key=lambda use: order.index(type(use))),
            way,
        )
        self._kept: Tensor | None = None

    @property
    def k(self) -> int:
        return self.uses[0].k

    def written_out(self) -> Tensor:
        """The rows as a tensor (k, lines of the parameter, values of a line)."""
        lines = self.parameter.shape[0] if self.parameter.ndim else 1
        return written_out(self.uses, lines, self.parameter.numel() // lines)

    def scaled(self, scale: Tensor) -> "ParameterRows":
        """Rows whose `products` are those of G_n * scale, in the metric that scale (of the
        parameter's shape) is the root of."""
        p = self.parameter
        return ParameterRows(
            p, [Scaled(self.uses, scale.reshape(p.shape[0] if p.ndim else 1, -1))], "materialise"
        )

    def products(
        self, u: Tensor | None, exact: bool = False, keep: bool = True
    ) -> tuple[Tensor, Tensor]:
        """K = A A^T (k, k) and b = A u (k,) in float64, for u of the parameter's shape (None:
        zero).

        Memory does not grow with the parameter beyond what `inner_products.KEEP` allows.

        Args:
            exact: multiply and add in float64. Otherwise the error is about 1e-7 |g_n| |g_m| for
                float32 rows, which well-conditioned rows bear (`ops.projection.Solution.pivot`
                tells).
            keep: the rows are wanted again soon, and may be kept where they are few.
        """
        p, uses = self.parameter, self.uses
        u = (torch.zeros_like(p) if u is None else u.detach()).reshape(
            p.shape[0] if p.ndim else 1, -1
        )
        if self._kept is not None:
            return ops.inner_products(self._kept, u.flatten(), exact)
        way = inner_products.choose(uses, u, self.way)
        if way == "fused":
            return ops.product_inner_products(uses[0].B, uses[0].X, u)
        if way == "ghost" and (not exact or ops.doubles_are_fast(p.device)):
            return inner_products.ghost(uses, u, exact)
        keep = keep and self.k * p.numel() <= inner_products.limit(inner_products.KEEP, p.device)
        # most lines of an embedding are looked up by nobody
        if len(uses) == 1 and isinstance(uses[0], Lookup):
            compact, used = uses[0].compact()
            uses, u, keep = [compact], u[used], False
        gram, dots, self._kept = inner_products.materialise(uses, u, exact, keep)
        return gram, dots

    def weighted(self, weights: Tensor, exact: bool = False) -> Tensor:
        """sum_n w_n G_n in the parameter's shape and dtype; weights (k,).

        Args:
            exact: add up in float64, of the very rows that `products(exact=True)` measured: where
                weights are so large that the rounding of each w_n G_n would show.
        """
        p = self.parameter
        if self._kept is not None:
            total = ops.weighted_sum(self._kept, weights, dtype=p.dtype, exact=exact)
        elif exact:
            total = inner_products.weighted_again(self.uses, weights, p.shape[0] if p.ndim else 1)
        else:
            total, weights = (
                None,
                ops.moved(weights, torch.promote_types(p.dtype, torch.float32), p.device),
            )
            for use in self.uses:
                total = use.weighted(weights, total)
        return ops.moved(total, p.dtype, p.device).reshape(p.shape)


Visitor = Callable[[ParameterRows], Tensor | None]


class PerSampleEngine:
    """Gives a visitor the per-sample gradients of every trainable parameter during one backward
    pass.

    Args:
        model: the module whose trainable parameters count; wrappers around it
            (DistributedDataParallel) do not matter. It may be in shards (FSDP2): then all processes
            make and use an engine together, and rows are of the whole parameter, while `rows.parameter` and its `.grad` are in shards.
        slow: parameters that get no gradient here: they take the slow path.
        way: how inner products are had, one of `inner_products.WAYS`; None: the cheapest for each
            parameter.

    Usage::

        with engine.record(k):
            loss = ...                                  # the mean over k samples of their losses
        engine.backward(loss.backward, visit)

    `visit(rows)` is called when the last use of a parameter has been met, and what it returns is
    added to `.grad` by autograd. Since the loss is a mean, the rows are the gradients of L_n / k.

    Raises:
        Unsupported: while recording or in the backward pass, with the parameters that have to take
            the slow path.
    """

    def __init__(self, model: nn.Module, slow: Iterable[nn.Parameter] = (), way: str | None = None):
        self.model, self.way, self._whole = model, way, whole_tensors(model)
        # with the reason, where it was found in a pass
        self.slow = dict.fromkeys(map(id, slow), "")
        self._reset(0)

    def _reset(self, k: int) -> None:
        self._trace = Trace(k, self._whole, self.slow, self._receive, self.give_up)
        self._uses: dict[int, tuple[nn.Parameter, list[Rows]]] = {}
        self._visited: set[int] = set()
        self._given_up: set[int] = set()  # in this pass
        self._visit: Visitor | None = None
        self._received: list[tuple[tuple[nn.Parameter, ...], Callable[[], list]]] | None = None
        self._missed: Callable[[nn.Parameter], None] | None = None

    @contextlib.contextmanager
    def record(self, k: int, batch: dict | None = None):
        """Within this context, forward passes over a batch of k samples are recorded.

        Args:
            batch: must be given where its samples have shares of different sizes in a tensor
                (`patch_owners`).
        """
        self._reset(k)
        self._parameters = own_parameters(self.model)
        self._trace.start(self._parameters, self.model.buffers())
        with self._recording() as recorder:
            for name, owners in patch_owners(batch or {}, k).items():
                recorder.layouts.share(batch[name], owners)
            yield

    @contextlib.contextmanager
    def _recording(self):
        """Within this context calls are recorded, and autograd does not see the slow parameters."""
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
        visit: Visitor,
        again: str | None = None,
        missed: Callable[[nn.Parameter], None] | None = None,
    ) -> None:
        """Runs `backward()` and shows `visit` the rows of each parameter.

        Args:
            again: how they can be shown once more. "replay": what the rows are made of is kept for
                `replay`, at the cost of as much memory as the graph that is freed meanwhile.
                "backward": the graph is kept for another call of this method (`backward` must
                retain it, too).
            missed: called in place of `visit` with a parameter that was given up in this pass:
                other processes may wait for its rows. Where `visit` raises `Unsupported`, since
                others have given it up, so does this one.
        """
        awaited = self._begin(visit, missed)
        self._received = [] if again == "replay" else None
        try:
            with self._recording():
                backward()
            self._show_rest()
            self._end(awaited)
        except BaseException:
            again = None
            raise
        finally:
            if again is None:
                self._reset(0)

    def replay(self, visit: Visitor, again: bool = False) -> None:
        """Shows `visit` once more what the last backward pass met, without a pass through the
        model.

        Args:
            again: this method will be called once more.
        """
        awaited, received, self._received = self._begin(visit, None), self._received, None
        for place, (roots, rows) in enumerate(received):
            with torch.no_grad():
                for parameter, gradient in zip(roots, self._file(roots, rows())):
                    add_gradient(parameter, gradient)
            if not again:
                received[place] = None
        self._show_rest()
        self._end(awaited)
        self._received = received
        if not again:
            self._reset(0)

    def _begin(self, visit: Visitor, missed: Callable[[nn.Parameter], None] | None) -> Counter[int]:
        """Starts to show rows; returns the counts of uses, which another pass needs again."""
        self._visit, self._missed, self._given_up = visit, missed, set()
        self._trace.in_backward = True
        return self._trace.awaited.copy()

    def _end(self, awaited: Counter[int]) -> None:
        self._uses, self._visited, self._visit = {}, set(), None
        self._trace.awaited, self._trace.in_backward = awaited, False

    def _show_rest(self) -> None:
        for parameter in self._parameters:
            # a use is not part of the loss
            if self._is_due(parameter) and id(parameter) not in self._visited:
                add_gradient(parameter, self._show(parameter))

    def give_up(self, parameters: Iterable[nn.Parameter], reason: str) -> None:
        """Leaves some parameters to the slow path from here on, in the middle of a pass, too."""
        for parameter in parameters:
            self.slow.setdefault(id(parameter), reason)
            self._given_up.add(id(parameter))
            self._uses.pop(id(parameter), None)

    def _receive(self, call: Call, B: Tensor, samples: tuple[Tensor, ...]) -> list[Tensor | None]:
        """Files the rows of one call; returns the gradient of each of its parameters that has no
        more uses to come."""
        # a checkpoint's backward pass may be under it
        autocast_off = torch.autocast(B.device.type, enabled=False)
        with torch.no_grad(), torch._C.DisableTorchFunction(), autocast_off:
            rows = list(rows_of(call, self._trace.k, B, samples))
            if self._received is not None:
                self._received.append((call.roots, self._kept(call, B, samples, rows)))
            return self._file(call.roots, rows)

    def _kept(
        self, call: Call, B: Tensor, samples: tuple[Tensor, ...], rows: list
    ) -> Callable[[], list]:
        """What gives the rows of a call once more: they themselves, or what they are made of where
        that is smaller (a convolution's inputs, which its rows have unfolded)."""
        if sum(use.held for _, use in rows) <= sum(x.numel() for x in (B, *samples)):
            return lambda: rows
        return lambda: list(rows_of(call, self._trace.k, B, samples))

    def _file(
        self, roots: tuple[nn.Parameter, ...], rows: list[tuple[nn.Parameter, Rows]]
    ) -> list[Tensor | None]:
        """Files some rows; returns the gradient of each of the roots that has no more uses to
        come."""
        for parameter, use in rows:
            if id(parameter) not in self.slow:  # given up since
                self._uses.setdefault(id(parameter), (parameter, []))[1].append(use)
        return [self._gradient(parameter) for parameter in roots]

    def _gradient(self, parameter: nn.Parameter) -> Tensor | None:
        key = id(parameter)
        self._trace.awaited[key] -= 1
        if self._trace.awaited[key] > 0 or not self._is_due(parameter):
            return None
        if key in self._visited:
            raise Unsupported("several re-entrant checkpoints share it", (parameter,))
        return self._show(parameter)

    def _is_due(self, parameter: nn.Parameter) -> bool:
        """Whether it has rows to show, or has been given up while other processes wait for them."""
        key = id(parameter)
        return (
            key in self._uses or self._missed is not None and key in self._given_up - self._visited
        )

    def _show(self, parameter: nn.Parameter) -> Tensor | None:
        self._visited.add(id(parameter))
        if id(parameter) in self._uses:
            try:
                return self._visit(ParameterRows(*self._uses.pop(id(parameter)), self.way))
            except Unsupported as problem:
                self.give_up((parameter,), str(problem))
        else:
            self._missed(parameter)
        # DistributedDataParallel waits for something
        return torch.zeros_like(self._trace.leaf(parameter))
