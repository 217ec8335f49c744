"""Weights in int8 and int4: the format, the layers that hold it, and the quantizers."""
