"""The data of training: what is read, in which order, how it is packed and split, and what is refused."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openm3.errors import InputError
from openm3.train import sources
from openm3.train.corpus import Corpus
from openm3.train.data import Position, Windows

END = 256


def encode(text: str) -> list[int]:
    return list(text.encode())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Small documents in files and one in a subfolder; a file of bytes, and one that is ignored."""
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    for i in range(30):
        (folder / f"{i}.txt").write_text(f"<{i}>" + "abcdefg"[: i % 7] * i)
    (folder / "sub" / "deep.py").write_text("print('é')\n")
    (folder / "state.json").write_text('{"of": "something else than datasets"}')
    (folder / "picture.png").write_bytes(b"\x89PNG\0\0")
    (folder / ".gitignore").write_text("*.log\n")
    (folder / "run.log").write_text("not this one")
    return folder


def take(windows: Windows, count: int) -> list[tuple[list[int], tuple[int, ...]]]:
    return [(window.ids_T.tolist(), window.lengths) for window in islice(windows, count)]


def texts(corpus: Corpus) -> set[str]:
    return {corpus.text(i) for i in range(len(corpus))}


def test_files_of_a_folder_are_read_and_the_rest_is_told(folder: Path) -> None:
    corpus = Corpus.read([folder])
    assert len(corpus) == 33, "30 numbers, deep.py, state.json, .gitignore"
    assert "print('é')\n" in texts(corpus) and "not this one" not in texts(corpus)
    assert [(Path(each.path).name, each.reason) for each in corpus.skipped] == [("picture.png", "binary")]
    assert corpus.num_bytes == sum(len(text.encode()) for text in texts(corpus))


def test_every_form_of_the_same_documents_is_the_same_data(tmp_path: Path, folder: Path) -> None:
    corpus = Corpus.read([folder])
    said = sorted(texts(corpus))
    (tmp_path / "all.jsonl").write_text("\n\n".join(json.dumps({"text": text, "more": 1}) for text in said))
    column = pyarrow.table({"content": [*said, None]})
    pyarrow.parquet.write_table(column, tmp_path / "all.parquet", row_group_size=7)
    (tmp_path / "dict" / "train").mkdir(parents=True)  # as datasets.save_to_disk has it
    saved = tmp_path / "dict" / "train"
    (tmp_path / "dict" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (saved / "state.json").write_text("{}")
    with (
        pyarrow.OSFile(str(saved / "data-00000-of-00001.arrow"), "wb") as file,
        pyarrow.ipc.new_stream(file, column.schema) as stream,
    ):
        stream.write_table(column, max_chunksize=5)
    others = [
        Corpus.read([tmp_path / "all.jsonl"]),
        Corpus.read([tmp_path / "all.parquet"], text_key="content"),
        Corpus.read([tmp_path / "dict"], text_key="content"),
    ]
    first = take(Windows(corpus, encode, 64, end_id=END), 20)
    for other in others:
        assert other.digest == corpus.digest and texts(other) == set(said)
        assert take(Windows(other, encode, 64, end_id=END), 20) == first


def test_the_same_seed_gives_the_same_windows_and_another_does_not(folder: Path) -> None:
    corpus = Corpus.read([folder])
    first = take(Windows(corpus, encode, 50, seed=3), 40)
    assert take(Windows(Corpus.read([folder / "sub", folder]), encode, 50, seed=3), 40) == first
    assert take(Windows(corpus, encode, 50, seed=4), 40) != first


def test_an_epoch_is_every_document_once_packed_without_gaps(folder: Path) -> None:
    corpus = Corpus.read([folder])
    windows = list(Windows(corpus, encode, 16, end_id=END, epochs=1))
    ids = [i for window in windows for i in window.ids_T.tolist()]
    everything = sorted(encode(text) for text in texts(corpus))
    assert sum(map(len, everything)) + len(corpus) - len(ids) < 16, "only what is shorter than a window is left"
    parts = np.split(ids, np.flatnonzero(np.array(ids) == END) + 1)
    whole = sorted(part[:-1].tolist() for part in parts[:-1])
    assert all(part in everything for part in whole)
    for window in windows:
        assert sum(window.lengths) == 16 == len(window.ids_T)
        ends = np.cumsum(window.lengths)[:-1]
        assert (window.ids_T[ends - 1] == END).all(), "a part ends where its document does"
        assert (window.ids_T == END).sum() - (window.ids_T[-1] == END) == len(ends)


def test_epochs_have_orders_of_their_own(folder: Path) -> None:
    corpus = Corpus.read([folder])
    assert corpus.order(0, 0).tolist() != corpus.order(0, 1).tolist()
    assert sorted(corpus.order(0, 1)) == list(range(len(corpus)))


@settings(max_examples=30, deadline=None)
@given(
    said=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30), min_size=3, max_size=9, unique=True),
    window=st.integers(2, 9),
    before=st.integers(0, 30),
)
def test_a_stream_goes_on_from_any_position(
    tmp_path_factory: pytest.TempPathFactory, said: list[str], window: int, before: int
) -> None:
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    path.write_text("".join(json.dumps({"text": f"{i}, {text}"}) + "\n" for i, text in enumerate(said)))
    one = Windows(Corpus.read([path]), encode, window, end_id=END, seed=1)
    take(one, before)
    position = json.loads(json.dumps(vars(one.position)))
    other = Windows(Corpus.read([path]), encode, window, end_id=END, seed=1).seek(Position(**position))
    assert take(one, 10) == take(other, 10)
    assert one.position == other.position and one.position.num_windows == before + 10


