"""Teachers: the models that write new questions and answers.

All follow one batch-first protocol: `generate(requests)` yields replies in any order, each with the key of its request.
A teacher is local (the document's own adapter, or a model from a folder or the Hub) or a server with the OpenAI,
Anthropic or vLLM API. Caching, retries and journals wrap a teacher; they aren't part of one.
"""
