"""A transformers model in this process as a service.

Contract
- A temperature of 0 takes the most probable token each time; others sample, with the request's
  seed where it has one. A temperature left out is 1, as in the API.
- The text ends before a stop string, which is no part of it, and is streamed as soon as it cannot
  become part of one. A parameter that this service does not know is refused, never ignored.
- One request at a time: the model is not shared while it runs. A stream that is closed stops the
  model at its next token.

Leaves out: tools, several choices, batching (infopt_reference.batching), adapters.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from .answer import Answer
from .request import ChatRequest
from .service import StreamChunk, require_one_choice

if TYPE_CHECKING:
    import torch

KNOWN = frozenset(
    {
        "max_completion_tokens",
        "max_tokens",
        "min_p",
        "n",
        "repetition_penalty",
        "seed",
        "stop",
        "temperature",
        "top_k",
        "top_p",
    }
)
PASSED_ON = ("min_p", "repetition_penalty", "top_k", "top_p")  # of the same name in generate()
DEFAULT_MAX_TOKENS = 256


class TransformersService:
    """``model`` and ``tokenizer`` of transformers. The tokenizer's chat template writes the prompt;
    one without a template gets the messages' texts, line by line."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._running = threading.Lock()

    async def complete(self, request: ChatRequest) -> Answer:
        """One answer.

        Raises:
            ValueError: the request has a parameter that this service does not know.
        """
        _require_known(request)
        return await asyncio.to_thread(self._generate, request, _Text(request))

    async def stream(self, request: ChatRequest) -> AsyncGenerator[StreamChunk, None]:
        """An answer, piece by piece; errors are those of `complete`."""
        _require_known(request)
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()

        def send(piece: str | None) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        text = _Text(request, send)
        work = asyncio.create_task(asyncio.to_thread(self._generate, request, text))
        work.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield StreamChunk(piece)
            yield StreamChunk(answer=await work)
        finally:
            text.closed = True
            if not work.done():
                await asyncio.wait([work])  # the thread must not use the loop after it is closed

    def _generate(self, request: ChatRequest, text: _Text) -> Answer:
        import torch
        from transformers import StoppingCriteriaList

        options = request.parameters
        prompt = self._prompt(request).to(self.model.device)  # [1, T]
        limit = options.get("max_completion_tokens") or options.get("max_tokens")
        temperature = options.get("temperature")
        temperature = 1.0 if temperature is None else temperature
        sampling: dict[str, Any] = {"do_sample": temperature > 0}
        if temperature > 0:
            sampling["temperature"] = float(temperature)
        sampling.update(
            {name: options[name] for name in PASSED_ON if options.get(name) is not None}
        )

        def watch(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            done = text.show(self._decode(ids[0, prompt.shape[1] :]))
            return torch.full((1,), done, dtype=torch.bool, device=ids.device)

        with self._running, torch.random.fork_rng(enabled=options.get("seed") is not None):
            if options.get("seed") is not None:
                torch.manual_seed(options["seed"])
            ids = self.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=limit or DEFAULT_MAX_TOKENS,
                stopping_criteria=StoppingCriteriaList([watch]),
                **sampling,
            )
        generated = ids[0, prompt.shape[1] :].tolist()
        ended = text.stopped or any(end == generated[-1] for end in self._end_tokens())
        text.finish()
        return Answer(
            content=text.shown,
            finish_reason="stop" if ended else "length",
            prompt_tokens=prompt.shape[1],
            completion_tokens=len(generated),
        )

    def _prompt(self, request: ChatRequest) -> Any:
        if self.tokenizer.chat_template:
            text = self.tokenizer.apply_chat_template(
                [dict(message) for message in request.messages],
                add_generation_prompt=True,
                tokenize=False,
            )
            return self._encode(text, add_special_tokens=False)
        texts = [str(message.get("content") or "") for message in request.messages]
        return self._encode("\n".join(texts), add_special_tokens=True)

    def _encode(self, text: str, add_special_tokens: bool) -> Any:
        encoded = self.tokenizer(text, return_tensors="pt", add_special_tokens=add_special_tokens)
        return encoded["input_ids"]  # [1, T]

    def _decode(self, ids: Any) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _end_tokens(self) -> Sequence[int]:
        ends = self.model.generation_config.eos_token_id
        return ends if isinstance(ends, list) else [ends]


class _Text:
    """The text so far: what of it is sure to stay, and whether a stop string has ended it."""

    def __init__(self, request: ChatRequest, send: Callable[[str], None] | None = None) -> None:
        stop = request.parameters.get("stop") or []
        self.stops = [stop] if isinstance(stop, str) else list(stop)
        self.shown = ""
        self.stopped = False
        self.closed = False
        self._whole = ""
        self._send = send

    def show(self, text: str) -> bool:
        """Takes the whole text so far, sends what is new and sure; whether to generate no more."""
        found = [text.find(stop) for stop in self.stops if stop in text]
        self.stopped = bool(found)
        self._whole = text[: min(found)] if found else text
        if not found:
            text = text.rstrip("\N{REPLACEMENT CHARACTER}")  # the rest of a character is to come
            text = text[: len(text) - max((_overlap(text, stop) for stop in self.stops), default=0)]
        else:
            text = self._whole
        self._emit(text)
        return self.stopped or self.closed

    def finish(self) -> None:
        """Nothing more will come."""
        self._emit(self._whole)

    def _emit(self, text: str) -> None:
        piece = text[len(self.shown) :]
        if piece:
            self.shown = text
            if self._send:
                self._send(piece)


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of ``text`` that ``stop`` begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if stop.startswith(text[-size:])), 0)


def _require_known(request: ChatRequest) -> None:
    require_one_choice(request)
    given = {name for name, value in request.parameters.items() if value is not None}
    unknown = sorted(given - KNOWN) + (["adapter"] if request.adapter else [])
    if unknown:
        raise ValueError(
            f"a model in process does not know {', '.join(unknown)}; it knows "
            f"{', '.join(sorted(KNOWN))}"
        )
