"""Caches give back what they were given: in whatever chunks, after crop, reorder and reset."""

import pytest
import torch
from attention_cases import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from infopt_reference.attention import KVCache, QuantizedCache, SlidingCache, StaticCache
from infopt_reference.quantization import QuantizationScheme, preset, quantize

LONGEST = 24
INT8 = QuantizationScheme(bits=8, granularity="group", group_size=8)
MAKERS = {
    "growing": KVCache,
    "static": lambda: StaticCache(LONGEST + 2),
    "sliding": lambda: SlidingCache(5),
    "sliding with slack": lambda: SlidingCache(3, slack=4),
    "int8": lambda: QuantizedCache(INT8),
    "int4": lambda: QuantizedCache(preset("int4", group_size=6)),
    "nf4": lambda: QuantizedCache(preset("nf4", group_size=16)),
    "int3 unpacked": lambda: QuantizedCache(preset("int3", packed=False)),
}
CACHES = pytest.mark.parametrize("kind", MAKERS)
# Chunks of 0 tokens too: an engine may have nothing to add.
CHUNKS = st.lists(st.integers(0, 6), min_size=1, max_size=6).filter(lambda x: sum(x) <= LONGEST)


def tokens(count, seed=0, batch=3, layer=0):
    """Keys and values [B, G, T, D], of different head dimensions, of sizes from 1e-3 to 1e3."""
    sizes = torch.logspace(-3, 3, 5, dtype=torch.float64)[torch.arange(count) % 5][:, None]
    keys = normal(batch, 2, count, 16, seed=1000 * layer + seed) * sizes
    return keys.float(), normal(batch, 2, count, 8, seed=1000 * layer + seed + 1).float()


def chunk_of(pair, start, end):
    return tuple(x[:, :, start:end] for x in pair)


def filled(kind, chunks, given_tokens):
    """The cache, and what each update gave."""
    cache, given_back, start = MAKERS[kind](), [], 0
    for size in chunks:
        given_back.append(cache.update(*chunk_of(given_tokens, start, start + size), 0))
        start += size
    return cache, given_back


def stored_form(kind, numbers):
    """What a cache keeps of numbers: themselves, or what their codes stand for."""
    scheme = getattr(MAKERS[kind](), "scheme", None)
    return numbers if scheme is None else quantize(numbers, scheme).dequantize()


@CACHES
@settings(max_examples=30)
@given(chunks=CHUNKS)
def test_every_update_gives_the_last_tokens_in_order(kind, chunks):
    whole = tokens(LONGEST)
    expected = [stored_form(kind, x) for x in whole]
    cache, given_back = filled(kind, chunks, whole)
    end = 0
    for size, pair in zip(chunks, given_back, strict=True):
        end += size
        width = pair[0].shape[2]
        window = getattr(cache, "window", None)
        assert width >= (end if window is None else min(end, window - 1 + size))
        for actual, numbers in zip(pair, expected, strict=True):
            assert torch.equal(actual, numbers[:, :, end - width : end])
    assert cache.get_seq_length() == end


@CACHES
@settings(max_examples=30)
@given(first=CHUNKS, data=st.data())
def test_what_is_kept_does_not_depend_on_the_chunks(kind, first, data):
    total = sum(first)
    second = []
    while sum(second) < total:
        second.append(data.draw(st.integers(1, total - sum(second))))
    one, other = (filled(kind, chunks, tokens(LONGEST))[0] for chunks in (first, second))
    new = tokens(2, seed=7)
    for ours, theirs in zip(one.update(*new, 0), other.update(*new, 0), strict=True):
        assert torch.equal(ours, theirs)
    assert one.nbytes() == other.nbytes()


@CACHES
@settings(max_examples=30)
@given(chunks=CHUNKS, data=st.data())
def test_crop_then_append_equals_never_appended(kind, chunks, data):
    total = sum(chunks)
    cache, _ = filled(kind, chunks, tokens(LONGEST))
    limit = 4 if kind == "sliding with slack" else 0 if kind == "sliding" and total >= 5 else total
    length = data.draw(st.integers(max(0, total - limit), total))
    plain, _ = filled(kind, [length], tokens(LONGEST))
    cache.crop(length)
    assert cache.get_seq_length() == length
    new = tokens(LONGEST - length, seed=9)
    expected = plain.update(*new, 0)
    for ours, theirs in zip(cache.update(*new, 0), expected, strict=True):
        # Slack may have held a token more before: the newest are the ones to compare.
        width = min(ours.shape[2], theirs.shape[2])
        assert torch.equal(ours[:, :, -width:], theirs[:, :, -width:])
        needed = min(LONGEST, getattr(cache, "window", LONGEST) - 1 + LONGEST - length)
        assert width >= needed


