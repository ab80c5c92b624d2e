"""Requests share an answer if they differ in nothing that makes a difference to it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from typing import Any, cast

from ..base import requires
from ..properties import for_all
from .protocol import Request
from .requests import (
    BASE,
    IRRELEVANT,
    MESSAGES,
    ask,
    changed,
    pairs,
    reordered,
    reply,
    short,
    variants,
)
from .trial import Caches, CacheSuite, Trial, nothing, on_caches, same

_DELIMITERS = (
    "|",
    ":",
    ",",
    "/",
    "\\",
    "\n",
    "\0",
    " ",
    "-",
    "_",
    '"',
    "'",
    '","',
    "::",
    "', '",
    "\nuser: ",
)


class KeyProperties(CacheSuite):
    topic = ""

    @on_caches()
    async def test_a_kept_answer_is_found(self, trial: Trial) -> None:
        """And nothing before it is kept; a cache that never finds anything is no cache.

        Usual causes: a key with the time, an object's address or a random salt in it; a key that
        is written under another name than it is read.
        """
        cache = await trial.open()
        questions = [ask(f"Question {number}?") for number in range(20)]
        for request in questions:
            nothing(await cache.get(request), "before it was kept")
            await cache.set(request, reply(short(request)))
        for request in questions * 2:
            same(await cache.get(request), reply(short(request)))

    @on_caches()
    async def test_every_field_is_told_apart(self, trial: Trial) -> None:
        """Each value of each field has its own answer: model, messages, tools, sampling, adapter,
        tenant.

        Usual causes: a list of fields for the key in which one is missing, fields with a falsy
        value left out, roles or names of messages left out, text brought to lower case, stripped
        or cut before it is hashed.
        """
        cache = await trial.open()
        told = list(variants(self.fields))
        for number, (change, request) in enumerate(told):
            nothing(await cache.get(request), f"asked before with other fields, not {change}")
            await cache.set(request, reply(f"answer {number}"))
        for number, (change, request) in enumerate(told):
            self.expect(await cache.get(request), reply(f"answer {number}"), request, change)

    def test_any_two_requests_are_told_apart(self, caches: Caches) -> None:
        """Several fields differ at once, in any combination.

        Usual causes: values joined without their names, a hash that is a sum or an exclusive or,
        fields that are looked at only where another is set.
        """

        def law_of(pair: tuple[Request, Request]) -> None:
            first, second = pair

            async def holds(trial: Trial) -> None:
                cache = await trial.open()
                await cache.set(first, reply("first"))
                nothing(await cache.get(second), f"{short(first)} was kept")
                await cache.set(second, reply("second"))
                self.expect(await cache.get(first), reply("first"), first)
                self.expect(await cache.get(second), reply("second"), second)

            if first != second:
                caches.check(holds)

        for_all(law_of, pairs(self.fields), examples=100)

    @on_caches()
    async def test_delimiters_in_values_are_told_apart(self, trial: Trial) -> None:
        """Tenant "a|b" with adapter "c" is not tenant "a" with adapter "b|c".

        Usual causes: fields joined to one string and hashed.
        """
        names = [name for name in ("tenant", "adapter", "model") if name in self.fields]
        neighbours = [*itertools.pairwise(names)]
        cache = await trial.open()
        kept: dict[str, Request] = {}
        request: Request
        for mark in _DELIMITERS:
            for one, other in neighbours:
                for values in ((f"a{mark}b", "c"), ("a", f"b{mark}c")):
                    request = changed(BASE, **{one: values[0], other: values[1]})
                    content = short([one, other, values])
                    nothing(await cache.get(request), content)
                    await cache.set(request, reply(content))
                    kept[content] = request
            for turns in ((f"a{mark}b", "c"), ("a", f"b{mark}c"), (f"a{mark}b{mark}c",)):
                messages = [{"role": "user", "content": turn} for turn in turns]
                asked, content = changed(BASE, messages=messages), short(turns)
                nothing(await cache.get(asked), content)
                await cache.set(asked, reply(content))
                kept[content] = asked
        for content, request in kept.items():
            same(await cache.get(request), reply(content))

    @on_caches()
    async def test_values_that_look_like_fields_are_told_apart(self, trial: Trial) -> None:
        """A value with another field's name and value in it is not that field.

        Usual causes: names and values joined to one text without quotes.
        """
        forms = ("{}: {}", "{}={}", "'{}': '{}'", '"{}": "{}"', "('{}', '{}')")
        joints = ("", ", ", ",", "&", "|", "\n", ";", "', ", '", ')
        texts = [name for name in ("model", "stop", "tenant", "adapter") if name in self.fields]
        cache = await trial.open()
        for first, second in itertools.permutations(texts, 2):
            plain = changed(BASE, **{first: "a", second: "b"})
            await cache.set(plain, reply("of two fields"))
            for joint, form in itertools.product(joints, forms):
                value = "a" + joint + form.format(second, "b")
                others = {first: value} if second == "model" else {first: value, second: None}
                request = changed(BASE, **others)
                nothing(await cache.get(request), f"{first} = {value!r}")

    @on_caches()
    async def test_the_order_of_keys_makes_no_difference(self, trial: Trial) -> None:
        """A mapping is the same whatever the order in which it was filled, at every depth.

        Usual causes: JSON without sorted keys, ``repr`` or ``str`` of a mapping.
        """
        cache = await trial.open()
        for change, request in variants(self.fields):
            await cache.set(request, reply(change))
            self.expect(await cache.get(reordered(request)), reply(change), request, change)

    @on_caches()
    async def test_what_changes_no_answer_makes_no_difference(self, trial: Trial) -> None:
        """Timeouts, the caller's own marks: with them the same answer is found.

        Usual causes: the whole call hashed, with all that the client adds to it.
        """
        cache = await trial.open()
        await cache.set(BASE, reply("kept"))
        for field in self.irrelevant:
            for value in IRRELEVANT[field]:
                found = await cache.get(changed(BASE, **{field: value}))
                same(found, reply("kept"), f"{field} = {value!r}")

    @on_caches()
    async def test_namespaces_do_not_meet(self, trial: Trial) -> None:
        """Two applications on one store each have their own answers.

        Usual causes: a namespace that is not part of the key, a class attribute or a module's
        dictionary that all caches share.
        """
        base = trial.spec.namespace
        names = [base, f"{base}b", f"{base}:b", f"b{base}", base.upper() + base]
        opened = [await trial.open(namespace=name) for name in names]
        for name, cache in zip(names, opened, strict=True):
            nothing(await cache.get(BASE), f"kept in a namespace before {name!r}")
            await cache.set(BASE, reply(name))
        for name, cache in zip(names, opened, strict=True):
            same(await cache.get(BASE), reply(name), name)

    @requires("shared")
    @on_caches()
    async def test_another_instance_finds_it(self, trial: Trial) -> None:
        """A cache that is opened on the same store serves what others have kept, and goes on
        serving when they are closed.

        Usual causes: entries written when the cache is closed, salts of one instance.
        """
        first, second = await trial.open(), await trial.open()
        nothing(await second.get(BASE), "before it was kept")
        await first.set(BASE, reply("kept"))
        same(await second.get(BASE), reply("kept"), "in an instance that was open")
        await trial.close(first)
        same(await second.get(BASE), reply("kept"), "after the writer was closed")
        await trial.close(second)
        same(await (await trial.open()).get(BASE), reply("kept"), "in a new instance")

    @requires("shared", "processes")
    def test_another_process_finds_it(self, caches: Caches) -> None:
        """With another seed of Python's ``hash``, and requests that were made there.

        Usual causes: a key made with ``hash``, ``id`` or the order of a set.
        """

        async def holds(trial: Trial) -> None:
            cache = await trial.open()
            kept = [BASE, *(changed(BASE, messages=each) for each in MESSAGES[13:19])]
            for number, request in enumerate(kept):
                await cache.set(request, reply(f"answer {number}"))
            await trial.close(cache)
            spec = replace(trial.spec, directory=trial.spec.directory / trial.spec.namespace)
            found = _in_another_process(caches.make, spec, [reordered(dict(r)) for r in kept])
            for number, answer in enumerate(found):
                same(answer, reply(f"answer {number}"), "in another process")

        caches.check(holds)


_CHILD = """
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from infopt_suites.caching.key_properties import answer_from_pipe
answer_from_pipe()
"""


def _in_another_process(make: Any, spec: Any, asked: list[Any]) -> list[Any]:
    try:
        work = pickle.dumps(sys.path) + pickle.dumps((make, spec, asked))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise AssertionError(
            'the capability "processes" needs a factory that pickle finds by its name, '
            f"such as a class of a module: {error}"
        ) from error
    # Strings hash differently there, whatever this process was started with.
    environment = {**os.environ, "PYTHONHASHSEED": "1" if hash("a") % 2 else "2"}
    child = subprocess.run(
        [sys.executable, "-c", _CHILD],
        input=work,
        capture_output=True,
        env=environment,
        check=False,
    )
    assert child.returncode == 0, f"the other process failed: {child.stderr.decode()[-2000:]}"
    return cast("list[Any]", json.loads(child.stdout))


def answer_from_pipe() -> None:
    """What the other process runs: the cache's answers to the requests on stdin, to stdout."""
    make, spec, asked = pickle.load(sys.stdin.buffer)

    async def look() -> list[Any]:
        cache = make(spec)
        cache = await cache if hasattr(cache, "__await__") else cache
        found = [await cache.get(request) for request in asked]
        if hasattr(cache, "close"):
            await cache.close()
        return found

    print(json.dumps(asyncio.run(look())))
