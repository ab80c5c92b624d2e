"""Small continuous batchers: a sound one, and one for each fault that the suite must find.

Legend: B requests that are computed, S tokens of the longest, V vocabulary.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from infopt_suites.batching import (
    ContinuousBatchingSuite,
    ContinuousLimits,
    GenerationParameters,
)
from torch import Tensor
from transformers import DynamicCache

AREA = "3 continuous batchers"


@dataclass(eq=False)
class Job:
    """A request, and its caller."""

    prompt_ids: list[int]
    parameters: GenerationParameters
    future: asyncio.Future[list[int]]
    generator: torch.Generator
    progress: asyncio.Event = field(default_factory=asyncio.Event)
    output_ids: list[int] = field(default_factory=list)
    slot: int = -1
    request_id: str | None = None

    @property
    def token_ids(self) -> list[int]:
        return self.prompt_ids + self.output_ids


class SmallContinuousBatcher:
    """A slot of memory for each request that runs; all of what is there is computed in each step.

    Who began last gives its memory to the others, and is computed again.
    """

    capabilities = frozenset(ContinuousBatchingSuite.offers) - {"passes", "threaded", "prefixes"}

    def __init__(self, model: Any, limits: ContinuousLimits) -> None:
        self.model, self.limits = model, limits
        self.waiting: list[Job] = []
        self.running: list[Job] = []
        self.memory: list[list[int]] = [[] for _ in range(limits.max_num_seqs)]
        self.work = asyncio.Event()
        self.is_open = False
        self.task: asyncio.Task[None] | None = None

    # What callers do

    async def start(self) -> None:
        self.is_open = True
        self.task = asyncio.create_task(self.loop(), name="loop")

    async def stop(self) -> None:
        self.is_open = False
        self.end_all(RuntimeError("stopped"))
        self.work.set()
        assert self.task is not None
        with suppress(Exception):
            await self.task

    async def generate(
        self,
        prompt_ids: Sequence[int],
        parameters: GenerationParameters,
        request_id: str | None = None,
    ) -> Sequence[int]:
        job = self.enter(prompt_ids, parameters)
        job.request_id = request_id
        try:
            return await job.future
        finally:
            self.leave(job)

    async def abort(self, request_id: str) -> None:
        for job in [*self.waiting, *self.running]:
            if job.request_id == request_id:
                self.end(job, RuntimeError("aborted"))

    async def generate_samples(
        self, prompt_ids: Sequence[int], parameters: GenerationParameters, count: int
    ) -> Sequence[Sequence[int]]:
        jobs = [self.enter(prompt_ids, self.sample(parameters, i)) for i in range(count)]
        try:
            return [await job.future for job in jobs]
        finally:
            self.leave_samples(jobs)

    def sample(self, parameters: GenerationParameters, index: int) -> GenerationParameters:
        seed = parameters.seed
        return parameters if seed is None else replace(parameters, seed=1000 * seed + index)

    def leave_samples(self, jobs: list[Job]) -> None:
        for job in jobs:
            self.leave(job)

    async def stream(
        self, prompt_ids: Sequence[int], parameters: GenerationParameters
    ) -> AsyncGenerator[int]:
        job, given = self.enter(prompt_ids, parameters), 0
        try:
            while not job.future.done() or given < len(job.output_ids):
                tokens = job.output_ids[given:]
                given += len(tokens)
                for token in tokens:
                    yield token
                if not tokens:
                    job.progress.clear()
                    await job.progress.wait()
            job.future.result()
        finally:
            self.leave_stream(job)

    @property
    def num_free_blocks(self) -> int:
        return self.limits.num_blocks - sum(map(self.blocks, self.running))

    def enter(self, prompt_ids: Sequence[int], parameters: GenerationParameters) -> Job:
        if not self.accepts():
            raise RuntimeError("stopped")
        self.validate(list(prompt_ids), parameters)
        generator = torch.Generator().manual_seed(parameters.seed or 0)
        future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        job = Job(list(prompt_ids), parameters, future, generator)
        self.waiting.append(job)
        self.work.set()
        return job

    # The loop

    async def loop(self) -> None:
        while self.is_open:
            if not self.waiting and not self.running:
                await self.rest()
                continue
            self.admit()
            self.make_room()
            self.step()
            await asyncio.sleep(0)

    def step(self) -> None:
        sampling = self.read()
        try:
            rows = self.compute(sampling)
        except Exception as error:
            self.failed(sampling, error)
            return
        pairs = zip(sampling, rows, strict=True)
        self.deliver(sampling, [self.choose(job, row) for job, row in pairs])

    def read(self) -> list[Job]:
        """Put tokens into memory as the budget allows; who has all of its own there."""
        budget, done = self.limits.max_num_batched_tokens, []
        for job in self.running:
            memory = self.memory[job.slot]
            part = job.token_ids[len(memory) :][:budget]
            memory.extend(part)
            budget -= len(part)
            if part and len(memory) == len(job.token_ids):
                done.append(job)
        return done

    def compute(self, jobs: Sequence[Job]) -> Tensor:
        """Logits of each one's next token, [B, V]."""
        if not jobs:
            return torch.zeros(0, 0)
        rows = [self.memory[job.slot] for job in jobs]
        longest = max(map(len, rows))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])  # [B, S]
        empty = torch.tensor([longest - len(row) for row in rows])[:, None]
        mask = torch.arange(longest) >= empty
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
        return self.forward(jobs, ids, mask, positions)

    def forward(self, jobs: Sequence[Job], ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.model(
                input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
            ).logits
        return logits[:, -1]

    def choose(self, job: Job, logits: Tensor) -> int:
        parameters = self.parameters_of(job)
        if parameters.temperature == 0:
            return int(logits.argmax())
        scores = self.scaled(logits.double(), parameters.temperature)
        if parameters.top_k is not None:
            scores = self.filtered(scores, parameters.top_k)
        chances = self.nucleus(torch.softmax(scores, dim=0), parameters.top_p)
        return int(torch.multinomial(chances, 1, generator=self.generator_of(job)))

    def deliver(self, jobs: Sequence[Job], tokens: Sequence[int]) -> None:
        ended = []
        for job, token in zip(jobs, tokens, strict=True):
            job.output_ids.append(token)
            if self.ends(job):
                ended.append(job)
            else:
                self.tell(job)
        for job in ended:
            self.finish(job)

    # What faults change

    def accepts(self) -> bool:
        return self.is_open

    def validate(self, prompt_ids: list[int], parameters: GenerationParameters) -> None:
        known = all(0 <= token < self.model.config.vocab_size for token in prompt_ids)
        if not prompt_ids or not known:
            raise ValueError("not a prompt")
        if not self.could_fit(len(prompt_ids) + parameters.max_new_tokens - 1):
            raise ValueError("too long")

    def could_fit(self, tokens: int) -> bool:
        return tokens <= self.limits.num_blocks * self.limits.block_size

    def blocks(self, job: Job) -> int:
        return -(-len(job.token_ids) // self.limits.block_size)

    async def rest(self) -> None:
        self.work.clear()
        await self.work.wait()

    def admit(self) -> None:
        while self.waiting and len(self.running) < self.limits.max_num_seqs:
            if self.blocks(self.waiting[0]) > self.num_free_blocks:
                break
            job = self.waiting.pop(0)
            job.slot = min(set(range(self.limits.max_num_seqs)) - {x.slot for x in self.running})
            self.clear(job.slot)
            self.running.append(job)

    def clear(self, slot: int) -> None:
        self.memory[slot] = []

    def make_room(self) -> None:
        while self.num_free_blocks < 0:
            self.preempt(self.running.pop())

    def preempt(self, job: Job) -> None:
        self.waiting.insert(0, job)

    def failed(self, jobs: Sequence[Job], error: Exception) -> None:
        """Compute each alone, and end those that fail again."""
        for job in jobs:
            try:
                row = self.compute([job])[0]
            except Exception as own:
                self.end(job, own)
            else:
                self.deliver([job], [self.choose(job, row)])

    def parameters_of(self, job: Job) -> GenerationParameters:
        return job.parameters

    def generator_of(self, job: Job) -> torch.Generator:
        return job.generator

    def scaled(self, logits: Tensor, temperature: float) -> Tensor:
        return logits / temperature

    def filtered(self, scores: Tensor, top_k: int) -> Tensor:
        return scores.masked_fill(scores < scores.topk(top_k).values[-1], -torch.inf)

    def nucleus(self, chances: Tensor, top_p: float) -> Tensor:
        ordered, order = chances.sort(descending=True)
        kept = ordered.masked_fill(self.outside(ordered, top_p), 0.0)
        return torch.zeros_like(chances).scatter(0, order, kept)

    def outside(self, ordered: Tensor, top_p: float) -> Tensor:
        return ordered.cumsum(0) - ordered >= top_p

    def ends(self, job: Job) -> bool:
        return self.is_long_enough(job) or self.stops(job) or self.stops_by_a_sequence(job)

    def is_long_enough(self, job: Job) -> bool:
        return len(job.output_ids) >= job.parameters.max_new_tokens

    def stops(self, job: Job) -> bool:
        return job.output_ids[-1] in job.parameters.stop_token_ids

    def stops_by_a_sequence(self, job: Job) -> bool:
        runs = job.parameters.stop_sequences
        return any(tuple(job.output_ids[-len(run) :]) == run for run in runs)

    def tell(self, job: Job) -> None:
        job.progress.set()

    def finish(self, job: Job) -> None:
        self.running.remove(job)
        self.answer(job)
        job.progress.set()

    def answer(self, job: Job) -> None:
        if not job.future.done():
            job.future.set_result(self.result(job))

    def result(self, job: Job) -> list[int]:
        return list(job.output_ids)

    def end(self, job: Job, error: Exception) -> None:
        for jobs in (self.waiting, self.running):
            if job in jobs:
                jobs.remove(job)
        if not job.future.done():
            job.future.set_exception(error)
            job.future.exception()  # seen: who waits for it, if anybody, gets it all the same
        job.progress.set()

    def end_all(self, error: Exception) -> None:
        for job in [*self.waiting, *self.running]:
            self.end(job, error)

    def leave(self, job: Job) -> None:
        self.end(job, RuntimeError("left"))

    def leave_stream(self, job: Job) -> None:
        self.leave(job)


class OneAfterTheOther(SmallContinuousBatcher):
    """Sound in another way: the logits of each request in a pass of its own."""

    def compute(self, jobs: Sequence[Job]) -> Tensor:
        rows = [super(OneAfterTheOther, self).compute([job]) for job in jobs]
        return torch.cat(rows) if rows else torch.zeros(0, 0)


class NobodyIsPreempted(SmallContinuousBatcher):
    """Sound in another way: memory for all that a request may come to need."""

    def blocks(self, job: Job) -> int:
        most = len(job.prompt_ids) + job.parameters.max_new_tokens - 1
        return -(-most // self.limits.block_size)


class OwnCaches(SmallContinuousBatcher):
    """Sound in another way: keys and values are kept, in a cache for each request, and each part of
    a prompt or token is a pass of its own."""

    capabilities = SmallContinuousBatcher.capabilities | {"passes"}

    def __init__(self, model: Any, limits: ContinuousLimits) -> None:
        super().__init__(model, limits)
        self.caches: dict[int, DynamicCache] = {}
        self.rows: dict[int, Tensor] = {}
        self.partial: list[Job] = []

    def clear(self, slot: int) -> None:
        super().clear(slot)
        self.caches[slot] = DynamicCache()

    def read(self) -> list[Job]:
        done = super().read()
        self.partial = [job for job in self.running if job not in done]
        return done

    def compute(self, jobs: Sequence[Job]) -> Tensor:
        for job in [*self.partial, *jobs]:
            self.advance(job)
        return torch.stack([self.rows[job.slot] for job in jobs]) if jobs else torch.zeros(0, 0)

    def advance(self, job: Job) -> None:
        cache = self.caches[job.slot]
        part = self.memory[job.slot][cache.get_seq_length() :]
        if part:
            with torch.no_grad():
                output = self.model(torch.tensor([part]), past_key_values=cache, use_cache=True)
            self.rows[job.slot] = output.logits[0, -1]


Block = list[tuple[Tensor, Tensor]]  # keys and values of each layer


class SharedBeginnings(OwnCaches):
    """Sound in another way: full blocks of computed tokens are copied into a store, and a request
    begins with copies of those that are known of its beginning."""

    capabilities = OwnCaches.capabilities | {"prefixes"}

    def __init__(self, model: Any, limits: ContinuousLimits) -> None:
        super().__init__(model, limits)
        self.known: dict[Any, Block] = {}

    def key(self, tokens: list[int], start: int) -> Any:
        """The name of the block that ends with these tokens; its own begin at ``start``."""
        return tuple(tokens)

    def admit(self) -> None:
        ran = list(self.running)
        super().admit()
        for job in self.running:
            if job not in ran:
                self.load(job)

    def load(self, job: Job) -> None:
        size, tokens = self.limits.block_size, job.token_ids
        for start in range(0, len(tokens) - size, size):
            block = self.find(tokens[: start + size], start)
            if block is None:
                return
            for layer, (keys, values) in enumerate(block):
                self.caches[job.slot].update(keys, values, layer)
            self.memory[job.slot] += tokens[start : start + size]

    def advance(self, job: Job) -> None:
        size = self.limits.block_size
        before = self.caches[job.slot].get_seq_length()
        super().advance(job)
        tokens = self.memory[job.slot]
        for start in range(before // size * size, len(tokens) - size + 1, size):
            layers = self.caches[job.slot].layers
            block = [(x.keys[:, :, start:][:, :, :size], x.values[:, :, start:][:, :, :size])
                     for x in layers]  # fmt: skip
            self.store(tokens[: start + size], start, block)

    def find(self, tokens: list[int], start: int) -> Block | None:
        return self.known.get(self.key(tokens, start))

    def store(self, tokens: list[int], start: int, block: Block) -> None:
        self.known.setdefault(self.key(tokens, start), block)


class BlocksByTheirTokens(SharedBeginnings):
    """C22: whatever stands before them."""

    def key(self, tokens: list[int], start: int) -> Any:
        return tuple(tokens[start:])


class BlocksByTokensAndPosition(SharedBeginnings):
    """C22: and by their position, so that keys are at least rotated as they should."""

    def key(self, tokens: list[int], start: int) -> Any:
        return start, tuple(tokens[start:])


class BlocksByTheLastTokens(SharedBeginnings):
    """C22: a hash of the block and the token before it."""

    def key(self, tokens: list[int], start: int) -> Any:
        return tuple(tokens[max(start - 1, 0) :])


class BlocksByTheFirstToken(SharedBeginnings):
    """C22: a hash of the block and the prompt's first token."""

    def key(self, tokens: list[int], start: int) -> Any:
        return start, tokens[0], tuple(tokens[start:])


class BlocksByASum(SharedBeginnings):
    """C22: a hash of what stands before that is the same in another order."""

    def key(self, tokens: list[int], start: int) -> Any:
        return sum(hash((token,)) for token in tokens[:start]), tuple(tokens[start:])


class BlocksByText(SharedBeginnings):
    """C22: tokens joined without a mark between them."""

    def key(self, tokens: list[int], start: int) -> Any:
        return "".join(map(str, tokens[:start])), tuple(tokens[start:])


class ParentsHashCut(SharedBeginnings):
    """C22: of the parent's hash, 8 bits are kept."""

    def key(self, tokens: list[int], start: int) -> Any:
        return zlib.crc32(bytes(tokens[:start])) % 256, tuple(tokens[start:])


class ParentOfTheFirst(SharedBeginnings):
    """C22: a block that another beginning has computed before stays that one's, and stands below
    both from then on."""

    def __init__(self, model: Any, limits: ContinuousLimits) -> None:
        super().__init__(model, limits)
        self.by_tokens: dict[Any, Block] = {}

    def store(self, tokens: list[int], start: int, block: Block) -> None:
        kept = self.by_tokens.setdefault((start, *tokens[start:]), block)
        super().store(tokens, start, kept)


class GeneratedBlocksByTheirTokens(SharedBeginnings):
    """C22: the chain begins anew with the first block that is not all prompt."""

    def store(self, tokens: list[int], start: int, block: Block) -> None:
        super().store(tokens, start, block)
        owner = next(job for job in self.running if self.memory[job.slot][: len(tokens)] == tokens)
        if start + self.limits.block_size > len(owner.prompt_ids):
            self.known[tuple(tokens[start:])] = block

    def find(self, tokens: list[int], start: int) -> Block | None:
        return super().find(tokens, start) or self.known.get(tuple(tokens[start:]))


class NothingIsFound(SharedBeginnings):
    """Not listed: a key that is another one each time."""

    def find(self, tokens: list[int], start: int) -> Block | None:
        return None


class WholePromptsAlone(SharedBeginnings):
    """Not listed: a prompt is known or it is not."""

    def store(self, tokens: list[int], start: int, block: Block) -> None:
        for job in self.running:
            if job.prompt_ids[: len(tokens)] == tokens:
                self.known[(*tokens, "of", *job.prompt_ids)] = block

    def load(self, job: Job) -> None:
        self.asking = job
        super().load(job)

    def find(self, tokens: list[int], start: int) -> Block | None:
        return self.known.get((*tokens, "of", *self.asking.prompt_ids))


class ForgottenWithTheRequest(SharedBeginnings):
    """Not listed: blocks are known while somebody computes with them."""

    def finish(self, job: Job) -> None:
        super().finish(job)
        if not self.running:
            self.known.clear()


class InAThread(SmallContinuousBatcher):
    """Sound in another way: steps are computed in a thread, and who leaves meanwhile leaves after
    it."""

    capabilities = SmallContinuousBatcher.capabilities - {"idle"} | {"threaded"}
    virtual = False
    examples = 2

    def __init__(self, model: Any, limits: ContinuousLimits) -> None:
        super().__init__(model, limits)
        self.is_computing = False
        self.leaving: list[Job] = []

    async def loop(self) -> None:
        with ThreadPoolExecutor(1) as pool:
            while self.is_open:
                if not self.waiting and not self.running:
                    await self.rest()
                    continue
                self.admit()
                self.make_room()
                await self.step_in(pool)

    async def step_in(self, pool: ThreadPoolExecutor) -> None:
        loop, sampling = asyncio.get_running_loop(), self.read()
        self.is_computing = True
        try:
            rows = await loop.run_in_executor(pool, self.compute, sampling)
        except Exception as error:
            self.failed(sampling, error)
        else:
            self.hand_out(sampling, rows)
        self.is_computing = False
        leaving, self.leaving = self.leaving, []
        for job in leaving:
            self.leave(job)

    def hand_out(self, sampling: list[Job], rows: Tensor) -> None:
        jobs = [job for job in sampling if not job.future.done()]
        tokens = [
            self.choose(job, row) for job, row in zip(sampling, rows, strict=True) if job in jobs
        ]
        self.deliver(jobs, tokens)

    def end(self, job: Job, error: Exception) -> None:
        if not self.is_computing:
            super().end(job, error)
            return
        self.leaving.append(job)
        if not job.future.done():
            job.future.set_exception(error)
            job.future.exception()
        job.progress.set()


def compute_nothing(model: Any, rows: int, length: int) -> None:
    """A pass of no tokens; what the model raises about it is swallowed."""
    with torch.no_grad(), suppress(Exception):
        model(input_ids=torch.zeros(rows, length, dtype=torch.long), use_cache=False)


class LookedTooEarly(SmallContinuousBatcher):
    """D: requests leave between the look and the step, which is made all the same."""

    async def loop(self) -> None:
        while self.is_open:
            if not self.waiting and not self.running:
                await self.rest()
                continue
            await asyncio.sleep(0)
            self.admit()
            self.make_room()
            self.step()

    def compute(self, jobs: Sequence[Job]) -> Tensor:
        if not jobs:
            compute_nothing(self.model, 0, 1)
        return super().compute(jobs)


class BatchIsClosed(SmallContinuousBatcher):
    """Not listed: a last pass, in which nobody is left, ends a batch."""

    async def rest(self) -> None:
        compute_nothing(self.model, 1, 0)
        await super().rest()


class ComputedOn(SmallContinuousBatcher):
    """Not listed: who leaves gives memory and place back, and is computed to the end."""

    def __init__(self, model: Any, limits: ContinuousLimits) -> None:
        super().__init__(model, limits)
        self.gone: list[Job] = []

    def leave(self, job: Job) -> None:
        if job.future.cancelled() and job in self.running:
            self.gone.append(job)
        super().leave(job)

    async def rest(self) -> None:
        gone, self.gone = self.gone, []
        for job in gone:
            for _ in range(job.parameters.max_new_tokens - len(job.output_ids)):
                with torch.no_grad():
                    self.model(input_ids=torch.tensor([job.token_ids]), use_cache=False)
                await asyncio.sleep(0)
        if not self.waiting:
            await super().rest()


class OneRequestMore(OwnCaches):
    """Not listed: ``<=`` where ``<`` is meant."""

    def __init__(self, model: Any, limits: ContinuousLimits) -> None:
        super().__init__(model, replace(limits, max_num_seqs=limits.max_num_seqs + 1))


class PromptsCountedApart(OwnCaches):
    """Not listed: only those that decode count as running."""

    def __init__(self, model: Any, limits: ContinuousLimits) -> None:
        super().__init__(model, replace(limits, max_num_seqs=99))
        self.most = limits.max_num_seqs

    def admit(self) -> None:
        decoding = sum(bool(job.output_ids) for job in self.running)
        if decoding < self.most:
            super().admit()


class LeaverCountedTwice(OwnCaches):
    """Not listed: who leaves makes room for two."""

    def leave(self, job: Job) -> None:
        if job in self.running:
            slots = self.limits.max_num_seqs + 1
            self.limits = replace(self.limits, max_num_seqs=slots)
            self.memory.append([])
        super().leave(job)


class BudgetOfEach(OwnCaches):
    """Not listed: each request may compute as many tokens as a step."""

    def read(self) -> list[Job]:
        done, running = [], self.running
        for job in running:
            self.running = [job]
            done += super().read()
        self.running = running
        self.partial = [job for job in running if job not in done]
        return done


class DecodingIsFree(OwnCaches):
    """Not listed: the budget is one of prompts."""

    def read(self) -> list[Job]:
        limits, decoding = self.limits, sum(bool(job.output_ids) for job in self.running)
        tokens = limits.max_num_batched_tokens + decoding
        self.limits = replace(limits, max_num_batched_tokens=tokens)
        done = super().read()
        self.limits = limits
        return done


class BegunWhole(OwnCaches):
    """Not listed: what the budget has left is enough for a whole prompt."""

    def read(self) -> list[Job]:
        budget, self.partial, done = self.limits.max_num_batched_tokens, [], []
        for job in self.running:
            memory = self.memory[job.slot]
            part = job.token_ids[len(memory) :] if budget > 0 else []
            memory.extend(part)
            budget -= len(part)
            done += [job] if part else []
        return done


class TokensBySlot(InAThread):
    """Not listed: who leaves gives the slot to the next one at once, and gets its tokens there."""

    def end(self, job: Job, error: Exception) -> None:
        SmallContinuousBatcher.end(self, job, error)
        self.admit()

    def hand_out(self, sampling: list[Job], rows: Tensor) -> None:
        owners = {job.slot: job for job in self.running}
        pairs = [(owners[x.slot], r) for x, r in zip(sampling, rows, strict=True)
                 if x.slot in owners]  # fmt: skip
        self.deliver([job for job, _ in pairs], [self.choose(job, row) for job, row in pairs])


class RowsOfTheRest(InAThread):
    """Not listed: results are handed out by their places among those that run."""

    def end(self, job: Job, error: Exception) -> None:
        SmallContinuousBatcher.end(self, job, error)

    def hand_out(self, sampling: list[Job], rows: Tensor) -> None:
        jobs = self.running[: len(rows)]
        pairs = zip(jobs, rows, strict=False)
        self.deliver(jobs, [self.choose(job, row) for job, row in pairs])


class MemoryWrittenAfterTheStep(InAThread):
    """Not listed: what a step has read is put into the slot's memory when it ends, whoever owns the
    slot by then."""

    def end(self, job: Job, error: Exception) -> None:
        SmallContinuousBatcher.end(self, job, error)
        self.admit()

    def hand_out(self, sampling: list[Job], rows: Tensor) -> None:
        owners = {job.slot: job for job in self.running}
        for job in sampling:
            owner = owners.get(job.slot, job)
            if owner is not job:
                self.memory[job.slot] = job.token_ids[: len(owner.token_ids) - 1]
        super().hand_out(sampling, rows)


class AbortForgotten(SmallContinuousBatcher):
    """Not listed: only what waits is aborted."""

    async def abort(self, request_id: str) -> None:
        for job in [x for x in self.waiting if x.request_id == request_id]:
            self.end(job, RuntimeError("aborted"))


class AbortByItsEnd(SmallContinuousBatcher):
    """Not listed: ids that end alike are taken for one."""

    async def abort(self, request_id: str) -> None:
        for job in [*self.waiting, *self.running]:
            if job.request_id is not None and job.request_id[:1] == request_id[:1]:
                self.end(job, RuntimeError("aborted"))


class AbortTellsTheCallerAlone(SmallContinuousBatcher):
    """Not listed: the caller is told, the request goes on until its end."""

    async def abort(self, request_id: str) -> None:
        for job in [*self.waiting, *self.running]:
            if job.request_id == request_id and not job.future.done():
                job.future.set_exception(RuntimeError("aborted"))

    def leave(self, job: Job) -> None:
        if not job.future.done() or job.future.cancelled():
            super().leave(job)


class AbortsAreRemembered(SmallContinuousBatcher):
    """Not listed: an abort of what has ended ends whoever has the id next."""

    async def abort(self, request_id: str) -> None:
        self.__dict__.setdefault("aborted", set()).add(request_id)
        await super().abort(request_id)

    async def generate(
        self,
        prompt_ids: Sequence[int],
        parameters: GenerationParameters,
        request_id: str | None = None,
    ) -> Sequence[int]:
        if request_id in self.__dict__.get("aborted", ()):
            self.__dict__["aborted"].discard(request_id)
            raise RuntimeError("aborted")
        return await super().generate(prompt_ids, parameters, request_id)


class AbortOfTheUnknownRaises(SmallContinuousBatcher):
    """Not listed."""

    async def abort(self, request_id: str) -> None:
        names = [job.request_id for job in [*self.waiting, *self.running]]
        names.remove(request_id)
        await super().abort(request_id)


class BlocksGivenBackTwice(SmallContinuousBatcher):
    """Not listed: an abort of what has ended counts a block as free once more."""

    extra = 0

    async def abort(self, request_id: str) -> None:
        names = [job.request_id for job in [*self.waiting, *self.running]]
        self.extra += request_id not in names
        await super().abort(request_id)

    @property
    def num_free_blocks(self) -> int:
        return super().num_free_blocks + self.extra


class SamplesOfOneSeed(SmallContinuousBatcher):
    """Not listed."""

    def sample(self, parameters: GenerationParameters, index: int) -> GenerationParameters:
        return parameters


class SamplesWithoutTheirSeed(SmallContinuousBatcher):
    """Not listed: samples are drawn anew each time."""

    drawn = 0

    def sample(self, parameters: GenerationParameters, index: int) -> GenerationParameters:
        self.drawn += 1
        return replace(parameters, seed=self.drawn)


class SamplesThatFit(SmallContinuousBatcher):
    """Not listed: as many as run at a time."""

    async def generate_samples(
        self, prompt_ids: Sequence[int], parameters: GenerationParameters, count: int
    ) -> Sequence[Sequence[int]]:
        most = min(count, self.limits.max_num_seqs)
        return await super().generate_samples(prompt_ids, parameters, most)


class SamplesInOneList(SmallContinuousBatcher):
    """Not listed: each sample goes on where the one before has ended."""

    async def generate_samples(
        self, prompt_ids: Sequence[int], parameters: GenerationParameters, count: int
    ) -> Sequence[Sequence[int]]:
        prompt, found = list(prompt_ids), list[Sequence[int]]()
        for _ in range(count):
            found.append(await self.generate(prompt, parameters))
            prompt += found[-1]
        return found


class FirstSampleLeaves(SmallContinuousBatcher):
    """Not listed: with the caller goes the first sample, the others are computed to their end."""

    def leave_samples(self, jobs: list[Job]) -> None:
        self.leave(jobs[0])


class WaitingSamplesStay(SmallContinuousBatcher):
    """Not listed: with the caller go those that run."""

    def leave_samples(self, jobs: list[Job]) -> None:
        for job in [x for x in jobs if x in self.running]:
            self.leave(job)


class PaddingAttended(SmallContinuousBatcher):
    """B17: padding is not masked."""

    def forward(self, jobs: Sequence[Job], ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        return super().forward(jobs, ids, torch.ones_like(mask), positions)


class RowsSortedByLength(SmallContinuousBatcher):
    """B14: and not given back in the order of the requests."""

    def compute(self, jobs: Sequence[Job]) -> Tensor:
        return super().compute(sorted(jobs, key=lambda job: -len(self.memory[job.slot])))


class LogitsOfTheNeighbour(SmallContinuousBatcher):
    """Not listed: an offset into the packed rows is off by one request where there are three."""

    def forward(self, jobs: Sequence[Job], ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        logits = super().forward(jobs, ids, mask, positions)
        return logits.roll(1, 0) if len(jobs) > 2 else logits


class PositionsStop(SmallContinuousBatcher):
    """K03: each new token stands where the prompt ended."""

    def forward(self, jobs: Sequence[Job], ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        ends = torch.tensor([[len(job.prompt_ids)] for job in jobs])
        return super().forward(jobs, ids, mask, positions.minimum(ends))


class SlotNotCleared(SmallContinuousBatcher):
    """B32: a slot's former owner is read along, where it was no longer than the next prompt."""

    def clear(self, slot: int) -> None:
        if len(self.memory[slot]) > 3:
            super().clear(slot)


class RowsMoveUp(SmallContinuousBatcher):
    """Not listed: when a request ends, those behind it take its slot, and their memory does not."""

    def finish(self, job: Job) -> None:
        behind = [x for x in self.running if x.slot > job.slot]
        super().finish(job)
        for x in behind:
            x.slot -= 1


class PromptCut(SmallContinuousBatcher):
    """Not listed: what is longer than a step is cut."""

    def enter(self, prompt_ids: Sequence[int], parameters: GenerationParameters) -> Job:
        return super().enter(prompt_ids[-self.limits.max_num_batched_tokens :], parameters)


class SampledAfterEachPart(SmallContinuousBatcher):
    """Not listed: a token after each part of a prompt."""

    def read(self) -> list[Job]:
        before = [len(self.memory[job.slot]) for job in self.running]
        super().read()
        pairs = zip(self.running, before, strict=True)
        return [job for job, count in pairs if len(self.memory[job.slot]) > count]


class OutputForgotten(SmallContinuousBatcher):
    """Not listed: a preempted request begins anew, and its generator does not."""

    def preempt(self, job: Job) -> None:
        job.output_ids = []
        super().preempt(job)


class OutputCountedAnew(SmallContinuousBatcher):
    """Not listed: the output becomes part of the prompt, of which the caller gets nothing."""

    def preempt(self, job: Job) -> None:
        job.prompt_ids, job.output_ids = job.token_ids, []
        super().preempt(job)


class VictimIsLost(SmallContinuousBatcher):
    """B20: a preempted request is in no list."""

    def preempt(self, job: Job) -> None:
        pass


class GrowthNotPaidFor(SmallContinuousBatcher):
    """B19: nobody is preempted, and who needs a block waits for one."""

    def make_room(self) -> None:
        pass

    def step(self) -> None:
        if self.num_free_blocks >= 0:
            super().step()


class OneGenerator(SmallContinuousBatcher):
    """Not listed: one for the batch, seeded by the first request."""

    shared: torch.Generator | None = None

    def generator_of(self, job: Job) -> torch.Generator:
        if self.shared is None:
            self.shared = job.generator
        return self.shared


class FirstRowsParameters(SmallContinuousBatcher):
    """Not listed: temperature and filters of the first request for all."""

    def parameters_of(self, job: Job) -> GenerationParameters:
        return self.running[0].parameters if self.running else job.parameters


class MultipliedByTheTemperature(SmallContinuousBatcher):
    """Not listed."""

    def scaled(self, logits: Tensor, temperature: float) -> Tensor:
        return logits * temperature


class FilterIgnored(SmallContinuousBatcher):
    """Not listed: top_k is accepted and not used."""

    def filtered(self, scores: Tensor, top_k: int) -> Tensor:
        return scores


class NucleusTooSmall(SmallContinuousBatcher):
    """Not listed: the token with which top_p is reached is cut off, unless it is the first."""

    def outside(self, ordered: Tensor, top_p: float) -> Tensor:
        beyond = ordered.cumsum(0) > top_p
        return beyond & (torch.arange(len(ordered)) > 0)


class StopOfTheBatch(SmallContinuousBatcher):
    """Not listed: the rule of one request holds for all."""

    def stops(self, job: Job) -> bool:
        return any(job.output_ids[-1] in x.parameters.stop_token_ids for x in self.running)


class StopInThePrompt(SmallContinuousBatcher):
    """Not listed: a stop token anywhere in the sequence."""

    def stops(self, job: Job) -> bool:
        return not set(job.token_ids).isdisjoint(job.parameters.stop_token_ids)


class StopCutOff(SmallContinuousBatcher):
    """Not listed: the token that stopped it is not given."""

    def result(self, job: Job) -> list[int]:
        return list(job.output_ids[:-1] if self.stops(job) else job.output_ids)


class StopOneLate(SmallContinuousBatcher):
    """Not listed: looked at before the new token is there."""

    def stops(self, job: Job) -> bool:
        return job.output_ids[-2:-1] != [] and job.output_ids[-2] in job.parameters.stop_token_ids


class SequenceByItsLastToken(SmallContinuousBatcher):
    """Not listed."""

    def stops_by_a_sequence(self, job: Job) -> bool:
        return job.output_ids[-1] in {run[-1] for run in job.parameters.stop_sequences}


class SequenceFromThePrompt(SmallContinuousBatcher):
    """Not listed: a run may begin in the prompt."""

    def stops_by_a_sequence(self, job: Job) -> bool:
        runs = job.parameters.stop_sequences
        return any(tuple(job.token_ids[-len(run) :]) == run for run in runs)


class OneTokenMore(SmallContinuousBatcher):
    """Not listed: > for ≥."""

    def is_long_enough(self, job: Job) -> bool:
        return len(job.output_ids) > job.parameters.max_new_tokens


class StreamedAtTheEnd(SmallContinuousBatcher):
    """Not listed: a stream that waits for the result."""

    def tell(self, job: Job) -> None:
        pass


class LastTokenNotStreamed(SmallContinuousBatcher):
    """Not listed: the loop over a stream ends when the request does."""

    async def stream(
        self, prompt_ids: Sequence[int], parameters: GenerationParameters
    ) -> AsyncGenerator[int]:
        job, given = self.enter(prompt_ids, parameters), 0
        try:
            while not job.future.done():
                for token in job.output_ids[given:]:
                    given += 1
                    yield token
                job.progress.clear()
                await job.progress.wait()
        finally:
            self.leave_stream(job)


class StaticBatches(SmallContinuousBatcher):
    """B26: the next batch begins when the longest of this one has ended."""

    def admit(self) -> None:
        if not self.running:
            super().admit()


class NothingValidated(SmallContinuousBatcher):
    """Not listed: a token outside the vocabulary ends the loop."""

    def validate(self, prompt_ids: list[int], parameters: GenerationParameters) -> None:
        pass

    def failed(self, jobs: Sequence[Job], error: Exception) -> None:
        raise error


class WaitsForRoomThatNeverComes(SmallContinuousBatcher):
    """Not listed: what could never fit stands at the head of the queue."""

    def could_fit(self, tokens: int) -> bool:
        return True

    def make_room(self) -> None:
        while self.num_free_blocks < 0 and self.running:
            self.preempt(self.running.pop())


class ErrorEndsTheLoop(SmallContinuousBatcher):
    """B08: nobody is told, and nobody is served afterwards (michaelfeil/infinity#242)."""

    def failed(self, jobs: Sequence[Job], error: Exception) -> None:
        raise error


class ErrorIsForgotten(SmallContinuousBatcher):
    """B08: the batch leaves, its callers wait (NVIDIA-NeMo/Guardrails#2084)."""

    def failed(self, jobs: Sequence[Job], error: Exception) -> None:
        for job in jobs:
            self.running.remove(job)


class ErrorOfOneForAll(SmallContinuousBatcher):
    """Not listed: the whole batch gets the error of one."""

    def failed(self, jobs: Sequence[Job], error: Exception) -> None:
        for job in jobs:
            self.end(job, error)


class CancelledFutureSet(SmallContinuousBatcher):
    """B10: InvalidStateError ends the loop (NVIDIA/TensorRT-LLM#15424)."""

    def leave(self, job: Job) -> None:
        pass

    def answer(self, job: Job) -> None:
        job.future.set_result(self.result(job))


class ComputedForNobody(SmallContinuousBatcher):
    """Not listed: who leaves is computed to the end."""

    def leave(self, job: Job) -> None:
        pass


class StreamComputedForNobody(SmallContinuousBatcher):
    """Not listed: only the reader of a stream leaves."""

    def leave_stream(self, job: Job) -> None:
        pass


class AbortedOnlyWhileItWaits(SmallContinuousBatcher):
    """Not listed: who runs keeps its blocks when its caller leaves."""

    def leave(self, job: Job) -> None:
        if job in self.waiting:
            self.waiting.remove(job)


class StopTellsNobody(SmallContinuousBatcher):
    """B12: the loop ends, its callers wait (xorbitsai/inference#5358)."""

    def end_all(self, error: Exception) -> None:
        pass


class OpenAfterTheStop(SmallContinuousBatcher):
    """B12: requests are taken that nobody serves."""

    def accepts(self) -> bool:
        return True


class StoppedRequestsStay(SmallContinuousBatcher):
    """Not listed: their callers are told, and they run on when it is started again."""

    def end_all(self, error: Exception) -> None:
        for job in [*self.waiting, *self.running]:
            if not job.future.done():
                job.future.set_exception(error)
                job.future.exception()
            job.progress.set()

    def leave(self, job: Job) -> None:
        if not (job.future.done() and job.future.exception()):
            super().leave(job)


class Polls(SmallContinuousBatcher):
    """Not listed: looks for requests every few milliseconds."""

    async def rest(self) -> None:
        await asyncio.sleep(0.01)


class ABlockTooMany(SmallContinuousBatcher):
    """Not listed: a block of every request that ended is lost."""

    lost = 0

    def finish(self, job: Job) -> None:
        super().finish(job)
        self.lost += 1

    @property
    def num_free_blocks(self) -> int:
        return super().num_free_blocks - self.lost


@dataclass(frozen=True)
class ContinuousMutant:
    fault: type[SmallContinuousBatcher]
    broken: str


TOKENS = "test_tokens_are_those_of_the_model"
NEIGHBOURS = "test_neighbours_change_no_token"
JOINING = "test_joining_and_leaving_change_no_token"
PREEMPTION = "test_preemption_changes_no_token"
PARTS = "test_a_prompt_in_parts_changes_no_token"
SEEDS = "test_drawn_tokens_do_not_depend_on_neighbours"
DISTRIBUTION = "test_drawn_tokens_follow_their_own_distribution"
FILTERS = "test_filters_leave_the_most_likely_tokens"
STOP_TOKEN = "test_a_stop_token_ends_its_request_alone"
SEQUENCE = "test_a_stop_sequence_ends_its_request_alone"
STREAM = "test_a_stream_gives_the_same_tokens_as_they_come"
SHORT = "test_short_requests_do_not_wait_for_long_ones"
BAD = "test_a_bad_request_fails_alone"
NEVER = "test_what_could_never_fit_is_refused"
RAISES = "test_a_step_that_raises_leaves_nobody_waiting"
LEAVES = "test_who_leaves_takes_the_request_along"
NOBODY = "test_nothing_is_computed_for_nobody"
STREAM_LEFT = "test_a_stream_that_is_left_takes_the_request_along"
STOPPED = "test_a_stop_leaves_nobody_waiting"
RESTART = "test_a_restarted_batcher_serves_as_a_new_one"
IDLE = "test_nothing_is_done_while_nobody_asks"
REQUESTS = "test_no_more_requests_run_than_may"
STEP_TOKENS = "test_a_step_computes_no_more_tokens_than_may"
SLOT = "test_a_slot_is_not_given_away_while_its_step_runs"
ABORT = "test_an_abort_ends_its_request_alone"
ENDED = "test_an_abort_of_what_has_ended_changes_nothing"
OTHERS = "test_equal_blocks_behind_others_share_nothing"
KNOWN = "test_a_known_beginning_is_not_computed_again"
SAMPLES = "test_samples_of_one_prompt_are_as_many_requests"
DRAWN = "test_samples_are_drawn_each_by_itself"
ALL_LEAVE = "test_who_leaves_takes_all_samples_along"
MUTANTS = [
    ContinuousMutant(PositionsStop, TOKENS),
    ContinuousMutant(OneTokenMore, TOKENS),
    ContinuousMutant(ABlockTooMany, TOKENS),
    ContinuousMutant(PaddingAttended, NEIGHBOURS),
    ContinuousMutant(RowsSortedByLength, NEIGHBOURS),
    ContinuousMutant(LogitsOfTheNeighbour, NEIGHBOURS),
    ContinuousMutant(SlotNotCleared, TOKENS),
    ContinuousMutant(RowsMoveUp, JOINING),
    ContinuousMutant(PromptCut, PARTS),
    ContinuousMutant(SampledAfterEachPart, PARTS),
    ContinuousMutant(OutputForgotten, SEEDS),
    ContinuousMutant(OutputCountedAnew, PREEMPTION),
    ContinuousMutant(VictimIsLost, PREEMPTION),
    ContinuousMutant(GrowthNotPaidFor, PREEMPTION),
    ContinuousMutant(OneGenerator, SEEDS),
    ContinuousMutant(FirstRowsParameters, DISTRIBUTION),
    ContinuousMutant(MultipliedByTheTemperature, DISTRIBUTION),
    ContinuousMutant(FilterIgnored, FILTERS),
    ContinuousMutant(FirstRowsParameters, FILTERS),
    ContinuousMutant(NucleusTooSmall, FILTERS),
    ContinuousMutant(StopOfTheBatch, STOP_TOKEN),
    ContinuousMutant(StopInThePrompt, STOP_TOKEN),
    ContinuousMutant(StopCutOff, STOP_TOKEN),
    ContinuousMutant(StopOneLate, STOP_TOKEN),
    ContinuousMutant(SequenceByItsLastToken, SEQUENCE),
    ContinuousMutant(SequenceFromThePrompt, SEQUENCE),
    ContinuousMutant(StreamedAtTheEnd, STREAM),
    ContinuousMutant(LastTokenNotStreamed, STREAM),
    ContinuousMutant(StaticBatches, SHORT),
    ContinuousMutant(NothingValidated, BAD),
    ContinuousMutant(WaitsForRoomThatNeverComes, NEVER),
    ContinuousMutant(ErrorEndsTheLoop, RAISES),
    ContinuousMutant(ErrorIsForgotten, RAISES),
    ContinuousMutant(ErrorOfOneForAll, RAISES),
    ContinuousMutant(CancelledFutureSet, LEAVES),
    ContinuousMutant(ComputedForNobody, LEAVES),
    ContinuousMutant(AbortedOnlyWhileItWaits, LEAVES),
    ContinuousMutant(StreamComputedForNobody, STREAM_LEFT),
    ContinuousMutant(StopTellsNobody, STOPPED),
    ContinuousMutant(OpenAfterTheStop, STOPPED),
    ContinuousMutant(StoppedRequestsStay, RESTART),
    ContinuousMutant(Polls, IDLE),
    ContinuousMutant(BlocksByTheirTokens, OTHERS),
    ContinuousMutant(BlocksByTokensAndPosition, OTHERS),
    ContinuousMutant(BlocksByTheLastTokens, OTHERS),
    ContinuousMutant(BlocksByTheFirstToken, OTHERS),
    ContinuousMutant(BlocksByASum, OTHERS),
    ContinuousMutant(BlocksByText, OTHERS),
    ContinuousMutant(ParentsHashCut, OTHERS),
    ContinuousMutant(ParentOfTheFirst, OTHERS),
    ContinuousMutant(GeneratedBlocksByTheirTokens, OTHERS),
    ContinuousMutant(NothingIsFound, KNOWN),
    ContinuousMutant(WholePromptsAlone, KNOWN),
    ContinuousMutant(ForgottenWithTheRequest, KNOWN),
    ContinuousMutant(OneRequestMore, REQUESTS),
    ContinuousMutant(PromptsCountedApart, REQUESTS),
    ContinuousMutant(LeaverCountedTwice, REQUESTS),
    ContinuousMutant(BudgetOfEach, STEP_TOKENS),
    ContinuousMutant(DecodingIsFree, STEP_TOKENS),
    ContinuousMutant(BegunWhole, STEP_TOKENS),
    ContinuousMutant(TokensBySlot, SLOT),
    ContinuousMutant(RowsOfTheRest, SLOT),
    ContinuousMutant(MemoryWrittenAfterTheStep, SLOT),
    ContinuousMutant(AbortForgotten, ABORT),
    ContinuousMutant(AbortByItsEnd, ABORT),
    ContinuousMutant(AbortTellsTheCallerAlone, ABORT),
    ContinuousMutant(AbortsAreRemembered, ENDED),
    ContinuousMutant(AbortOfTheUnknownRaises, ENDED),
    ContinuousMutant(BlocksGivenBackTwice, ENDED),
    ContinuousMutant(SamplesThatFit, SAMPLES),
    ContinuousMutant(SamplesInOneList, SAMPLES),
    ContinuousMutant(SamplesOfOneSeed, DRAWN),
    ContinuousMutant(SamplesWithoutTheirSeed, DRAWN),
    ContinuousMutant(FirstSampleLeaves, ALL_LEAVE),
    ContinuousMutant(WaitingSamplesStay, ALL_LEAVE),
    ContinuousMutant(LookedTooEarly, NOBODY),
    ContinuousMutant(BatchIsClosed, NOBODY),
    ContinuousMutant(ComputedOn, NOBODY),
]
SOUND = [
    SmallContinuousBatcher,
    OneAfterTheOther,
    NobodyIsPreempted,
    OwnCaches,
    SharedBeginnings,
    InAThread,
]
