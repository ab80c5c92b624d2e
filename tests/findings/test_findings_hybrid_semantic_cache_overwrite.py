"""hybrid-semantic-cache 0.2.0: of two answers to a question, the first is given for ever.

`HybridSemanticCache.add` gives each answer an id of its own. Both vectors are equally near, the
index finds the older, and each hit makes it the youngest for the eviction: it never ends. No public
thread found. Breaks
SemanticCacheSuite.test_a_similar_question_gets_the_answer_that_replaced_another.
"""

from __future__ import annotations

import numpy as np
from recorded import recorded

recorded("faiss", "faiss-cpu")
semantic = recorded("hybrid_semantic_cache.cache", "hybrid-semantic-cache>=0.2,<0.3")


def test_the_first_answer_stays() -> None:
    cache = semantic.HybridSemanticCache(encode_fn=lambda text: np.array([1.0, 0.0]), dimension=2)
    cache.add("question", "old")
    cache.add("question", "new")
    assert (cache.search("question").response, len(cache)) == ("old", 2)
