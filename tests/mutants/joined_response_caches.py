"""Response caches whose keys are joined texts, or know too few options; and sound normalizers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from infopt_suites.caching import Request
from response_caches import CacheMutant, SmallResponseCache


def joined(mark: str, *names: str) -> type[SmallResponseCache]:
    """A cache that joins these fields with a mark; the others stand apart."""

    class Joined(SmallResponseCache):
        """Not listed: fields joined to one text."""

        def text(self, content: Any) -> str:
            texts = [str(content.pop(name, "")) for name in names]
            return json.dumps([mark.join(texts), super().text(content)])

    Joined.__name__ = f"JoinedBy{'-'.join(str(ord(each)) for each in mark) or 'Nothing'}"
    return Joined


def said(turn: str, end: str) -> type[SmallResponseCache]:
    """A cache that makes a prompt of the messages."""

    class Said(SmallResponseCache):
        """Not listed: messages become a prompt, and the prompt the key."""

        def content(self, request: Request) -> dict[str, Any]:
            content = super().content(request)
            spoken = [turn.format(**message) + end for message in content["messages"]]
            return {**content, "messages": "".join(spoken)}

    Said.__name__ = f"SaidAs{turn.split('{')[0].strip() or 'Words'}{len(turn + end)}"
    return Said


class NamedAndJoined(SmallResponseCache):
    """Not listed: name:value:name:value, at every depth (cashews' way)."""

    def text(self, content: Any) -> str:
        if isinstance(content, Mapping):
            return ":".join(f"{name}:{self.text(content[name])}" for name in sorted(content))
        return ":".join(map(self.text, content)) if isinstance(content, list) else str(content)


class QueryString(SmallResponseCache):
    """Not listed: name=value&name=value, not escaped."""

    def text(self, content: Any) -> str:
        return "&".join(f"{name}={content[name]}" for name in sorted(content))


class ModelAndPrompt(SmallResponseCache):
    """Not listed: the model's name and the prompt, with a line between them."""

    def text(self, content: Any) -> str:
        words = "\n".join(str(message["content"]) for message in content["messages"])
        roles = [{**message, "content": None} for message in content["messages"]]
        others = {name: value for name, value in content.items() if name != "model"}
        return f"{content['model']}\n{words}{roles}" + super().text({**others, "messages": None})


class UnknownLeftOut(SmallResponseCache):
    """Not listed: a list of fields for the key, of the day when it was written."""

    later = ("mirostat", "guided_regex", "extra_body", "documents")

    def content(self, request: Request) -> dict[str, Any]:
        return {name: v for name, v in super().content(request).items() if name not in self.later}


class UnknownByName(UnknownLeftOut):
    """Not listed: that there are other options is in the key, and not what they say."""

    def content(self, request: Request) -> dict[str, Any]:
        content = super().content(request)
        return {**content, "others": [name for name in request if name in self.later]}


class OnlySimpleOptions(UnknownLeftOut):
    """Not listed: an option that is no number is left out."""

    def content(self, request: Request) -> dict[str, Any]:
        numbers = {n: request[n] for n in self.later if isinstance(request.get(n), (int, float))}
        return super().content(request) | numbers


def lower_case(request: Request) -> Any:
    """The request with the users' words in lower case, and single spaces."""

    def form(message: Any) -> Any:
        content = message.get("content")
        if message["role"] != "user" or not isinstance(content, str):
            return message
        return {**message, "content": " ".join(content.lower().split())}

    return {**request, "messages": [form(message) for message in request["messages"]]}


class LowerCase(SmallResponseCache):
    """Sound, as declared: users' words in lower case, white space taken for one space."""

    normal_form = staticmethod(lower_case)

    def content(self, request: Request) -> dict[str, Any]:
        return super().content(lower_case(request))


class RefusesWhatItDoesNotKnow(SmallResponseCache):
    """Sound in another way: an option that it does not know is the caller's error."""

    def content(self, request: Request) -> dict[str, Any]:
        unknown = {*request} & {*UnknownLeftOut.later}
        if unknown:
            raise TypeError(f"unknown options: {', '.join(sorted(unknown))}")
        return super().content(request)


class CaseFoldedUndeclared(LowerCase):
    """Not listed: texts in lower case, and nobody is told."""

    normal_form = dict


class MoreThanDeclared(LowerCase):
    """Not listed: the system's words are brought to lower case as well."""

    def content(self, request: Request) -> dict[str, Any]:
        content = super().content(request)
        folded = [
            {**m, "content": m["content"].lower()} if isinstance(m.get("content"), str) else m
            for m in content["messages"]
        ]
        names = {"model": str(content["model"]).lower()}
        return {**content, **names, "messages": folded}


FIELD = "test_every_field_is_told_apart"
MARKS = "test_delimiters_in_values_are_told_apart"
WORDS = "test_values_that_look_like_fields_are_told_apart"
UNKNOWN = "test_unknown_options_are_told_apart_or_not_kept"
JOINED_MUTANTS = [
    *(
        CacheMutant(joined(mark, *names), MARKS)
        for mark in (
            "",
            ":",
            "::",
            "###",
            "\x1f",
            "\x1e\x1e",
            "\t",
            "~",
            "|||",
            " - ",
            "; ",
            "\r\r",
        )
        for names in (("tenant", "adapter"), ("tenant", "model"))
    ),
    CacheMutant(NamedAndJoined, WORDS),
    CacheMutant(QueryString, WORDS),
    CacheMutant(ModelAndPrompt, MARKS),
    CacheMutant(said("{content}", ""), MARKS),
    CacheMutant(said("{content}", "\x00"), MARKS),
    CacheMutant(said("{role}: {content}", "\n"), WORDS),
    CacheMutant(said("\n\n{role}:{content}", ""), WORDS),
    CacheMutant(said("[{role}] {content}", ""), WORDS),
    CacheMutant(said("<|im_start|>{role}\n{content}", "<|im_end|>\n"), WORDS),
    CacheMutant(said("{role}{content}", ""), WORDS),
    CacheMutant(UnknownLeftOut, UNKNOWN),
    CacheMutant(UnknownByName, UNKNOWN),
    CacheMutant(OnlySimpleOptions, UNKNOWN),
    CacheMutant(CaseFoldedUndeclared, FIELD),
    CacheMutant(MoreThanDeclared, FIELD),
]
NORMALIZED: list[Any] = [LowerCase, RefusesWhatItDoesNotKnow]
