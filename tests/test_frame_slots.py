import os
import threading

import numpy as np
import pytest

from cpr_deploy.frame_slots import SlotReader, SlotWriter, create_memory


def image(size, value):
    return np.full((*size, 3), value, np.uint8)


@pytest.fixture
def ends():
    memory = create_memory()
    reader = SlotReader(memory)
    yield SlotWriter(os.dup(memory), 2), reader
    reader.close()


def test_frames_come_over_and_are_copies(ends):
    writer, reader = ends
    slot, offset = writer.place(image((4, 5), 7))
    first = reader.read(offset, (4, 5, 3))
    writer.free(slot)
    for value in (8, 9):
        writer.place(image((4, 5), value))
    assert (first == 7).all() and first.flags.writeable


def test_larger_frames_wait_for_all_slots_and_smaller_ones_do_not(ends):
    writer, reader = ends
    slot, offset = writer.place(image((4, 5), 1))
    placed = []
    thread = threading.Thread(target=lambda: placed.append(writer.place(image((400, 50), 2))))
    thread.start()
    thread.join(timeout=0.2)
    assert thread.is_alive() and (reader.read(offset, (4, 5, 3)) == 1).all()
    writer.free(slot)
    thread.join(timeout=5)
    (_, offset) = placed[0]
    assert (reader.read(offset, (400, 50, 3)) == 2).all()
    _, offset = writer.place(image((2, 2), 3))
    assert (reader.read(offset, (2, 2, 3)) == 3).all()


@pytest.mark.parametrize(
    ("offset", "shape"), [(-1, (1, 1, 3)), (1 << 40, (1, 1, 3)), (0, (99999, 99999, 3))]
)
def test_nonsense_is_refused(ends, offset, shape):
    writer, reader = ends
    writer.place(image((4, 5), 1))
    with pytest.raises(ValueError, match="outside of the memory"):
        reader.read(offset, shape)


def test_the_memory_cannot_shrink_under_the_reader():
    memory = create_memory()
    os.ftruncate(memory, 4096)
    with pytest.raises(PermissionError):
        os.ftruncate(memory, 0)
    os.close(memory)
