"""Changes of files in what models answer, in three formats."""

from __future__ import annotations

import pytest

from minimax_code.skills.edits import EditError, changed_files, edit_messages
from minimax_code.workbench.files import CodeFile

SOURCE = '''"""A module."""

import os


def one():
    return 1


@decorated
def two():
    return os.sep


class Three:
    def four(self):
        return 4
'''
BEFORE = {"src/a.py": SOURCE}


def block(old: str, new: str, path: str = "src/a.py\n") -> str:
    return f"{path}<<<<<<< SEARCH\n{old}=======\n{new}>>>>>>> REPLACE\n"


@pytest.mark.parametrize(
    "answer",
    [
        block("    return 1\n", "    return 10\n"),
        "I change it.\n\n" + block("    return 1\n", "    return 10\n", "`src/a.py`\n"),
        "**src/a.py**\n```python\n" + block("    return 1\n", "    return 10\n", "") + "```\n",
        block("return 1\n", "return 10\n", "\n"),  # the only file, and without its indentation
        block("def one():\n    return 1\n", "def one():\n    return 10\n").replace(
            "<<<<<<< SEARCH", "<<<<<<< SEARCH here"
        ),
    ],
)
def test_blocks(answer: str) -> None:
    [file] = changed_files(answer, BEFORE, "blocks")
    assert (file.path, file.content) == ("src/a.py", SOURCE.replace("return 1\n", "return 10\n"))


def test_several_blocks_and_a_new_file() -> None:
    answer = (
        block("    return 1\n", "    return 10\n")
        + block("        return 4\n", "        return 40\n", "\n")
        + block("", "x = 1\n", "src/b.py\n")
    )
    files = {file.path: file.content for file in changed_files(answer, BEFORE, "blocks")}
    assert files == {
        "src/a.py": SOURCE.replace("return 1\n", "return 10\n").replace("return 4\n", "return 40\n"),
        "src/b.py": "x = 1\n",
    }


@pytest.mark.parametrize(
    "answer",
    [
        "```python src/a.py\n{}```",
        "Here:\n```python a.py\n{}```",
        "```python\n{}```",
        "```python other.py\n{}```",
    ],
)
def test_whole_files_are_those_that_were_meant(answer: str) -> None:
    after = SOURCE.replace("return 1\n", "return 10\n")
    [file] = changed_files(answer.format(after), BEFORE, "whole")
    assert file.content == after
    assert file.path == ("other.py" if "other" in answer else "src/a.py")


def test_definitions_take_the_place_of_those_with_their_names() -> None:
    answer = (
        "```python src/a.py\nimport os\nimport re\n\n\n@other\ndef two():\n    return re.escape('')\n\n\n"
        "def five():\n    return 5\n```"
    )
    [file] = changed_files(answer, BEFORE, "definition")
    assert (
        file.content
        == SOURCE.replace("import os\n", "import os\nimport re\n").replace(
            "@decorated\ndef two():\n    return os.sep\n", "@other\ndef two():\n    return re.escape('')\n"
        )
        + "\n\ndef five():\n    return 5\n"
    )


@pytest.mark.parametrize(
    ("form", "answer", "told"),
    [
        ("blocks", "I can't.", "no SEARCH/REPLACE block"),
        ("blocks", block("    return 2\n", "    return 3\n"), "src/a.py: the search part isn't there"),
        ("blocks", block("    return 1\n", "    return 1\n"), "changes no file"),
        ("whole", "I can't.", "changes no file"),
        ("whole", f"```python src/a.py\n{SOURCE}```", "changes no file"),
        ("whole", "```python src/a.py\ndef one():", "ends within a file"),
        ("definition", "```python src/a.py\ndef one(:\n```", "src/a.py:1: "),
        ("definition", "```python src/a.py\nx = 1\n```", "no function or class"),
    ],
)
def test_what_cant_be_changed_is_told(form: str, answer: str, told: str) -> None:
    with pytest.raises(EditError, match=told):
        changed_files(answer, BEFORE, form)  # type: ignore[arg-type]


def test_a_block_of_several_files_has_to_name_its_own() -> None:
    before = {**BEFORE, "src/b.py": "y = 1\n"}
    with pytest.raises(EditError, match="names no file"):
        changed_files(block("    return 1\n", "    return 10\n", "\n"), before, "blocks")


@pytest.mark.parametrize(("form", "shown"), [("blocks", ">>>>>>> REPLACE"), ("whole", "whole"), ("definition", "def ")])
def test_a_model_is_told_the_format(form: str, shown: str) -> None:
    system, user = edit_messages("Make it 10.", [CodeFile("src/a.py", SOURCE)], form)  # type: ignore[arg-type]
    assert shown in system.content
    assert "Make it 10." in user.content
    assert SOURCE in user.content
