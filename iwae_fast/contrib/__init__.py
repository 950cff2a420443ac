"""Adapters for other libraries, which are imported only by the adapter that needs them."""
