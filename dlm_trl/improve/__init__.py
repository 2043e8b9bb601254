"""Rounds of training, measuring and asking about what was missed.

`rounds`: what is recorded of each round. `loop`: the rounds.
"""
