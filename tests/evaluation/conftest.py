"""The random base, loaded: real code paths, milliseconds a call."""

from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dlm_trl.models.load import load_base, load_tokenizer


@pytest.fixture(scope="session")
def tokenizer(random_base: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(random_base))


@pytest.fixture
def model(random_base: Path) -> PreTrainedModel:
    return load_base(str(random_base))
