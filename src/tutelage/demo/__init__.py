"""A page on this machine where a finished student runs in the browser, beside its teacher: draw, upload, or pick.

finished run ─► exhibit: student as ONNX, teacher, test images ─► server on loopback ─► page: onnxruntime-web, canvas
"""

from tutelage.demo.exhibit import Exhibit, prepare
from tutelage.demo.server import Server

__all__ = ["Exhibit", "Server", "prepare"]
