"""The error of a backend that is forced by name."""


class BackendError(RuntimeError):
    """A backend is forced by name but does not support the call."""
