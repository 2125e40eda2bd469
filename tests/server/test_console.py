"""The console in a real browser: a question streams, evidence opens, files are read, a wrong key is told."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from helpers.live_server import eventually, live_server
from helpers.scripted import ScriptedService
from openm3.context.evidence import Evidence, Reference, Sentence
from openm3.context.sources import SourceSpan
from openm3.server.accounts.database import Database
from openm3.server.accounts.keys import KeyStore

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


class Seeing(ScriptedService):
    """Says which part of the prompt its answers were read from."""

    async def stream(self, *args: Any, **options: Any) -> Any:
        async for event in super().stream(*args, **options):
            if getattr(event, "finish_reason", None):
                span = SourceSpan(None, 3, 7, 0, 100, message=0)
                references = tuple(
                    Reference(weight, 0.1, start, start + 20, (span,), f"the text at {start}")
                    for start, weight in ((0, 0.5), (60, 2.0))
                )
                sentence = Sentence("Hello, world!", 0, 4, references)
                evidence: Any = object.__new__(Evidence)
                object.__setattr__(evidence, "sentences", (sentence,))
                event = replace(event, evidence=evidence)
            yield event


@pytest.fixture(scope="module")
def browser() -> Generator[Browser, None, None]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Generator[Page, None, None]:
    """A page that fails the test when its script does, or when it asks anybody else for anything."""
    context = browser.new_context(viewport={"width": 960, "height": 720}, color_scheme="light")
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if "Security Policy" in message.text else None)
    page.on("request", lambda request: wrong.append(request.url) if "127.0.0.1" not in request.url else None)
    yield page
    context.close()
    assert [what for what in wrong if what != "data:,"] == []


def ask(page: Page, question: str) -> None:
    page.get_by_label("Question").fill(question)
    page.get_by_label("Question").press("Enter")


def test_a_question_streams(page: Page) -> None:
    service = ScriptedService(tokens=["Hello", ", ", "<b>world</b>"] + ["!"] * 20, delay_s=0.05)
    with live_server(service) as url:
        page.goto(url)
        expect(page.get_by_label("Model")).to_have_value("scripted")
        ask(page, "Who are you?")
        last = page.locator("#turns > li").last.locator(".text")
        expect(last).to_contain_text("Hello")
        expect(page.get_by_role("button", name="Stop")).to_be_visible()  # it is still being said
        expect(last).to_have_text("Hello, <b>world</b>" + "!" * 20)
        expect(page.get_by_role("button", name="Send")).to_be_visible()
        ask(page, "And now?")
        expect(page.locator("#turns > li")).to_have_count(4)
        assert eventually(lambda: len(service.requests) == 2)
        said = bytes(service.requests[1][0]).decode()
        assert said == "<user>Who are you?\n<assistant>Hello, <b>world</b>" + "!" * 20 + "\n<user>And now?\n"


def test_stopping_frees_the_request(page: Page) -> None:
    service = ScriptedService(tokens=["x"] * 1000, delay_s=0.05)
    with live_server(service) as url:
        page.goto(url)
        ask(page, "Go on for ever")
        expect(page.locator("#turns > li").last.locator(".text")).to_contain_text("x")
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_role("button", name="Send")).to_be_visible()
        assert eventually(lambda: service.num_cancelled == 1)
        assert page.locator("#error").is_hidden()


def test_evidence_opens_and_files_are_read(page: Page, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("The harbour is in Bergen.\n")
    service = Seeing(tokens=["Hello", ", ", "world", "!"])
    with live_server(service) as url:
        page.goto(url)
        page.set_input_files("#files", [notes])
        expect(page.get_by_label("Files that are read").get_by_role("listitem")).to_contain_text("notes.txt")
        ask(page, "Where is the harbour?")
        blocks = page.get_by_role("group", name="Blocks of the prompt").get_by_role("button")
        expect(blocks).to_have_count(2)
        blocks.nth(1).click()
        expect(blocks.nth(1)).to_have_attribute("aria-expanded", "true")
        expect(page.locator("#turns > li").last.locator("pre")).to_have_text("the text at 60")
        expect(page.locator("#turns > li").last.locator("figcaption")).to_contain_text("lines 3 to 7")
        blocks.nth(1).click()
        expect(page.locator("#turns > li").last.locator("figure")).to_be_hidden()
        prompt = bytes(service.requests[0][0]).decode()
        assert prompt == "<user>=== notes.txt ===\nThe harbour is in Bergen.\n\n\nWhere is the harbour?\n"
        expect(page.get_by_label("Files that are read").get_by_role("listitem")).to_have_count(0)


def test_a_wrong_key_is_told_and_the_right_one_shows_its_use(page: Page, tmp_path: Path) -> None:
    path = str(tmp_path / "accounts.db")
    with closing(Database(path)) as database:
        database.migrate()
        _, key = KeyStore(database).create(name="test", plan="plus")
    with live_server(ScriptedService(), database=path) as url:
        page.goto(url)
        page.get_by_label("Key", exact=True).fill(key[:-4] + "wxyz")
        ask(page, "Hello?")
        expect(page.get_by_role("alert")).to_contain_text("the key is wrong")
        expect(page.locator("#turns > li")).to_have_count(1)  # the question stays, and can be sent again
        page.get_by_label("Key", exact=True).fill(key)
        page.get_by_label("Key", exact=True).press("Tab")
        expect(page.get_by_label("Usage of the key")).to_contain_text("plus: ")
        ask(page, "Hello?")
        expect(page.locator("#turns > li").last.locator(".text")).to_have_text("Hello, world!")
        expect(page.get_by_role("alert")).to_be_hidden()


def test_the_page_can_load_nothing_from_elsewhere() -> None:
    with live_server(ScriptedService()) as url:
        for path in ("/", "/console/console.js", "/console/console.css"):
            response = httpx.get(f"{url}{path}")
            assert "default-src 'none'" in response.headers["content-security-policy"]
            assert "unsafe" not in response.headers["content-security-policy"]
            assert response.headers["x-content-type-options"] == "nosniff"
        html = httpx.get(url).text
        assert " style=" not in html and "onclick" not in html and "://" not in html
