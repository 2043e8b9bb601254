"""From a trained adapter to something that is served: merged, quantised, checked.

The adapter is merged into the 16-bit base, the result is proven against the adapter's own logits, quantised to AWQ,
loaded again and measured before it is called done. May import `notes`, `rows`, `models` and `evaluation`.
"""
