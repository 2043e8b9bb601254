---
dlm_id: 01JTRX0000000000000000000G
dlm_version: 15
base_model: smollm2-135m
---
## Your first week at Talvik

Your contract starts at nine on Monday at the reception in Harbour Street. Bring your passport and your tax card. Anneli from the people team shows you around and gives you a badge. The badge opens the main door between six in the morning and ten at night. You get a laptop, a headset and a screen; anything else has to be ordered by your manager.

Each newcomer has a buddy for three months. Your buddy is a colleague from another team who answers small questions. On Wednesday there is a lunch for all newcomers. The probation period lasts four months.

::prose::
## Working hours and leave

The core hours are from ten to three. You may work from home three days a week. Overtime must be approved before it is worked. You have 28 days of leave a year, and five of them can be moved to the next year. Ask for leave in the portal at least two weeks ahead. If you are ill, write to your manager before nine. A doctor's note is needed from the fourth day. Sick children count as your own illness for ten days a year.

::prose::
## Money

Salaries are paid on the 25th of each month. Expenses are refunded within two weeks when the receipt is attached. Flights are booked through the travel desk. A meal on a business trip may cost up to 35 euros. The pension plan starts after six months, and the company pays five percent of your salary into it. Questions about pay go to Ville in finance. Your payslip is in the portal under Documents. The yearly review takes place in March.
