"""Requests share an answer if they differ in nothing that makes a difference to it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

from ..base import requires
from ..properties import for_all
from .joints import JOINTS, MARKS, around, cuts
from .processes import found_by_another
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

_TEXTS = ("model", "tenant", "adapter")  # fields that are any text
_ROLES = ("user", "assistant", "system")
_UNKNOWN: dict[str, Sequence[Any]] = {
    "mirostat": (1, 2),
    "guided_regex": ("a+", "b+"),
    "extra_body": ({"thinking": True}, {"thinking": False}),
    "documents": ([{"text": "a"}], [{"text": "b"}]),
}
_MOST_CLASHES = 8  # that a message tells


class KeyProperties(CacheSuite):
    """``joints``: texts between the joined fields that are tried."""

    topic = ""
    joints: ClassVar[Sequence[str]] = JOINTS

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
        cache, kept = await trial.open(), _Kept(self)
        for change, request in variants(self.fields):
            await kept.keep(cache, change, request)
        kept.require_no_clash()
        for change, request in kept.requests.items():
            self.expect(await cache.get(request), reply(change), request, change)

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

            if self.form(first) != self.form(second):
                caches.check(holds)

        for_all(law_of, pairs(self.fields), examples=100)

    @on_caches()
    async def test_delimiters_in_values_are_told_apart(self, trial: Trial) -> None:
        """Tenant "a|b" with adapter "c" is not tenant "a" with adapter "b|c", and a message with
        the joint in it is not two: whatever joins them, nothing included.

        Usual causes: fields or messages joined to one string and hashed.
        """
        cache, kept = await trial.open(), _Kept(self)
        texts = [name for name in _TEXTS if name in self.fields]
        plain: dict[str, Any] = dict.fromkeys(texts, "w")
        turns = _bare(**plain, messages=_said(*[("user", "w")] * 3))
        await kept.keep(cache, repr(turns), turns)
        for joint in self.joints:
            # In whatever order they are joined, it is the same text.
            three = joint.join("www")
            for name in texts:
                request = _bare(**{**plain, name: three})
                await kept.keep(cache, repr(request), request)
            request = _bare(**plain, messages=_said(("user", three)))
            await kept.miss(cache, repr(request), request)
        kept.require_no_clash()

    @on_caches()
    async def test_values_that_look_like_fields_are_told_apart(self, trial: Trial) -> None:
        """A value with another field's name in it is not that field, and a message with a role in
        it is not two, whatever marks stand beside the word.

        Usual causes: names and values joined to one text without quotes, messages that become a
        prompt before they are hashed.
        """
        cache, kept = await trial.open(), _Kept(self)
        texts = [name for name in (*_TEXTS, "stop") if name in self.fields][:3]
        for first, second in itertools.permutations(texts, 2):
            text, each = cuts(around(second))
            await kept.keep(cache, f"{first} before {second}", _bare(**{first: text, second: "w"}))
            for before, joint, after in each:
                request = _bare(**{first: before, second: f"{after}{joint}w"})
                await kept.miss(cache, f"{first} and {second} at {joint!r}", request)
            plain = _bare(**{first: "w", second: "v"})
            await kept.keep(cache, f"{first} and {second}", plain)
            if second != "model":
                for joint in around(second):
                    request = _bare(**{first: f"w{joint}v"})
                    await kept.miss(cache, f"{first} with {joint!r}", request)
        for role in _ROLES:
            text, each = cuts((*around(role), *(f"{m}role{m}{role}{m}content{m}" for m in MARKS)))
            await kept.keep(cache, "a message of all", _bare(messages=_said(("user", text))))
            for before, joint, after in each:
                messages = _said(("user", before), (role, after))
                await kept.miss(cache, f"messages at {joint!r}", _bare(messages=messages))
        kept.require_no_clash()

    @on_caches()
    async def test_unknown_options_are_told_apart_or_not_kept(self, trial: Trial) -> None:
        """An option that is newer than the cache changes the answer all the same. Its request may
        have an entry of its own, none, or be refused.

        Usual causes: a list of fields for the key.
        """
        cache, kept = await trial.open(), _Kept(self)
        await kept.keep(cache, "without", BASE)
        for name, values in _UNKNOWN.items():
            for value in values:
                try:
                    await kept.keep(cache, f"{name} = {value!r}", changed(BASE, **{name: value}))
                except (TypeError, ValueError):
                    continue  # refused
        kept.require_no_clash()
        for change, request in kept.requests.items():
            found = await cache.get(request)
            if found is not None or request is BASE:
                same(found, reply(change), change)

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
            found = found_by_another(caches.make, trial, [reordered(request) for request in kept])
            for number, answer in enumerate(found):
                same(answer, reply(f"answer {number}"), "in another process")

        caches.check(holds)


class _Kept:
    """Requests with an answer each, and which of them have been taken for another."""

    def __init__(self, suite: CacheSuite) -> None:
        self._suite = suite
        self.requests: dict[str, Request] = {}
        self._forms: list[Any] = []
        self._clashes: list[str] = []

    async def keep(self, cache: Any, name: str, request: Request) -> None:
        """Keep an answer to a request, unless one of its normal form has been kept."""
        if type(self._suite).normal_form is not dict:
            form = self._suite.form(request)
            if form in self._forms:
                return
            self._forms.append(form)
        await self.miss(cache, name, request)
        await cache.set(request, reply(name))
        self.requests[name] = request

    async def miss(self, cache: Any, name: str, request: Request) -> None:
        """Ask for a request that has no answer."""
        found = await cache.get(request)
        if found is None:
            return
        other = self.requests.get(str(found["content"]))
        form = self._suite.form
        if other is None or form(other) != form(request):
            self._clashes.append(f"{name} and {found['content']}")

    def require_no_clash(self) -> None:
        clashes, most = self._clashes, _MOST_CLASHES
        told = "; ".join(clashes[:most]) + (", …" if len(clashes) > most else "")
        assert not clashes, (
            f"{len(clashes)} pairs of requests that differ share an answer: {told}. Requests that "
            "are meant to share one have equal normal forms: see normal_form"
        )


def _bare(**fields: Any) -> dict[str, Any]:
    """A request of a model and messages alone, and these fields: neighbours if they are joined."""
    return changed({"model": BASE["model"], "messages": _said(("user", "w"))}, **fields)


def _said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]
