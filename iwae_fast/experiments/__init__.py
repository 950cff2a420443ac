"""Runs in folders: settings, training, evaluation, reports and the command line.

``config.py`` (settings), ``bound_settings.py``, ``protocols.py``, ``optimizers.py`` and ``networks.py`` define a run.
``train/`` trains it and writes its checkpoint and metrics, ``evaluate/`` evaluates and compares runs, ``pictures/``
draws them, ``report/`` writes their HTML pages, ``reproduce/`` runs the tables of the papers, and ``cli/`` is the
command line. ``loading.py`` loads a run in Python. The rest of the library needs only torch and numpy.
"""
