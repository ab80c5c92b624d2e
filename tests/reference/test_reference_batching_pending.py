"""The line of waiting items against a plain list."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from infopt_reference.batching.pending import Entry, PendingItems


@given(
    st.lists(
        st.one_of(
            st.just(("append", 0)),
            st.tuples(
                st.sampled_from(["withdraw", "cancel", "take", "put back"]), st.integers(0, 9)
            ),
        ),
        max_size=80,
    )
)
def test_the_line_is_a_list_and_never_holds_more_empty_entries_than_others(steps):
    """``model``: those whom somebody waits for. Who is cancelled may stand there or not."""
    loop = asyncio.new_event_loop()
    line, model = PendingItems(), []
    for number, (step, value) in enumerate(steps):
        if step == "append":
            line.append(Entry(loop.create_future(), number, 0.0, line))
            model.append(line[-1])
        elif step in ("withdraw", "cancel") and model:
            entry = model.pop(value % len(model))
            entry.future.cancel()
            if step == "withdraw":
                line.withdraw(entry)
        elif step == "put back":
            line.put_back(line.take(value))
        elif step == "take":
            taken = line.take(value)
            assert taken == model[:value]
            assert all(entry.line is None for entry in taken)
            del model[:value]
        standing = [entry for entry in line if entry.line is line]
        assert [entry for entry in standing if not entry.future.done()] == model
        assert line.num_waiting == len(standing)
        assert len(line) <= 2 * len(standing) + 1
    loop.close()
