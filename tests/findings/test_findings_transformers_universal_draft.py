"""transformers 5.23.0: universal assisted generation draws drafts from a permuted distribution.

`AssistantToTargetTranslator` prunes the assistant's head to the tokens that both vocabularies have,
in the order of ``get_vocab()``: for fast tokenizers, that of a hash map. `get_target_logits` puts
the columns back as if they were in the order of the assistant's ids. So the rejection rule is told
a q that is not the one that was drawn from, and what is emitted is not the target's. It happens
where do_sample is set and the assistant has a token that the target has not. Found with
`SpeculativeSuite`; greedy generation does not use these logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.generation.candidate_generator import AssistantToTargetTranslator

WORDS = [f"w{i}" for i in range(64)]


def tokenizer_of(words: Sequence[str]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, words[0]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_the_drafts_logits_are_those_of_other_tokens() -> None:
    target, assistant = tokenizer_of(WORDS), tokenizer_of([*WORDS, "another"])
    config = LlamaConfig(
        vocab_size=65,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    hidden = torch.randn(1, 1, 16)
    own = model.get_output_embeddings()(hidden)[0, 0]  # [65]; token i is the target's token i
    translator = AssistantToTargetTranslator(target, assistant, 64, model, True)
    pruned = model.get_output_embeddings()(hidden)
    found = translator.get_target_logits(pruned)[0, 0]
    assert torch.equal(found.sort().values, own[:64].sort().values)
    assert not torch.equal(found, own[:64]), "the columns are where they belong: delete this"
