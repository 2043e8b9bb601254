"""Prose in, new question/answer pairs out, offline.

The way of a pair: prompt, teacher, reply parsing, guard (nothing that would break the file), deduplication, judge,
staging; a ledger remembers every finished unit of work, so that nothing is asked for twice. May import `notes`,
`rows`, `models` and `teachers`.
"""
