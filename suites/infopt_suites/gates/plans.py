"""Plans that several gates read: prompts, timed requests, caches."""

from dataclasses import dataclass

from pytest_infopt import Plan, Release, one_of, rising, setting


@dataclass(frozen=True)
class EquivalencePlan(Plan):
    """How many prompts logits are compared on, and how long they are."""

    prompts: int = setting(4, "Prompts that logits are compared on.", ge=1)
    tokens: int = setting(48, "Length of each prompt.", ge=2)
    oracle: str = setting(
        "auto",
        "Precision of the oracle; auto: float64 where it fits into memory.",
        check=one_of("oracle", "auto", "float64", "float32"),
    )


def one_document_a_prompt(release: Release) -> int:
    """How many documents the prompts of [equivalence] take."""
    return release.plan(EquivalencePlan).prompts


@dataclass(frozen=True)
class LatencyPlan(Plan):
    """The timed request: prompt length, generated tokens, warm-up calls per side, most pairs."""

    prompt_tokens: int = setting(64, "Length of the timed prompt.", ge=1)
    new_tokens: int = setting(8, "Generated tokens of a timed request.", ge=2)
    warmup: int = setting(3, "Untimed requests per model before the first pair.", ge=0)
    max_pairs: int = setting(3000, "Most timed pairs.", ge=1)

    @property
    def request_tokens(self) -> int:
        """Tokens of a request, prompt and answer."""
        return self.prompt_tokens + self.new_tokens


@dataclass(frozen=True)
class CachesPlan(Plan):
    """Sizes of the gates on KV and prefix caches.

    Outputs are compared on the first ``prompts`` prompts of [equivalence], and at the end of one of
    ``long_tokens`` tokens. The KV cache is weighed, and its steps are timed, at ``lengths`` and
    ``batch_sizes``. The prefix cache serves
    ``requests`` questions behind one system prompt.
    """

    prompts: int = setting(2, "How many prompts of [equivalence] run through the caches.", ge=1)
    lengths: tuple[int, ...] = setting(
        (64, 128, 256),
        "Tokens at which the KV cache is weighed and its steps are timed, rising.",
        each={"ge": 2},
        check=rising,
        min_length=1,
    )
    batch_sizes: tuple[int, ...] = setting(
        (1, 2), "Batch sizes at which it is weighed.", each={"ge": 1}, min_length=1
    )
    long_tokens: int = setting(
        256,
        "Tokens of the long prompt whose end goes through the KV cache; more where model or cache "
        "declares a window or block of up to four times as many.",
        ge=2,
    )
    step_pairs: int = setting(
        30, "Most timed pairs of a decoding step with the KV cache and without.", ge=1
    )
    system_tokens: int = setting(256, "Tokens of the shared system prompt.", ge=1)
    question_tokens: int = setting(32, "Tokens of each request behind it.", ge=1)
    requests: int = setting(4, "Requests that share the system prompt.", ge=2)
    block_size: int = setting(16, "Tokens of a block of the prefix cache.", ge=1)

    def prompts_of(self, plan: EquivalencePlan) -> int:
        """How many prompts run through the caches: there are no more than in [equivalence]."""
        return min(self.prompts, plan.prompts)
