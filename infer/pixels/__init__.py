"""Bytes of an image to u8 pixels, and pixels to views; the only files that open images, knowing no engine."""
