"""The review page: a local website on which a person accepts, edits or drops staged pairs, one after the other.

`decisions` carries decisions out, `view` says what the page shows, `app` has the routes, and `serve` runs them. The
page itself is `page.html`, `page.css` and `page.js`, used as they are.
"""
