"""The parts of a decoder: open files with Pillow, convert depths and colours."""
