"""Prose in, new question/answer pairs out, offline: `synthesize("notes.dlm", SynthSettings(teacher="hf:tiny"))`.

The way of a pair: prompt, teacher, reply parsing, guard (nothing that would break the file), deduplication, judge,
staging; a ledger remembers every finished unit of work, so that nothing is asked for twice. `staging` has the verbs
`staged`, `applied` and `drop`, `apply` has `apply` and `revert`, `dry_run` has `estimate`. May import `notes`, `rows`,
`models` and `teachers`.
"""

from dlm_trl.synth.run import synthesize, synthesize_all
from dlm_trl.synth.settings import SynthSettings

__all__ = ["SynthSettings", "synthesize", "synthesize_all"]
