"""Triton's interpreter, with three of its faults mended.

numpy 2.4 no longer turns an array of one element into a number, and a product of bfloat16 matrices took their bits for
integers (Triton 3.6). And each function that a kernel calls patched the whole language again, which is patched while a
kernel runs: a quarter of the time.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any


def turn_on() -> None:
    """Kernels that are imported from now on run in the interpreter."""
    os.environ["TRITON_INTERPRET"] = "1"
    if importlib.util.find_spec("triton") is None:
        return
    import numpy as np
    from triton import language as tl
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_with_index(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_with_index

    dot = interpreter.InterpreterBuilder.create_dot

    def widened(x: Any) -> Any:
        if x.dtype.scalar != tl.bfloat16:
            return x
        bits = x.data.view(np.uint16).astype(np.uint32) << 16
        return interpreter.TensorHandle(bits.view(np.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *args: Any) -> Any:
        return dot(self, widened(a), widened(b), *args)

    interpreter.InterpreterBuilder.create_dot = create_dot

    patch_lang = interpreter._patch_lang

    def patch_lang_once(fn: Any) -> Any:
        langs = [value for value in fn.__globals__.values() if value is tl or value is tl.core]
        if langs and all(lang.static_print is print for lang in langs):  # what patching sets, and its end takes back
            return interpreter._LangPatchScope()
        return patch_lang(fn)

    interpreter._patch_lang = patch_lang_once
