---
dlm_id: 01JTRX0000000000000000000H
dlm_version: 15
base_model: smollm2-135m
---
## Die Espressomaschine im Büro

Die Maschine heißt Berta und steht in der Teeküche im zweiten Stock. Sie braucht 25 Minuten, bis sie warm ist. Deshalb schaltet eine Zeitschaltuhr sie um 7:30 Uhr ein. Am Wochenende bleibt sie aus. Der Wassertank fasst vier Liter und wird jeden Morgen mit gefiltertem Wasser gefüllt. Leitungswasser hat hier 19 Grad deutscher Härte und verkalkt den Kessel in wenigen Monaten.

Für einen doppelten Espresso mahlt man 18 Gramm Bohnen. Der Bezug dauert 27 Sekunden und ergibt 36 Gramm Espresso. Läuft er schneller durch, ist die Mühle zu grob eingestellt. Ein saurer Geschmack kommt meist von zu kaltem Wasser. Schmeckt der Espresso bitter, war der Bezug zu lang.

::prose::
## Pflege

Nach jedem Milchschaum wird die Dampflanze mit einem feuchten Tuch abgewischt. Das Sieb wird freitags in einer Lösung aus Fettlöser gereinigt. Die Brühgruppe bekommt alle 200 Bezüge eine Rückspülung mit dem Blindsieb. Den Zählerstand zeigt das Display an, wenn man die linke Taste drei Sekunden lang drückt. Entkalkt wird nur vom Kundendienst, weil der Kessel aus Kupfer ist. Die Dichtung am Siebträger hält etwa ein Jahr. Neue Dichtungen liegen in der Schublade unter der Mühle.

::prose::
## Bohnen

Die Bohnen kommen von der Rösterei Lindwurm aus Dresden. Bestellt werden sie am ersten Montag des Monats, jeweils sechs Kilo. Frisch geröstete Bohnen sollen zehn Tage ruhen, bevor man sie mahlt. Offene Tüten gehören nicht in den Kühlschrank, weil sich dort Feuchtigkeit niederschlägt. Wer die letzte Tüte öffnet, trägt es in die Liste an der Tür ein. Die Kasse ist ein blaues Glas; eine Tasse kostet 40 Cent.
