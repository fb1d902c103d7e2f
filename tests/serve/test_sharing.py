"""What is taken, and what the next batch is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from runoff.contracts import Batch
from runoff.serve.admission import Admission
from runoff.serve.frames import Frame, batch_frame, batch_of, encoded
from runoff.serve.refusals import RefusedError
from runoff.serve.sharing import Span, joined, shared_spans
from runoff.serve.worker import LENGTHS
from runoff.text.batching import packed

# --- sharing -------------------------------------------------------------------------------------------------------


def block(*lengths: int) -> Batch:
    """A block of sequences of these lengths; token ids count through it."""
    total = sum(lengths)
    return packed(np.arange(total, dtype=np.int32), None, np.array(lengths), np.arange(len(lengths)))


@dataclass
class Request:
    block: Batch
    next_sequence: int = 0


def test_one_request_has_the_whole_batch() -> None:
    assert shared_spans([Request(block(*[100] * 10))], 450) == [Span(0, 0, 4)]


def test_a_large_request_leaves_half_to_the_next_and_a_quarter_to_the_one_after() -> None:
    waiting = [Request(block(*[10] * 500)) for _ in range(3)]
    # 500 of 1000 tokens, 250 of the 500 left, and the last request the rest.
    assert shared_spans(waiting, 1000) == [Span(0, 0, 50), Span(1, 0, 25), Span(2, 0, 25)]


def test_what_the_small_ones_leave_goes_to_the_oldest() -> None:
    waiting = [Request(block(*[10] * 500)), Request(block(10))]
    assert shared_spans(waiting, 1000) == [Span(0, 0, 99), Span(1, 0, 1)]


def test_many_small_requests_share_a_batch_in_the_order_in_which_they_came() -> None:
    waiting = [Request(block(10)) for _ in range(200)]
    assert shared_spans(waiting, 1000) == [Span(place, 0, 1) for place in range(100)]


def test_the_oldest_always_gets_one_sequence_even_beyond_the_budget() -> None:
    waiting = [Request(block(5000, 10)), Request(block(10))]
    assert shared_spans(waiting, 1000) == [Span(0, 0, 1)]


def test_a_sequence_larger_than_its_half_is_not_put_off() -> None:
    waiting = [Request(block(800, 800)), Request(block(100))]
    assert shared_spans(waiting, 1000) == [Span(0, 0, 1), Span(1, 0, 1)]


def test_a_request_goes_on_where_it_was() -> None:
    assert shared_spans([Request(block(*[100] * 10), 4)], 250) == [Span(0, 4, 6)]


def test_nothing_waits_nothing_is_sent() -> None:
    assert shared_spans([], 1000) == []


def test_every_sequence_of_all_requests_is_sent_once() -> None:
    draw = np.random.default_rng(5)
    waiting = [Request(block(*draw.integers(3, 400, size))) for size in draw.integers(1, 60, 30)]
    sent = [[0] * len(each.block) for each in waiting]
    open_requests = list(range(len(waiting)))
    while open_requests:
        spans = shared_spans([waiting[place] for place in open_requests], 1024)
        tokens = 0
        for span in spans:
            place = open_requests[span.place]
            for row in range(span.first, span.last):
                sent[place][row] += 1
            offsets = waiting[place].block.offsets
            tokens += int(offsets[span.last] - offsets[span.first])
            waiting[place].next_sequence = span.last
        assert 0 < tokens <= 1024
        open_requests = [
            place for place in open_requests if waiting[place].next_sequence < len(waiting[place].block)
        ]
    assert all(count == 1 for request in sent for count in request)


def test_a_batch_of_parts_is_packed_and_its_positions_begin_anew() -> None:
    batch = joined([(block(2, 3), 1, 2), (block(4, 1), 0, 2)])
    assert batch.ids.tolist() == [2, 3, 4, 0, 1, 2, 3, 4]
    assert batch.offsets.tolist() == [0, 3, 7, 8]
    assert batch.positions.tolist() == [0, 1, 2, 0, 1, 2, 3, 0]


def test_a_batch_travels_unchanged() -> None:
    sent = packed(
        np.arange(5, dtype=np.int32), np.array([0, 1, 0, 1, 1], np.int32), np.array([2, 3]), np.arange(2)
    )
    frame = batch_frame(7, sent)
    head_size, payload_size = LENGTHS.unpack(frame[:8])
    assert len(frame) == 8 + head_size + payload_size
    got = batch_of(Frame({"tokens": 5, "sequences": 2}, frame[8 + head_size :]))
    for name in ("ids", "type_ids", "positions", "offsets"):
        assert np.array_equal(getattr(got, name), getattr(sent, name))


def test_a_frame_is_its_lengths_its_head_and_its_payload() -> None:
    assert encoded({"kind": "x"}, b"ab", b"c") == LENGTHS.pack(13, 3) + b'{"kind": "x"}abc'


# --- admission -------------------------------------------------------------------------------------------------------


def test_what_is_taken_is_given_back_even_when_it_fails() -> None:
    admission = Admission(2, 100)

    def fail() -> None:
        with admission.admit(40) as ticket:
            ticket.correct(60)
            assert (admission.requests, admission.tokens) == (1, 60)
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - any will do
        fail()
    assert (admission.requests, admission.tokens) == (0, 0)


@pytest.mark.parametrize(("tokens", "status"), [(101, 413), (61, 429)])
def test_too_many_tokens_are_refused_for_good_or_for_now(tokens: int, status: int) -> None:
    admission = Admission(2, 100)
    with admission.admit(40), pytest.raises(RefusedError) as caught:
        admission.admit(tokens)
    assert caught.value.status == status
    assert (caught.value.retry_after_s is not None) is (status == 429)


def test_retry_after_is_the_time_that_half_of_what_waits_takes() -> None:
    admission = Admission(10, 1_000_000)
    assert admission.retry_after_s() == 1
    admission.learn(1000, 1.0, 2)  # 2000 tokens a second of two workers
    with admission.admit(20_000):
        assert admission.retry_after_s() == 5
    with admission.admit(1_000_000):
        assert admission.retry_after_s() == 60
