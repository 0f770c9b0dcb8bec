"""Picture recipes, and pictures to calibrate with."""
