---
dlm_id: 01JTRX0000000000000000000B
dlm_version: 15
base_model: smollm2-135m
---
# Knots and lines

A bowline makes a fixed loop at the end of a rope. It is easy to untie, even after a heavy load. Sailors use the bowline to fasten a sheet to a sail. A sheet is a line that controls the angle of a sail. The halyard raises the sail, and the downhaul pulls it down again.

A cleat hitch holds a line on a cleat. Take one full turn around the base before you make the figures of eight. If the line is under load, never put your fingers near the cleat. A clove hitch slips when the load changes, so it should not be used for mooring overnight.

::prose::
# Tides

The tide rises and falls twice a day in most places. Spring tides come at new moon and full moon, because the sun and the moon pull in the same direction. Neap tides are the weakest tides of the month. They come seven days after a spring tide. The rule of twelfths estimates the height of the water between low tide and high tide. In the third and the fourth hour the water rises fastest.

The tidal range in the Bay of Fundy is 16 metres. Charts give depths below the lowest astronomical tide. Slack water is the short time when there is no current. It lasts about 20 minutes in the harbour of Granville.

::prose::
# Engine

Check the oil every day before you start the engine. The engine uses 4 litres of diesel per hour at 2000 revolutions per minute. If the alarm sounds, turn off the engine and look at the water intake. Seaweed in the intake is the most common reason for overheating. The impeller is a small rubber wheel that pumps sea water. It should be replaced once a year. Store the spare impeller in the red box under the chart table. Diesel bug is a growth of bacteria in the fuel tank. A full tank keeps water out, so fill the tank before winter.
