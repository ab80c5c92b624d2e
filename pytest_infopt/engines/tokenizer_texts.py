"""From text to token ids and back, by a tokenizer of transformers. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from ..errors import NoChatTemplateError
from .files.checkpoints import tokenizer_fingerprint_of
from .files.special_tokens import beginning_of


class TokenizerTexts:
    """What `engines.base.Engine` says of texts, for an engine that has a ``tokenizer``."""

    name: str

    @property
    def tokenizer(self) -> Any:
        """The transformers tokenizer."""
        raise NotImplementedError

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        return tokenizer_fingerprint_of(self.tokenizer)

    def encode(self, text: str, begins_with: str = "nothing") -> list[int]:
        if begins_with == "chat":
            return self._encode_chat(text)
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False, verbose=False)
        return [*self._beginning, *ids] if begins_with == "tokenizer" else ids

    @cached_property
    def _beginning(self) -> list[int]:
        return beginning_of(self.tokenizer)

    def _encode_chat(self, text: str) -> list[int]:
        if not self.tokenizer.chat_template:
            raise NoChatTemplateError(
                f"model {self.name!r} has no chat template; save one beside its tokenizer, or let "
                'documents begin otherwise: begins_with = "tokenizer" in [corpus]'
            )
        ids: list[int] = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(token_ids), clean_up_tokenization_spaces=False)
        return text
