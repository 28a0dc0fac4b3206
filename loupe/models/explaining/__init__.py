"""What an answer can be explained with: what counted in a picture, and pictures like it."""
