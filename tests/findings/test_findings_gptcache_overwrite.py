"""GPTCache 0.1.44: a second answer to a question is kept, and the first is given for ever.

`SSDataManager.save` adds a row and a vector and removes nothing. Both vectors are equally near, the
index finds the older, and there is no time to live: an answer that was put again is never seen.
No public thread was found that describes it. Breaks
SemanticCacheSuite.test_a_similar_question_gets_the_answer_that_replaced_another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from recorded import recorded

# Where a store's library is missing, gptcache calls `pip install` by itself: look first.
recorded("sqlalchemy", "sqlalchemy")
np = recorded("numpy", "numpy")
recorded("faiss", "faiss-cpu")
gptcache = recorded("gptcache", "gptcache>=0.1.44,<0.2")
manager = recorded("gptcache.manager", "gptcache")
api = recorded("gptcache.adapter.api", "gptcache")
pre = recorded("gptcache.processor.pre", "gptcache")


def embed(text: str, **_: Any) -> Any:
    return np.array([1.0, 0.0], np.float32)


def test_the_first_answer_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # its stores are files of the working directory
    cache = gptcache.Cache()
    stores = manager.get_data_manager(
        manager.CacheBase("sqlite"), manager.VectorBase("faiss", dimension=2)
    )
    cache.init(pre_embedding_func=pre.get_prompt, embedding_func=embed, data_manager=stores)
    api.put("question", "old", cache_obj=cache)
    api.put("question", "new", cache_obj=cache)
    assert api.get("question", cache_obj=cache) == "old"
