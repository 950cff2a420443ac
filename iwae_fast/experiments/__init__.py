"""Runs in folders: what one is, its training, what it leaves behind, and what is seen of it.

``config.py`` (settings), ``protocols.py``, ``optimizers.py`` and ``networks.py`` say what is trained; ``training.py``
trains it, by ``steps.py``, with ``pixels.py``, ``validation.py`` and ``metrics.py``, and ``checkpoint.py`` and
``runs.py`` keep it; ``results.py`` evaluates it, on ``fixed_pixels.py``, into ``per_observation.py`` too, and
``evaluations.py`` keeps that; ``other_rows.py`` evaluates it on other data, which ``run_data.py`` tells from its own;
``comparison.py``, ``decomposition.py``, ``architecture.py``, ``machine.py``, ``pictures.py``, ``plots.py`` and
``themes.py`` show it. The library outside of this needs torch and numpy alone.
"""
