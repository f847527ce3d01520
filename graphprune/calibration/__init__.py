"""Statistics of activations, streamed over calibration data."""
