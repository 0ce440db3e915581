"""What changes the losses of a step: the labels of silence, the temperature, SpecAugment."""
