"""Who writes: the models that are asked for new questions and answers.

One protocol for all of them, batch first: `generate(requests)` yields replies in any order, each labelled with the
key of its request. A teacher is local (the document's own model, or another one from a folder or the Hub) or a
server behind the OpenAI, Anthropic or vLLM interface. Caching, retrying and journalling are wrappers around a
teacher, not part of one. May import `notes` and `models`.
"""
