"""Questions about single sentences, for a model that is too small to follow instructions.

`facts` finds the sentences, `openings` how a question about one may begin, by rule; `prompts` has a model finish it,
`questions` says what is wrong with it, `short_answers` what answers it. `words` and `language` compare texts.
"""
