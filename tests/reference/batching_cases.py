"""Running a coroutine on virtual time, and a batch function that keeps a record of its calls.

Times are whole microseconds, the resolution of the virtual clock, so that they can be compared
exactly.
"""

import asyncio

import async_solipsism

MICROSECOND = 1e-6


def run(coroutine):
    """The coroutine's result. Fails for a hang, an error nobody looked at, and a task left over."""
    loop = async_solipsism.EventLoop()
    unseen = []
    loop.set_exception_handler(lambda _, context: unseen.append(context))
    try:
        result = loop.run_until_complete(coroutine)
        loop.run_until_complete(asyncio.sleep(0))  # callbacks of the last turn
        left = asyncio.all_tasks(loop)
        assert not left, f"left over: {left}"
    finally:
        for task in asyncio.all_tasks(loop):  # of a test that fails
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    assert not unseen
    return result


def now():
    """The virtual time in microseconds."""
    return round(asyncio.get_running_loop().time() / MICROSECOND)


async def sleep_until(moment):
    """Sleeps to a moment in microseconds, unless that is now."""
    if moment > now():
        await asyncio.sleep((moment - now()) * MICROSECOND)


class Backend:
    """Answers ``("result of", item)`` after some microseconds, the same or one for each call."""

    def __init__(self, duration=1000, bad=()):
        self.duration = duration
        self.bad = bad  # items that fail alone
        self.calls = []  # (start in microseconds, items)
        self.num_running = self.most_running = 0

    async def __call__(self, items):
        call = len(self.calls)
        self.calls.append((now(), list(items)))
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        try:
            await asyncio.sleep(self.duration_of(call) * MICROSECOND)
        finally:
            self.num_running -= 1
        return [KeyError(item) if item in self.bad else result_of(item) for item in items]

    def duration_of(self, call):
        return self.duration if isinstance(self.duration, int) else self.duration[call]

    @property
    def batches(self):
        return [items for _, items in self.calls]


def result_of(item):
    return ("result of", item)
