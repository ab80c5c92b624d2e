"""Properties of a timed request: TTFT, ITL, TPOT and E2E by their definitions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, ClassVar

from ..base import requires
from ..properties import for_all
from ..tally import each_case
from .call_properties import CallProperties
from .latency_trial import LatencyTrial, Stream, stream_of, streams
from .protocol import Chunk, MakeLatencyMeter

ANSWER = stream_of((1.0, 1), (0.125, 1), (0.25, 1), (0.125, 1), (0.5, 1))


class RequestProperties(CallProperties):
    """Streamed requests."""

    topic = ""
    itl_of: ClassVar[str] = "tokens"

    @requires("requests")
    def test_ttft_ends_with_the_first_token(self, make_latency_meter: MakeLatencyMeter) -> None:
        """Of any kind: a chunk that holds a role is none, a token of reasoning is one, and so is
        one whose text is not complete yet.

        Usual causes: the first event, whatever it holds; the first text; the first `content`.
        """
        firsts = (
            (Chunk(kind="other"), Chunk((5,), "word")),
            (Chunk((5,), "hm", kind="reasoning"), Chunk((6,), "word")),
            (Chunk((5,), ""), Chunk((6,), "é")),
        )
        for chunks in each_case(firsts):
            stream = Stream(0.25, (1.0, 2.0, 0.5), (*chunks, Chunk((7,), "end")))
            self._check(make_latency_meter, stream, "ttft", stream.arrivals[0])

    @requires("requests")
    def test_a_request_begins_when_it_is_sent(self, make_latency_meter: MakeLatencyMeter) -> None:
        """Sending, queueing and prefill belong to it; what the device did before does not.

        Usual causes: a clock that starts with the stream's first event or with the answer's
        headers; no synchronisation before.
        """
        for sending in each_case((0.0, 4.0)):
            stream = stream_of((1.0, 1), (0.5, 1), sending=sending)
            found = self._check(make_latency_meter, stream, "ttft", sending + 1.0, pending=8.0)
            assert found.e2e > found.ttft, f"E2E is {found.e2e}, TTFT {found.ttft}"

    @requires("requests")
    def test_gaps_are_between_tokens(self, make_latency_meter: MakeLatencyMeter) -> None:
        """The time to the first token is none of them; with it they make up the time to the last.

        Usual causes: a missing `else` after the first token, gaps since the request was sent,
        one gap too many or too few.
        """

        def holds(stream: Stream) -> None:
            trial, found = self._timed(make_latency_meter, stream)
            moments = stream.arrivals if self.itl_of == "tokens" else stream.chunk_arrivals
            true = [later - earlier for earlier, later in pairwise(moments)]
            gaps = [float(x) for x in found.itl]
            assert trial.equal(gaps, true), f"ITL is {gaps}, the gaps are {true}"

        for_all(holds, streams(), traps=[("one by one", ANSWER)], examples=20)

    @requires("requests")
    def test_tpot_leaves_the_prompt_out(self, make_latency_meter: MakeLatencyMeter) -> None:
        """It is (last − first arrival) / (tokens − 1), however long the first token took.

        Usual causes: E2E / tokens, E2E − TTFT over all tokens, a count of chunks.
        """

        def holds(stream: Stream) -> None:
            arrivals = stream.arrivals
            if len(arrivals) > 1:
                true = (arrivals[-1] - arrivals[0]) / (len(arrivals) - 1)
                self._check(make_latency_meter, stream, "tpot", true)

        for_all(holds, streams(), traps=[("one by one", ANSWER)], examples=20)

    @requires("requests")
    def test_a_single_token_has_no_tpot(self, make_latency_meter: MakeLatencyMeter) -> None:
        """And no gap: None or NaN, neither 0 nor an error.

        Usual causes: a division by max(n − 1, 1), which makes the best TPOT of all.
        """
        _, found = self._timed(make_latency_meter, stream_of((1.0, 1)))
        assert found.tpot is None or math.isnan(found.tpot), f"TPOT of one token is {found.tpot}"
        assert list(found.itl) == [], f"ITL of one token is {list(found.itl)}"

    @requires("requests")
    def test_tokens_are_those_that_came(self, make_latency_meter: MakeLatencyMeter) -> None:
        """By ids: not by chunks, words, or what was asked for.

        Usual causes: chunks that are counted, `max_tokens` though the answer ended early, words of
        the text.
        """

        def holds(stream: Stream) -> None:
            _, found = self._timed(make_latency_meter, stream)
            count = len(stream.arrivals)
            assert found.tokens == count, f"{found.tokens} tokens were counted, {count} came"

        for_all(holds, streams(), examples=20)

    @requires("requests")
    def test_e2e_ends_with_the_last_token(self, make_latency_meter: MakeLatencyMeter) -> None:
        """A count of tokens, or the end of the stream, comes later.

        Usual causes: a clock that is read behind the loop.
        """

        def holds(stream: Stream) -> None:
            self._check(make_latency_meter, stream, "e2e", stream.arrivals[-1])

        usage = stream_of((1.0, 1), (0.5, 1), (2.0, 0))
        for_all(holds, streams(), traps=[("usage at the end", usage)], examples=20)

    @requires("requests")
    def test_a_broken_stream_is_no_timing(self, make_latency_meter: MakeLatencyMeter) -> None:
        """Nor is an answer without a token: failed requests are failed requests.

        Usual causes: errors that end the loop quietly, so that a cut answer looks fast; 0 seconds.
        """
        for tokens in each_case((0, 1, 3)):

            def cut(count: int = tokens) -> Iterator[Chunk]:
                yield Chunk(kind="other")
                yield from (Chunk((place,), "word") for place in range(count))
                if count:
                    raise ConnectionError("planted by the suite")

            trial = self._trial(make_latency_meter)
            with trial.running():
                try:
                    found = trial.meter.time_request(cut)
                except Exception:
                    continue
            raise AssertionError(f"a stream cut after {tokens} tokens was timed: {found}")

    def _timed(
        self, make: MakeLatencyMeter, stream: Stream, pending: float = 0.0
    ) -> tuple[LatencyTrial, Any]:
        trial = self._trial(make)
        trial.machine.launch(pending)
        with trial.running():
            return trial, trial.meter.time_request(lambda: stream.send(trial.machine))

    def _check(
        self, make: MakeLatencyMeter, stream: Stream, name: str, true: float, pending: float = 0.0
    ) -> Any:
        trial, found = self._timed(make, stream, pending)
        value = getattr(found, name)
        assert trial.near(value, true), f"{name} is {value}, by its definition {true}"
        return found
