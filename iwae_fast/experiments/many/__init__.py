"""Many runs at once: processes of the command line that share devices, started here or by a queue.

``runner.py`` starts what is not yet done, ``training.py`` reads from a run's folder which command comes next,
``slots.py`` shares cores and GPUs, and ``launcher.py`` hands commands to other machines.
"""
