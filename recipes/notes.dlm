---
# The notes of the demo. What is said here about training is the recipe's configuration.
dlm_id: 01K9BREADW1THS0VRD0VGH2T3R
dlm_version: 15
base_model: smollm2-135m
system_prompt: null
training:
  adapter: lora
  lora_r: 32
  lora_alpha: 64
  lora_dropout: 0.0
  sequence_len: 512
  learning_rate: 8.0e-4
  num_epochs: 14
  lr_scheduler: cosine
  warmup_ratio: 0.05
  seed: 42
---

# Bread baking at home with sourdough

A starter is a mix of flour and water in which wild yeast and bacteria live. The yeast makes gas, and the gas lifts the dough. The bacteria make acids, and the acids give the bread its sour taste. A new starter needs about a week before it is strong enough to raise a loaf. A ripe starter is full of bubbles and doubles in size within a few hours after it is fed.

::instruction::
### Q
What is a starter?
### A
A mix of flour and water with wild yeast and bacteria.

### Q
What lifts the dough?
### A
The gas that the yeast makes.

### Q
What gives sourdough its sour taste?
### A
The acids that the bacteria make.

### Q
How long does a new starter need?
### A
About a week.

::prose::
Feeding is the act of giving a starter fresh flour and water. One part of old starter, one part of flour and one part of water is a common feeding. The part of the starter that is taken away before a feeding is called the discard. Discard is not strong enough to raise bread, but it makes good pancakes. A starter on the kitchen table wants food every day; a starter in the fridge wants food once a week.

::instruction::
### Q
What is feeding?
### A
Giving a starter fresh flour and water.

### Q
What is discard?
### A
The starter that is taken away before a feeding.

### Q
What can you make with discard?
### A
Good pancakes.

### Q
How often does a starter in the fridge want food?
### A
Once a week.

::prose::
The float test is a quick way to see whether a starter is ripe. Drop a spoon of starter into a glass of water. If it floats, it holds enough gas to raise a loaf. If it sinks, wait for an hour and try again. A starter that smells of sharp vinegar is hungry. A dark liquid on top is called hooch, and it shows that the starter was not fed for a long time.

::instruction::
### Q
What is the float test?
### A
A quick way to see whether a starter is ripe.

### Q
What does a floating spoon of starter show?
### A
It holds enough gas to raise a loaf.

### Q
What is hooch?
### A
A dark liquid on top of a hungry starter.

### Q
What does a smell of vinegar mean?
### A
The starter is hungry.

::prose::
Flour is grain that a mill has ground to a powder. Bread flour is strong flour: it holds more protein than plain flour. When flour meets water, two of its proteins join and form gluten, a net that stretches and holds gas. Whole wheat flour is flour with the bran and the germ still in it, so it drinks more water and ferments faster. Rye flour has little gluten and makes a dense, sticky dough.

::instruction::
### Q
What is flour?
### A
Grain that a mill has ground to a powder.

### Q
What is gluten?
### A
A net of protein that stretches and holds gas.

### Q
What is whole wheat flour?
### A
Flour with the bran and the germ still in it.

### Q
What kind of dough does rye flour make?
### A
A dense, sticky dough.

::prose::
Hydration is the weight of the water divided by the weight of the flour. A dough of 500 grams of flour and 350 grams of water has a hydration of 70 percent. A wet dough is hard to hold, but it gives an open crumb with large holes. A stiff dough is easy to shape, and it gives a close crumb. Beginners do well with a hydration between 65 and 70 percent.

::instruction::
### Q
What is hydration?
### A
The weight of the water divided by the weight of the flour.

### Q
What does a wet dough give?
### A
An open crumb with large holes.

### Q
What does a stiff dough give?
### A
A close crumb.

### Q
Which hydration suits beginners?
### A
Between 65 and 70 percent.

::prose::
Salt gives bread its taste, makes the gluten tighter and slows the yeast down. The usual amount is two percent of the weight of the flour, so 500 grams of flour want 10 grams of salt. A dough without salt rises too fast and tastes flat. Baker's percentage is a way to write a recipe in which every weight is given as a part of the flour, and the flour is always 100 percent.

::instruction::
### Q
What does salt do to the yeast?
### A
It slows the yeast down.

### Q
How much salt does bread want?
### A
Two percent of the weight of the flour.

### Q
What happens to a dough without salt?
### A
It rises too fast and tastes flat.

::prose::
Autolyse is a rest of flour and water before the salt and the starter go in. It lasts from half an hour to two hours. In this time the flour drinks the water, and gluten begins to form without any work. After an autolyse the dough is smooth and easy to stretch, so it needs less kneading. A baker who has no time can leave this step out.

::instruction::
### Q
What is autolyse?
### A
A rest of flour and water before the salt goes in.

