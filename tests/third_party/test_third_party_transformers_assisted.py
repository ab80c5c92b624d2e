"""transformers' assisted generation and prompt lookup through SpeculativeSuite.

The suite's models become models of transformers. Their cache is a real `DynamicCache`, which holds
the tokens themselves as keys: what is cropped wrongly changes the logits.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from infopt_suites.decoding import (
    DecodingParameters,
    LanguageModel,
    MakeSpeculativeDecoder,
    SpeculativeSuite,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

Tokens = Sequence[int]


class TableConfig(PretrainedConfig):  # type: ignore[misc]  # transformers is untyped here
    model_type = "infopt-table"
    num_hidden_layers = 1
    num_attention_heads = 1
    hidden_size = 1


class TableForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]  # as above
    """A model of the suite, as transformers decodes one."""

    config_class = TableConfig
    main_input_name = "input_ids"

    def __init__(self, model: LanguageModel) -> None:
        super().__init__(TableConfig(vocab_size=model.vocab_size))
        self.table = [model]  # in a list: no module
        # Universal assistance maps the ids before embedding and prunes the head, so there are
        # both: a token's embedding is its id, and the head changes nothing.
        self.embedding = torch.nn.Embedding(model.vocab_size, 1)
        ids = torch.arange(model.vocab_size).float()[:, None]
        self.embedding.weight = torch.nn.Parameter(ids, requires_grad=False)
        self.lm_head = torch.nn.Linear(model.vocab_size, model.vocab_size, bias=False)
        torch.nn.init.eye_(self.lm_head.weight).requires_grad_(False)

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embedding

    def set_input_embeddings(self, embedding: torch.nn.Module) -> None:
        self.embedding = embedding  # type: ignore[assignment]  # another module

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.lm_head

    def set_output_embeddings(self, head: torch.nn.Module) -> None:
        self.lm_head = head  # type: ignore[assignment]  # another module

    def forward(
        self,
        input_ids: Tensor,
        past_key_values: DynamicCache | None = None,
        logits_to_keep: int = 0,
        **others: Any,
    ) -> CausalLMOutputWithPast:
        past_key_values = DynamicCache() if past_key_values is None else past_key_values
        new = self.embedding(input_ids)[:, None]
        held, _ = past_key_values.update(new, new, 0)
        rows = [self.table[0](row[:, 0].long().tolist()) for row in held[:, 0]]
        logits = torch.stack(rows)[:, -input_ids.shape[1] :].float()
        # A product with −∞ · 0 would be NaN; this is as far below every other logit.
        kept = self.lm_head(logits[:, -logits_to_keep:].clamp(min=-1e4))
        return CausalLMOutputWithPast(logits=kept, past_key_values=past_key_values)


class Assisted:
    """`generate` with an assistant model."""

    def __init__(self, target: LanguageModel, draft: LanguageModel, lookahead: int) -> None:
        self.model, self.assistant = TableForCausalLM(target), TableForCausalLM(draft)
        settings = self.assistant.generation_config
        settings.num_assistant_tokens, settings.assistant_confidence_threshold = lookahead, 0.0
        settings.num_assistant_tokens_schedule = "constant"
        self.lookahead = lookahead

    def options(self) -> dict[str, Any]:
        return {"assistant_model": self.assistant}

    def generate(self, prompt: Tokens, parameters: DecodingParameters, seed: int) -> Tokens:
        torch.manual_seed(seed)
        options: dict[str, Any] = {"do_sample": parameters.temperature > 0}
        if parameters.temperature > 0:
            options |= {
                "temperature": parameters.temperature,
                "top_k": parameters.top_k or 0,
                "top_p": parameters.top_p,
                "min_p": parameters.min_p or None,
            }
        if parameters.processor is not None:
            processor = parameters.processor

            def process(ids: Tensor, scores: Tensor) -> Tensor:
                rows = zip(ids.tolist(), scores, strict=True)
                return torch.stack([processor(row, x.clone()) for row, x in rows])

            options["logits_processor"] = [process]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of options that the other mode would read
            found = self.model.generate(
                torch.tensor([list(prompt)]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=parameters.max_new_tokens,
                eos_token_id=list(parameters.stop_token_ids) or None,
                pad_token_id=0,
                repetition_penalty=parameters.repetition_penalty,
                **options,
                **self.options(),
            )
        return found[0, len(prompt) :].tolist()  # type: ignore[no-any-return]


class PromptLookup(Assisted):
    """`generate` with tokens of the text so far."""

    def options(self) -> dict[str, Any]:
        return {"prompt_lookup_num_tokens": self.lookahead, "max_matching_ngram_size": 2}


class Reversed:
    """A model of the suite whose ids are another tokenizer's: the last token's is 0, and there is
    one token more, which is never drawn."""

    def __init__(self, model: LanguageModel) -> None:
        self.model, self.vocab_size = model, model.vocab_size + 1

    def __call__(self, tokens: Tokens) -> Tensor:
        logits = self.model([max(self.model.vocab_size - 1 - token, 0) for token in tokens])
        return torch.nn.functional.pad(logits.flip(-1), (0, 1), value=-torch.inf)


class Universal(Assisted):
    """`generate` with an assistant model that has a tokenizer of its own."""

    def __init__(self, target: LanguageModel, draft: LanguageModel, lookahead: int) -> None:
        super().__init__(target, Reversed(draft), lookahead)  # type: ignore[arg-type]  # called
        words = [f"w{i}" for i in range(target.vocab_size)]
        self.tokenizers = tokenizer_of(words), tokenizer_of([*words[::-1], "none"])

    def options(self) -> dict[str, Any]:
        target, draft = self.tokenizers
        return {**super().options(), "tokenizer": target, "assistant_tokenizer": draft}


def tokenizer_of(words: Sequence[str]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, words[0]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


class OfTransformers(SpeculativeSuite):
    """A token takes milliseconds; penalties and stops are `generate`'s own."""

    capabilities = frozenset(
        {"sampling", "seeds", "stop-tokens", "top-k", "top-p", "min-p", "repetition-penalty"}
        | {"processors"}
    )
    sampled_tokens = 3000
    sampled_length = 8
    examples = 10


@pytest.mark.slow
class TestAssisted(OfTransformers):
    @pytest.fixture
    def make_speculative_decoder(self) -> MakeSpeculativeDecoder:
        return Assisted


@pytest.mark.slow
class TestPromptLookup(OfTransformers):
    @pytest.fixture
    def make_speculative_decoder(self) -> MakeSpeculativeDecoder:
        return PromptLookup


@pytest.mark.slow
class TestUniversal(OfTransformers):
    expected_failures = dict.fromkeys(
        (
            "test_drawn_tokens_are_the_targets",
            "test_drawn_tokens_follow_the_temperature",
            "test_drawn_tokens_follow_top_k",
            "test_drawn_tokens_follow_top_p",
            "test_drawn_tokens_follow_min_p",
            "test_drawn_tokens_follow_the_processor",
            "test_a_seed_gives_one_output",
        ),
        "tests/findings/test_findings_transformers_universal_draft.py",
    )

    @pytest.fixture
    def make_speculative_decoder(self) -> MakeSpeculativeDecoder:
        return Universal
