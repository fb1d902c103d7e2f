"""How a long input is cut into chunks, and the tokenizing of the chunks ahead of the one being scored."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from runoff.contracts import RunoffError, TokenIds
from runoff.text.tokenizer import Tokenizer, ids_of

if TYPE_CHECKING:
    from tokenizers import Encoding

Content = TypeVar("Content")

FIRST_TEXTS = 16
"""Items of a first chunk of texts: few, so that scoring begins at once."""

FIRST_IDS = 512
"""Items of a first chunk of stored token ids, which cost the host 5 us each: no reason to begin with fewer."""

BATCHES_A_CHUNK = 2.5
"""Batches that a chunk should fill. The half: a chunk that is a little larger or smaller than foreseen shall not end
in a batch of a few sequences, which takes a GPU as long as one of hundreds."""

TOKENS_A_CORE = 8192
"""Tokens of a chunk for each core of the tokenizer: 55 texts of 150, about 5 ms of its work."""

AHEAD_FROM = 256
"""Items of an input from which on threads tokenise ahead: starting them takes 0.1 ms, tokenising so many 18 ms of a
core's time."""

AHEAD = 2
"""Chunks tokenised ahead, each by a thread of its own: while one waits for Python's lock the other computes."""


class ChunkSizes:
    """How many items each chunk of an input takes: twice as many as the one before, until its tokens are enough.

    Enough are `BATCHES_A_CHUNK` batches and `TOKENS_A_CORE`. `learn` hears of the tokens of a finished chunk:
    those of its texts or those of its sequences, whichever are more, since the texts' take memory (about 70
    bytes a token while they are tokenised) and the sequences' fill batches.
    """

    def __init__(self, first: int, token_budget: int, cores: int) -> None:
        self._first = first
        self._wanted_tokens = max(BATCHES_A_CHUNK * token_budget, TOKENS_A_CORE * cores)
        self._tokens_an_item = 0.0

    def learn(self, items: int, tokens: int) -> None:
        self._tokens_an_item = tokens / items

    def spans(self, count: int) -> Iterator[tuple[int, int]]:
        """(first, last) of each chunk of `count` items; each is decided when it is asked for."""
        first, size = 0, self._first
        while first < count:
            if self._tokens_an_item:
                size = min(size, max(int(self._wanted_tokens / self._tokens_an_item), FIRST_TEXTS))
            last = min(first + size, count)
            yield first, last
            first, size = last, 2 * size


class Chunk(NamedTuple, Generic[Content]):
    """Some items of an input: their distinct `texts`, the first of which the caller knows as `first_row`."""

    texts: list[str]
    first_row: int
    content: Content


def tokenized(
    tokenizer: Tokenizer, chunks: Iterator[Chunk[Content]], *, runs_ahead: bool
) -> Iterator[tuple[Content, list[TokenIds]]]:
    """Each chunk's content with the token ids of its texts, in order.

    With `runs_ahead` the texts of up to `AHEAD` later chunks are tokenised meanwhile. An error of a chunk is
    raised when its turn comes. Raises what `Tokenizer.encodings` raises.
    """
    if not runs_ahead:
        for chunk in chunks:
            yield chunk.content, ids_of(tokenizer.encodings(chunk.texts, chunk.first_row))
        return
    waiting: deque[tuple[Content, Future[list[Encoding]]]] = deque()
    failure: RunoffError | None = None
    with ThreadPoolExecutor(AHEAD, "tokenizer") as threads:
        while True:
            while len(waiting) <= AHEAD and failure is None:
                try:
                    chunk = next(chunks)
                except StopIteration:
                    break
                except RunoffError as error:
                    failure = error
                    break
                waiting.append(
                    (chunk.content, threads.submit(tokenizer.encodings, chunk.texts, chunk.first_row))
                )
            if not waiting:
                break
            content, encodings = waiting.popleft()
            yield content, ids_of(encodings.result())
    if failure is not None:
        raise failure
