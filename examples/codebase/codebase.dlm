---
dlm_id: 01K9T1DES0C0DEBASE00000001
dlm_version: 15
base_model: smollm2-135m
training:
  sources_policy: strict
  sources:
    - path: ./tides
      include: ["**/*.py"]
---
# tides, a package for harbour gauges

`tides` reads a gauge's log, takes out the spikes and predicts the next high water. Heights are centimetres above chart
datum, times are UTC.

::instruction::
### Q
Which function reads a gauge's log in tides?
### A
`read_log` in `tides/log.py`.

### Q
What is the unit of heights in tides?
### A
Centimetres above chart datum.

### Q
When does tides call a reading a spike?
### A
When it differs from the median of its neighbours by more than 40 centimetres.

### Q
What does next_high_water return if the log is too short?
### A
None. It needs at least two high waters.
