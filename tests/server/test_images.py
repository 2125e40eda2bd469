"""`/v1/images` with the official client on a real socket, and a tiny pipeline of diffusers that really draws."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import APIStatusError, NotFoundError, OpenAI
from PIL import Image

from helpers.images import write_image_pipeline
from helpers.live_server import eventually, live_server
from helpers.scripted import ScriptedService
from openm3.model.diffusion import Drawing, Flagged, ImagePipeline
from openm3.server.accounts.database import Database
from openm3.server.accounts.keys import KeyStore
from openm3.server.accounts.ledger import Ledger
from openm3.server.errors import ApiError
from openm3.server.images import DiffusersGenerator

NO_RETRIES: dict[str, Any] = {"api_key": "none", "max_retries": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "scribble"
    write_image_pipeline(folder)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Generator[str, None, None]:
    with live_server(ScriptedService(), images=str(folder), max_image_pixels=64 * 64, max_image_steps=40) as url:
        yield url


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> ImagePipeline:
    return ImagePipeline(folder)


def opened(data: str | None) -> Image.Image:
    assert data is not None
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_images_are_those_that_the_model_draws(client: OpenAI, pipeline: ImagePipeline) -> None:
    told = {"seed": 7, "steps": 2, "guidance_scale": 3.0, "negative_prompt": "dog"}
    made = client.images.generate(prompt="cat", model="scribble", n=2, size="32x48", extra_body={"openm3": told})
    assert made.data and made.usage and made.size == "32x48"  # type: ignore[comparison-overlap]  # ours is no size of theirs
    for i, image in enumerate(made.data):
        drawing = Drawing(prompt="cat", negative_prompt="dog", size=(32, 48), steps=2, guidance_scale=3.0, seed=7 + i)
        want = pipeline.draw(drawing, lambda _: None)
        got = opened(image.b64_json)
        assert (got.format, got.mode, got.size) == ("PNG", "RGB", (32, 48))
        assert got.tobytes() == want.tobytes()
    assert made.data[0].b64_json != made.data[1].b64_json
    # "c", "a", "t" and "d", "o", "g", with two around each; 2 images of 1.5 patches and 2 / 25 of the steps of a token.
    assert (made.usage.input_tokens, made.usage.output_tokens, made.usage.total_tokens) == (10, 1, 11)


def test_without_options_the_model_has_its_own_size_and_steps(server: str) -> None:
    body = {"prompt": "cat", "openm3": {"steps": 1}, "output_format": "jpeg", "output_compression": 10}
    made = httpx.post(f"{server}/v1/images/generate", json=body, timeout=60).json()
    assert (made["size"], made["output_format"], made["openm3"]["model"]) == ("32x32", "jpeg", "scribble")
    [image] = made["data"]
    assert opened(image["b64_json"]).format == "JPEG"
    again = {**body, "output_format": "webp", "openm3": {"steps": 1, "seed": made["openm3"]["seed"]}}
    twin = httpx.post(f"{server}/v1/images/generations", json=again, timeout=60).json()
    assert opened(twin["data"][0]["b64_json"]).format == "WEBP"
    assert twin["openm3"] == made["openm3"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "z" * 40}, "prompt"),
        ({"size": "33x32"}, "size"),
        ({"size": "128x128"}, "size"),
        ({"size": "huge"}, "size"),
        ({"n": 11}, "n"),
        ({"n": 0}, "n"),
        ({"openm3": {"steps": 41}}, "openm3.steps"),
        ({"openm3": {"seed": -1}}, "openm3.seed"),
        ({"openm3": {"negative_prompt": "a" * 40}}, "openm3.negative_prompt"),
        ({"openm3": {"negative_prompt": "dog", "guidance_scale": 1.0}}, "openm3.negative_prompt"),
        ({"response_format": "url"}, "response_format"),
        ({"output_compression": 3}, "output_compression"),
        ({"quality": "hd"}, "quality"),
        ({"style": "vivid"}, "style"),
        ({"stream": True}, "stream"),
        ({"background": "transparent"}, "background"),
        ({"promt": "cat"}, "promt"),
    ],
)
def test_what_is_wrong_is_named(server: str, fields: dict[str, Any], param: str) -> None:
    response = httpx.post(f"{server}/v1/images/generations", json={"prompt": "cat", **fields}, timeout=60)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_another_model_does_not_exist(client: OpenAI) -> None:
    with pytest.raises(NotFoundError, match="this server has 'scribble'"):
        client.images.generate(prompt="cat", model="dall-e-3")


def test_without_a_pipeline_it_says_how_to_get_one() -> None:
    with live_server(ScriptedService()) as url, OpenAI(base_url=f"{url}/v1", **NO_RETRIES) as client:
        with pytest.raises(APIStatusError, match=r"openm3 serve --images FOLDER") as caught:
            client.images.generate(prompt="cat")
        assert caught.value.status_code == 501


def test_a_client_that_leaves_ends_its_image_and_pays_its_steps(folder: Path, tmp_path: Path) -> None:
    database = Database(str(tmp_path / "accounts.db"))
    database.migrate()
    key, token = KeyStore(database).create(name="artist", plan="plus")
    settings = {"images": str(folder), "max_image_steps": 1000, "database": database.url}
    body = {"prompt": "cat", "size": "96x96", "openm3": {"steps": 900}}
    with live_server(ScriptedService(), **settings) as url, httpx.Client(base_url=url) as client:
        client.headers["authorization"] = f"Bearer {token}"
        small = {"prompt": "cat", "size": "64x64", "openm3": {"steps": 25}}
        whole = client.post("/v1/images/generations", json=small, timeout=60)
        assert whole.json()["usage"]["output_tokens"] == 4  # 64 x 64 pixels are 4 patches
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/images/generations", json=body, timeout=0.5)
        began = time.monotonic()
        assert client.post("/v1/images/generations", json=small, timeout=60).status_code == 200
        assert time.monotonic() - began < 10, "the image that nobody waits for is still being drawn"
        assert eventually(lambda: sum(row.requests for row in Ledger(database).usage()) == 3)
    [row] = Ledger(database).usage(key.id)
    assert row.model == "scribble" and 4 + 4 < row.answer_tokens < 9 * 900 / 25
    database.close()


def test_the_event_loop_goes_on_while_an_image_is_drawn(folder: Path) -> None:
    settings = {"images": str(folder), "max_image_steps": 1000, "request_s": 1.0, "max_waiting": 0}
    body = {"prompt": "cat", "size": "96x96", "openm3": {"steps": 900}}
    with live_server(ScriptedService(), **settings) as url, ThreadPoolExecutor(2) as clients:

        def ask(asked: dict[str, Any]) -> httpx.Response:
            return httpx.post(f"{url}/v1/images/generations", json=asked, timeout=60)

        ask({"prompt": "cat", "openm3": {"steps": 1}})  # loads the model
        refused, drawn = (each.result() for each in as_completed([clients.submit(ask, body) for _ in range(2)]))
        assert (refused.status_code, refused.headers["retry-after"]) == (529, "1")
        assert (drawn.status_code, drawn.json()["error"]["code"]) == (504, "timeout")
        drawing = clients.submit(ask, body)
        num_answers = 0
        while not drawing.done():
            assert httpx.get(f"{url}/healthz").status_code == 200
            num_answers += 1
        assert num_answers > 3


def test_a_server_that_stops_ends_its_images_with_an_error(folder: Path) -> None:
    body = {"prompt": "cat", "size": "96x96", "openm3": {"steps": 900}}
    settings = {"images": str(folder), "max_image_steps": 1000, "grace_s": 0.0}
    with ThreadPoolExecutor(1) as clients:
        with live_server(ScriptedService(), **settings) as url:
            drawing = clients.submit(httpx.post, f"{url}/v1/images/generations", json=body, timeout=60)
            time.sleep(1.0)
        ended = drawing.result()
    assert (ended.status_code, ended.json()["error"]["code"]) == (503, "cancelled")


def test_an_image_that_the_model_takes_back_is_refused(folder: Path) -> None:
    class Shy:
        """Checks as strictly as a pipeline with a safety checker that likes nothing."""

        def draw(self, drawing: Drawing, on_step: Any) -> Any:
            on_step(1)
            raise Flagged

    async def draw() -> list[Any]:
        generator = DiffusersGenerator(folder)
        generator._loaded = Shy()  # type: ignore[assignment]
        try:
            return [event async for event in generator.draw(Drawing(prompt="cat", size=(32, 32), steps=1))]
        finally:
            await generator.aclose()

    with pytest.raises(ApiError, match="safety checker") as caught:
        asyncio.run(draw())
    assert caught.value.code == "content_policy_violation"
