"""A model goes on in one engine from keys and values that another one computed."""

import pytest
import torch
from infopt_reference.attention import (
    ChunkStore,
    Decoder,
    FinishedTransfers,
    KVConnector,
    KVShape,
    PagedKVCache,
    PagedRows,
)
from tiny_models import SAMPLE_IDS, make_model

PROMPT = [*SAMPLE_IDS[:11], *SAMPLE_IDS[:8]]


def pages_of(config, block_size):
    head_dim = config.hidden_size // config.num_attention_heads
    shape = KVShape(config.num_hidden_layers, config.num_key_value_heads, head_dim)
    return PagedKVCache(shape, 32, block_size)


def settle(connector):
    """Step until something ends."""
    while (done := connector.step()) == FinishedTransfers():
        pass
    return done


@pytest.mark.parametrize("chunk", [1, 4, 5])
def test_a_prompt_computed_in_one_engine_is_continued_in_another(chunk):
    """Blocks of 4 tokens and of 3, chunks of neither: the greedy tokens are those of one engine."""
    model = make_model("llama")
    decoder, store = Decoder.from_transformers(model), ChunkStore(chunk)
    prefill, decode = pages_of(model.config, 4), pages_of(model.config, 3)
    first = PagedRows(prefill)
    decoder(torch.tensor([PROMPT]), first)
    table = prefill.block_table(first.sequences[0])
    sender = KVConnector.of(prefill, store)
    sender.store(1, PROMPT, table)
    assert settle(sender) == FinishedTransfers(stored=(1,))
    prefill.keys.fill_(torch.nan)  # from now on they are others'

    receiver = KVConnector.of(decode, store)
    found = receiver.lookup(7, PROMPT)
    assert found == (len(PROMPT) - 1) // chunk * chunk
    decode.allocate("request", found)
    receiver.load(7, PROMPT, decode.block_table("request"), 0, found)
    assert settle(receiver) == FinishedTransfers(loaded=(7,))
    rows, tokens = PagedRows(decode, ["request"]), torch.tensor([PROMPT])
    for _ in range(8):
        logits = decoder(tokens[:, rows.get_seq_length() :], rows)
        tokens = torch.cat([tokens, logits[:, -1:].argmax(dim=-1)], dim=1)
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(tokens, model.generate(torch.tensor([PROMPT]), **options))


def numbers(number):
    return torch.full((1, 2, 1, 1, 1), float(number))


def test_the_chunk_used_longest_ago_goes_unless_it_is_held():
    store = ChunkStore(1, capacity=2)
    keys = [bytes([number]) for number in range(5)]
    store.put(keys[0], numbers(0))
    store.put(keys[1], numbers(1))
    store.get(keys[0])
    store.put(keys[2], numbers(2))
    assert [key in store for key in keys[:3]] == [True, False, True]
    store.hold([keys[0], keys[2]])
    assert not store.put(keys[3], numbers(3))
    store.hold([keys[0]])
    store.release([keys[0]])  # someone else holds it still
    assert not store.put(keys[3], numbers(3))
    store.release([keys[0]])
    assert store.put(keys[3], numbers(3))
    assert [key in store for key in keys[:4]] == [False, False, True, True]
    assert len(store) == 2


def test_what_is_taken_from_the_caller_is_checked():
    with pytest.raises(ValueError, match="chunk_size is 0"):
        ChunkStore(0)
    with pytest.raises(ValueError, match="capacity is -1"):
        ChunkStore(1, -1)
    pages = torch.zeros(4, 2, 1, 1)
    with pytest.raises(ValueError, match="of one layout"):
        KVConnector([pages], [pages[:3]], ChunkStore(1))
    connector = KVConnector([pages], [pages.clone()], ChunkStore(2))
    with pytest.raises(ValueError, match="1 blocks of 2 have no room for 3 tokens"):
        connector.store(0, [1, 2, 3], [0])
    connector.store(0, [1, 2, 3], [0, 1])
    with pytest.raises(ValueError, match="request 0 is in flight"):
        connector.store(0, [1, 2], [0])
