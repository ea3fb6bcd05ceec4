"""Frames from a decoder process to ours: a few slots of equal size in one piece of shared memory.

The decoder writes a frame into a free slot and tells its number; the reader copies it out and gives
the slot back. Nothing in the file system, so nothing is left behind however either of them ends.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import queue
import tempfile

import numpy as np


def create_memory() -> int:
    """A file descriptor of memory without a name, which can grow but not shrink."""
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
    memory = os.memfd_create("frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    # A decoder gone wrong could otherwise shrink it under the reader, who would die of SIGBUS.
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return memory


class SlotWriter:
    """The decoder's side of `slots` slots; `free` may be called by another thread."""

    def __init__(self, memory: int, slots: int):
        self._memory = memory
        self._slots = slots
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(slots):
            self._free.put(slot)
        self._map: mmap.mmap | None = None
        self._slot_bytes = 0

    def free(self, slot: int) -> None:
        self._free.put(slot)

    def place(self, image: np.ndarray) -> tuple[int, int]:
        """Writes a uint8 image as soon as a slot is free; returns the slot and its offset."""
        if image.nbytes > self._slot_bytes:
            self._grow(image.nbytes)
        slot = self._free.get()
        offset = slot * self._slot_bytes
        target = np.frombuffer(self._map, np.uint8, image.nbytes, offset)
        np.copyto(target.reshape(image.shape), image)
        return slot, offset

    def _grow(self, size: int) -> None:
        # Slots move: wait until the reader has copied out what is in the old ones.
        slots = [self._free.get() for _ in range(self._slots)]
        self._slot_bytes = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        os.ftruncate(self._memory, self._slots * self._slot_bytes)
        self._map = mmap.mmap(self._memory, self._slots * self._slot_bytes)
        for slot in slots:
            self.free(slot)


class SlotReader:
    """The receiver's side. It trusts no number that the decoder tells."""

    def __init__(self, memory: int):
        self._memory = memory
        self._map: mmap.mmap | None = None

    def read(self, offset: int, shape: tuple[int, int, int]) -> np.ndarray:
        """A copy of the uint8 image at `offset`; ValueError if it lies outside of the memory."""
        size = int(np.prod(shape, dtype=np.int64))
        if min(shape) < 1 or offset < 0 or offset + size > os.fstat(self._memory).st_size:
            raise ValueError(f"a frame of shape {shape} at {offset} is outside of the memory")
        if self._map is None or offset + size > len(self._map):
            self._map = mmap.mmap(self._memory, 0, prot=mmap.PROT_READ)
        return np.frombuffer(self._map, np.uint8, size, offset).reshape(shape).copy()

    def close(self) -> None:
        self._map = None
        os.close(self._memory)
