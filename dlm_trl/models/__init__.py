"""Models: from a base's name to loaded weights, and batched generation and scoring.

`registry` resolves the name in a document's frontmatter, `load` loads a base (whole, or quantised to 4 or 8 bit) or an
adapter with its tokenizer, and `chat` applies chat templates. `generate` and `score` are the only generation and
scoring functions; evaluation, teachers, the judge and training all use them.
"""