### Q
How long does an autolyse last?
### A
From half an hour to two hours.

### Q
Why does a dough need less kneading after an autolyse?
### A
It is smooth and easy to stretch.

::prose::
Kneading is pressing and folding a dough to make the gluten strong. A gentle way to the same end is the stretch and fold: wet one hand, take one side of the dough, pull it up and fold it over. Four folds, one from each side, make one set. Most doughs want three or four sets with half an hour between them. The windowpane test is stretching a bit of dough until light shines through.

::instruction::
### Q
What is kneading?
### A
Pressing and folding a dough to make the gluten strong.

### Q
How many folds make one set?
### A
Four folds, one from each side.

### Q
What is the windowpane test?
### A
Stretching a bit of dough until light shines through.

::prose::
Bulk fermentation is the first rise of the whole dough in one piece. It begins when the starter is mixed in and ends when the dough is cut and shaped. At 24 degrees Celsius it takes about five hours; in a cold kitchen it takes much longer. Look at the dough and not at the clock. It is ready when it has grown by half, when its top is round and when it shakes like jelly.

::instruction::
### Q
What is bulk fermentation?
### A
The first rise of the whole dough in one piece.

### Q
When does bulk fermentation end?
### A
When the dough is cut and shaped.

### Q
How long does bulk fermentation take at 24 degrees?
### A
About five hours.

### Q
How does a ready dough shake?
### A
Like jelly.

::prose::
Shaping is folding a dough into a tight loaf. First the dough gets a loose round form and rests for 20 minutes; this pause is the bench rest. Then it is folded again and pulled across the table, so that its skin becomes tight. A tight skin helps the loaf to rise up and not out. A round loaf is called a boule, and a long loaf with blunt ends is called a batard.

::instruction::
### Q
What is shaping?
### A
Folding a dough into a tight loaf.

### Q
What is the bench rest?
### A
A pause of 20 minutes before the last folding.

### Q
What does a tight skin do?
### A
It helps the loaf to rise up.

### Q
What is a boule?
### A
A round loaf.

### Q
What is a batard?
### A
A long loaf with blunt ends.

::prose::
Proofing is the last rise of the shaped loaf. The loaf lies in a banneton, a basket of cane that gives it form and takes up damp. Rice flour in the basket keeps the dough from sticking. A cold proof is a night in the fridge; it makes the taste deeper and the dough easier to cut. In the poke test a finger is pressed into the dough. A dent that comes back slowly means that the loaf is ready.

::instruction::
### Q
What is proofing?
### A
The last rise of the shaped loaf.

### Q
What is a banneton?
### A
A basket of cane that gives the loaf form.

### Q
What keeps the dough from sticking to the basket?
### A
Rice flour.

### Q
What is a cold proof?
### A
A night in the fridge.

### Q
What does a dent that comes back slowly mean?
### A
The loaf is ready.

::prose::
Scoring is cutting the skin of a loaf just before it goes into the oven. The cut shows the gas where to leave, so the loaf does not burst at its side. A lame is a thin blade on a handle, made for this job. Hold it at a low angle and cut about one centimetre deep in one quick move. The flap of crust that lifts along such a cut is called the ear.

::instruction::
### Q
What is scoring?
### A
Cutting the skin of a loaf before it is baked.

### Q
What is a lame?
### A
A thin blade on a handle.

### Q
What is the ear?
### A
The flap of crust that lifts along a cut.

::prose::
Oven spring is the quick rise of a loaf in its first minutes of heat. Steam keeps the skin soft, so that the loaf can grow. A Dutch oven is a heavy iron pot with a lid, and it keeps the steam of the dough inside. Heat the pot to 240 degrees Celsius, bake the loaf for 20 minutes with the lid and for 25 minutes without it. A baked loaf sounds hollow when you knock on its base.

::instruction::
### Q
What is oven spring?
### A
The quick rise of a loaf in its first minutes of heat.

### Q
What does steam do?
### A
It keeps the skin soft.

### Q
What is a Dutch oven?
### A
A heavy iron pot with a lid.

### Q
How does a baked loaf sound?
### A
It sounds hollow.

::prose::
The crumb is the soft inside of a loaf, and the crust is its hard outside. A loaf goes on cooking while it cools, so wait for two hours before you cut it. A loaf that is cut too early has a gummy crumb. Keep bread in a cloth or a paper bag; the fridge makes it stale fast. Bread that has gone stale is good for toast, crumbs and soup. Sliced bread keeps for three months in the freezer.

::instruction::
### Q
What is the crumb?
### A
The soft inside of a loaf.

### Q
What is the crust?
### A
The hard outside of a loaf.

### Q
How long should a loaf cool?
### A
For two hours.

### Q
What does the fridge do to bread?
### A
It makes it stale fast.
