"""What a release is made of beside the source distribution: see docs/releasing.md."""
