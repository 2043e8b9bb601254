---
dlm_id: 01K9ARDEN0VAVT000000000001
dlm_version: 15
base_model: smollm2-135m
training:
  sources_policy: strict
  sources:
    - path: ./notes
      include: ["**/*.md"]
      exclude: [".obsidian/**", ".trash/**"]
---
# The garden on Weir Lane

The garden has fourteen beds. Bed 1 is next to the gate, and bed 14 is next to the weir. Water comes from the weir
between April and September; in winter the pump is in the shed.

::instruction::
### Q
How many beds does the garden on Weir Lane have?
### A
Fourteen.

### Q
Where does the water come from in summer?
### A
From the weir.

### Q
Who has the key to the shed?
### A
Marit, and one more is under the third pot.

### Q
What is bed 9 planted with this year?
### A
Broad beans, after last year's leeks.
