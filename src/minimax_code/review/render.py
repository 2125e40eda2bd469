"""A review as text: Markdown for people, GitHub's review, and JUnit's XML."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

from minimax_code.review.issue import ReviewIssue, counted
from minimax_code.review.result import Comment, Review

_MARK = "<!-- minimax-code {what} -->"
_MOST_TEXT = 60_000  # characters; GitHub refuses a little more
_EVIDENCE = {"test": "shown by a test", "tool": "found by an analyser", "model": "said by a model, shown by nothing"}


def mark_of(what: str) -> str:
    """Ends what is posted, so that the same head isn't reviewed twice, and nothing is said twice of a later one."""
    return _MARK.format(what=what)


def markdown(review: Review) -> str:
    """The whole review for people. What was found and stands on no line is here, and so is what wasn't read."""
    return "\n".join(_sections(review)) + "\n"


def github(review: Review) -> dict[str, Any]:
    """The body of `POST /repos/{owner}/{repo}/pulls/{number}/reviews`; each comment stands on a line of the diff."""
    text = markdown(review)
    if len(text) > _MOST_TEXT:
        text = f"{text[:_MOST_TEXT].rpartition(chr(10))[0]}\n\nThe rest is longer than can be posted.\n"
    return {
        "commit_id": review.head,
        "event": "COMMENT",
        "body": f"{text}\n{mark_of(review.head)}",
        "comments": [_github_comment(comment) for comment in review.comments],
    }


def _github_comment(comment: Comment) -> dict[str, Any]:
    body = f"{comment.body}\n\n{mark_of(comment.fingerprint)}"
    told = {"path": comment.path, "line": comment.line, "side": comment.side, "body": body}
    return told | ({"start_line": comment.start_line, "start_side": comment.side} if comment.start_line else {})


def junit(review: Review) -> str:
    """The checks of the review as JUnit's XML: one case for each file that was read, and one for coverage."""
    by_file: dict[str, list[ReviewIssue]] = {path: [] for path in review.files}
    for issue in review.issues:
        by_file.setdefault(issue.file, []).append(issue)
    suite = ElementTree.Element("testsuite", name="minimax-code review")
    for path, issues in by_file.items():
        case = ElementTree.SubElement(suite, "testcase", classname="review", name=_printable(path))
        if bad := [issue for issue in issues if issue.severity != "low"]:
            told = "\n".join(f"{issue.file}:{issue.line}: {issue.message} ({issue.rule})" for issue in bad)
            ElementTree.SubElement(case, "failure", message=_printable(bad[0].message)).text = _printable(told)
    for path, why in review.unread.items():
        case = ElementTree.SubElement(suite, "testcase", classname="review", name=_printable(path))
        ElementTree.SubElement(case, "skipped", message=_printable(f"not read: it {why}"))
    if review.min_coverage is not None:
        case = ElementTree.SubElement(suite, "testcase", classname="review", name="coverage of the changed lines")
        if not review.enough_covered:
            ElementTree.SubElement(case, "failure", message=_coverage(review))
    for name, path in (("tests", "testcase"), ("failures", "testcase/failure"), ("skipped", "testcase/skipped")):
        suite.set(name, str(len(suite.findall(path))))
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _sections(review: Review) -> Iterator[str]:
    heavy = [issue for issue in review.issues if issue.severity != "low"]
    style = [issue for issue in review.issues if issue.severity == "low"]
    yield f"## Review of {review.base[:12]}..{review.head[:12]}\n"
    counts = f"{counted(len(review.files), 'file')} read, {counted(len(heavy), 'issue')} found"
    yield f"{counts}. Tests: {review.test_summary}."
    if review.model is None:
        yield "Facts only: no model has read it."
    elif review.read_by_model:
        yield f"Of the files, {review.model} has read {len(review.read_by_model)}."
    yield f"{_coverage(review)}\n"
    for issue in heavy:
        evidence = f"{issue.rule}, {_EVIDENCE[issue.evidence]}"
        yield f"- **{issue.severity}** `{issue.file}:{issue.line}` {_one_line(issue.message)} ({evidence})"
    if style:
        yield f"\n<details><summary>{counted(len(style), 'minor remark')}</summary>\n"
        yield from (f"- `{issue.file}:{issue.line}` {_one_line(issue.message)} ({issue.rule})" for issue in style)
        yield "\n</details>"
    for title, patches in (("Fixes", review.auto_fixes), ("Tests", review.auto_tests)):
        if patches:
            yield f"\n{title}, each a commit that was tried:\n"
            yield from (f"- {patch.title}" for patch in patches)
    if review.uncovered and review.min_coverage is not None:
        yield "\nChanged lines that no test runs:\n"
        yield from (f"- `{path}`: {_ranges(lines)}" for path, lines in review.uncovered.items())
    if review.unread:
        yield "\nNot reviewed:\n"
        yield from (f"- {line}" for line in _unread(review))
    if review.dropped:
        yield f"\nOf what the model said, {counted(len(review.dropped), 'finding')} came to nothing when tried:\n"
        yield from (f"- {_one_line(text)}" for text in review.dropped)
    if review.notes:
        yield "\nTo know:\n"
        yield from (f"- {_one_line(note)}" for note in review.notes)


def _coverage(review: Review) -> str:
    wanted = "" if review.min_coverage is None else f"; {review.min_coverage:g}% are asked for"
    if review.coverage is None:
        return f"Which of the changed lines tests run isn't known{wanted}."
    return f"Tests run {review.coverage:g}% of the changed lines{wanted}."


def _unread(review: Review) -> list[str]:
    return [f"`{path}` {why}" for path, why in review.unread.items()]


def _ranges(lines: tuple[int, ...]) -> str:
    """3, 4, 5, 9 as "3-5, 9"."""
    found: list[list[int]] = []
    for line in sorted(lines):
        if found and line == found[-1][1] + 1:
            found[-1][1] = line
        else:
            found.append([line, line])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _printable(text: str) -> str:
    """Without what XML can't hold."""
    return "".join(char if char in "\n\t" or char.isprintable() else "?" for char in text)
