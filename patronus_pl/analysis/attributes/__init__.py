"""What prototypes and judges read of the attributes of images."""
