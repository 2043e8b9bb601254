---
dlm_id: 01JTRX0000000000000000000E
dlm_version: 15
base_model: smollm2-135m
---
# Looking after a bicycle

A dry chain wears out quickly. Clean the chain with a rag before you oil it. Put one drop of oil on each link and wipe off the rest, since oil on the outside only collects dirt. A chain lasts between 3000 and 5000 kilometres. The chain gauge is a tool that shows how worn a chain is. Replace the chain when the gauge reads 0.75 percent.

Tyre pressure is printed on the side of the tyre. A soft tyre rolls slowly and gets punctures more easily. To mend a puncture, take off the tyre with two levers and find the hole by listening. Roughen the rubber around the hole with sandpaper. The glue has to dry for five minutes before the patch goes on. Tubeless tyres hold a liquid that seals small holes by itself.

::prose::
# Brakes and gears

Disc brakes work better in rain than rim brakes. Brake pads are worn when less than one millimetre is left. Never touch the disc with your fingers: grease makes the brake squeal. If the lever comes to the handlebar, tighten the cable or bleed the brake. Bleeding means removing air from the hydraulic line.

- The front derailleur moves the chain between the chainrings.
- The rear derailleur moves it between the sprockets.
- A bent derailleur hanger is the usual cause of bad shifting.
- Limit screws stop the chain from falling off.

Turn the barrel adjuster anticlockwise if the chain is slow to climb to a larger sprocket.

::prose::
# The right fit

The saddle is at the right height if your heel reaches the pedal with a straight leg. A saddle that is too low hurts the knees. Handlebars as wide as your shoulders suit most riders. Stack is the vertical distance from the bottom bracket to the top of the head tube. Reach is the horizontal distance between the same two points. A longer stem makes the steering slower. Children outgrow a bicycle in about two years.
