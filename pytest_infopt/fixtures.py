"""The public fixtures. Models load when a test asks for one, on the release's settings."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .corpus import Document
    from .engines.transformers import TransformersEngine
    from .gate import GateRun
    from .own_budgets import OwnBudgets
    from .release import Release

    EngineFactory = Callable[..., TransformersEngine]

OWN_BUDGETS: pytest.StashKey[OwnBudgets] = pytest.StashKey()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Make a broken budget the test's own failure, not its teardown's."""
    __tracebackhide__ = True
    try:
        yield
    finally:
        budgets = item.stash.get(OWN_BUDGETS, None)
        if budgets is not None:
            budgets.attach()
    if budgets is not None:
        budgets.conclude()


@pytest.fixture(scope="session")
def infopt_release(pytestconfig: pytest.Config) -> Release:
    """The release that infopt.toml, the ini file and the command line describe."""
    from .configuration import load_release
    from .options import settings
    from .session import SESSION_KEY

    session = pytestconfig.stash.get(SESSION_KEY, None)
    if session is not None:
        return session.release
    return load_release(pytestconfig.rootpath, settings(pytestconfig))


@pytest.fixture(scope="session")
def infopt_corpus(infopt_release: Release, pytestconfig: pytest.Config) -> list[Document]:
    """The release's documents; the embedded corpus where none is configured."""
    from .corpus import load_corpus

    return load_corpus(infopt_release.corpus, pytestconfig.rootpath)


@pytest.fixture(scope="session")
def reference_model(infopt_release: Release) -> Iterator[TransformersEngine]:
    """The reference as an engine: ``.module`` is the torch module, ``.score(ids)`` its logits."""
    from .engines.loaders import load_engine

    engine = load_engine(infopt_release.reference)
    yield engine
    engine.close()


@pytest.fixture
def quantized_model(infopt_release: Release) -> Iterator[EngineFactory]:
    """A factory: ``quantized_model("nf4")`` is the reference in that number format, or pruned.

    Any quantization of infopt.toml with its options: ``quantized_model("gptq", bits=4,
    group_size=64)``, ``quantized_model("int4", granularity="channel")``, ``quantized_model("wanda",
    sparsity="2:4")``. What it loads is closed when the test ends.
    """
    from .engines.loaders import load_engine

    with ExitStack() as loaded:

        def load(quantization: str, dtype: str | None = None, **options: Any) -> TransformersEngine:
            source = replace(
                infopt_release.reference,
                name=quantization,
                quantization=quantization,
                dtype=dtype or infopt_release.reference.dtype,
                options=options,
            )
            engine = load_engine(source)
            loaded.callback(engine.close)
            return engine

        yield load


@pytest.fixture
def infopt_budget(request: pytest.FixtureRequest) -> OwnBudgets:
    """``infopt_budget("name", value, at_most=…)`` records a number of yours beside its limit.

    The test fails at its end if a number is beyond its limit; under ``--infopt`` every one of them
    is a row of the reports.
    """
    from .own_budgets import OwnBudgets

    budgets = OwnBudgets(request.node)
    request.node.stash[OWN_BUDGETS] = budgets
    return budgets


@pytest.fixture
def infopt_gate(request: pytest.FixtureRequest) -> GateRun:
    """The gate that this module holds, on one candidate; for the shipped gate modules."""
    from .hooks import gate_run

    return gate_run(request.node, request.param)
