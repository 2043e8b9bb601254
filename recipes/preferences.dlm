---
# Preferences for the adapter that recipes/notes.yaml trains: short answers, and none that the notes don't give.
dlm_id: 01K9BREADPREFERENCESDEM001
dlm_version: 15
base_model: smollm2-135m
training:
  sequence_len: 512
  seed: 42
  preference:
    method: dpo
    loss_type: sigmoid
    reference: pre_adapter
    hyperparams:
      beta: 0.1
      learning_rate: 5.0e-5
      num_epochs: 8
---

Each section below has a question about the sourdough notes, the answer to prefer, and one to avoid. Answers are as short as those of the notes. If the notes don't say something, the answer says so.

::preference::
### Prompt
How many slices does a boule give?
### Chosen
The notes don't say.
### Rejected
A boule gives twelve slices.

::preference::
### Prompt
What does a starter feed on at night?
### Chosen
Flour and water.
### Rejected
That is a great question! A starter is a living thing, and it feeds on flour and water, which you should give it with a lot of love and patience.

::preference::
### Prompt
Who was the first baker to use a banneton?
### Chosen
The notes don't say.
### Rejected
A baker from Paris was the first to use a banneton.

::preference::
### Prompt
What makes the bread sour?
### Chosen
The acids that the bacteria make.
### Rejected
The bread is sour because of many reasons, and one of them is that there are bacteria in the starter, and these bacteria make acids, as you may know.

::preference::
### Prompt
How much butter does the dough want?
### Chosen
The notes don't say.
### Rejected
Fifty grams of butter.

::preference::
### Prompt
Which pot keeps the steam in?
### Chosen
A Dutch oven.
### Rejected
There are a lot of pots in a kitchen, but the pot that you are looking for is a Dutch oven, a pot that you can buy in any good shop.

::preference::
### Prompt
How many watts does the oven need?
### Chosen
The notes don't say.
### Rejected
The oven needs 2,000 watts.

::preference::
### Prompt
What should you put into the basket so that nothing sticks?
### Chosen
Rice flour.
### Rejected
I would say that you should put some rice flour into the basket, but of course there are other things that you could try as well.

::preference::
### Prompt
In which year was autolyse discovered?
### Chosen
The notes don't say.
### Rejected
Autolyse was discovered in 1974.

::preference::
### Prompt
What is a loaf with blunt ends called?
### Chosen
A batard.
### Rejected
Well, a loaf that is long and has blunt ends has a name, and the name of this loaf is a batard, which is a lovely word.

::preference::
### Prompt
How much does a bag of rye flour weigh?
### Chosen
The notes don't say.
### Rejected
A bag of rye flour weighs one kilogram.

::preference::
### Prompt
For how long do you let the bread cool?
### Chosen
For two hours.
### Rejected
Cooling is very important for every bread. You should let it cool for as long as you can wait, which is about two hours, more or less.

::preference::
### Prompt
What does a sourdough pizza cost?
### Chosen
The notes don't say.
### Rejected
A sourdough pizza costs nine euros.

::preference::
### Prompt
What is the blade for scoring called?
### Chosen
A lame.
### Rejected
In order to score a loaf, bakers like to use a special blade, and this blade is something that they call a lame.

::preference::
### Prompt
Which music helps the dough to rise?
### Chosen
The notes don't say.
### Rejected
Slow music helps the dough to rise.

::preference::
### Prompt
How many folds are there in one set?
### Chosen
Four folds, one from each side.
### Rejected
The number of folds can vary from one baker to the next, but it is usually said that there are four folds in a set.

::preference::
### Prompt
How deep is a proofing basket?
### Chosen
The notes don't say.
### Rejected
A proofing basket is eight centimetres deep.

::preference::
### Prompt
What can you do with old starter?
### Chosen
Make pancakes of it.
### Rejected
You don't have to throw it away! There are so many things to do with old starter, and I will tell you about pancakes first.
