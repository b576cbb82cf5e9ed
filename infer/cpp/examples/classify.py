"""The likeliest class of a PPM image by the C interface, without any package: classify.py libverydeep.so MODEL PPM"""

import ctypes
import sys


class Prediction(ctypes.Structure):
    _fields_ = (
        ("index", ctypes.c_int),
        ("wnid", ctypes.c_char_p),
        ("name", ctypes.c_char_p),
        ("probability", ctypes.c_double),
    )


library = ctypes.CDLL(sys.argv[1])
library.vd_last_error.restype = ctypes.c_char_p
with open(sys.argv[3], "rb") as file:
    _, width, height, _, pixels = file.read().split(maxsplit=4)  # P6 WIDTH HEIGHT 255
width, height, classifier, best, count = int(width), int(height), ctypes.c_void_p(), Prediction(), ctypes.c_size_t(1)
if library.vd_open(sys.argv[2].encode(), None, ctypes.byref(classifier)) != 0 or (
    library.vd_classify(
        classifier, pixels, height, width, ctypes.c_ssize_t(3 * width), 0, ctypes.byref(best), ctypes.byref(count)
    )
    != 0
):
    sys.exit(library.vd_last_error().decode())
print(f"{best.name.decode()} {best.probability:.6f}")
library.vd_close(classifier)
