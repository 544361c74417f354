"""The consumer against a ring of which the test is the kernel: test_probe.py has the real one."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.bpf.ring import RingBuffer

PAGE = mmap.PAGESIZE
SIZE = PAGE
BUSY, DISCARDED = 1 << 31, 1 << 30


class FakeRing:
    """Memory laid out as the kernel shares it: the consumer's page, the producer's page, the data twice."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * PAGE + 2 * SIZE)
        self._memory = mmap.mmap(self.fd, 2 * PAGE + 2 * SIZE)
        self.produced = 0

    @property
    def consumed(self) -> int:
        position: int = struct.unpack_from("Q", self._memory, 0)[0]
        return position

    def reserve(self, length: int) -> int | None:
        """Room for a record, still being written; where it is, or None when the ring is full."""
        whole = 8 + (length + 7) // 8 * 8
        if self.produced + whole - self.consumed > SIZE:
            return None
        at = self.produced
        self._put(at, struct.pack("II", length | BUSY, 0))
        self.produced += whole
        struct.pack_into("Q", self._memory, PAGE, self.produced)
        return at

    def submit(self, at: int, record: bytes, *, discard: bool = False) -> None:
        self._put(at + 8, record)
        self._put(at, struct.pack("I", len(record) | (DISCARDED if discard else 0)))

    def write(self, record: bytes) -> bool:
        at = self.reserve(len(record))
        if at is not None:
            self.submit(at, record)
        return at is not None

    def close(self) -> None:
        self._memory.close()
        os.close(self.fd)

    def _put(self, position: int, data: bytes) -> None:
        for n, byte in enumerate(data):
            at = 2 * PAGE + (position + n) % SIZE
            self._memory[at] = self._memory[at + SIZE] = byte


@pytest.fixture
def fake() -> Iterator[FakeRing]:
    ring = FakeRing()
    yield ring
    ring.close()


@pytest.fixture
def ring(fake: FakeRing) -> Iterator[RingBuffer]:
    consumer = RingBuffer(fake.fd, SIZE)
    yield consumer
    consumer.close()


def test_records_come_in_their_order_and_their_space_is_given_back(fake: FakeRing, ring: RingBuffer) -> None:
    assert ring.read(10) == []
    for record in (b"one", b"", b"three and more"):
        assert fake.write(record)
    assert ring.read(10) == [b"one", b"", b"three and more"]
    assert fake.consumed == fake.produced
    assert ring.read(10) == []


def test_no_more_than_asked_for_is_taken(fake: FakeRing, ring: RingBuffer) -> None:
    for record in (b"a", b"b", b"c"):
        fake.write(record)
    assert ring.read(2) == [b"a", b"b"]
    assert ring.read(2) == [b"c"]


def test_a_record_that_is_still_being_written_holds_up_those_behind_it(
    fake: FakeRing, ring: RingBuffer
) -> None:
    fake.write(b"a")
    at = fake.reserve(1)
    fake.write(b"c")
    assert at is not None
    assert ring.read(10) == [b"a"]
    assert ring.read(10) == []
    fake.submit(at, b"b")
    assert ring.read(10) == [b"b", b"c"]


def test_a_discarded_record_is_stepped_over(fake: FakeRing, ring: RingBuffer) -> None:
    at = fake.reserve(5)
    assert at is not None
    fake.submit(at, b"never", discard=True)
    assert ring.read(10) == []
    assert fake.consumed == fake.produced
    fake.write(b"next")
    assert ring.read(10) == [b"next"]


def test_a_record_across_the_end_of_the_ring_is_whole(fake: FakeRing, ring: RingBuffer) -> None:
    long = bytes(range(256)) * (SIZE // 256 - 1)
    fake.write(b"x" * (SIZE - 64))
    ring.read(1)
    assert fake.write(long[: SIZE - 128])
    assert ring.read(1) == [long[: SIZE - 128]]


@given(st.lists(st.tuples(st.integers(0, 700), st.integers(0, 3)), max_size=60))
def test_whatever_is_written_and_read_in_turns_every_record_comes_once_and_in_order(
    turns: list[tuple[int, int]],
) -> None:
    fake = FakeRing()
    ring = RingBuffer(fake.fd, SIZE)
    written: list[bytes] = []
    read: list[bytes] = []
    for n, (length, limit) in enumerate(turns):
        record = (b"%d " % n) * length
        if fake.write(record[:length]):
            written.append(record[:length])
        read += ring.read(limit)
    read += ring.read(1000)
    assert read == written
    ring.close()
    fake.close()


def test_closing_twice_is_harmless_and_leaves_the_descriptor_open(fake: FakeRing) -> None:
    ring = RingBuffer(fake.fd, SIZE)
    assert ring.fileno() == fake.fd
    ring.close()
    ring.close()
    os.fstat(fake.fd)
