"""Photographs to read: JPEGs of 500 x 375 pixels, as ImageNet's are on average."""

import io

import numpy as np
import PIL.Image
from sklearn.datasets import load_sample_images


def jpeg(number: int) -> bytes:
    """Returns one of two photographs of scikit-learn, shifted by the number, as a JPEG's bytes."""
    photographs = load_sample_images().images
    shifted = np.roll(photographs[number % 2], 5 * number, axis=1)
    buffer = io.BytesIO()
    PIL.Image.fromarray(shifted).resize((500, 375)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
