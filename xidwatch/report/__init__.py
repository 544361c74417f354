"""The report of `xidwatch replay`: what happened, where, what to do, and what the logs cover.

`collect` gathers events within bounds, `summary` makes one value of them, and each other module writes
that value in one form: text for a terminal, Markdown and HTML to be forwarded, JSON for programs. Log
text is cleaned before it gets here and escaped again by each form.
"""
