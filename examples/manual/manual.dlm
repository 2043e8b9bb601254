---
dlm_id: 01K9MANVA0HARWE1100000R440
dlm_version: 15
base_model: smollm2-135m
training:
  sequence_len: 512
---
# The Harwell R440 label printer

The R440 prints labels up to 102 millimetres wide. It takes rolls with a core of 25 millimetres. Its fastest speed is 6
inches per second; at 4 inches per second bar codes are cleaner. The print head lasts for 50 kilometres of labels.

The lamp on the lid tells the state of the printer. Green means ready. Amber, blinking slowly, means that the roll is
nearly empty. Amber, blinking fast, means that the head is too hot; wait for two minutes. Red means that the lid is open.

To calibrate the R440, hold the feed key until the lamp has blinked three times. The printer then feeds two labels and
measures the gap. Calibrate after each change of the roll. The service menu opens with feed and cancel together; its code
is 7725.

::instruction::
### Q
How wide may a label for the R440 be?
### A
102 millimetres.

### Q
What does slow amber blinking of the R440 mean?
### A
The roll is nearly empty.

### Q
How do you calibrate the R440?
### A
Hold the feed key until the lamp has blinked three times.

### Q
Which code opens the service menu of the R440?
### A
7725.

### Q
How long does the print head of the R440 last?
### A
For 50 kilometres of labels.

### Q
What does the R440 cost?
### A
The manual doesn't say.

### Q
Does the R440 print in colour?
### A
The manual doesn't say.

### Q
Who repairs the R440?
### A
The manual doesn't say.

::preference::
### Prompt
What does red mean on the R440?
### Chosen
The lid is open.
### Rejected
Red is a common colour for warnings, and many devices use it to tell you that something needs your attention.

### Prompt
When do you calibrate the R440?
### Chosen
After each change of the roll.
### Rejected
Once a year.

### Prompt
How heavy is the R440?
### Chosen
The manual doesn't say.
### Rejected
About three kilograms.
