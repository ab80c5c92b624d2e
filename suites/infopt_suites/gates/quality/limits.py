"""Default limits of quality: what a format usually loses (`format_losses`), everywhere alike.

A format loses about as much at every position, whatever its number of bits (SmolLM2, 37 documents
of 64 tokens, KL of four tokens against that of the document's others, median of documents):

    format      1…4    5…8    9…60         61…63
    bfloat16    1.93   1.13   0.64…1.04    0.81
    int8        2.34   1.14   0.67…0.97    0.68
    nf4         1.86   1.13   0.74…0.96    0.75
    int4        1.64   1.19   0.72…1.02    0.75
"""

from pytest_infopt import Budget, BudgetContext

from ..format_losses import usual_losses

POSITION_RATIO = 4.0  # 1.7 times the largest that a format was seen to reach
CLIP = 5  # times the limit of the mean: so much of a document counts for its PASS
TREND = 1000.0  # a sound candidate reaches it once in a thousand runs at most (Ville's inequality)


def default_budgets(context: BudgetContext) -> dict[str, float]:
    """Limits of ``kl_mean`` and its tail (nats), ``top1_agreement``, ``perplexity_ratio`` and of
    the profile."""
    kl, changed, excess = usual_losses(context)
    # At most one document in ten may lie where the mean no longer counts in full. PASS takes 62
    # documents without any; sound candidates of SmolLM2 have none.
    mean = context.written.get("kl_mean", kl)
    kept = mean.limit if isinstance(mean, Budget) else mean
    return {
        "kl_mean": kl,
        **({"kl_document_p90": CLIP * kept} if kept else {}),
        "top1_agreement": round(1 - changed, 6),
        "perplexity_ratio": round(1 + excess, 6),
        "kl_position_ratio": POSITION_RATIO,
        "kl_trend": TREND,
    }
