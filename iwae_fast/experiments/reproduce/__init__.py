"""The tables of the papers, run again: which runs a table is made of, running them, and what came of it.

``published.py`` has the figures, ``tables.py`` the runs that each of them stands for, ``scales.py`` how long and how
often, ``runner.py`` the processes, ``outcome.py`` the numbers side by side and ``page.py`` the page of them.
"""
