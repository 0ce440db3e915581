"""Where the samples lie in a tensor."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Layout:
    """The samples lie along one axis, nearly always in k equal blocks along the leading one.

    axis: the axis of the samples.
    owners: the sample of each index along the axis (N,); None: k equal blocks.
    only_sample: the one sample that all values belong to (an image in a model that loops over
        images).
    """

    axis: int = 0
    owners: Tensor | None = None
    only_sample: int | None = None

    def has_all(self, k: int) -> bool:
        """Whether each of the k samples has values in the tensor."""
        return self.only_sample is None and (self.owners is None or len(self.owners.unique()) == k)

    def regular(self, x: Tensor, k: int) -> Tensor:
        """x with the samples in k equal blocks along the leading axis, padded with zeros."""
        x = x.movedim(self.axis, 0)
        if self.owners is None and self.only_sample is None:
            return x
        owners = self.owners_of(len(x), k, x.device)
        order = owners.argsort(stable=True)
        counts = torch.bincount(owners, minlength=k)
        size, first = int(counts.max()), counts.cumsum(0) - counts
        owners = owners[order]
        # The index of each line: within the block of its sample, in the order of lines. (N,)
        slots = owners * size + torch.arange(len(order), device=order.device) - first[owners]
        return x.new_zeros(k * size, *x.shape[1:]).index_copy_(0, slots, x[order])

    def owners_of(self, size: int, k: int, device: torch.device) -> Tensor:
        """The sample of each of `size` indices along the axis, (size,)."""
        if self.owners is not None:
            return self.owners
        if self.only_sample is not None:
            return torch.full((size,), self.only_sample, device=device)
        return torch.arange(size, device=device) // max(1, size // k)


LEADING = Layout()
