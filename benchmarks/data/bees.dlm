---
dlm_id: 01JTRX0000000000000000000F
dlm_version: 15
base_model: smollm2-135m
---
A colony of honey bees has one queen, some hundred drones and up to 50,000 workers. The queen lays about 1,500 eggs a day in early summer. Drones die in autumn, when the workers drive them out of the hive. A worker lives for six weeks in summer, but for six months in winter. Workers that are less than three weeks old stay in the hive and feed the larvae.

A swarm is a part of the colony that leaves with the old queen. Most swarms come in May and June. If you see queen cells, split the colony within a week. The smoker calms the bees, because smoke makes them fill their stomachs with honey. Use dry grass or cardboard in the smoker. Never open a hive when it is colder than 12 degrees.

::prose::
The varroa mite is the worst enemy of the honey bee. It sucks the blood of the larvae and spreads viruses. Count the fallen mites on a white board under the hive. More than ten mites a day are too many in July. Oxalic acid is dripped between the frames in December. Formic acid works through the caps of the brood cells.

Honey is ripe when two thirds of the cells are capped. Unripe honey contains too much water and ferments in the jar. An extractor is a drum that spins the honey out of the combs. Leave 15 kilograms of honey for the winter, or feed sugar syrup in September. Propolis is a resin that bees collect from buds. They close gaps with it. Wax is melted in hot water and poured through a cloth. Wasps rob weak colonies, so make the entrance small in August.
