"""The error of a backend that was asked for by name."""


class BackendError(RuntimeError):
    """A backend was asked for by name and cannot serve the call."""