@CACHES
@settings(max_examples=30)
@given(chunks=CHUNKS, rows=st.lists(st.integers(0, 2), min_size=1, max_size=5))
def test_reordered_rows_are_the_rows_they_were(kind, chunks, rows):
    cache, _ = filled(kind, chunks, tokens(LONGEST))
    gathered = tuple(x[rows] for x in tokens(LONGEST))
    expected, _ = filled(kind, chunks, gathered)
    cache.reorder(torch.tensor(rows))
    if sum(chunks) == 0:
        return
    new = tokens(LONGEST - sum(chunks), seed=3, batch=len(rows))
    for ours, theirs in zip(cache.update(*new, 0), expected.update(*new, 0), strict=True):
        assert torch.equal(ours, theirs)
    assert cache.nbytes() == expected.nbytes()


@CACHES
def test_layers_do_not_mix_and_reset_leaves_nothing(kind):
    cache = MAKERS[kind]()
    for layer in (0, 1):
        cache.update(*tokens(9, layer=layer), layer)  # more than any window
    for layer in (0, 1):
        numbers = tokens(9, layer=layer)
        for kept, original in zip(cache.logical_kv(layer), numbers, strict=True):
            last = stored_form(kind, original)[:, :, 9 - kept.shape[2] :]
            assert torch.equal(kept, last)
    cache.reset()
    assert cache.get_seq_length() == cache.get_seq_length(1) == cache.nbytes() == 0
    wider = tokens(3, batch=4)
    for kept, original in zip(cache.update(*wider, 0), wider, strict=True):
        assert torch.equal(kept, stored_form(kind, original))


@CACHES
def test_inputs_are_copied(kind):
    cache, numbers = MAKERS[kind](), tokens(2)
    expected = [stored_form(kind, x).clone() for x in numbers]
    cache.update(*numbers, 0)
    for x in numbers:
        x.zero_()
    for kept, original in zip(cache.logical_kv(0), expected, strict=True):
        assert torch.equal(kept, original)


