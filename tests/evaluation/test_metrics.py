"""The metric modules load by path and compute, in a process without network access."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from dlm_trl.evaluation import answers, cloze, inventions, mcsb, open_book_share
from dlm_trl.evaluation.perplexity import perplexity

PICKED = [["cup", "cup", "dog"], ["a", "b"]]
AFTER, ALONE = [[-1.0, -2.5, -4.0], [-3.0, -2.0]], [[-1.0, -3.0, -2.0], [-1.0, -1.5]]
SAID, EXPECTED = ["The gas!", "a net of gas"], ["gas", "net"]
TEXTS = ["The baker bakes the bread early.", "Gluten is a net."]

PROGRAM = f"""
import json, socket, sys

def refuse(*args):
    raise OSError("this test has no network")

socket.socket.connect = socket.getaddrinfo = refuse
import evaluate
from dlm_trl.evaluation import metrics

names = ("mcsb", "cloze", "perplexity", "squad_answers", "inventions", "open_book_share")
loaded = [evaluate.load(metrics.path(name)) for name in names]
mcsb, cloze, perplexity, squad_answers, inventions, open_book_share = loaded
for picked, right in zip({PICKED}, ["cup", "a"]):
    mcsb.add(prediction=picked, reference=right)
print(json.dumps([
    mcsb.compute(),
    cloze.compute(predictions={AFTER}, unconditional={ALONE}, references=[1, 1]),
    perplexity.compute(predictions={TEXTS}, model=sys.argv[1], window=64),
    [mcsb.inputs_description, mcsb.citation],
    squad_answers.compute(predictions={SAID}, references={EXPECTED}),
    inventions.compute(predictions={SAID}),
    open_book_share.compute(predictions={SAID}, open_book={EXPECTED}, references={EXPECTED}),
    open_book_share.compute(predictions={SAID * 5}, open_book={EXPECTED * 5}, references={EXPECTED * 5}, seed=3),
]))
"""


@pytest.fixture(scope="module")
def computed(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(random_base)],
        env=os.environ | {"HF_HOME": str(tmp_path_factory.mktemp("hf"))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_they_equal_the_functions(computed, model, tokenizer) -> None:
    assert computed[0] == mcsb.mcsb_scores(PICKED, ["cup", "a"])
    assert computed[1] == cloze.cloze_scores(AFTER, ALONE, [1, 1])
    expected = [perplexity(model, tokenizer, text, 64) for text in TEXTS]
    assert computed[2] == {"perplexities": pytest.approx(expected), "mean_perplexity": pytest.approx(sum(expected) / 2)}
    assert computed[4] == answers.answer_scores(SAID, EXPECTED) == {"exact_match": 0.5, "f1": pytest.approx(0.75)}
    assert computed[5] == inventions.inventions(SAID)
    few = open_book_share.open_book_share(SAID, EXPECTED, EXPECTED)
    assert computed[6] == asdict(few)
    assert computed[7] == asdict(open_book_share.open_book_share(SAID * 5, EXPECTED * 5, EXPECTED * 5, 3))


def test_they_describe_their_inputs(computed) -> None:
    inputs, citation = computed[3]
    assert "for each rotation" in inputs
    assert "robinson2023" in citation
