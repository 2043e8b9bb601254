"""`base_model` becomes weights, and weights answer: the one room that knows how to load, generate and score.

`registry` turns the name in a document's frontmatter into something that `from_pretrained` takes, `load` loads it
(whole, or quantised to 4 or 8 bit) with its tokenizer and, where asked, an adapter on it. `generate` and `score` are
batch-first and written once for everybody: evaluation, teachers, the judge and training use the same two functions.
"""
