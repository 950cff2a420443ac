"""Runs over settings and seeds, and their comparison by the NLL.

``space.py`` has the settings, ``search.py`` the trials, which Optuna chooses and stores, ``work.py`` the runs of a
trial, ``outcome.py`` their results, and ``page.py`` the HTML page.
"""