@CACHES
def test_another_layer_or_an_earlier_sequence_changes_no_bit(kind):
    """No scale, length or buffer survives: small numbers come back as if no large ones had been."""
    used, fresh, small = MAKERS[kind](), MAKERS[kind](), tuple(x * 1e-3 for x in tokens(3))
    used.update(*tokens(5), 0)
    used.update(*tokens(5), 1)
    used.reset()
    for ours, theirs in zip(used.update(*small, 0), fresh.update(*small, 0), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("length", range(1, 9))
@pytest.mark.parametrize("burst", [1, 2, 3])
@pytest.mark.parametrize("window", [1, 2, 4])
def test_a_window_is_held_to_the_token(window, length, burst):
    cache, whole = SlidingCache(window), tokens(LONGEST)
    cache.update(*chunk_of(whole, 0, length), 0)
    for start in range(length, LONGEST - burst, burst):
        assert cache.held_length() == min(start, window - 1)
        keys, _ = cache.update(*chunk_of(whole, start, start + burst), 0)
        end = start + burst
        assert torch.equal(keys, whole[0][:, :, max(0, start - window + 1) : end])
    assert cache.nbytes() == 4 * 3 * 2 * (16 + 8) * (window - 1)


def test_forgotten_tokens_free_their_memory():
    for cache, length in ((KVCache(), 7), (SlidingCache(3), 20), (SlidingCache(3, slack=5), 16)):
        cache.update(*tokens(20), 0)
        cache.crop(length)
        held = sum(x.untyped_storage().nbytes() for x in cache.logical_kv(0))
        assert held == cache.nbytes() == 4 * 3 * 2 * (16 + 8) * cache.held_length()


def test_static_slots_that_are_not_filled_are_not_read():
    cache = StaticCache(8)
    cache.update(*tokens(6), 0)
    cache.crop(2)
    for kept in cache.logical_kv(0):
        buffer = kept._base
        assert buffer.shape[2] == 8
        buffer[:, :, 2:] = torch.nan
    for given_back in cache.update(*tokens(3, seed=4), 0):
        assert given_back.isfinite().all()
    assert cache.nbytes() == 4 * 3 * 2 * (16 + 8) * 8


@pytest.mark.parametrize("bits", [2, 4, 8])
@given(seed=st.integers(0, 2**16))
@settings(max_examples=20)
def test_codes_are_within_the_schemes_bound_and_not_too_good(bits, seed):
    scheme = QuantizationScheme(
        bits=bits, symmetric=False, granularity="group", group_size=8, scale_dtype=torch.float16
    )
    numbers = tokens(10, seed)
    kept = QuantizedCache(scheme).update(*numbers, 0)
    for ours, original in zip(kept, numbers, strict=True):
        errors = (ours.double() - original.double()).abs()
        eps = torch.finfo(torch.float32).eps
        bound = quantize(original, scheme).element_error_bound(original)
        assert (errors <= bound + eps * (original.double().abs() + bound)).all()
        assert errors.max() > 0


def test_bytes_are_those_of_codes_and_constants():
    scheme = preset("int4", group_size=8)
    cache = QuantizedCache(scheme)
    for start in range(10):
        cache.update(*tokens(1, seed=start), 0)
        # Half a byte a code, and for 8 of them a float16 scale and a zero point of one byte.
        assert cache.nbytes() == (start + 1) * 3 * 2 * (16 + 8) * (4 + 2 + 1) // 8


def test_what_cannot_be_is_refused_and_changes_nothing():
    cache = StaticCache(5)
    cache.update(*tokens(4), 0)
    with pytest.raises(ValueError, match="6 tokens do not fit a cache of 5; make it longer"):
        cache.update(*tokens(2), 0)
    assert cache.get_seq_length() == 4
    with pytest.raises(ValueError, match="5 tokens cannot be kept of 4"):
        cache.crop(5)
    with pytest.raises(ValueError, match="-1 tokens cannot be kept of 4"):
        cache.crop(-1)
    with pytest.raises(ValueError, match=r"holds \(3, 2\) rows and kv heads, new keys have"):
        cache.update(*tokens(1, batch=1), 0)
    with pytest.raises(ValueError, match="do not fit; give"):
        cache.update(tokens(2)[0], tokens(1)[1], 0)
    sliding = SlidingCache(4, slack=1)
    sliding.update(*tokens(9), 0)
    with pytest.raises(ValueError, match="tokens 4 to 4 are gone, which a window of 4 needs"):
        sliding.crop(7)
    assert sliding.get_seq_length() == 9
    sliding.crop(8)
    with pytest.raises(ValueError, match="window 0 and slack 0: give at least 1 and 0"):
        SlidingCache(0)
    with pytest.raises(ValueError, match="tokens are independent with plain groups alone"):
        QuantizedCache(preset("int8"))
    with pytest.raises(ValueError, match="tokens are independent with plain groups alone"):
        QuantizedCache(preset("nf4-double"))
    odd = QuantizationScheme(bits=3, granularity="group", group_size=4)
    with pytest.raises(ValueError, match="4 codes of 3 bits do not fill whole bytes"):
        QuantizedCache(odd).update(normal(1, 1, 1, 4, seed=1), normal(1, 1, 1, 4, seed=1), 0)


@pytest.mark.parametrize("kind", ["growing", "static", "sliding with slack", "int8"])
@given(start=st.integers(0, 5), stop=st.integers(0, 5))
def test_dropped_tokens_have_never_been(kind, start, stop):
    start, stop = sorted((start, stop))
    whole = tokens(9)
    cache, _ = filled(kind, [5], chunk_of(whole, 0, 5))
    cache.drop(start, stop)
    kept = [i for i in range(5) if not start <= i < stop]
    expected, _ = filled(kind, [len(kept)], tuple(x[:, :, kept] for x in whole))
    for each in (cache, expected):
        each.update(*chunk_of(whole, 5, 9), 0)
    assert cache.get_seq_length() == expected.get_seq_length()
    for found, wanted in zip(cache.logical_kv(0), expected.logical_kv(0), strict=True):
        assert torch.equal(found, wanted)


def test_only_tokens_that_are_there_can_be_dropped():
    cache, _ = filled("growing", [5], tokens(5))
    for start, stop in ((3, 6), (-1, 2), (4, 3)):
        with pytest.raises(ValueError, match="cannot be dropped: 5 were given, 5 are held"):
            cache.drop(start, stop)
    sliding, _ = filled("sliding", [9], tokens(9))
    with pytest.raises(ValueError, match="cannot be dropped: 9 were given, 4 are held"):
        sliding.drop(1, 2)
