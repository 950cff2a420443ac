"""The fused operations, one file per family: each public function with its autograd Function.

Shapes: D is the number of features, which are the last axis, or the last ``event_dims`` axes of observations such as
images (B, C, H, W); k is the number of samples; ``...`` stands for any axes. Logarithms are natural, so every result is
in nats. Inputs may be float32, float64, bfloat16 or float16, mixed, strided or expanded; sums are accumulated and
returned in float32, or in float64 if any input is float64. Gradients have the dtype of their input. ``backend`` forces
an implementation by name (see :func:`iwae_fast.backends.info`).

TypeError and ValueError name the invalid argument; ``iwae_fast.backends.BackendError`` states why a forced backend does
not support the call.
"""
