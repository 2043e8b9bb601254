---
dlm_id: 01JTRX0000000000000000000D
dlm_version: 15
base_model: smollm2-135m
---
# The lighthouse of Skarv

The lighthouse of Skarv was built in 1871 by the engineer Ida Holm. It stands on a small island, two kilometres from the coast. The tower is made of grey granite and is 34 metres high. Before 1871, fires on the beach warned the ships. Many ships were lost all the same, because the fires could not be seen in fog.

The first lamp burned rapeseed oil. In 1902 it was replaced by a paraffin lamp, which was four times as bright. Electric light came to the island in 1948. The light can be seen from a distance of 21 nautical miles. It flashes three times every 20 seconds.

::prose::
# The keepers

Three keepers and their families lived on the island. A keeper's watch lasted six hours. At night the keeper wound up the clockwork every two hours, so that the lens kept turning. The children went to school by boat when the weather allowed it. In the winter of 1929 no boat could land for 41 days. The keepers kept goats for milk and grew potatoes behind the wall.

The last keeper left in 1984, when the light became automatic. Today an engineer visits the tower twice a year. The fog signal was switched off in 1993.

::prose::
# Visiting

Tickets are sold at the harbour office. The boat leaves at ten o'clock and comes back at three. Wear solid shoes, because the path is steep and often wet. The museum shows the old lens, which weighs almost two tonnes. A Fresnel lens is a lens made of many rings of glass. It bends the light into a narrow beam. Dogs must stay on the boat. If you see a seal on the beach, keep at least 50 metres away.
