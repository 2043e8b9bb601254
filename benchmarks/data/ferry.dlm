---
dlm_id: 01JTRX0000000000000000000M
dlm_version: 15
base_model: smollm2-135m
---
## The chain ferry

The chain ferry crosses the river between Aldern and Holm. It carries twelve cars or one bus. Pedestrians and cyclists travel free, while a car costs four euros. The crossing takes six minutes. In winter the last ferry leaves at 19:40, in summer at 22:10. The ferry pulls itself along two steel chains that lie on the bottom of the river. Small boats must wait until the chains have sunk again. A red light on the mast means that the ferry is about to leave.

The engine is a diesel from 1974 and drinks nine litres an hour. Its oil is changed every 250 hours. The chains are replaced every eight years, because their links wear thin. A worn chain is sold to the scrap yard in Holm. Jonas Petersen has been the ferryman since 2003, and his daughter takes over on Sundays.

::prose::
## When the river is high

The ferry stops when the gauge at Holm reads more than 4.20 metres. The ferryman then hangs a black ball on the landing stage. Drivers have to use the bridge at Kessel, which is 18 kilometres upstream. Ice is more dangerous than high water: floes can lift a chain off its wheel. After a stop, the chains are inspected by a diver from the harbour police. The landing ramps are cleaned with a pressure washer once the water has fallen. Mud on the ramp is slippery and has cost two cyclists a broken arm.
