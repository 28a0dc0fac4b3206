"""What is wrong with the images of a data set: labels, repeats, blank and odd pictures."""
