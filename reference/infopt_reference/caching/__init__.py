"""Caches of a model's answers: equal requests, similar ones, and a service that asks them first.

Start at `ResponseCache` (response_cache.py) and follow the imports. Redis and transformers are
imported where they are used.
"""

from .answer import Answer
from .codec import CodecError, decode, encode
from .embedder import Embedder, MiniLMEmbedder
from .keys import canonical, digest
from .layered import LayeredLLMService
from .openai_service import OpenAIService
from .redis_store import RedisStore
from .request import ChatRequest
from .response_cache import ResponseCache
from .semantic_cache import SemanticCache
from .semantic_index import SemanticIndex
from .service import LLMService, ServiceError, StreamChunk
from .single_flight import SingleFlight
from .store import LogId, MemoryStore, Store
from .transformers_service import TransformersService
from .vector_set_cache import VectorSetCache, has_vector_sets, open_semantic_cache

__all__ = [
    "Answer",
    "ChatRequest",
    "CodecError",
    "Embedder",
    "LLMService",
    "LayeredLLMService",
    "LogId",
    "MemoryStore",
    "MiniLMEmbedder",
    "OpenAIService",
    "RedisStore",
    "ResponseCache",
    "SemanticCache",
    "SemanticIndex",
    "ServiceError",
    "SingleFlight",
    "Store",
    "StreamChunk",
    "TransformersService",
    "VectorSetCache",
    "canonical",
    "decode",
    "digest",
    "encode",
    "has_vector_sets",
    "open_semantic_cache",
]
