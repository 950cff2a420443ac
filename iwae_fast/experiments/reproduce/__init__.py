"""Reproduction of the tables of the papers.

``published.py`` has the published figures, ``tables.py`` the runs behind each entry, ``scales.py`` the amounts of
training and evaluation, ``work.py`` the commands that finish a run, ``outcome.py`` the results beside the published
figures, and ``page.py`` their HTML page.
"""
