"""Online synthesis: fresh rows for each training step, written by the frozen base just before they are trained on.

`callback` feeds them to the stock SFTTrainer, `authors` write them, and a `curriculum` moves through tasks of rising
difficulty. The answer comes first and the base writes the question, so the label is known by construction. A row
depends only on the base and on (seed, step, row index, attempt). `rows_on_disk` writes the same rows ahead of training.
"""
