"""How criteria run a model: passes over the calibration data, gradients, recorded calls, and what they cost."""
