"""Keeps tensors under keys: in memory first, then in a temporary file."""

import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Bytes that are kept in memory; what does not fit goes to the disk.
IN_MEMORY = 10**9


class _Location(NamedTuple):
    """Where in the file a tensor is."""

    offset: int
    size: int
    shape: torch.Size
    dtype: torch.dtype


class TensorStore:
    """Keeps tuples of tensors on the CPU, as many as fit; what was kept first stays.

    Entries are never evicted: samples come in epochs, so the oldest entry is the next one needed.

    Args:
        limit: the largest size of all tensors together, in bytes.
        in_memory: how many of these bytes are in memory. The others are in a file without a name,
            which ends with the process, even if that is killed: it may hold what a forgotten person
            has said.

    Attributes:
        size: of all tensors, in bytes.
        is_full: whether something had no room.
    """

    def __init__(self, limit: float, in_memory: float = IN_MEMORY):
        self.limit, self._in_memory = limit, in_memory
        self.clear()

    def clear(self) -> None:
        self.size, self.is_full = 0, False
        self._entries: dict[bytes, tuple[Any, tuple[Tensor | _Location, ...]]] = {}
        self._file: Any = None
        self._end = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._entries)

    def keep(self, key: bytes, note: Any, tensors: tuple[Tensor, ...]) -> bool:
        """Keeps tensors, with a note that stays in memory; False if there is no room."""
        size = sum(x.nbytes for x in tensors)
        if key in self._entries:
            return True
        if self.size + size > self.limit:
            self.is_full = True
            return False
        entry = tensors
        if self.size + size > self._in_memory:
            try:
                entry = tuple(map(self._write, tensors))
            except OSError:
                # The disk is full.
                self.limit, self.is_full = self.size, True
                return False
        self._entries[key] = note, entry
        self.size += size
        return True

    def get(self, key: bytes) -> tuple[Any, tuple[Tensor, ...]] | None:
        """The note and the tensors that were kept under a key; None if there are none."""
        if key not in self._entries:
            return None
        note, entry = self._entries[key]
        return note, tuple(self._read(x) if isinstance(x, _Location) else x for x in entry)

    def _write(self, tensor: Tensor) -> _Location:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="hf_unlearn-")
        content = as_bytes(tensor)
        self._file.seek(self._end)
        self._file.write(content)
        self._file.flush()
        location = _Location(self._end, len(content), tensor.shape, tensor.dtype)
        self._end += len(content)
        return location

    def _read(self, location: _Location) -> Tensor:
        self._file.seek(location.offset)
        content = bytearray(self._file.read(location.size))
        return torch.frombuffer(content, dtype=location.dtype).reshape(location.shape)


def as_bytes(tensor: Tensor) -> memoryview:
    """The values of a tensor on the CPU, as bytes."""
    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
