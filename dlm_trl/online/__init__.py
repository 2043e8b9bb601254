"""Fresh rows inside training steps, written by the frozen base (adapter off) just before they are trained on.

Here live the callback that feeds the stock trainer, the frozen-teacher context, and the tasks: the answer comes
first, the frozen base writes the question, so the label is known by construction. A row is a function of (seed,
step, row index) alone. May import `notes`, `rows`, `models` and `teachers`.
"""