def test_what_is_held_out_is_never_trained_on_and_follows_from_the_text(tmp_path: Path, folder: Path) -> None:
    corpus = Corpus.read([folder])
    train, held_out = corpus.split(0.1)
    assert not texts(train) & texts(held_out) and texts(train) | texts(held_out) == texts(corpus)
    assert 0.1 <= held_out.num_bytes / corpus.num_bytes < 0.3
    assert len({corpus.digest, train.digest, held_out.digest}) == 3
    (folder / "more.txt").write_text("one document more")
    _, later = Corpus.read([folder]).split(0.1)
    assert len(texts(held_out) & texts(later)) >= len(held_out) - 1
    nothing = corpus.split(0)
    assert (len(nothing[0]), len(nothing[1])) == (len(corpus), 0)


def test_what_is_there_twice_counts_once(folder: Path) -> None:
    before = Corpus.read([folder])
    (folder / "again.txt").write_text((folder / "12.txt").read_text())
    corpus = Corpus.read([folder])
    assert corpus.num_repeated == 1
    assert corpus.digest == before.digest


def test_a_long_text_is_cut_at_ends_of_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PIECE_BYTES", 100)
    lines = [f"line {i} with an é\n" for i in range(50)]
    (tmp_path / "book.txt").write_text("".join(lines))
    corpus = Corpus.read([tmp_path / "book.txt"])
    pieces = [corpus.text(i) for i in range(len(corpus))]
    assert len(pieces) == 9 and "".join(pieces) == "".join(lines)
    assert all(piece.endswith("é\n") for piece in pieces)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.txt", b"", "empty"),
        ("a.txt", b" \n\n", "empty"),
        ("a.bin", b"ab\0cd", "binary"),
        ("a.txt", b"\xff\xfe", "not UTF-8"),
        ("a.jsonl", b'{"text": "good"}\n{"text": 3}\n', "without a text under 'text' in line 2"),
        ("a.jsonl", b'{"text": "good"}\n{"text"\n', "not JSON in line 2"),
        ("a.jsonl", b"[" * 100_000, "not JSON in line 1"),
        ("a.jsonl", rb'{"text": "\ud800"}', "not Unicode text in line 1"),
        ("a.jsonl", b"[1]", "without a text under 'text' in line 1"),
        ("a.parquet", b"PAR1 no", "no table that can be read"),
        ("a.arrow", b"nothing", "no table that can be read"),
    ],
)
def test_bad_data_is_refused_by_its_name(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=f"^data: .*{name} is {reason}"):
        Corpus.read([tmp_path / name])
    with pytest.raises(InputError, match=f"^data: no text in .*: .*{name} is {reason}"):
        Corpus.read([tmp_path])
    (tmp_path / "good.txt").write_text("good")
    assert Corpus.read([tmp_path]).skipped[0].reason.startswith(reason)


def test_paths_tables_and_shares_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="^data: '.*nowhere' does not exist"):
        Corpus.read([tmp_path / "nowhere"])
    pyarrow.parquet.write_table(pyarrow.table({"text": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="without a column of texts named 'text'"):
        Corpus.read([tmp_path / "a.parquet"])
    (tmp_path / "one.txt").write_text("only one document")
    corpus = Corpus.read([tmp_path / "one.txt"])
    with pytest.raises(InputError, match="^held_out: the data is one document"):
        corpus.split(0.1)
    with pytest.raises(InputError, match="^held_out: must be a share"):
        corpus.split(1)
    for epochs in (None, 1):
        with pytest.raises(InputError, match=r"^data: holds 17 tokens, less than one window of 1,024$"):
            next(Windows(corpus, encode, 1024, epochs=epochs))


def test_a_file_that_changes_meanwhile_is_told(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("what was here first")
    corpus = Corpus.read([path])
    path.write_text("something else now")
    with pytest.raises(InputError, match=r"^data: notes.txt has changed while it was being read"):
        next(Windows(corpus, encode, 4))
    path.unlink()
    with pytest.raises(InputError, match=r"^data: notes.txt has changed"):
        next(Windows(corpus, encode, 4))
