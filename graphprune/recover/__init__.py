"""Gives back accuracy after the cut, from calibration data alone."""
