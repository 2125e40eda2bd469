"""Documents legacy code."""

from minimax import MiniMaxM3

LEGACY_CODE = """
def proc(d, k, v=None):
    if v is None:
        return [x[k] for x in d if k in x]
    for x in d:
        if x.get(k) == v:
            return x
    return None
"""

documentation = MiniMaxM3().document_code(
    code=LEGACY_CODE, style="google-docstring", include_examples=True, explain_logic=True, max_tokens=96
)
print(documentation)
