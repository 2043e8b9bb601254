"""Offline synthesis of question/answer pairs from prose: `synthesize("notes.dlm", SynthSettings(teacher="hf:tiny"))`.

Each pair passes through prompt, teacher, reply parsing, guard (nothing that would break the file), leak check,
deduplication, judge and staging. A ledger keeps every finished request, so nothing is paid for twice. See also
`staging` (`staged`, `applied`, `drop`), `apply` (`apply`, `revert`), `coverage` and `dry_run` (`estimate`).
"""

from dlm_trl.synth.run import synthesize, synthesize_all
from dlm_trl.synth.settings import SynthSettings

__all__ = ["SynthSettings", "synthesize", "synthesize_all"]
