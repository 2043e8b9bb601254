---
dlm_id: 01JTRX0000000000000000000K
dlm_version: 15
base_model: smollm2-135m
---
## The darkroom of the photo club

We share the darkroom with the print workshop, which has it on Tuesdays. Members book it in the calendar by the door, for at most three hours. The key hangs in the porter's lodge and has a red tag. The safelight above the sink is for black-and-white paper only; film has to be loaded in complete darkness.

Developer comes as a powder that you dissolve in water of 40 degrees. A litre of working solution develops about 30 sheets of paper. Stop bath smells of vinegar, because it is dilute acetic acid. Its colour changes from yellow to purple once it is exhausted. Fixer removes the silver that was not exposed. A print that was fixed too briefly turns brown after a few years.

::prose::
## Making a print

Put the negative into the enlarger with its dull side down. A test strip saves paper: expose five strips for 4, 8, 12, 16 and 20 seconds and pick the best one. The print stays in the developer for 90 seconds, in the stop bath for 30 and in the fixer for five minutes. Fibre paper needs an hour of washing, while resin-coated paper is clean after four minutes. Never use the print tongs of the fixer in the developer. Contrast filters are numbered from 00 to 5; the higher the number, the harder the print.

::prose::
## Waste and repairs

Used fixer contains silver and is collected in the grey canister. When the canister is full, Ingrid takes it to the recycling yard. Developer may go down the drain with plenty of water. The timer of the left enlarger loses two seconds a minute. Spare bulbs cost 18 euros and are kept in the cupboard behind the dryer. The dryer was a gift from the local newspaper, which closed in 2009.
