"""What two replicas of a server save of a run: `python bench_replicas.py`.

Two servers answer each request after a known delay, as machines elsewhere do. The same release is
gated on one of them, on both by one process, and on both by two workers of pytest-xdist, with two
candidates so that there are gates to share out. Printed: seconds of gate `endpoint` and of all of
pytest, start of its processes included, in proportion to one replica's, and whether each judgement,
value and interval is the one replica's.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openai_server_fake import Behaviour, openai_server
from tiny_models import VOCABULARY, make_model, make_tokenizer

from pytest_infopt.engines.registry import load_engine
from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.release import ModelSource

DELAY = 0.1  # seconds of a request
DOCUMENTS, TOKENS, CANDIDATES = 200, 24, 2
SPEED_UP = 1.7
RELEASE = """
[reference]
model = "{model}"
[statistics]
stop_when_decided = false
budget_seconds = 600
[endpoint]
prompts = 100
prompt_tokens = 12
new_tokens = 6
[corpus]
files = ["documents.jsonl"]
min_tokens = 4
max_documents = 200
"""
CANDIDATE = """
[candidates.served{place}]
engine = "openai"
server.url = "{urls[0]}"
server.replicas = {others}
[candidates.served{place}.budgets]
ttft_ratio = "off"
tpot_ratio = "off"
tpot_mean_ratio = "off"
"""


def write_parts(folder: Path) -> None:
    make_model("llama").save_pretrained(folder / "model")
    make_tokenizer().save_pretrained(folder / "model")
    words = random.Random(0)
    texts = (
        " ".join(f"w{words.randrange(VOCABULARY)}" for _ in range(TOKENS)) for _ in range(DOCUMENTS)
    )
    lines = [json.dumps({"id": f"d{place}", "text": text}) for place, text in enumerate(texts)]
    (folder / "documents.jsonl").write_text("\n".join(lines))


def answers_late(handler: Any, body: dict[str, Any]) -> bool:
    time.sleep(DELAY)
    return False


def run(folder: Path, urls: Sequence[str], *arguments: str) -> tuple[float, float, Any]:
    """Seconds of the gate and of the whole run, and what it found."""
    candidates = (
        CANDIDATE.format(place=place, urls=urls, others=json.dumps(urls[1:]))
        for place in range(CANDIDATES)
    )
    release = RELEASE.format(model=folder / "model") + "".join(candidates)
    (folder / "infopt.toml").write_text(release)
    command = [sys.executable, "-m", "pytest", "--infopt", "-q", "-k", "endpoint", *arguments]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, "--pyargs", "infopt_suites.gates"], cwd=folder, capture_output=True, text=True
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    latest = max((folder / ".infopt" / "runs").iterdir(), key=lambda each: each.stat().st_mtime)
    document = json.loads((latest / "result.json").read_text())
    judged = ("candidate", "metric", "verdict", "value", "interval", "n")
    found = sorted(str([row[key] for key in judged]) for row in document["gates"])
    return max(item["seconds"] for item in document["items"]), seconds, found


def main() -> int:
    missed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_parts(folder)
        engine = load_engine(ModelSource("served", str(folder / "model")))
        assert isinstance(engine, TransformersEngine)
        slow = Behaviour("vllm", always=answers_late)
        with openai_server(engine, slow) as one, openai_server(engine, slow) as other:
            both = [one.url, other.url]
            alone = run(folder, both[:1])
            print(f"one replica: gate {alone[0]:.1f} s, run {alone[1]:.1f} s")
            for title, arguments, place in (
                ("two replicas, one process", (), 0),
                ("two replicas, two workers", ("-n2", "--dist=loadgroup"), 1),
            ):
                found = run(folder, both, *arguments)
                ratio = alone[place] / found[place]
                missed |= ratio < SPEED_UP or found[2] != alone[2]
                print(
                    f"{title}: gate {found[0]:.1f} s, run {found[1]:.1f} s: "
                    f"{ratio:.2f} times as fast (at least {SPEED_UP}), "
                    f"verdicts {'the same' if found[2] == alone[2] else 'OTHERS'}"
                )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
