"""Files in what a model says."""

from __future__ import annotations

import pytest

from minimax_code.skills.answer import Wish, files_in, request_for_files
from minimax_code.workbench.files import CodeFile


@pytest.mark.parametrize(
    ("answer", "files", "ends"),
    [
        ("Here:\n```python src/app.py\nx = 1\n```\n", {"src/app.py": "x = 1\n"}, True),
        ("**app.py**\n```python\nx\n```\n`b/c.js`:\n```js\ny\n```", {"app.py": "x\n", "b/c.js": "y\n"}, True),
        ('```py title="a.py"\nx\n```', {"a.py": "x\n"}, True),
        ("```python\nx\n```\n```python\ny\n```", {"main.py": "x\n", "main_2.py": "y\n"}, True),
        ("````md README.md\n```sh\nls\n```\n````", {"README.md": "```sh\nls\n```\n"}, True),
        ("```python a.py\nx\n```\n```python a.py\ny\n```", {"a.py": "y\n"}, True),
        ("```python a.py\nx = (", {"a.py": "x = (\n"}, False),
        ("```python ../../etc/passwd.py\nx\n```", {"main.py": "x\n"}, True),
        ("```python /etc/passwd.py\nx\n```", {"main.py": "x\n"}, True),
        ("~~~go\nx\n~~~", {"main.go": "x\n"}, True),
        ("no file", {}, True),
        ("", {}, True),
    ],
)
def test_files_of_an_answer(answer: str, files: dict[str, str], ends: bool) -> None:
    found, whole = files_in(answer, "python")
    assert ({file.path: file.content for file in found}, whole) == (files, ends)


def test_what_was_written_is_read_again_whatever_it_holds() -> None:
    file = CodeFile("docs/a.md", "```` inside\n```\nand ~~~\n")
    _, prompt = request_for_files(Wish(prompt="Go on.", files=(file,)))
    [again], whole = files_in(prompt)
    assert (again.path, again.content.rstrip("\n"), whole) == (file.path, file.content.rstrip("\n"), True)


def test_a_model_is_told_all_that_was_asked() -> None:
    wish = Wish(
        prompt="A web server", language="python", framework="fastapi", style="production-ready", include_tests=True,
        standards=("pep8",),
    )  # fmt: skip
    system, prompt = request_for_files(wish)
    assert "```python src/app.py" in system
    assert prompt.split("\n\n") == [
        "A web server", "Language: python", "Framework: fastapi", "Style: production-ready", "Standards: pep8",
        "Tests: write tests in files of their own",
    ]  # fmt: skip
