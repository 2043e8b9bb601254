"""Fixtures that these tests share with those of the rows."""

from tests.rows.conftest import chat_tokenizer, gpt2_tokenizer, write

__all__ = ["chat_tokenizer", "gpt2_tokenizer", "write"]
