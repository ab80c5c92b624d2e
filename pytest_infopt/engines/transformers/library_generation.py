"""Generation by transformers' own code: plain, or with tokens that are drafted and checked.

Shapes: T positions.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig

from ...errors import NotSupportedError
from ..base import Drafting, Generated, ModuleEngine, able
from .model import LoadedModel


class LibraryGeneration(LoadedModel):
    """What `engines.base.DraftedEngine` says, by ``generate`` of the model.

    Processors of its generation configuration (penalties, suppressed tokens) are not asked for.
    """

    def library_tokens(self, token_ids: Sequence[int], count: int) -> list[int]:
        return list(self.generated(token_ids, count).token_ids)

    @torch.no_grad()
    def generated(
        self,
        token_ids: Sequence[int],
        count: int,
        drafting: Drafting | None = None,
        ends: Sequence[int] = (),
    ) -> Generated:
        ids = self._ids(token_ids)
        self._check_window(ids.shape[1] + count)
        if self._kept_vocabulary is not None or not hasattr(self.module, "generate"):
            raise NotSupportedError("the library's generation cannot be asked for its tokens alone")
        drafted: list[int] = []  # of each pass

        def count_drafts(module: Any, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
            computed = int((args[0] if args else inputs["input_ids"]).shape[1])
            if not drafted:
                drafted.append(computed - ids.shape[1])  # what stands behind the prompt
            else:
                # Behind the last token; a pass without a cache computes all that was there before.
                cached = inputs.get(self._cache_argument or "") is not None
                drafted.append(computed - 1 if cached else 0)

        # One row takes no padding. A padding token that is named would be masked in the draft's
        # context wherever the text has it: many tokenizers pad by the token that ends a turn.
        plain = GenerationConfig()
        with _configured(self.module, plain), self._drafted_by(drafting) as options:
            hook = self.module.register_forward_pre_hook(count_drafts, with_kwargs=True)
            try:
                output = self.module.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=count,
                    do_sample=False,
                    num_beams=1,
                    **({"eos_token_id": list(ends)} if ends else {}),
                    **options,
                )
            except (ValueError, NotImplementedError) as error:
                if drafting is None or drafted:
                    raise
                raise NotSupportedError(f"generation with a draft: {error}") from error
            finally:
                hook.remove()
        return Generated(tuple(output[0, ids.shape[1] :].tolist()), len(drafted), sum(drafted))

    @contextmanager
    def _drafted_by(self, drafting: Drafting | None) -> Iterator[dict[str, Any]]:
        """Arguments of ``generate``; meanwhile the draft has a configuration of its own."""
        if drafting is None:
            yield {}
        elif drafting.engine is None:
            yield {"prompt_lookup_num_tokens": drafting.num_tokens}
        else:
            draft = able(drafting.engine, ModuleEngine)
            found: dict[str, Any] = {"assistant_model": draft.module}
            if _vocabulary(draft.module) != _vocabulary(self.module):  # its words are translated
                found |= {"tokenizer": self.tokenizer, "assistant_tokenizer": draft.tokenizer}
            told = copy.deepcopy(draft.module.generation_config)
            told.num_assistant_tokens = drafting.num_tokens
            told.num_assistant_tokens_schedule = "constant"
            with _configured(draft.module, told):
                yield found


@contextmanager
def _configured(module: Any, generation: GenerationConfig) -> Iterator[None]:
    """Another generation configuration for a while."""
    own = module.generation_config
    module.generation_config = generation
    try:
        yield
    finally:
        module.generation_config = own


def _vocabulary(module: Any) -> int:
    """By the configuration, as the library tells models of one vocabulary from others."""
    return int(module.config.get_text_config(decoder=True).vocab_size)
