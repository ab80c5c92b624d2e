"""The prompts that equality is tried on: with and without near-ties of the reference."""

from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st
from infopt_suites.gates.plans import EquivalencePlan
from tiny_models import make_model, make_tokenizer

from pytest_infopt.configuration import load_release
from pytest_infopt.process.model_pair import ModelPair
from pytest_infopt.process.prompt_set import CHOSEN_FROM, by_gap, closest_choice

_GAPS = st.lists(st.floats(0, 10), min_size=1, max_size=24)


@given(gaps=_GAPS, share=st.floats(0.01, 1))
def test_prompts_are_chosen_once_and_of_both_kinds(gaps: list[float], share: float) -> None:
    count = max(1, round(share * len(gaps)))
    chosen = by_gap(range(len(gaps)), gaps, count)
    assert len(set(chosen)) == count
    if count <= len(gaps) // 2:
        assert [index % 2 for index in chosen] == [place % 2 for place in range(count)]


@given(gaps=_GAPS.filter(lambda gaps: len(gaps) >= 4))
def test_the_first_is_the_freest_of_ties_and_the_second_the_closest(gaps: list[float]) -> None:
    first, second = by_gap(gaps, gaps, 2)
    assert first == max(gaps[0::2])
    assert second == min(gaps[1::2])


@given(st.integers(0, 2**32 - 1))
def test_the_closest_choice_is_between_the_two_best(seed: int) -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed))
    ordered = [sorted(row, reverse=True) for row in logits.tolist()]
    assert closest_choice(logits) == min(row[0] - row[1] for row in ordered)


def test_a_pair_reads_the_prompts_that_its_reference_decides_most_clearly(tmp_path: Path) -> None:
    make_model("llama").save_pretrained(tmp_path / "reference")
    make_tokenizer().save_pretrained(tmp_path / "reference")
    for index in range(12):
        words = " ".join(f"w{(3 + index * 7 + place * place) % 100}" for place in range(9))
        (tmp_path / f"{index}.txt").write_text(words)
    model = str(tmp_path / "reference")
    (tmp_path / "infopt.toml").write_text(
        f'reference = {{model = "{model}", dtype = "float32"}}\n'
        '[corpus]\nfiles = ["*.txt"]\nmin_tokens = 4\n[equivalence]\nprompts = 2\ntokens = 8\n'
        '[candidates.bf16]\ndtype = "bfloat16"\n'
    )
    release = load_release(tmp_path)
    pair = ModelPair(release, release.candidates[0].source, tmp_path, tmp_path / "cache")
    chosen = pair.prompt_set(release.plan(EquivalencePlan)).prompts
    several = pair.prompts_of(2, 8, most=2 * CHOSEN_FROM)
    gaps = {tuple(ids): closest_choice(pair.reference.full_logits(ids)) for ids in several}
    assert len(several) == 2 * CHOSEN_FROM
    assert gaps[tuple(chosen[0])] == max(gaps[tuple(ids)] for ids in several[0::2])
    assert gaps[tuple(chosen[1])] == min(gaps[tuple(ids)] for ids in several[1::2])
